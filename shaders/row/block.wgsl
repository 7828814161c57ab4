// Takes a block of columns into the states of rows, with LANES lanes per row. Between blocks, the states are kept in
// memory: one per row for all finished segments, and one per lane for the unfinished segment.
//
// Blocks begin and end between two tiles of all lanes. So the same states are merged in the same order as in one walk
// over the whole row.

@compute @workgroup_size(WORKGROUP)
fn block(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % LANES;
    let slot = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + local / LANES;
    let inside = slot < params.rows;
    let row = row_in_round(open(min(slot, params.rows - 1u)), params.round);
    let own = params.lane_states + slot * LANES + lane;
    var ended = state_empty();
    var open_segment = state_empty();
    if (params.first_column > 0u && inside) {
        ended = states[slot];
        open_segment = states[own];
    }
    let last = select(0u, params.end_column, inside && row_streams(row));
    var first = params.first_column;
    while (first < params.end_column) {
        let segment_end = min((first / params.segment + 1u) * params.segment, params.classes);
        open_segment = walk(row, open_segment, first, min(segment_end, last), lane);
        if (segment_end <= params.end_column) {
            ended = state_merge(ended, reduce(open_segment, local, lane));
            open_segment = state_empty();
        }
        first = segment_end;
    }
    if (inside) {
        states[own] = open_segment;
        if (lane == 0u) {
            states[slot] = ended;
        }
    }
}
