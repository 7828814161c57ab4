// One lane per row: the score of its target.

@compute @workgroup_size(WORKGROUP)
fn target_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = element_of(group, groups, local, 1u).x;
    if (row >= params.rows) {
        return;
    }
    let label = target_of(row);
    // Hazard: load the bound of a loop before the loop (shaders/row/tree.wgsl).
    let depth = select(params.depth, 0u, label == NONE);
    var sum = 0.0;
    for (var i = 0u; i < depth; i += 1u) {
        sum += bitcast<f32>(hidden_at(row, i)) * bitcast<f32>(weight_of(label, i));
    }
    scores_put(row, params.samples, bitcast<u32>(sum));
}
