// One pass over whole rows: LANES lanes walk a row's segments in order, once per round, and close the row. If the
// gradient is wanted, they stream the row again at once, while it is still in the caches.

override WRITES_GRADIENT: bool = false;
override IN_PLACE: bool = false;

// The state of a whole row, valid in each of its lanes.
fn reduce_row(row: Row, end: u32, local: u32, lane: u32) -> State {
    var state = state_empty();
    for (var first = 0u; first < params.classes; first += params.segment) {
        let part = walk(row, state_empty(), first, min(first + params.segment, end), lane);
        state = state_merge(state, reduce(part, local, lane));
    }
    return state;
}

@compute @workgroup_size(WORKGROUP)
fn fused(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % LANES;
    let slot = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + local / LANES;
    let inside = slot < params.rows;
    var row = open(min(slot, params.rows - 1u));
    let end = select(0u, params.classes, inside && row_streams(row));
    var state = reduce_row(row, end, local, lane);
    if (ROUNDS == 2u) {
        row = row_settled(row, settle(row, state));
        state = reduce_row(row, end, local, lane);
    }
    let closed = close(row, state);
    if (IN_PLACE || HAS_LSE || HAS_NUMBERS) {
        // Hazard: every lane closes the row from its own read of the target's score, of the saved lse and of the row's
        // numbers. Symptom without the barrier: wrong losses or gradients. Cause: a fast lane overwrites what a slow
        // lane has not read yet, with its gradient or the record.
        storageBarrier();
    }
    if (inside && lane == 0u) {
        closed_write(row, closed);
    }
    if (WRITES_GRADIENT && inside) {
        emit_columns(row, closed, 0u, params.classes, lane);
    }
}
