//! A call made from extents, as long as there are no tensors: what `surprisal plan` and `surprisal bench` begin with.

use std::collections::{BTreeMap, BTreeSet};

use surprisal::{
    Array, Arrays, Dtype, Error, Layout, Operation, Plan, Profile, Result, Status,
    loss::{About, Argument, Dim, Kind},
    low_level::in_place,
    plan::{Call, Operand},
    row::STATE_WORDS,
    testing,
};

/// The samples of a loss of sampled classes, where the caller does not say how many there are.
const SAMPLES: u64 = 1024;

/// Which part of a training step is computed.
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

    /// The mode that computes most: [`Mode::Fused`], or [`Mode::Forward`] of what has no gradients.
    pub fn most_of(about: &About) -> Self {
        if Self::Fused.is_of(about) { Self::Fused } else { Self::Forward }
    }

    /// The outputs of an operation in this mode: its loss or, where it has none, its first output; its gradients.
    fn outputs(self, about: &'static About) -> Result<Vec<&'static str>> {
        if !self.is_of(about) {
            return Err(unknown(about, "output", "grad.…", about.outputs));
        }
        let has = |name: &&str| about.outputs.iter().any(|output| output.name == *name);
        let forward = ["loss", "lse"].into_iter().filter(has);
        Ok(match self {
            Self::Forward if !has(&"loss") => {
                about.outputs.iter().map(|output| output.name).take(1).collect()
            }
            Self::Forward => forward.collect(),
            Self::Backward => gradients(about).collect(),
            Self::Fused => forward.take(1).chain(gradients(about)).collect(),
        })
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

/// A call in preparation. Its tensors follow from the description of its operation.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Rows, classes and whatever other extents the operation has.
    pub extents: BTreeMap<Dim, u64>,
    /// The type of float inputs and gradients.
    pub dtype: Dtype,
    /// The part of a training step.
    pub mode: Mode,
    /// Optional inputs to give in addition to those that the call needs.
    pub with: Vec<String>,
    /// Outputs to compute instead of those of the mode.
    pub want: Vec<String>,
}

impl Draft {
    /// A call with only what the mode needs.
    pub fn new(extents: impl IntoIterator<Item = (Dim, u64)>, dtype: Dtype, mode: Mode) -> Self {
        let extents = extents.into_iter().collect();
        Self { extents, dtype, mode, with: Vec::new(), want: Vec::new() }
    }

    /// The call and its plan for a device of this profile, with every tensor in its own buffer.
    ///
    /// An input that turns out to be needed is added. A shape that the operation refuses is replaced by the argument's
    /// next shape.
    pub fn plan(&self, loss: &dyn Operation, profile: &Profile) -> Result<(Call, Plan)> {
        self.plan_in_place(loss, profile, &BTreeSet::new())
    }

    /// [`Draft::plan`] with these outputs written over their inputs.
    pub fn plan_in_place(
        &self,
        loss: &dyn Operation,
        profile: &Profile,
        in_place: &BTreeSet<String>,
    ) -> Result<(Call, Plan)> {
        let mut attempt = Attempt::new(self, loss)?;
        loop {
            let planned = attempt.call(profile, in_place).and_then(|call| {
                let plan = loss.plan(&call, profile)?;
                Ok((call, plan))
            });
            let goes_on = match &planned {
                Err(Error::MissingInput { argument, .. }) => attempt.give(argument),
                Err(Error::WrongShape { argument, .. }) => attempt.take_next_shape(argument),
                _ => false,
            };
            if !goes_on {
                return planned;
            }
        }
    }

    /// The names of the inputs that a call is known to need, and of those that were asked for.
    fn inputs(&self, about: &'static About) -> Result<BTreeSet<&'static str>> {
        for name in &self.with {
            find(about, "input", about.inputs, name)?;
        }
        let is_given = |input: &&Argument| {
            let saved = self.mode == Mode::Backward && input.name == "lse";
            input.required || saved || self.with.iter().any(|name| name == input.name)
        };
        Ok(about.inputs.iter().filter(is_given).map(|input| input.name).collect())
    }

    /// The names of the outputs.
    fn outputs(&self, about: &'static About) -> Result<BTreeSet<&'static str>> {
        if self.want.is_empty() {
            return Ok(self.mode.outputs(about)?.into_iter().collect());
        }
        let output = |name: &String| Ok(find(about, "output", about.outputs, name)?.name);
        self.want.iter().map(output).collect()
    }
}

/// A draft, what it gives and asks for, and the shape that is tried of each input.
struct Attempt<'a> {
    loss: &'a dyn Operation,
    extents: BTreeMap<Dim, u64>,
    dtype: Dtype,
    inputs: BTreeSet<&'static str>,
    outputs: BTreeSet<&'static str>,
    /// The index of an input's shape among those whose extents are known; 0 by default.
    shapes: BTreeMap<&'static str, usize>,
}

impl<'a> Attempt<'a> {
    fn new(draft: &Draft, loss: &'a dyn Operation) -> Result<Self> {
        let about = loss.about();
        let mut extents = draft.extents.clone();
        extents.extend(loss.extents());
        let (inputs, outputs) = (draft.inputs(about)?, draft.outputs(about)?);
        Ok(Self { loss, extents, dtype: draft.dtype, inputs, outputs, shapes: BTreeMap::new() })
    }

    /// Gives one more input, if there is one of this name that is not given yet.
    fn give(&mut self, name: &str) -> bool {
        let input = self.loss.about().inputs.iter().find(|input| input.name == name);
        input.is_some_and(|input| self.inputs.insert(input.name))
    }

    /// Takes the next shape of an input, or of the input that a gradient belongs to, if there is one.
    fn take_next_shape(&mut self, argument: &str) -> bool {
        let name = argument.strip_prefix("grad.").unwrap_or(argument);
        let input = self.loss.about().inputs.iter().find(|input| input.name == name);
        let Some(input) = input else { return false };
        let count = self.shapes_of(input).len();
        let tried = self.shapes.entry(input.name).or_default();
        *tried += 1;
        *tried < count
    }

    fn call(&self, profile: &Profile, in_place: &BTreeSet<String>) -> Result<Call> {
        let about = self.loss.about();
        let inputs = about.inputs.iter().filter(|input| self.inputs.contains(input.name));
        let (host, inputs): (Vec<_>, Vec<_>) = inputs.partition(|input| input.host);
        let host = host.into_iter().map(|input| {
            let layout = self.input(input)?;
            Ok((input.name.to_owned(), host_array(input, &layout.shape)))
        });
        let host = host.collect::<Result<Arrays>>()?;
        let inputs = inputs.into_iter().map(|input| Ok((input.name, self.input(input)?)));
        let inputs = operands(0, inputs.collect::<Result<_>>()?);
        let own = |output: &&Argument| {
            self.outputs.contains(output.name) && !in_place.contains(output.name)
        };
        let outputs = about.outputs.iter().filter(own);
        let outputs = outputs.map(|output| Ok((output.name, self.output(output)?)));
        let mut outputs = operands(inputs.len(), outputs.collect::<Result<_>>()?);
        let in_place = in_place::give_tensors(about, in_place, &inputs, &mut outputs)?;
        for (name, operand) in &mut outputs {
            operand.name.clone_from(name);
        }
        let call = Call { host, in_place, ..Call::new(inputs, outputs) };
        call.checked(self.loss, profile.offset_alignment)
    }

    fn extent(&self, dim: Dim) -> Option<u64> {
        match dim {
            Dim::One => Some(1),
            Dim::Samples => self.extents.get(&dim).copied().or(Some(SAMPLES)),
            Dim::State => Some(STATE_WORDS),
            Dim::StatusWords => Some(Status::WORDS),
            // The statistics of one shard; those of each other shard have the same size.
            Dim::Gathered => self.extent(Dim::Rows),
            // As many fakes as columns are asked for; otherwise as many as real samples.
            Dim::Fakes => self.extent(Dim::Classes).or(self.extent(Dim::Rows)),
            // As deep as the student, unless it is said.
            Dim::TeacherHidden => {
                self.extents.get(&dim).copied().or_else(|| self.extent(Dim::Hidden))
            }
            _ => self.extents.get(&dim).copied(),
        }
    }

    fn shape(&self, dims: &[Dim]) -> Option<Vec<u64>> {
        dims.iter().map(|&dim| self.extent(dim)).collect()
    }

    /// The shapes that an input can have here; the usual one comes first.
    fn shapes_of(&self, input: &Argument) -> Vec<Vec<u64>> {
        let usual = self.usual_shape(input);
        let all = input.shapes.iter().copied().filter(|&shape| shape != usual);
        std::iter::once(usual).chain(all).filter_map(|dims| self.shape(dims)).collect()
    }

    /// The shape of an argument beside a first input of the usual shape.
    fn usual_shape(&self, argument: &Argument) -> &'static [Dim] {
        let first = self.loss.about().inputs.first().and_then(|first| first.shapes.first());
        argument.shape_in(self.loss, first.map_or(1, |shape| shape.len()))
    }

    fn input(&self, input: &Argument) -> Result<Layout> {
        let nth = self.shapes.get(input.name).copied().unwrap_or(0);
        let shape = self.shapes_of(input).into_iter().nth(nth);
        self.layout(input, shape, self.stored(input))
    }

    /// The type of an input: that of floats, where it can have it. Only i8 logits have a scale.
    fn stored(&self, input: &Argument) -> Dtype {
        let scaled = input.kind == Kind::Logits && self.inputs.contains("logits_scale");
        if scaled { Dtype::I8 } else { input.stored(self.dtype) }
    }

    /// The layout of an output: that of the input which it belongs to, if there is one.
    fn output(&self, output: &Argument) -> Result<Layout> {
        let about = self.loss.about();
        let like = output.like();
        if let Some(input) = about.inputs.iter().find(|input| like == Some(input.name)) {
            let layout = self.input(input)?;
            let dtype = input.stored(self.dtype);
            return Ok(Layout { dtype, ..layout });
        }
        self.layout(output, self.shape(self.usual_shape(output)), output.kind.stored(Dtype::F32))
    }

    fn layout(&self, argument: &Argument, shape: Option<Vec<u64>>, dtype: Dtype) -> Result<Layout> {
        /// More elements than any memory holds, and so few that their bytes can be counted.
        const MOST: u64 = 1 << 56;
        let shape = shape.ok_or_else(|| self.missing_extent(argument))?;
        let elements = shape.iter().try_fold(1u64, |all, &extent| all.checked_mul(extent));
        if elements.is_none_or(|elements| elements >= MOST) {
            return Err(Error::WrongShape {
                argument: argument.name.into(),
                found: shape.into(),
                expected: "fewer than 2^56 elements".into(),
            });
        }
        Ok(Layout::dense(dtype, &shape))
    }

    fn missing_extent(&self, argument: &Argument) -> Error {
        let mut dims = argument.shapes.iter().copied().flatten();
        let dim = dims.find(|dim| self.extent(**dim).is_none());
        Error::MissingInput {
            operation: self.loss.about().name.into(),
            argument: dim.map_or("extent", |dim| dim.name()).into(),
            reason: format!("it is an extent of tensor `{}`", argument.name).into(),
        }
    }
}

/// Numbers for a host input, which a plan is made from.
fn host_array(input: &Argument, shape: &[u64]) -> Array {
    let count = shape.iter().product::<u64>();
    match input.kind {
        Kind::Index => Array::int(shape, testing::indices(input.domain, 1, count as usize, count)),
        _ => Array::float(shape, testing::numbers(input.domain, 1, count as usize)),
    }
}

/// Tensors in buffers of their own, which are numbered from `first` on.
fn operands(first: usize, layouts: Vec<(&str, Layout)>) -> BTreeMap<String, Operand> {
    let operand = |(allocation, (name, layout)): (usize, (&str, Layout))| {
        let bytes = layout.byte_range().map_or(u64::MAX, |range| range.end);
        let allocation_bytes = bytes.checked_next_multiple_of(16).unwrap_or(bytes).max(16);
        let name = name.to_owned();
        (name.clone(), Operand { name, layout, allocation, allocation_bytes })
    };
    (first..).zip(layouts).map(operand).collect()
}

/// The argument of this name.
fn find(
    about: &About,
    kind: &'static str,
    arguments: &'static [Argument],
    name: &str,
) -> Result<&'static Argument> {
    let found = arguments.iter().find(|argument| argument.name == name);
    found.ok_or_else(|| unknown(about, kind, name, arguments))
}

fn unknown(about: &About, kind: &'static str, name: &str, known: &[Argument]) -> Error {
    Error::UnknownName {
        operation: about.name.into(),
        kind,
        name: name.into(),
        known: known.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", ").into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use surprisal::{Signature as _, loss};

    const ROWS: u64 = 64;
    const CLASSES: u64 = 4096;
    const HIDDEN: u64 = 32;

    fn draft(mode: Mode) -> Draft {
        let extents = [(Dim::Rows, ROWS), (Dim::Classes, CLASSES), (Dim::Hidden, HIDDEN)];
        Draft::new(extents, Dtype::F32, mode)
    }

    fn plan(name: &str, options: &serde_json::Value, draft: &Draft) -> Result<Plan> {
        let entry = surprisal::operations::find(name)
            .ok_or_else(|| Error::Incomplete { operation: name.into() })?;
        Ok(draft.plan((entry.parse)(options)?.as_ref(), &Profile::default())?.1)
    }

    #[test]
    fn every_loss_has_a_call_from_its_description_alone() -> Result<()> {
        for entry in loss::REGISTRY {
            for mode in Mode::ALL.into_iter().filter(|mode| mode.is_of(entry.about)) {
                let plan = plan(entry.about.name, &json!({}), &draft(mode))?;
                assert!(!plan.dispatches.is_empty(), "{} {mode}", entry.about.name);
            }
        }
        Ok(())
    }

    #[test]
    fn a_refused_shape_gives_way_to_the_next_one() -> Result<()> {
        let options = json!({"weight_layout": "hidden_classes"});
        plan("linear_cross_entropy", &options, &draft(Mode::Fused)).map(drop)
    }

    #[test]
    fn inputs_and_outputs_can_be_added_and_unknown_ones_are_refused() -> Result<()> {
        let with = |with: &str, want: &str| {
            let mut draft = draft(Mode::Fused);
            draft.with = vec![with.to_owned()];
            draft.want = vec![want.to_owned()];
            plan("cross_entropy", &json!({}), &draft)
        };
        with("row_weight", "entropy")?;
        assert!(matches!(with("row_wait", "entropy"), Err(Error::UnknownName { .. })));
        assert!(matches!(with("row_weight", "entrophy"), Err(Error::UnknownName { .. })));
        Ok(())
    }

    #[test]
    fn outputs_that_are_asked_for_replace_those_of_the_mode() -> Result<()> {
        let entropy = Draft { want: vec!["entropy".to_owned()], ..draft(Mode::Fused) };
        let (call, _) = entropy.plan(&surprisal::CrossEntropy::default(), &Profile::default())?;
        assert_eq!(call.outputs.keys().collect::<Vec<_>>(), ["entropy"]);
        Ok(())
    }

    #[test]
    fn what_has_no_gradients_computes_its_first_output() -> Result<()> {
        let similarity = surprisal::Similarity::default();
        let mode = Mode::most_of(similarity.about());
        let (call, _) = draft(mode).plan(&similarity, &Profile::default())?;
        assert_eq!(call.outputs.keys().collect::<Vec<_>>(), ["scores"]);
        let refused = draft(Mode::Fused).plan(&similarity, &Profile::default());
        assert!(matches!(refused, Err(Error::UnknownName { .. })));
        Ok(())
    }

    #[test]
    fn elements_need_no_classes() -> Result<()> {
        let elements = Draft::new([(Dim::Rows, ROWS)], Dtype::F32, Mode::Fused);
        let (call, _) = elements.plan(&surprisal::Mse::default(), &Profile::default())?;
        assert_eq!(call.outputs["grad.logits"].layout.len(), ROWS);
        Ok(())
    }

    #[test]
    fn an_extent_that_is_missing_is_named() {
        let draft =
            Draft::new([(Dim::Rows, ROWS), (Dim::Classes, CLASSES)], Dtype::F32, Mode::Fused);
        let error = plan("linear_cross_entropy", &json!({}), &draft).err();
        assert!(
            matches!(&error, Some(Error::MissingInput { argument, .. }) if &**argument == "hidden"),
            "{error:?}"
        );
    }
}
