// Puts the gradient of the columns where their classes are. A class that was drawn several times has one lane, that of its
// first sample: all its columns have the same gradient.

@compute @workgroup_size(WORKGROUP)
fn sampled_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.samples + 1u);
    if (at.x >= params.rows) {
        return;
    }
    let label = class_at(at.x, at.y);
    var times_drawn = 1u;
    if (at.y < params.samples) {
        times_drawn = sample_table_read(2u * at.y + 1u);
    }
    if (label != NONE && times_drawn > 0u) {
        gradient_put(at.x, label, times(scores_at(at.x, at.y), bitcast<u32>(f32(times_drawn))));
    }
}
