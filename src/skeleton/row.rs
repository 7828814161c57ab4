//! The row skeleton: a row of scores is streamed into a mergeable state, closed, and streamed again.
//!
//! Its plan chooses by shape: several rows a workgroup where rows are short, a workgroup a row, or
//! several workgroups a row where rows are few and long. The choice changes no bit of a row, because
//! a row is always the same sequence of segments merged in the same order.

mod rows;
mod windows;

use crate::{
    data::error::{Error, Result},
    plan::kernel::Source,
    skeleton::operation::Loss,
    spec::{
        about::{About, Dim},
        call::Call,
        options::{Empty, Padding, Reduction},
        shard::Shard,
    },
};

pub(crate) use rows::{Gradient, Rows, Scores, functor_streams, plan};

pub use crate::{plan::Number, spec::shard::STATE_WORDS};

/// What all row losses share: how rows are kept, weighed and reduced.
#[derive(Clone, Debug, Default)]
pub struct RowOptions {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// What a mean over nothing is.
    pub empty: Empty,
    /// Targets whose rows count for nothing (at most four).
    pub ignored: Vec<i64>,
    /// The mean's denominator counts row weights.
    pub weighted_rows: bool,
    /// What happens to gradient columns past the classes.
    pub padding: Padding,
    /// The columns are a shard of all classes, over which targets count.
    pub shard: Option<Shard>,
}

/// Over what a functor's stream extends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// One element a class.
    Classes,
    /// One element a row.
    Rows,
    /// One element a row and class.
    Matrix,
    /// A few tables of one element a class.
    Planes,
}

/// A tensor that the functor reads or writes beside the scores and their gradient.
#[derive(Clone, Copy, Debug)]
pub struct FunctorStream {
    /// Its name in WGSL, where `NAME_quad`, `NAME_at` and `NAME_store` reach it.
    pub name: &'static str,
    /// The input (or, if it starts with `grad.`, the output) that it is.
    pub argument: &'static str,
    /// Over what it extends.
    pub span: Span,
    /// What an input that is not given reads as.
    pub default: f32,
}

/// A loss of a row of scores: what the row skeleton needs beside [`Loss`].
///
/// The WGSL contract is at the top of `shaders/row.wgsl`; `shaders/loss/cross_entropy.wgsl` is the
/// longest example, `examples/own_loss.rs` the shortest.
pub trait RowLoss: Loss {
    /// The description of this loss on the scores of a linear layer ([`crate::linear::Linear`]).
    fn linear_about(&self) -> Option<&'static About> {
        None
    }

    /// The functor's WGSL.
    fn sources(&self) -> Vec<Source>;

    /// How rows are kept, weighed and reduced.
    fn options(&self) -> RowOptions;

    /// Its tensors beside the scores.
    fn streams(&self) -> &'static [FunctorStream];

    /// Values of its overrides: what shapes the code.
    fn shapes(&self, call: &Call) -> Vec<(&'static str, u32)>;

    /// Its parameters: what changes without a new pipeline.
    fn numbers(&self, call: &Call) -> Vec<(String, Number)>;

    /// Whether a call that gives `lse` still has to stream the scores once before the gradient.
    fn streams_twice(&self, call: &Call) -> bool;

    /// Whether a call that gives `lse` closes its rows without a look at any score.
    fn closes_unseen(&self, _: &Call) -> bool {
        false
    }

    /// What only this loss can refuse.
    fn check(&self, call: &Call) -> Result<()>;
}

pub(crate) fn missing(loss: &dyn RowLoss, argument: &str) -> Error {
    Error::MissingInput {
        loss: loss.about().name.to_owned(),
        argument: argument.to_owned(),
        reason: "this call needs it".to_owned(),
    }
}

/// What every row loss refuses.
fn check_outputs(loss: &dyn RowLoss, call: &Call) -> Result<()> {
    let per_row = loss.options().reduction == Reduction::None;
    let rows = call.dim(Dim::Rows);
    let shapes = [("loss", call.outputs.get("loss"), if per_row { rows } else { 1 })];
    for (name, operand, expected) in shapes {
        if let Some(operand) = operand
            && operand.layout.len() != expected
        {
            return Err(Error::WrongShape {
                argument: name.to_owned(),
                found: operand.layout.shape.clone(),
                expected: format!("[{expected}] with this reduction"),
            });
        }
    }
    if let Some(upstream) = call.inputs.get("upstream")
        && !per_row
        && upstream.layout.len() != 1
    {
        return Err(Error::WrongShape {
            argument: "upstream".to_owned(),
            found: upstream.layout.shape.clone(),
            expected: "[1], since the loss is reduced".to_owned(),
        });
    }
    if call.has("lse") {
        let other =
            call.outputs.keys().find(|name| !name.starts_with("grad.") && *name != "status");
        if let Some(other) = other {
            return Err(Error::Conflict {
                loss: loss.about().name.to_owned(),
                argument: "lse".to_owned(),
                other: other.clone(),
                reason: "a saved lse is for gradients alone".to_owned(),
            });
        }
    }
    if per_row && call.has("denominator") {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "denominator".to_owned(),
            other: "reduction".to_owned(),
            reason: "nothing is divided with reduction `none`".to_owned(),
        });
    }
    Ok(())
}
