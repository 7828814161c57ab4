//! The reference: every loss in plain f64 on the CPU, written from its formula alone.
//!
//! Two passes over a row, the maximum subtracted, sums in the order of the elements. Nothing of it
//! is shared with the kernels, so that the two can disagree. In f32 the same steps are the
//! yardstick of the tolerance.

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    skeleton::operation::Operation,
    spec::check::{self, Folded},
};

pub use crate::reference::{Findings, Real};

/// Computes every output in `wanted` with f64 arithmetic, after the checks that the GPU path makes.
///
/// Bad data is no error here either: it shows in the output `status`, which
/// [`Status::from_array`](crate::Status::from_array) decodes.
pub fn run(loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    check::arrays(loss, inputs, wanted)?;
    compute(loss, inputs, wanted, Arithmetic::F64)
}

/// [`Operation::reference`] on tensors of any rank: the axes before the last one are rows, and outputs of one
/// value a row have those axes too.
pub fn compute(
    loss: &dyn Operation,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    let folded = Folded::new(loss, inputs)?;
    let mut outputs = loss.reference(&folded.inputs, wanted, arithmetic)?;
    folded.unfold(loss, &mut outputs);
    Ok(outputs)
}
