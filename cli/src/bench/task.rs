//! What is timed for a loss, made from its description alone.

use std::collections::BTreeMap;

use super::fill::{BLOCK, fill};
use surprisal::{
    Array, Dtype, Error, Gpu, Layout, Operation, Plan, Profile, Result, Status,
    loss::{About, Argument, Dim, Domain},
    plan::{Call, Operand},
    row::STATE_WORDS,
    stored_dtype, testing, wgpu,
};

/// Which part of a training step is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The loss, and the lse that a later backward pass starts from.
    Forward,
    /// The gradients, from a saved lse where the loss takes one.
    Backward,
    /// The loss and the gradients in one recording.
    Fused,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Backward, Self::Fused];

    /// The name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Fused => "fused",
        }
    }

    /// Whether a loss has this mode: a metric has no gradient.
    pub fn is_of(self, about: &About) -> bool {
        self == Self::Forward || gradients(about).next().is_some()
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("`{name}` is not one of forward, backward, fused"))
    }
}

/// The gradients of the inputs that every call of this loss has.
fn gradients(about: &About) -> impl Iterator<Item = &'static str> {
    let required = about.inputs.iter().filter(|input| input.required);
    let names: Vec<&str> = required.map(|input| input.name).collect();
    about
        .outputs
        .iter()
        .map(|output| output.name)
        .filter(move |name| name.strip_prefix("grad.").is_some_and(|input| names.contains(&input)))
}

/// Rows whose target is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ignored {
    /// Their share of all rows, from 0 to 1.
    pub share: f64,
    /// Their target.
    pub index: i64,
}

impl Ignored {
    /// Makes the share of these targets ignored, evenly spread.
    fn set(self, targets: &mut [i64]) {
        let before = |row: usize| (row as f64 * self.share).floor();
        for (row, target) in targets.iter_mut().enumerate() {
            if before(row + 1) > before(row) {
                *target = self.index;
            }
        }
    }
}

/// What is timed, apart from the loss and its options.
#[derive(Clone, Debug)]
pub struct Task {
    /// Rows, classes and whatever other extents the loss has.
    pub extents: BTreeMap<Dim, u64>,
    /// The type of float inputs and gradients.
    pub dtype: Dtype,
    /// The part of a step.
    pub mode: Mode,
    /// Optional inputs to give in addition to those that the call needs.
    pub with: Vec<String>,
    /// Outputs to compute in addition to those of the mode.
    pub want: Vec<String>,
    /// The rows whose target is ignored, if some are.
    pub ignored: Option<Ignored>,
}

impl Task {
    /// A task with only what the mode needs.
    pub fn new(extents: impl IntoIterator<Item = (Dim, u64)>, dtype: Dtype, mode: Mode) -> Self {
        let extents = extents.into_iter().collect();
        Self { extents, dtype, mode, with: Vec::new(), want: Vec::new(), ignored: None }
    }

    /// The plan of the call, before anything is created on the device.
    pub fn plan(&self, loss: &dyn Operation, profile: &Profile) -> Result<Plan> {
        Ok(self.known(loss).layouts(loss, profile)?.1)
    }

    pub(super) fn extent(&self, dim: Dim) -> Option<u64> {
        match dim {
            Dim::One => Some(1),
            Dim::State => Some(STATE_WORDS),
            Dim::StatusWords => Some(Status::WORDS),
            // As many fakes as columns are asked for; otherwise as many as real samples.
            Dim::Fakes => self.extent(Dim::Classes).or(self.extent(Dim::Rows)),
            _ => self.extents.get(&dim).copied(),
        }
    }

    fn shape(&self, dims: &[Dim]) -> Option<Vec<u64>> {
        dims.iter().map(|&dim| self.extent(dim)).collect()
    }

    /// The shapes that an argument can have here.
    fn shapes(&self, argument: &Argument) -> Vec<Vec<u64>> {
        argument.shapes.iter().filter_map(|dims| self.shape(dims)).collect()
    }

    /// The same task with the extents that a loss fixes by itself.
    pub(super) fn known(&self, loss: &dyn Operation) -> Self {
        let mut task = self.clone();
        task.extents.extend(loss.extents());
        task
    }

    /// The layouts of a call that the loss accepts. An input that the loss reports as missing is added, and a shape
    /// that it refuses is replaced by the argument's next shape.
    pub(super) fn layouts(
        &self,
        loss: &dyn Operation,
        profile: &Profile,
    ) -> Result<([Layouts; 2], Plan)> {
        let about = loss.about();
        let mut given: Vec<&str> = about
            .inputs
            .iter()
            .filter(|input| {
                let saved = self.mode == Mode::Backward && input.name == "lse";
                input.required || saved || self.with.iter().any(|name| name == input.name)
            })
            .map(|input| input.name)
            .collect();
        if let Some(name) = self.with.iter().find(|name| !given.contains(&name.as_str())) {
            return Err(unknown(about, "input", name, about.inputs));
        }
        let wanted = self.wanted(about)?;
        let mut choices: BTreeMap<&str, usize> = BTreeMap::new();
        loop {
            let inputs = self.inputs(loss, &given, &choices)?;
            let outputs = self.outputs(loss, &wanted, &inputs)?;
            let error = match planned(loss, profile, &inputs, &outputs) {
                Ok(plan) => return Ok(([inputs, outputs], plan)),
                Err(error) => error,
            };
            let find = |name: &str| about.inputs.iter().find(|input| input.name == name);
            match &error {
                Error::MissingInput { argument, .. } => match find(argument) {
                    Some(input) if !given.contains(&input.name) => given.push(input.name),
                    _ => return Err(error),
                },
                Error::WrongShape { argument, .. } => {
                    let name = argument.strip_prefix("grad.").unwrap_or(argument);
                    let Some(input) = find(name) else { return Err(error) };
                    let choice = choices.entry(input.name).or_default();
                    *choice += 1;
                    if *choice >= self.shapes(input).len() {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// The outputs of the mode, and those that were asked for.
    fn wanted(&self, about: &'static About) -> Result<Vec<&'static str>> {
        let has = |name: &&str| about.outputs.iter().any(|output| output.name == *name);
        let forward = ["loss", "lse"].into_iter().filter(has);
        let mut wanted: Vec<&'static str> = match self.mode {
            Mode::Forward if !has(&"loss") => {
                about.outputs.iter().map(|output| output.name).take(1).collect()
            }
            Mode::Forward => forward.collect(),
            Mode::Backward => gradients(about).collect(),
            Mode::Fused => forward.take(1).chain(gradients(about)).collect(),
        };
        if wanted.is_empty() || !self.mode.is_of(about) {
            return Err(unknown(about, "output", "grad.…", about.outputs));
        }
        for name in &self.want {
            let Some(output) = about.outputs.iter().find(|output| output.name == name) else {
                return Err(unknown(about, "output", name, about.outputs));
            };
            if !wanted.contains(&output.name) {
                wanted.push(output.name);
            }
        }
        Ok(wanted)
    }

    fn inputs(
        &self,
        loss: &dyn Operation,
        given: &[&str],
        choices: &BTreeMap<&str, usize>,
    ) -> Result<Layouts> {
        let arguments = loss.about().inputs.iter().filter(|input| given.contains(&input.name));
        let layout = |input: &Argument| {
            let choice = choices.get(input.name).copied().unwrap_or(0);
            let shape = self.shapes(input).into_iter().nth(choice);
            let shape = shape.ok_or_else(|| self.missing_extent(loss, input))?;
            let dtype = stored_dtype(loss, input.name, self.dtype);
            Ok((input.name.to_owned(), Layout::dense(dtype, &shape)))
        };
        arguments.map(layout).collect()
    }

    fn outputs(&self, loss: &dyn Operation, wanted: &[&str], inputs: &Layouts) -> Result<Layouts> {
        let arguments = loss.about().outputs.iter().filter(|o| wanted.contains(&o.name));
        let layout = |output: &Argument| {
            let like = output.like().and_then(|input| inputs.get(input));
            if let Some(layout) = like {
                return Ok((output.name.to_owned(), layout.clone()));
            }
            let first = loss.about().inputs.first().and_then(|first| inputs.get(first.name));
            let rank = first.map_or(1, |layout| layout.shape.len());
            let shape = self.shape(output.shape_in(loss, rank));
            let shape = shape.ok_or_else(|| self.missing_extent(loss, output))?;
            Ok((output.name.to_owned(), Layout::dense(output.kind.stored(Dtype::F32), &shape)))
        };
        arguments.map(layout).collect()
    }

    fn missing_extent(&self, loss: &dyn Operation, argument: &Argument) -> Error {
        let mut dims = argument.shapes.iter().copied().flatten();
        let dim = dims.find(|dim| self.extent(**dim).is_none());
        Error::MissingInput {
            operation: loss.about().name.into(),
            argument: dim.map_or("extent", |dim| dim.name()).into(),
            reason: format!("it is an extent of tensor `{}`", argument.name).into(),
        }
    }

    /// The numbers of an input, as a training step would give them; the random numbers are seeded.
    pub(super) fn fill(
        &self,
        gpu: &Gpu,
        (argument, domain): (&str, Domain),
        layout: &Layout,
        buffer: &wgpu::Buffer,
    ) {
        let classes = self.extent(Dim::Classes).or(self.extent(Dim::Rows)).unwrap_or(1);
        let rows = self.extent(Dim::Rows).unwrap_or(1);
        let count = layout.len().min(BLOCK) as usize;
        // Use a different seed for every input.
        let seed = argument.bytes().fold(1, |seed, byte| seed * 31 % 65_537 + u64::from(byte));
        let block = if layout.dtype.is_float() {
            let numbers = match argument {
                _ if domain != Domain::Any => testing::numbers(domain, seed, count),
                "upstream" => vec![1.0; count],
                "denominator" => vec![rows as f64; count],
                name if name.contains("prob") => vec![1.0 / classes as f64; count],
                name if name.contains("weight") && layout.shape.len() == 1 => {
                    testing::gaussian(seed, count).into_iter().map(|v| v.abs() + 0.5).collect()
                }
                // Divided by √depth, because a score adds up depth products: scores are then about as large as logits.
                "weight" => {
                    let scale = (self.extent(Dim::Hidden).unwrap_or(1).max(1) as f64).sqrt();
                    testing::gaussian(seed, count).into_iter().map(|v| v / scale).collect()
                }
                _ => testing::gaussian(seed, count),
            };
            Array::float(&[], numbers).to_bytes(layout.dtype)
        } else {
            let mut targets = testing::targets(seed, count, classes);
            if let Some(ignored) = self.ignored.filter(|_| argument == "targets") {
                ignored.set(&mut targets);
            }
            Array::int(&[], targets).to_bytes(layout.dtype)
        };
        fill(gpu, buffer, &block, layout.len() * layout.dtype.bytes());
    }
}

/// Layouts by name.
pub(super) type Layouts = BTreeMap<String, Layout>;

fn unknown(about: &About, kind: &'static str, name: &str, known: &[Argument]) -> Error {
    Error::UnknownName {
        operation: about.name.into(),
        kind,
        name: name.into(),
        known: known.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", ").into(),
    }
}

/// The plan of a call with these layouts, with every tensor in its own buffer.
fn planned(
    loss: &dyn Operation,
    profile: &Profile,
    inputs: &Layouts,
    outputs: &Layouts,
) -> Result<Plan> {
    let operands = |layouts: &Layouts, first: usize| -> BTreeMap<String, Operand> {
        let operand = |(index, (name, layout)): (usize, (&String, &Layout))| {
            let allocation_bytes = (layout.len() * layout.dtype.bytes()).next_multiple_of(16);
            let (name, layout) = (name.clone(), layout.clone());
            let operand =
                Operand { name: name.clone(), layout, allocation: first + index, allocation_bytes };
            (name, operand)
        };
        layouts.iter().enumerate().map(operand).collect()
    };
    let (inputs, outputs) = (operands(inputs, 0), operands(outputs, inputs.len()));
    let call = Call::new(inputs, outputs).checked(loss, profile.offset_alignment)?;
    loss.plan(&call, profile)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use surprisal::loss;

    use crate::bench::streamed_bytes;

    const ROWS: u64 = 64;
    const CLASSES: u64 = 4096;
    const HIDDEN: u64 = 32;

    fn task(mode: Mode) -> Task {
        let extents = [(Dim::Rows, ROWS), (Dim::Classes, CLASSES), (Dim::Hidden, HIDDEN)];
        Task::new(extents, Dtype::F32, mode)
    }

    fn plan(name: &str, options: &serde_json::Value, task: &Task) -> Result<Plan> {
        let entry = surprisal::operations::find(name);
        let entry = entry.ok_or_else(|| Error::Incomplete { operation: name.into() })?;
        task.plan((entry.parse)(options)?.as_ref(), &Profile::default())
    }

    #[test]
    fn every_loss_has_a_task_from_its_description_alone() -> Result<()> {
        for entry in loss::REGISTRY {
            for mode in Mode::ALL.into_iter().filter(|mode| mode.is_of(entry.about)) {
                let plan = plan(entry.about.name, &json!({}), &task(mode))?;
                assert!(!plan.dispatches.is_empty(), "{} {mode}", entry.about.name);
            }
        }
        Ok(())
    }

    #[test]
    fn the_share_of_ignored_targets_is_kept() {
        for (share, count) in [(0.0, 0), (0.25, 250), (0.3, 300), (1.0, 1000)] {
            let mut targets = vec![1; 1000];
            Ignored { share, index: -100 }.set(&mut targets);
            assert_eq!(targets.iter().filter(|target| **target == -100).count(), count, "{share}");
        }
    }

    #[test]
    fn a_refused_shape_gives_way_to_the_next_one() -> Result<()> {
        let options = json!({"weight_layout": "hidden_classes"});
        plan("linear_cross_entropy", &options, &task(Mode::Fused)).map(drop)
    }

    #[test]
    fn inputs_and_outputs_can_be_added_and_unknown_ones_are_refused() -> Result<()> {
        let with = |with: &str, want: &str| {
            let mut task = task(Mode::Fused);
            task.with = vec![with.to_owned()];
            task.want = vec![want.to_owned()];
            plan("cross_entropy", &json!({}), &task)
        };
        with("row_weight", "entropy")?;
        assert!(matches!(with("row_wait", "entropy"), Err(Error::UnknownName { .. })));
        assert!(matches!(with("row_weight", "entrophy"), Err(Error::UnknownName { .. })));
        Ok(())
    }

    #[test]
    fn an_extent_that_is_missing_is_named() {
        let task = Task::new([(Dim::Rows, ROWS), (Dim::Classes, CLASSES)], Dtype::F32, Mode::Fused);
        let error = plan("linear_cross_entropy", &json!({}), &task).err();
        assert!(
            matches!(&error, Some(Error::MissingInput { argument, .. }) if &**argument == "hidden"),
            "{error:?}"
        );
    }

    #[test]
    fn logits_are_streamed_once_forward_twice_backward_and_three_times_fused() -> Result<()> {
        let logits = ROWS * CLASSES * 4;
        for (mode, times) in [(Mode::Forward, 1), (Mode::Backward, 2), (Mode::Fused, 3)] {
            let bytes = streamed_bytes(&plan("cross_entropy", &json!({}), &task(mode))?);
            let rest = bytes - times * logits;
            assert!(rest < logits / 20, "{mode}: {rest} bytes beside the logits");
        }
        Ok(())
    }
}
