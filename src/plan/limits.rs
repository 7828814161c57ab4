//! Limits of what one dispatch may do.

use crate::plan::profile::Profile;

/// The most loop iterations of one invocation, all its loops together.
///
/// Symptom: on llvmpipe and lavapipe sums over more than 65,535 iterations come out short. Cause:
/// their compiler ends every loop of a shader once 65,535 iterations have run in it. Remedy: longer
/// walks are cut into several dispatches, on every adapter alike.
pub(crate) const MOST_ITERATIONS: u64 = 32_768;

/// How many workgroups there are along x, y and z for `groups` of them; `None` where the device has no such grid.
pub fn grid(profile: &Profile, groups: u64) -> Option<[u32; 3]> {
    let most = u64::from(profile.workgroups);
    let width = groups.clamp(1, most);
    let height = groups.div_ceil(width).max(1);
    (height <= most).then_some([width as u32, height as u32, 1])
}

/// The largest power of two that is not above a number.
pub(crate) fn previous_power_of_two(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}
