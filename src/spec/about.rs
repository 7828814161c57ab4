//! The description of an operation: names, shapes, types and texts.

use crate::{
    data::{error::Result, tensor::Dtype},
    spec::{call::Call, list},
};

/// The part of an operation that says what its calls may look like. From it, names, shapes and types are checked,
/// documentation is printed, and the command line is built.
pub trait Signature: std::fmt::Debug + Send + Sync {
    /// The description: names, shapes, types and texts.
    fn about(&self) -> &'static About;

    /// Checks that every option is in its domain and that no two options exclude each other.
    fn validate(&self) -> Result<()>;

    /// Checks what the inputs, outputs and options of a call require of each other, once names, types and shapes
    /// agree. CPU and GPU check this before they begin.
    fn accepts(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    /// Whether the loss has one value a row instead of one number.
    fn is_per_row(&self) -> bool;

    /// Whether the operation is computed only on the host. Operations that cost nothing beside a training step need no
    /// kernel.
    fn is_host(&self) -> bool {
        false
    }

    /// The extents that follow from the options, not from the inputs.
    fn extents(&self) -> Vec<(Dim, u64)> {
        Vec::new()
    }

    /// Whether matrices of rows and classes may have a class stride (channels that are planes).
    fn takes_planes(&self) -> bool {
        false
    }
}

/// An extent that the tensors of one call share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Dim {
    /// The number of rows (samples, tokens, queries).
    Rows,
    /// The number of classes (columns of the logits), or of keys.
    Classes,
    /// The length of a hidden state, or of any vector whose products are the scores.
    Hidden,
    /// The length of a teacher's hidden state.
    TeacherHidden,
    /// One element.
    One,
    /// The words of a row's mergeable state.
    State,
    /// The words of a status.
    StatusWords,
    /// The words of a mask with one bit an element.
    BitWords,
    /// The number of the largest scores that are wanted.
    Top,
    /// The rows of all shards, one shard after another.
    Gathered,
    /// The classes of all shards.
    AllClasses,
    /// The losses that a composed loss consists of.
    Parts,
    /// The number of samples that a generator has made.
    Fakes,
    /// The number of targets that a row has.
    Targets,
    /// The number of classes that are drawn.
    Samples,
}

impl Dim {
    /// The name in error messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Classes => "classes",
            Self::Hidden => "hidden",
            Self::TeacherHidden => "teacher hidden",
            Self::One => "1",
            Self::State => "state words",
            Self::StatusWords => "status words",
            Self::BitWords => "words of bits",
            Self::Top => "k",
            Self::Gathered => "shards · rows",
            Self::AllClasses => "classes of all shards",
            Self::Parts => "parts",
            Self::Fakes => "fake samples",
            Self::Targets => "targets a row",
            Self::Samples => "samples",
        }
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let words = [Self::State, Self::StatusWords, Self::BitWords, Self::Top];
        [Self::Rows, Self::Classes, Self::Hidden, Self::TeacherHidden, Self::One]
            .into_iter()
            .chain(words)
            .chain([
                Self::Gathered,
                Self::AllClasses,
                Self::Parts,
                Self::Fakes,
                Self::Targets,
                Self::Samples,
            ])
            .find(|dim| format!("{dim:?}").eq_ignore_ascii_case(&name.replace('_', "")))
            .ok_or_else(|| serde::de::Error::custom(format!("no extent `{name}`")))
    }
}

/// The kind of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Kind {
    /// `f32`, `f16` or `bf16`.
    Float,
    /// `f32`, `f16` or `bf16`. A host array is stored as `f32`, because its numbers may be past the range of `f16`.
    WideFloat,
    /// `f32`, `f16` or `bf16`; or `i8`, four to a word, with the input `logits_scale`. The integers of a host array are
    /// stored as `i8`.
    Logits,
    /// Only `f32`.
    F32,
    /// `i32`, `u32` or `i64`.
    Index,
    /// `i32`, `u32` or `i64`, of which only equality matters.
    Label,
    /// Only `u32`.
    U32,
    /// Only `i64` (two words).
    I64,
    /// Only `i8`.
    I8,
    /// A float type, bytes (`u8`: 0 or not), or one bit an element in `u32` words.
    Mask,
}

impl Kind {
    /// The type as which host arrays of this kind are stored; floats are stored as `float`.
    pub fn stored(self, float: Dtype) -> Dtype {
        match self {
            Self::Index | Self::Label | Self::I64 => Dtype::I64,
            Self::U32 => Dtype::U32,
            Self::F32 | Self::WideFloat => Dtype::F32,
            Self::I8 => Dtype::I8,
            Self::Float | Self::Logits | Self::Mask => float,
        }
    }
}

/// An input or output of an operation.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Argument {
    /// The name, as in the catalogue, in JSON and on the command line.
    pub name: &'static str,
    /// The kind of the elements.
    pub kind: Kind,
    /// The shapes that are allowed; the first one is the usual one.
    pub shapes: &'static [&'static [Dim]],
    /// Whether a call without it is refused.
    pub required: bool,
    /// A description of one sentence.
    pub about: &'static str,
    /// The domain of the numbers, for examples and benchmarks.
    pub domain: Domain,
    /// How the shape follows from that of the first input.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub spread: Spread,
    /// The input that this output may be written over.
    pub over: Option<&'static str>,
    /// Whether a call passes it as a host input: the plan is made from its numbers.
    pub host: bool,
    /// Whether it may be a list of tensors: see [`list`](crate::loss::list).
    pub list: bool,
}

/// How the shape of an argument follows from that of the first input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// One of [`Argument::shapes`]. Several axes may count the rows, if they are the same in all arguments.
    #[default]
    Named,
    /// The shape of the first input, of any rank. The gradient of an input that broadcasts has the shape of this
    /// input.
    Elements,
    /// A shape that broadcasts to that of the first input, from the last axis on.
    Broadcast,
    /// As `Broadcast`; one element a row may also have the shape `[rows]`.
    BroadcastOrRows,
}

/// The domain of the numbers of a float tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Domain {
    /// Any number.
    #[default]
    Any,
    /// A number from 0 to 1.
    Probability,
    /// A number above 0.
    Positive,
    /// A count: 0, 1, 2, …
    Count,
    /// −1 or 1, or a number between them.
    Sign,
    /// 0 or 1.
    Mask,
    /// The links of a tree: entry i is the parent of node i + 1, from 0 to i.
    Tree,
    /// The leaves of a tree.
    Leaf,
}

impl Argument {
    /// The shape in a call. A loss that is not reduced, and the upstream gradient, have one value a row, or one an
    /// element for element losses. `rank` is that of the first input.
    pub fn shape_in(&self, loss: &dyn Signature, rank: usize) -> &'static [Dim] {
        let usual = self.shapes.first().copied().unwrap_or(&[]);
        if !loss.is_per_row() || !["loss", "upstream"].contains(&self.name) {
            return usual;
        }
        let mut unreduced = self.shapes.iter().copied().filter(|shape| *shape != [Dim::One]);
        let of_rank = unreduced.clone().find(|shape| shape.len() == rank);
        of_rank.or_else(|| unreduced.next()).unwrap_or(usual)
    }

    /// The same argument with numbers of this domain.
    #[must_use]
    pub const fn within(mut self, domain: Domain) -> Self {
        self.domain = domain;
        self
    }

    /// The same argument with a shape that follows from that of the first input in this way.
    #[must_use]
    pub const fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// The same output; it may be written over an input of the same type and shape
    /// ([`Request::in_place`](crate::Request::in_place)).
    #[must_use]
    pub const fn over(mut self, input: &'static str) -> Self {
        self.over = Some(input);
        self
    }

    /// The same input; a call passes it as a host input ([`Request::host`](crate::Request::host)).
    #[must_use]
    pub const fn from_host(mut self) -> Self {
        self.host = true;
        self
    }

    /// The same argument as a list of tensors: `parameters.0`, `parameters.1` and so on. Each tensor has its own
    /// shape, and tensors of other lists with the same number have the same shape.
    #[must_use]
    pub const fn list(mut self) -> Self {
        self.list = true;
        self
    }

    /// The suffix that a name adds to the name of the argument: nothing, or the number of a list's tensor (`.2`).
    /// `None` if the name is not that of a tensor of this argument.
    pub fn suffix<'n>(&self, name: &'n str) -> Option<&'n str> {
        let suffix = name.strip_prefix(self.name)?;
        (suffix.is_empty() || (self.list && list::is_suffix(suffix))).then_some(suffix)
    }

    /// The type as which a host array is stored; floats are stored as `float`, but host inputs as f32.
    pub fn stored(&self, float: Dtype) -> Dtype {
        self.kind.stored(if self.host { Dtype::F32 } else { float })
    }

    /// The input whose type and shape an output has: the one whose gradient it is, or that it may be written over.
    pub fn like(&self) -> Option<&'static str> {
        self.over.or_else(|| self.name.strip_prefix("grad."))
    }

    /// An argument that a call may leave out.
    pub const fn optional(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        Self { required: false, ..Self::required(name, kind, shapes, about) }
    }

    /// An argument that a call must give.
    pub const fn required(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            shapes,
            required: true,
            about,
            domain: Domain::Any,
            spread: Spread::Named,
            over: None,
            host: false,
            list: false,
        }
    }
}

/// The description of an option.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct OptionAbout {
    /// The name, as in JSON and on the command line.
    pub name: &'static str,
    /// The default, as JSON.
    pub default: &'static str,
    /// Other values that it may have, as JSON: those that tests try beside the default, one for each way of computing.
    pub samples: &'static [&'static str],
    /// A description of one sentence.
    pub about: &'static str,
}

/// The description of an operation.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct About {
    /// The name, as in the catalogue.
    pub name: &'static str,
    /// A summary of one sentence.
    pub summary: &'static str,
    /// The formula, in plain text.
    pub formula: &'static str,
    /// The nearest PyTorch call.
    pub pytorch: &'static str,
    /// The inputs.
    pub inputs: &'static [Argument],
    /// The outputs. Only those that a call asks for are computed.
    pub outputs: &'static [Argument],
    /// The options.
    pub options: &'static [OptionAbout],
}

impl About {
    /// The input to which the tensor of this name belongs.
    pub fn input(&self, name: &str) -> Option<&'static Argument> {
        self.inputs.iter().find(|argument| argument.suffix(name).is_some())
    }

    /// Whether a name is that of a host input.
    pub fn is_host_input(&self, name: &str) -> bool {
        self.input(name).is_some_and(|argument| argument.host)
    }

    /// The output that a name is a tensor of.
    pub fn output(&self, name: &str) -> Option<&'static Argument> {
        self.outputs.iter().find(|argument| argument.suffix(name).is_some())
    }

    /// What the columns of the scores are: classes, or the rows themselves where there are vectors and no classes.
    pub fn columns(&self) -> Option<Dim> {
        let has = |dim| {
            let required = self.inputs.iter().filter(|input| input.required);
            required.flat_map(|input| input.shapes).any(|shape| shape.contains(&dim))
        };
        match (has(Dim::Classes), has(Dim::Hidden)) {
            (true, _) => Some(Dim::Classes),
            (false, true) => Some(Dim::Rows),
            (false, false) => None,
        }
    }
}
