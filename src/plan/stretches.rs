//! Cuts ranges into stretches.

use std::ops::Range;

use crate::data::error::{Error, Result};

/// The most stretches of a range, and the most dispatches of a call. It is far above what the memory of a device needs,
/// and keeps the plan of any call at some hundred megabytes.
const MOST: u64 = 1 << 18;

/// Checks that a plan of so many parts is not too large.
pub(crate) fn check_parts(found: u64) -> Result<()> {
    if found <= MOST {
        return Ok(());
    }
    Err(Error::Limit { what: "parts that a call is cut into".into(), found, limit: MOST })
}

/// The least common multiple, or a very large number where it does not fit `u64`.
pub(crate) fn least_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).saturating_mul(b)
}

/// `0..count` in stretches of at most `step`.
pub(crate) fn stretches(count: u64, step: u64) -> Result<Vec<Range<u64>>> {
    let parts = count.div_ceil(step);
    check_parts(parts)?;
    Ok((0..parts).map(|i| i * step..i.saturating_add(1).saturating_mul(step).min(count)).collect())
}
