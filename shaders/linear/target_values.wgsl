// What the targets of rows add to the dense gradients: their classes and values, where all rows are kept.

// The gradient of a target's score; 0 in a row that is not kept, whose hidden state is not used.
fn target_slope(row: u32) -> u32 {
    return select(scores_at(row, params.samples), 0u, target_of(row) == NONE);
}

// A slope times a number, which is not used where the slope is 0.
fn part_of(slope: u32, number: u32) -> u32 {
    return times(slope, select(number, 0u, is_zero(slope)));
}

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
