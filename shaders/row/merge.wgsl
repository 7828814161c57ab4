// One lane per row: merges the row's segments in order and ends the round.

@compute @workgroup_size(WORKGROUP)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot >= params.rows) {
        return;
    }
    let row = row_in_round(open(slot), params.round);
    var state = state_empty();
    for (var segment = 0u; segment < params.segments; segment += 1u) {
        state = state_merge(state, partials[slot * params.segments + segment]);
    }
    state_publish(slot, state);
    end_round(row, state, params.round);
}
