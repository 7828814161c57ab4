//! Limits of what one dispatch may do.

/// The most loop iterations of one invocation, all its loops together.
///
/// Symptom: on llvmpipe and lavapipe sums over more than 65,535 iterations come out short. Cause:
/// their compiler ends every loop of a shader once 65,535 iterations have run in it. Remedy: longer
/// walks are cut into several dispatches, on every adapter alike.
pub(crate) const MOST_ITERATIONS: u64 = 32_768;

/// The largest power of two that is not above a number.
pub(crate) fn previous_power_of_two(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}
