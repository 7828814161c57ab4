// What the targets of rows add to the dense gradients: their classes and values, where all rows are kept.

@compute @workgroup_size(WORKGROUP)
fn target_values(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.depth);
    if (at.x >= params.rows) {
        return;
    }
    let slope = target_slope(at.x);
    values_put(at.x, at.y, part_of(slope, hidden_at(at.x, at.y)));
    if (at.y == 0u) {
        bias_values_put(at.x, 0u, slope);
        targets_write(params.first + at.x, target_of(at.x));
    }
}
