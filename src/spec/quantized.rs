//! Quantised logits: packed `i8`, and the inputs that make numbers of them.

use crate::{
    data::{
        error::{Error, Result},
        tensor::Dtype,
    },
    spec::{about::About, call::Call},
};

/// The input that is quantised.
const LOGITS: &str = "logits";
/// What the integers are multiplied by.
pub(crate) const SCALE: &str = "logits_scale";
/// The integer that stands for 0.
pub(crate) const ZERO_POINT: &str = "logits_zero_point";
/// The largest size of a scale: no score that it makes is past the largest f32.
pub(crate) const MOST_SCALE: f64 = (1u128 << 120) as f64;

/// Checks that i8 logits have a scale, and that no other logits have one.
pub(super) fn check(about: &About, call: &Call) -> Result<()> {
    let Some(dtype) = call.inputs.get(LOGITS).map(|logits| logits.layout.dtype) else {
        return Ok(());
    };
    if dtype == Dtype::I8 && !call.has(SCALE) {
        return Err(Error::MissingInput {
            operation: about.name.into(),
            argument: SCALE.into(),
            reason: "`logits` are i8, and stand for logits_scale·(logits − logits_zero_point)"
                .into(),
        });
    }
    let given = [SCALE, ZERO_POINT].into_iter().find(|name| call.has(name));
    if let Some(name) = given.filter(|_| dtype != Dtype::I8) {
        return Err(Error::Conflict {
            operation: about.name.into(),
            argument: name.into(),
            other: LOGITS.into(),
            reason: format!("it goes with logits of i8, and these are {dtype}").into(),
        });
    }
    let shape = |name| call.inputs.get(name).map(|operand| operand.layout.shape.clone());
    match (shape(SCALE), shape(ZERO_POINT)) {
        (Some(expected), Some(found)) if found != expected => Err(Error::WrongShape {
            argument: ZERO_POINT.into(),
            found: found.into(),
            expected: format!("{expected:?}, as `{SCALE}`").into(),
        }),
        _ => Ok(()),
    }
}
