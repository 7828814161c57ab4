//! The row skeleton: it streams a row of scores into a mergeable state, closes the row, and streams it again.
//!
//! The plan chooses by shape: several rows a workgroup where rows are short, a workgroup a row, or several workgroups
//! a row where rows are few and long. The choice changes no bit of a row, because a row is always the same sequence of
//! segments merged in the same order.
//!
//! # Quantised logits
//!
//! The losses of this crate that take stored `logits` as rows ([`CrossEntropy`](crate::CrossEntropy),
//! [`MulticlassHinge`](crate::MulticlassHinge) and so on, and [`Separable`](crate::Separable)) take them as `i8` too: four
//! to a 32-bit word, at any element offset and row stride, or as planes. The logits are then
//!
//! z = logits_scale · (logits − logits_zero_point)
//!
//! with the inputs `logits_scale`, `[1]` for all rows or `[rows]`, in `f32`, `f16` or `bf16`, and `logits_zero_point`, an
//! `i8` in the same shape, 0 if it is not given. Everything else is as for float logits.
//!
//! - **Gradient**: `grad.logits` is the derivative with respect to z, not to the integers. Its tensor may be `f32`, `f16` or
//!   `bf16`; where the library makes it, it is `f32`. It cannot be written over the logits.
//! - **Scales**: a negative scale reverses the order of a row's logits, and 0 makes them all equal. A scale that is NaN,
//!   infinite or larger than 2^120 in size makes its rows bad ones, as a NaN among their logits does.
//! - **Error**: if z differs from the logits before rounding by at most d, a row's cross-entropy differs by at most 2·d.
//!   Integers have no `-inf`: what masks a class is a `logit_bias` of `-inf`.
//! - **Changed decisions**: to count the rows whose largest class is another one than before rounding, take the output
//!   `argmax` of the float logits as the targets of the quantised ones: `count` − `correct_count`.
//! - **Errors**: i8 logits without `logits_scale`, float logits with one (or with a zero point), and a zero point in another
//!   shape than the scale. Losses of a linear layer, of `log_probs` and of elements, `dice` and composed losses take no i8.
//!
//! ```
//! use surprisal::{Array, Arrays, CrossEntropy, cpu};
//! let targets = ("targets".to_owned(), Array::int(&[1], vec![2]));
//! let quantized = Arrays::from([
//!     ("logits".to_owned(), Array::int(&[1, 3], vec![-4, 0, 8])),
//!     ("logits_scale".to_owned(), Array::float(&[1], vec![0.25])),
//!     targets.clone(),
//! ]);
//! let floats = Arrays::from([
//!     ("logits".to_owned(), Array::float(&[1, 3], vec![-1.0, 0.0, 2.0])),
//!     targets,
//! ]);
//! let loss = CrossEntropy::default();
//! let outputs = cpu::run(&loss, &quantized, &["loss", "grad.logits"])?;
//! assert_eq!(outputs, cpu::run(&loss, &floats, &["loss", "grad.logits"])?);
//! # Ok::<(), surprisal::Error>(())
//! ```

mod contract;
mod declare;
pub(crate) mod reference;
mod rows;
mod tree;
mod windows;

use crate::{
    data::error::{Error, Result},
    skeleton::operation::Operation,
    spec::{
        about::{About, Dim},
        call::Call,
        options::Reduction,
    },
};

pub(crate) use declare::row_loss;
pub(crate) use rows::{Gradient, Rows, Scores, functor_streams};

pub(crate) use contract::TEMPERATURE_SLOPE;

pub use crate::spec::{broadcast::Broadcast, shard::STATE_WORDS};
pub use contract::{
    Columns, Counted, DROPPED, Field, FieldKind, Given, LabelScore, OPEN, OutputKind, PLACE,
    Reduced, Rounds, RowNumber, RowOutput, RowProgram, RowStream, SCORES, StateLayout,
    StreamAccess, StreamElement, TARGETS, Target,
};
pub use rows::plan;
pub use tree::Tree;

/// A loss of a row of scores: what the row skeleton needs beside [`Operation`].
///
/// [`RowLoss::program`] declares what the loss needs. [`plan()`] plans calls on stored scores, [`crate::Linear`] calls
/// on the scores of a linear layer. The functor is a WGSL file; its contract is at the top of `shaders/row.wgsl`.
/// [`RowProgram::softmax`] is a shared base for losses that follow from sums of exponentials: a loss on this base only
/// says what it adds up and how it is closed. `shaders/loss/cross_entropy.wgsl` is the longest functor,
/// `examples/own_loss.rs` the shortest.
pub trait RowLoss: Operation {
    /// The description of this loss on the scores of a linear layer ([`crate::Linear`]).
    fn linear_about(&self) -> Option<&'static About> {
        None
    }

    /// The streams of scores that this loss on the scores of a linear layer computes from linear layers of their own.
    fn heads(&self) -> &'static [Head] {
        &[]
    }

    /// What a call needs of the skeleton.
    fn program(&self, call: &Call) -> RowProgram;

    /// Checks what only this loss can refuse.
    fn check(&self, _call: &Call) -> Result<()> {
        Ok(())
    }
}

/// A linear layer beside the one whose scores have the loss: a teacher's, say. Its scores are a stream of the functor, and
/// it has no gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The stream that its scores are, as [`RowStream::argument`] names it.
    pub scores: &'static str,
    /// The input with its hidden states `[rows, depth]`.
    pub hidden: &'static str,
    /// The input with its weight, in the layout of the other weight.
    pub weight: &'static str,
    /// The input with its bias `[classes]`.
    pub bias: &'static str,
}

pub(crate) fn missing(loss: &dyn RowLoss, argument: &str) -> Error {
    Error::MissingInput {
        operation: loss.about().name.into(),
        argument: argument.into(),
        reason: "this call needs it".into(),
    }
}

/// Checks that a row loss can answer a call.
pub fn accepts(loss: &dyn RowLoss, call: &Call) -> Result<()> {
    accepts_program(loss, &loss.program(call), call)
}

fn accepts_program(loss: &dyn RowLoss, program: &RowProgram, call: &Call) -> Result<()> {
    check_outputs(loss, program, call)?;
    check_scalar(loss, program, call)?;
    loss.check(call)
}

/// Checks that a scalar whose gradient is asked for is an input of the call.
fn check_scalar(loss: &dyn RowLoss, program: &RowProgram, call: &Call) -> Result<()> {
    let Some(scalar) = program.scalar else { return Ok(()) };
    let gradient = format!("grad.{scalar}");
    if call.has(scalar) || !call.wants(&gradient) {
        return Ok(());
    }
    Err(Error::MissingInput {
        operation: loss.about().name.into(),
        argument: scalar.into(),
        reason: format!("output `{gradient}` needs it").into(),
    })
}

/// Checks that a call has either index targets or probability targets.
pub(crate) fn target_or_probs(loss: &str, targets: bool, probs: bool) -> Result<()> {
    match (targets, probs) {
        (true, true) => Err(Error::Conflict {
            operation: loss.into(),
            argument: "targets".into(),
            other: "target_probs".into(),
            reason: "a row has one kind of target".into(),
        }),
        (false, false) => Err(Error::MissingInput {
            operation: loss.into(),
            argument: "targets".into(),
            reason: "give it, or `target_probs` in its place".into(),
        }),
        _ => Ok(()),
    }
}

/// Checks what every row loss refuses.
fn check_outputs(loss: &dyn RowLoss, program: &RowProgram, call: &Call) -> Result<()> {
    let per_row = program.reduction == Reduction::None;
    let rows = call.dim(Dim::Rows);
    let shapes = [("loss", call.outputs.get("loss"), if per_row { rows } else { 1 })];
    for (name, operand, expected) in shapes {
        if let Some(operand) = operand
            && operand.layout.len() != expected
        {
            return Err(Error::WrongShape {
                argument: name.into(),
                found: operand.layout.shape.clone().into(),
                expected: format!("[{expected}] with this reduction").into(),
            });
        }
    }
    if let Some(upstream) = call.inputs.get("upstream")
        && !per_row
        && !program.streams_upstream()
        && upstream.layout.len() != 1
    {
        return Err(Error::WrongShape {
            argument: "upstream".into(),
            found: upstream.layout.shape.clone().into(),
            expected: "[1], since the loss is reduced".into(),
        });
    }
    if call.has("lse") {
        let other =
            call.outputs.keys().find(|name| !name.starts_with("grad.") && *name != "status");
        if let Some(other) = other {
            return Err(Error::Conflict {
                operation: loss.about().name.into(),
                argument: "lse".into(),
                other: other.clone().into(),
                reason: "a saved lse is for gradients alone".into(),
            });
        }
    }
    if per_row && call.has("denominator") {
        return Err(Error::Conflict {
            operation: loss.about().name.into(),
            argument: "denominator".into(),
            other: "reduction".into(),
            reason: "nothing is divided with reduction `none`".into(),
        });
    }
    Ok(())
}
