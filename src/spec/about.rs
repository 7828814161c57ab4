//! What an operation looks like from outside: names, shapes, types and words.

use crate::{
    data::{error::Result, tensor::Dtype},
    spec::call::Call,
};

/// What a call of an operation may look like: from this names, shapes and types are checked,
/// documentation is printed, and the command line is built.
pub trait Signature: std::fmt::Debug + Send + Sync {
    /// Names, shapes, types and words: what checks, documentation and the command line go by.
    fn about(&self) -> &'static About;

    /// Whether every option is in its domain and no two exclude each other.
    fn validate(&self) -> Result<()>;

    /// Whether it can answer a call whose names, types and shapes agree: what its inputs, outputs and
    /// options ask of each other. CPU and GPU ask it before either begins.
    fn accepts(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    /// Whether the loss is one value a row instead of one number.
    fn is_per_row(&self) -> bool;

    /// Whether it is computed on the host alone: what costs nothing beside a step needs no kernel.
    fn is_host(&self) -> bool {
        false
    }

    /// The extents that follow from the options and not from the inputs.
    fn extents(&self) -> Vec<(Dim, u64)> {
        Vec::new()
    }

    /// Whether its matrices of rows and classes can have a class stride (channels that are planes).
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
    /// How many rows (samples, tokens, queries).
    Rows,
    /// How many classes (columns of the logits), or keys.
    Classes,
    /// The depth of a hidden state, or of any vector whose products are the scores.
    Hidden,
    /// One element.
    One,
    /// The words of a row's mergeable state.
    State,
    /// The words of a status.
    StatusWords,
    /// The words of one bit an element.
    BitWords,
    /// How many of the largest ones are wanted.
    Top,
    /// The rows of all shards, one shard after another.
    Gathered,
    /// The classes of all shards.
    AllClasses,
    /// The losses that a composed one is made of.
    Parts,
    /// How many samples a generator has made.
    Fakes,
}

impl Dim {
    /// The name, as in error messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Classes => "classes",
            Self::Hidden => "hidden",
            Self::One => "1",
            Self::State => "state words",
            Self::StatusWords => "status words",
            Self::BitWords => "words of bits",
            Self::Top => "k",
            Self::Gathered => "shards · rows",
            Self::AllClasses => "classes of all shards",
            Self::Parts => "parts",
            Self::Fakes => "fake samples",
        }
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let words = [Self::State, Self::StatusWords, Self::BitWords, Self::Top];
        [Self::Rows, Self::Classes, Self::Hidden, Self::One]
            .into_iter()
            .chain(words)
            .chain([Self::Gathered, Self::AllClasses, Self::Parts, Self::Fakes])
            .find(|dim| format!("{dim:?}").eq_ignore_ascii_case(&name.replace('_', "")))
            .ok_or_else(|| serde::de::Error::custom(format!("no extent `{name}`")))
    }
}

/// What kind of elements a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Kind {
    /// `f32`, `f16` or `bf16`.
    Float,
    /// `f32` alone.
    F32,
    /// `i32`, `u32` or `i64`.
    Index,
    /// The same, of which it only matters which are equal.
    Label,
    /// `u32` alone.
    U32,
    /// `i64` alone (two words).
    I64,
    /// A float type, bytes (`u8`: 0 or not), or one bit an element in `u32` words.
    Mask,
}

impl Kind {
    /// The type that host arrays of this kind are stored as, floats as `float`.
    pub fn stored(self, float: Dtype) -> Dtype {
        match self {
            Self::Index | Self::Label | Self::I64 => Dtype::I64,
            Self::U32 => Dtype::U32,
            Self::F32 => Dtype::F32,
            Self::Float | Self::Mask => float,
        }
    }
}

/// One input or output of a loss.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Argument {
    /// The name, as in the catalogue, in JSON and on the command line.
    pub name: &'static str,
    /// What its elements are.
    pub kind: Kind,
    /// The shapes it may have; the first one is the usual one.
    pub shapes: &'static [&'static [Dim]],
    /// Whether a call without it is refused.
    pub required: bool,
    /// A sentence.
    pub about: &'static str,
    /// What its numbers are, for examples and benchmarks.
    pub domain: Domain,
    /// How its shape follows from that of the first input.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub spread: Spread,
}

/// How an argument's shape follows from that of the first input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// It is one of [`Argument::shapes`]; the rows may be several axes, the same ones everywhere.
    #[default]
    Named,
    /// It is the first input's own shape, of any rank. The gradient of an input that broadcasts has
    /// that input's.
    Elements,
    /// It broadcasts to the first input's shape, from the last axis on.
    Broadcast,
    /// The same, and one element a row may also be given as `[rows]`.
    BroadcastOrRows,
}

/// What the numbers of a float tensor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Domain {
    /// Any numbers.
    #[default]
    Any,
    /// From 0 to 1.
    Probability,
    /// Above 0.
    Positive,
    /// 0, 1, 2, …
    Count,
    /// −1 or 1, or between them.
    Sign,
    /// 0 or 1.
    Mask,
}

impl Argument {
    /// The shape it has in a call. A loss that is not reduced, and the gradient from above, have one
    /// value a row, or one an element for losses of elements; `rank` is the first input's.
    pub fn shape_in(&self, loss: &dyn Signature, rank: usize) -> &'static [Dim] {
        let usual = self.shapes.first().copied().unwrap_or(&[]);
        if !loss.is_per_row() || !["loss", "upstream"].contains(&self.name) {
            return usual;
        }
        let mut unreduced = self.shapes.iter().copied().filter(|shape| *shape != [Dim::One]);
        let of_rank = unreduced.clone().find(|shape| shape.len() == rank);
        of_rank.or_else(|| unreduced.next()).unwrap_or(usual)
    }

    /// The same argument with numbers of this kind.
    pub const fn within(mut self, domain: Domain) -> Self {
        self.domain = domain;
        self
    }

    /// The same argument with a shape that follows from the first input's in this way.
    pub const fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// An argument that may be left out.
    pub const fn optional(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        Self { required: false, ..Self::required(name, kind, shapes, about) }
    }

    /// An argument that must be given.
    pub const fn required(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        let (domain, spread) = (Domain::Any, Spread::Named);
        Self { name, kind, shapes, required: true, about, domain, spread }
    }
}

/// One option of a loss, in words.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct OptionAbout {
    /// The name, as in JSON and on the command line.
    pub name: &'static str,
    /// Its default, as JSON.
    pub default: &'static str,
    /// Other values that it may have, as JSON: what tests try beside the default. Each way of computing has
    /// one.
    pub samples: &'static [&'static str],
    /// A sentence.
    pub about: &'static str,
}

/// A loss in words and shapes.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct About {
    /// The name, as in the catalogue.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The formula, in plain text.
    pub formula: &'static str,
    /// The nearest PyTorch call.
    pub pytorch: &'static str,
    /// What it takes.
    pub inputs: &'static [Argument],
    /// What it can hand back; which of them are asked for decides what is computed.
    pub outputs: &'static [Argument],
    /// Its options.
    pub options: &'static [OptionAbout],
}

impl About {
    /// What a row is scored against: classes, or (where there are vectors and no classes) the rows.
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
