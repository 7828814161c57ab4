//! The reference: every loss in plain f64 on the CPU, written from its formula alone.
//!
//! It makes two passes over a row, subtracts the maximum, and sums in the order of the elements. It shares nothing
//! with the kernels, so that a comparison can find a mistake in either. The same steps in f32 define the tolerance.

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    skeleton::operation::Operation,
    spec::check::{self, Folded},
};

pub use crate::reference::{Findings, Real};

/// Computes every output in `wanted` in f64, after the same checks as on the GPU.
///
/// Bad data is no error here either. It is found in the output `status`, which
/// [`Status::from_array`](crate::Status::from_array) decodes.
pub fn run(loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    check::arrays(loss, inputs, wanted)?;
    compute(loss, inputs, wanted, Arithmetic::F64)
}

/// [`Operation::reference`] on tensors of any rank: the axes before the last one are rows, and outputs of one value a
/// row get these axes too.
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
