// The logarithm of how often a class is expected among the samples, for each class.

override WORKGROUP: u32 = 64u;
override DISTRIBUTION: u32 = 0u;
const LOG_UNIFORM: u32 = 1u;
const ALIAS: u32 = 2u;

fn log_count(class_index: u32) -> u32 {
    if (DISTRIBUTION == ALIAS) {
        return expected_read(class_index);
    }
    if (DISTRIBUTION == LOG_UNIFORM) {
        let share = log1p4(vec4<f32>(1.0 / (f32(class_index) + 1.0))).x;
        return bitcast<u32>(log4(vec4<f32>(share)).x + params.log_scale);
    }
    return bitcast<u32>(params.log_scale);
}

@compute @workgroup_size(WORKGROUP)
fn expected_count(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let class_index = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (class_index < params.classes) {
        log_expected_count_write(class_index, log_count(class_index));
    }
}
