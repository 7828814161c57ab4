// Each workgroup takes one segment of a row: used for few, long rows.

@compute @workgroup_size(WORKGROUP)
fn partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % LANES;
    let slot = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + local / LANES;
    let inside = slot < params.rows * params.segments;
    let row = row_in_round(open(min(slot / params.segments, params.rows - 1u)), params.round);
    let first = (slot % params.segments) * params.segment;
    let end = select(0u, min(first + params.segment, params.classes), inside && row_streams(row));
    let all = reduce(walk(row, state_empty(), first, end, lane), local, lane);
    if (inside && lane == 0u) {
        partials[slot] = all;
    }
}
