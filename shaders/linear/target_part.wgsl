// What the targets of rows add to the gradients of their hidden states and of W.

@compute @workgroup_size(WORKGROUP)
fn target_part(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.depth);
    if (at.x >= params.rows) {
        return;
    }
    let slope = target_slope(at.x);
    let label = target_of(at.x);
    var weight = 0u;
    if (label != NONE) {
        weight = weight_of(label, at.y);
    }
    start_put(at.x, at.y, part_of(slope, weight));
    target_gradient_put(at.x, at.y, part_of(slope, hidden_at(at.x, at.y)));
}
