//! Limits of what one dispatch may do.

/// The most loop iterations of one invocation, over all its loops.
///
/// Symptom: on llvmpipe and lavapipe, sums over more than 65,535 iterations are too small. Cause:
/// the compiler of these drivers ends every loop of a shader after 65,535 iterations. Remedy:
/// longer walks are cut into several dispatches, on every adapter.
pub(crate) const MOST_ITERATIONS: u64 = 32_768;

/// The largest power of two that is not above `value`.
pub(crate) fn previous_power_of_two(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}
