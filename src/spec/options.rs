//! Options that several families of operations have.

use crate::data::error::{Error, Result};

/// How row losses become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Reduction {
    /// One value a row, or one an element for element losses.
    None,
    /// The sum of the losses.
    Sum,
    /// The sum divided by the loss's own denominator, as in PyTorch.
    #[default]
    Mean,
    /// For element losses: the sum over a row, then the mean over the rows.
    Multilabel,
    /// The sum divided by the caller's denominator.
    Over(f64),
}

/// The value of a mean over nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Empty {
    /// NaN, as in PyTorch. The gradient is 0 nevertheless.
    #[default]
    Nan,
    /// 0.
    Zero,
}

/// Whether a gradient's columns between the classes and the row stride are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Padding {
    /// They keep what they hold.
    #[default]
    Keep,
    /// They become 0 (for padded vocabularies and in-place gradients).
    Zero,
}

/// What a mean divides by where elements are masked or their targets are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum MaskedMean {
    /// Σ mask over the elements whose target is known.
    #[default]
    Mask,
    /// The number of all elements.
    All,
}

/// How the classifier's weight lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WeightLayout {
    /// `[classes, hidden]`, as PyTorch's Linear stores it.
    #[default]
    ClassesHidden,
    /// `[hidden, classes]`, as Burn's Linear stores it.
    HiddenClasses,
}

/// Which gradients of a linear layer, or of pairs of vectors, are added to what their tensors hold. The others overwrite
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Accumulate {
    /// None.
    #[default]
    Nothing,
    /// Those of hidden states, queries and features: what each row brings along. Several heads, or several losses, on
    /// the same hidden states then add up their gradients.
    Rows,
    /// Those of weight, bias, keys and scale: what all rows share. Micro-batches then add up their gradients.
    Shared,
    /// All.
    All,
}

impl Accumulate {
    pub(crate) fn rows(self) -> bool {
        matches!(self, Self::Rows | Self::All)
    }

    pub(crate) fn shared(self) -> bool {
        matches!(self, Self::Shared | Self::All)
    }
}

/// The most target indices that a loss can ignore.
pub(crate) const MOST_IGNORED: usize = 4;

/// Target indices whose rows count for nothing.
///
/// In JSON this is one number or a list. With `u32` targets a negative index matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(untagged, expecting = "expected a whole number of 64 bits, or a list of at most 4")
)]
#[non_exhaustive]
pub enum IgnoreIndex {
    /// One index.
    One(i64),
    /// Up to [`IgnoreIndex::MOST`] indices.
    List(Vec<i64>),
}

impl IgnoreIndex {
    /// The most indices that a list may hold.
    pub const MOST: usize = MOST_IGNORED;

    /// The indices.
    pub fn as_slice(&self) -> &[i64] {
        match self {
            Self::One(index) => std::slice::from_ref(index),
            Self::List(list) => list,
        }
    }

    /// Checks the length of the list.
    pub(crate) fn validate(&self, loss: &str) -> Result<()> {
        match self.as_slice() {
            list if list.len() <= Self::MOST => Ok(()),
            list => {
                let value = format!("{list:?}");
                Err(Error::option(loss, "ignore_index", value, "a list holds at most 4 indices"))
            }
        }
    }
}

/// What a mean with index targets divides by, over the rows that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Denominator {
    /// Σ w_y (index targets) or the number of rows (probability targets), as in PyTorch.
    #[default]
    Targets,
    /// Σ row_weight·w_y (index targets) or Σ row_weight (probability targets).
    Weights,
}

/// Checks the temperature of a softmax: the GPU uses it and its inverse in f32.
pub(crate) fn check_temperature(loss: &str, temperature: f64) -> Result<()> {
    let normal = |value: f64| (value as f32).is_normal();
    if temperature > 0.0 && normal(temperature) && normal(2.0 / temperature) {
        return Ok(());
    }
    Err(Error::option(loss, "temperature", temperature, "T is above 0, and T and 2/T within f32"))
}

/// Checks that a denominator of the caller is a normal f32, and that the reduction is one for row
/// losses.
pub(crate) fn check_reduction(loss: &str, reduction: Reduction) -> Result<()> {
    match reduction {
        Reduction::Over(d) if !(d as f32).is_normal() => {
            Err(Error::option(loss, "reduction", d, "a denominator is within f32 and not 0"))
        }
        Reduction::Multilabel => {
            Err(Error::option(loss, "reduction", "multilabel", "this is for losses of elements"))
        }
        _ => Ok(()),
    }
}
