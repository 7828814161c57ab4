//! What a loss is: its options, its description, and the two ways to compute it.
//!
//! A loss value is plain data (options only). The GPU path asks it for a [`Plan`], the CPU path for
//! its [`reference`](Loss::reference); both share one [`validate`](Loss::validate) and one
//! [`About`], from which shapes, types and names are checked, documentation is printed and the
//! command line is built.

pub(crate) mod arguments;
pub mod bce_with_logits;
pub mod binary_hinge;
pub mod cross_entropy;
pub mod dice;
pub mod elementwise;
pub mod gan_discriminator;
pub mod gan_generator;
pub mod gaussian_nll;
pub mod hurdle_poisson;
pub mod info_nce;
pub mod linear_cross_entropy;
pub mod mixed_columns;
pub mod mse;
pub mod poisson_nll;
pub mod separable;
pub mod shard;
pub mod sigmoid_contrastive;
pub mod similarity;
pub mod sup_con;

use crate::{
    array::{Arithmetic, Arrays},
    error::Result,
    plan::{Call, Plan},
    profile::Profile,
};

pub use bce_with_logits::{BceWithLogits, BceWithLogitsInputs, BceWithLogitsOutputs};
pub use binary_hinge::{BinaryHinge, BinaryHingeInputs, BinaryHingeOutputs};
pub use cross_entropy::{
    CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Denominator, IgnoreIndex, Smoothing,
};
pub use dice::{Dice, DiceInputs, DiceOutputs};
pub use elementwise::{ElementFunction, Elementwise};
pub use gan_discriminator::{GanDiscriminator, GanDiscriminatorInputs, GanDiscriminatorOutputs};
pub use gan_generator::{GanGenerator, GanGeneratorInputs, GanGeneratorOutputs};
pub use gaussian_nll::{GaussianNll, GaussianNllInputs, GaussianNllOutputs};
pub use hurdle_poisson::{HurdlePoisson, HurdlePoissonInputs, HurdlePoissonOutputs};
pub use info_nce::{InfoNce, InfoNceInputs, InfoNceOutputs};
pub use linear_cross_entropy::{
    LinearCrossEntropy, LinearCrossEntropyInputs, LinearCrossEntropyOutputs, WeightLayout,
};
pub use mixed_columns::{
    ColumnSpan, MixedColumns, MixedColumnsInputs, MixedColumnsOutputs, SpanKind,
};
pub use mse::{Mse, MseInputs, MseOutputs};
pub use poisson_nll::{PoissonNll, PoissonNllInputs, PoissonNllOutputs};
pub use separable::{Separable, SeparableRow};
pub use shard::Shard;
pub use sigmoid_contrastive::{
    SigmoidContrastive, SigmoidContrastiveInputs, SigmoidContrastiveOutputs,
};
pub use similarity::{Similarity, SimilarityInputs, SimilarityOutputs};
pub use sup_con::{SupCon, SupConInputs, SupConOutputs};

/// A loss: options, and everything that can be done with them.
pub trait Loss: std::fmt::Debug + Send + Sync {
    /// Names, shapes, types and words: what checks, documentation and the command line go by.
    fn about(&self) -> &'static About;

    /// Whether every option is in its domain and no two exclude each other.
    fn validate(&self) -> Result<()>;

    /// Whether the loss is one value a row instead of one number.
    fn is_per_row(&self) -> bool;

    /// The extents that follow from the options and not from the inputs.
    fn extents(&self) -> Vec<(Dim, u64)> {
        Vec::new()
    }

    /// Whether its matrices of rows and classes can have a class stride (channels that are planes).
    fn takes_planes(&self) -> bool {
        false
    }

    /// The recording for one call, as plain data.
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan>;

    /// The textbook computation of every output in `wanted`, on the CPU.
    fn reference(&self, inputs: &Arrays, wanted: &[&str], arithmetic: Arithmetic)
    -> Result<Arrays>;
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
    pub fn shape_in(&self, loss: &dyn Loss, rank: usize) -> &'static [Dim] {
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

    /// An argument that may be left out.
    pub const fn optional(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        Self { name, kind, shapes, required: false, about, domain: Domain::Any }
    }

    /// An argument that must be given.
    pub const fn required(
        name: &'static str,
        kind: Kind,
        shapes: &'static [&'static [Dim]],
        about: &'static str,
    ) -> Self {
        Self { name, kind, shapes, required: true, about, domain: Domain::Any }
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

/// How row losses become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Reduction {
    /// One value a row, or an element for losses of elements.
    None,
    /// Their sum.
    Sum,
    /// The sum divided by the loss's own denominator, as in PyTorch.
    #[default]
    Mean,
    /// Losses of elements: the sum over a row, then the mean over the rows.
    Multilabel,
    /// The sum divided by the caller's denominator.
    Over(f64),
}

/// What a mean over nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Empty {
    /// NaN, as in PyTorch. The gradient is 0 all the same.
    #[default]
    Nan,
    /// 0.
    Zero,
}

/// What happens to a gradient's columns between the classes and the row stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Padding {
    /// They are left as they are.
    #[default]
    Keep,
    /// They are written 0 (padded vocabularies, in-place gradients).
    Zero,
}

/// The losses there are, by name.
pub static REGISTRY: &[Entry] = &[
    cross_entropy::ENTRY,
    linear_cross_entropy::ENTRY,
    bce_with_logits::ENTRY,
    binary_hinge::ENTRY,
    mse::ENTRY,
    gaussian_nll::ENTRY,
    poisson_nll::ENTRY,
    hurdle_poisson::ENTRY,
    dice::ENTRY,
    gan_discriminator::ENTRY,
    gan_generator::ENTRY,
    mixed_columns::ENTRY,
    info_nce::ENTRY,
    sup_con::ENTRY,
    sigmoid_contrastive::ENTRY,
    similarity::ENTRY,
];

/// One line of the [`REGISTRY`].
pub struct Entry {
    /// What it is.
    pub about: &'static About,
    /// The loss from its options as JSON.
    #[cfg(feature = "serde")]
    pub parse: fn(&serde_json::Value) -> Result<Box<dyn Loss>>,
    /// The loss with its default options.
    pub default: fn() -> Box<dyn Loss>,
}

/// The registered loss of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    REGISTRY.iter().find(|entry| entry.about.name == name)
}

/// Parses options from JSON: unknown names and values out of their domain are errors.
#[cfg(feature = "serde")]
pub(crate) fn parse<L: Loss + serde::de::DeserializeOwned + 'static>(
    name: &'static str,
    options: &serde_json::Value,
) -> Result<Box<dyn Loss>> {
    // A sequence would be taken for the fields in their order.
    if !options.is_object() {
        return Err(crate::Error::option(name, "options", options, "options are an object"));
    }
    let loss: L = serde_json::from_value(options.clone())
        .map_err(|error| crate::Error::option(name, "options", options, error.to_string()))?;
    loss.validate()?;
    Ok(Box::new(loss))
}

/// Declares chained setters, one a field.
macro_rules! setters {
    ($($field:ident: $type:ty),* $(,)?) => {
        $(#[doc = concat!("Sets `", stringify!($field), "`.")]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        })*
    };
}
pub(crate) use setters;

/// Declares the typed inputs or outputs of a loss: named fields, chained setters, and the dynamic
/// form (name and tensor) that the rest of the crate works on.
macro_rules! tensors {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $key:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        #[non_exhaustive]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: Option<$crate::Tensor<'a>>,)*
        }

        impl<'a> $name<'a> {
            $($(#[$field_doc])*
            pub fn $field(mut self, tensor: $crate::Tensor<'a>) -> Self {
                self.$field = Some(tensor);
                self
            })*
        }

        impl<'a> From<$name<'a>> for $crate::tensor::Named<'a> {
            fn from(tensors: $name<'a>) -> Self {
                let mut named = Self::new();
                $(if let Some(tensor) = tensors.$field {
                    named.insert($key.to_owned(), tensor);
                })*
                named
            }
        }
    };
}
pub(crate) use tensors;
