//! Cuts ranges into stretches.

use std::ops::Range;

/// The least common multiple, or a very large number where it does not fit `u64`.
pub(crate) fn least_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).saturating_mul(b)
}

/// `0..count` in stretches of at most `step`.
pub(crate) fn stretches(count: u64, step: u64) -> Vec<Range<u64>> {
    (0..count.div_ceil(step)).map(|i| i * step..((i + 1) * step).min(count)).collect()
}
