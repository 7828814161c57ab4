// What the targets of rows add to the gradients of their hidden states and of W.

// W lies by the hidden states' numbers, not by the classes.
override TRANSPOSED: bool = false;

fn weight_of(label: u32, i: u32) -> u32 {
    if (TRANSPOSED) {
        return weight_at(i, label);
    }
    return weight_at(label, i);
}

// The gradient of a target's score; 0 in a row that is not kept, whose hidden state is not used.
fn target_slope(row: u32) -> u32 {
    return select(scores_at(row, params.samples), 0u, target_of(row) == NONE);
}

// A slope times a number, which is not used where the slope is 0.
fn part_of(slope: u32, number: u32) -> u32 {
    return times(slope, select(number, 0u, is_zero(slope)));
}

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
