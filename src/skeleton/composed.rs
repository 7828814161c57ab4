//! Several losses as one call. Each part is planned on its slice of the tensors; all parts share
//! one recording, and one last dispatch combines their results.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
        status::Status,
        tensor::{Dtype, Layout},
    },
    plan::{
        Plan, Planner, Role,
        kernel::{Label, shader},
        profile::Profile,
    },
    reference::{Findings, no_output},
    skeleton::{operation::Operation, sums},
    spec::{
        about::{Argument, Dim, Kind, OptionAbout},
        call::{Call, Operand},
        check,
        options::{Empty, Reduction, check_reduction},
    },
};

/// The most parts of a composed loss: one lane goes through all of them.
const MOST_PARTS: usize = 4096;

/// A loss that is a part of another one.
pub(crate) struct Part {
    /// The loss of the part. Its reduction contains the part's weight and the reduction of the
    /// whole.
    pub loss: Box<dyn Operation>,
    /// The inputs of the part.
    pub inputs: Vec<PartInput>,
    /// The part's output that measures how much of its gradient is left, for `slopes`.
    pub slope: Option<&'static str>,
}

impl Part {
    /// The name in the whole of an input, or of the gradient of an input, of the part.
    fn outside(&self, argument: &str) -> Option<String> {
        let (prefix, own) = match argument.strip_prefix("grad.") {
            Some(input) => ("grad.", input),
            None => ("", argument),
        };
        let input = self.inputs.iter().find(|input| input.part == own)?;
        Some(format!("{prefix}{}", input.whole))
    }
}

/// An input of the whole that a part uses. The part's gradient of this input has the same slice.
pub(crate) struct PartInput {
    /// The name of the input in the part.
    pub part: &'static str,
    /// The name of the input in the whole.
    pub whole: &'static str,
    /// Which slice of the tensor the part uses.
    pub slice: TensorSlice,
}

/// The slice of a tensor that a part uses.
#[derive(Clone)]
pub(crate) enum TensorSlice {
    All,
    /// These columns.
    Columns(Range<u64>),
    /// A vector over the rows, as a matrix of one column.
    Column,
}

/// What all composed losses have in common.
pub(crate) trait Composed: Operation {
    /// The parts, from the extents of a call and the names of its inputs.
    fn parts(&self, dims: &BTreeMap<Dim, u64>, given: &dyn Fn(&str) -> bool) -> Result<Vec<Part>>;

    /// How each part's losses become one number, and what a mean over nothing is.
    fn reduced(&self) -> (Reduction, Empty);
}

/// The reduction of a part with this weight, where a mean is over `mean_over` losses.
pub(crate) fn weighted(reduction: Reduction, weight: f64, mean_over: u64) -> Reduction {
    match reduction {
        Reduction::Over(d) => Reduction::Over(d / weight),
        Reduction::Sum => Reduction::Over(1.0 / weight),
        // The weight of a part does not change the mean over nothing: `empty` decides what that is.
        _ if mean_over == 0 => Reduction::Mean,
        _ => Reduction::Over(mean_over as f64 / weight),
    }
}

/// Checks that the losses of parts can become one number with this reduction.
pub(crate) fn check_composed(loss: &str, reduction: Reduction) -> Result<()> {
    if reduction == Reduction::None {
        let reason = "the parts have different numbers of losses";
        return Err(Error::option(loss, "reduction", "none", reason));
    }
    check_reduction(loss, reduction)
}

pub(crate) const REDUCTION: OptionAbout = OptionAbout {
    name: "reduction",
    default: "\"mean\"",
    samples: &["\"sum\"", "{\"over\": 2.5}"],
    about: "of each part: \"sum\", \"mean\" or {\"over\": D}; the parts are added",
};
pub(crate) const UPSTREAM: Argument = Argument::optional(
    "upstream",
    Kind::WideFloat,
    &[&[Dim::One]],
    "the gradient from above (a loss scale)",
);
pub(crate) const LOSS: Argument =
    Argument::optional("loss", Kind::F32, &[&[Dim::One]], "Σ weight·loss of the parts");
pub(crate) const PARTS: Argument = of_parts("parts", "the loss of each part, unweighted");
pub(crate) const PART_SUM: Argument = of_parts("part_sum", "Σ of each part's losses");
pub(crate) const PART_DENOMINATOR: Argument =
    of_parts("part_denominator", "what each part's mean divides by");
pub(crate) const SLOPES: Argument =
    of_parts("slopes", "mean |∂loss/∂score| of each part: 0 where gradients have vanished");

const fn of_parts(name: &'static str, about: &'static str) -> Argument {
    Argument::optional(name, Kind::F32, &[&[Dim::Parts]], about)
}

/// The results of a part, in the order that `shaders/compose.wgsl` expects.
const RESULTS: [&str; 3] = ["loss", "sum", "denominator"];
const SLOPE: u64 = 3;
const STATUS_SLOT: u64 = 4;
const SLOTS: u64 = 5;
/// The name of the operands in scratch that take the results of parts.
const RESULT: &str = "result";

fn parts_of(
    loss: &dyn Composed,
    dims: &BTreeMap<Dim, u64>,
    given: &dyn Fn(&str) -> bool,
) -> Result<Vec<Part>> {
    loss.validate()?;
    let parts = loss.parts(dims, given)?;
    if parts.len() > MOST_PARTS {
        return Err(Error::Limit {
            what: format!("parts of {}", loss.about().name).into(),
            found: parts.len() as u64,
            limit: MOST_PARTS as u64,
        });
    }
    Ok(parts)
}

/// Checks that every part of a composed loss accepts its slice of a call.
pub(crate) fn accepts(loss: &dyn Composed, call: &Call) -> Result<()> {
    let parts = parts_of(loss, &call.dims, &|name| call.has(name))?;
    let name = loss.about().name;
    parts.iter().try_for_each(|part| lend(name, part, call, BTreeMap::new()).map(|_| ()))
}

/// The plan of a composed loss.
pub(crate) fn plan(loss: &dyn Composed, call: &Call, profile: &Profile) -> Result<Plan> {
    let parts = parts_of(loss, &call.dims, &|name| call.has(name))?;
    let name = loss.about().name;
    let mut planner = Planner::new(name, call, profile);
    // A block of its own for every result: two of them are bound in one dispatch.
    let slot = profile.offset_alignment.max(256) / 4;
    let words = (parts.len() as u64 * SLOTS).max(1) * slot;
    let results = planner.scratch(Layout::vector(Dtype::U32, words));
    let first = results.layout.offset;
    let wants_slopes = call.wants("slopes");
    for (index, part) in parts.iter().enumerate() {
        let result = |nth: u64, dtype, len| {
            let offset = first + (index as u64 * SLOTS + nth) * slot;
            Operand {
                name: RESULT.to_owned(),
                layout: Layout::vector(dtype, len).offset(offset),
                allocation: usize::MAX - nth as usize,
                allocation_bytes: u64::MAX,
            }
        };
        let mut outputs: BTreeMap<String, Operand> = (0..)
            .zip(RESULTS)
            .map(|(nth, name)| (name.to_owned(), result(nth, Dtype::F32, 1)))
            .collect();
        if let Some(slope) = part.slope.filter(|_| wants_slopes) {
            outputs.insert(slope.to_owned(), result(SLOPE, Dtype::F32, 1));
        }
        let status = result(STATUS_SLOT, Dtype::U32, Status::WORDS);
        outputs.insert("status".to_owned(), status);
        let part_call = lend(name, part, call, outputs)?;
        planner.append(part.loss.plan(&part_call, profile)?, |role| match role {
            Role::Output(name) if *name == *RESULT => Role::Scratch,
            role => role,
        });
    }
    let (reduction, empty) = loss.reduced();
    let (code, over) = sums::divisor(reduction, false);
    let lanes = profile.tally_lanes();
    let output = |name| call.output(name);
    planner
        .dispatch(
            Label { skeleton: "compose", kernel: name, ..Label::default() },
            "compose",
            [
                shader!("tally.wgsl"),
                shader!("divisor.wgsl"),
                shader!("quotient.wgsl"),
                shader!("status.wgsl"),
                shader!("compose.wgsl"),
            ],
        )
        .overriding("WORKGROUP", lanes)
        .uniform("empty_is_zero", u32::from(empty == Empty::Zero))
        .uniform("parts", parts.len() as u64)
        .uniform("slot", slot)
        .uniform("reduction", code)
        .uniform("over", over)
        .uniform("accumulates_status", u32::from(call.accumulates_status))
        .read_elements("denominator", None, 1.0)
        .table("results", &results, "u32")
        .words("loss", output("loss"))
        .words("parts", output("parts"))
        .words("part_sum", output("part_sum"))
        .words("part_denominator", output("part_denominator"))
        .words("slopes", output("slopes"))
        .words("status", output("status"))
        .groups(1)?;
    Ok(planner.finish())
}

/// The call of a part: its slices of the inputs and of their gradients, and these outputs. `name` is that of the whole.
fn lend(
    name: &str,
    part: &Part,
    call: &Call,
    mut outputs: BTreeMap<String, Operand>,
) -> Result<Call> {
    let mut inputs = BTreeMap::new();
    let mut in_place = BTreeSet::new();
    for PartInput { part: own, whole, slice } in &part.inputs {
        if let Some(operand) = call.inputs.get(*whole) {
            inputs.insert((*own).to_owned(), slice.of_operand(operand));
        }
        let gradient = format!("grad.{whole}");
        if let Some(operand) = call.outputs.get(&gradient) {
            outputs.insert(format!("grad.{own}"), slice.of_operand(operand));
            if call.is_in_place(&gradient) {
                in_place.insert(format!("grad.{own}"));
            }
        }
    }
    // Overlaps between tensors were checked for the whole call.
    let own = Call { in_place, ..Call::new(inputs, outputs) }.checked(part.loss.as_ref(), 1);
    let own = own.map_err(|error| error.outside(name, &|inside| part.outside(inside)))?;
    Ok(Call { siblings: call.siblings.clone(), ..own })
}

impl TensorSlice {
    fn of_operand(&self, operand: &Operand) -> Operand {
        let mut operand = operand.clone();
        let layout = &mut operand.layout;
        match self {
            Self::All => {}
            Self::Columns(columns) => {
                layout.offset += columns.start;
                if let Some(extent) = layout.shape.get_mut(1) {
                    *extent = columns.end - columns.start;
                }
            }
            Self::Column => layout.shape.push(1),
        }
        operand
    }

    /// The columns of an array that belong to the slice, and the number of columns of the array.
    fn columns(&self, shape: &[u64]) -> (Range<usize>, usize) {
        let width = shape.get(1).copied().unwrap_or(1) as usize;
        match self {
            Self::Columns(columns) => (columns.start as usize..columns.end as usize, width),
            _ => (0..width, width),
        }
    }

    fn of_array(&self, array: &Array) -> Array {
        let (columns, width) = self.columns(&array.shape);
        let values = array.to_f64();
        let rows = values.chunks(width.max(1));
        let values = rows.flat_map(|row| row.get(columns.clone()).unwrap_or_default().to_vec());
        let shape = match self {
            Self::All => array.shape.clone(),
            Self::Columns(_) => {
                vec![array.shape.first().copied().unwrap_or(1), columns.len() as u64]
            }
            Self::Column => vec![array.len() as u64, 1],
        };
        Array::float(&shape, values.collect())
    }
}

/// Computes every output in `wanted` from the parts' references.
pub(crate) fn reference(
    loss: &dyn Composed,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    let given = |name: &str| inputs.contains_key(name);
    let parts = parts_of(loss, &check::dims(loss, inputs)?, &given)?;
    let (mut total, mut lists, mut found) = (0.0, vec![Vec::new(); 4], Findings::of_rows());
    let mut gradients: BTreeMap<String, Array> = inputs
        .iter()
        .map(|(name, array)| (format!("grad.{name}"), array))
        .filter(|(name, _)| wanted.contains(&name.as_str()))
        .map(|(name, array)| (name, Array::float(&array.shape, vec![0.0; array.len()])))
        .collect();
    for part in &parts {
        let solved = solve(part, inputs, wanted, arithmetic)?;
        let one = |name: &str| solved.get(name).and_then(|a| a.to_f64().first().copied());
        let [own, sum, denominator] = RESULTS.map(|name| one(name).unwrap_or(f64::NAN));
        total += own;
        lists[0].push(quotient(sum, denominator, loss.reduced()));
        lists[1].push(sum);
        lists[2].push(denominator);
        solved.get("status").into_iter().for_each(|status| found.add(status));
        lists[3].push(part.slope.and_then(one).unwrap_or(0.0));
        for PartInput { part: own, whole, slice } in &part.inputs {
            let gradient = gradients.get_mut(&format!("grad.{whole}"));
            if let (Some(to), Some(from)) = (gradient, solved.get(&format!("grad.{own}"))) {
                paste(to, from, slice);
            }
        }
    }
    let output = |&name: &&str| {
        let list =
            ["parts", "part_sum", "part_denominator", "slopes"].iter().position(|n| *n == name);
        let array = match (name, list) {
            ("loss", _) => Array::float(&[1], vec![total]),
            ("status", _) => found.words(),
            (_, Some(list)) => Array::float(&[parts.len() as u64], lists[list].clone()),
            _ => gradients.remove(name).ok_or_else(|| no_output(loss.about(), name))?,
        };
        Ok((name.to_owned(), array))
    };
    wanted.iter().map(output).collect()
}

fn solve(part: &Part, inputs: &Arrays, wanted: &[&str], arithmetic: Arithmetic) -> Result<Arrays> {
    let mut names: Vec<String> = RESULTS.map(str::to_owned).into();
    names.extend(wanted.contains(&"status").then(|| "status".to_owned()));
    names.extend(part.slope.filter(|_| wanted.contains(&"slopes")).map(str::to_owned));
    let mut own = Arrays::new();
    for PartInput { part, whole, slice } in &part.inputs {
        if let Some(array) = inputs.get(*whole) {
            own.insert((*part).to_owned(), slice.of_array(array));
        }
        if wanted.contains(&format!("grad.{whole}").as_str()) {
            names.push(format!("grad.{part}"));
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    part.loss.reference(&own, &names, arithmetic)
}

/// Copies the gradient of a part into the gradient of the whole.
fn paste(to: &mut Array, from: &Array, slice: &TensorSlice) {
    let (columns, width) = slice.columns(&to.shape);
    let (mut values, from) = (to.to_f64(), from.to_f64());
    let rows = values.chunks_mut(width.max(1)).zip(from.chunks(columns.len().max(1)));
    for (to, from) in rows {
        to.iter_mut().skip(columns.start).zip(from).for_each(|(to, from)| *to = *from);
    }
    *to = Array::float(&to.shape.clone(), values);
}

fn quotient(sum: f64, denominator: f64, (reduction, empty): (Reduction, Empty)) -> f64 {
    let divisor = match reduction {
        Reduction::Over(d) => d,
        Reduction::Sum => 1.0,
        _ => denominator,
    };
    match empty {
        _ if sum.is_nan() => sum,
        Empty::Zero if divisor == 0.0 => 0.0,
        Empty::Nan if divisor == 0.0 => f64::NAN,
        _ => sum / divisor,
    }
}
