//! Limits of what one dispatch may do.

use crate::plan::profile::Profile;

/// The most loop iterations of one invocation, over all its loops.
///
/// Symptom: on llvmpipe and lavapipe, sums over more than 65,535 iterations are too small. Cause:
/// the compiler of these drivers ends every loop of a shader after 65,535 iterations. Remedy:
/// longer walks are cut into several dispatches, on every adapter.
pub(crate) const MOST_ITERATIONS: u64 = 32_768;

/// The workgroups along x, y and z for `groups` workgroups; `None` where the device has no such grid.
pub fn grid(profile: &Profile, groups: u64) -> Option<[u32; 3]> {
    let most = u64::from(profile.workgroups);
    let width = groups.clamp(1, most);
    let height = groups.div_ceil(width).max(1);
    (height <= most).then_some([width as u32, height as u32, 1])
}

/// The largest power of two that is not above `value`.
pub(crate) fn previous_power_of_two(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}
