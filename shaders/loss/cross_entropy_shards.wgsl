// Cross-entropy from the statistics of class shards: a lane a row, the shards merged in their order.

fn gathered_state(at: u32) -> State {
    return State(
        bitcast<f32>(gathered_read(at)),
        bitcast<f32>(gathered_read(at + 1u)),
        bitcast<f32>(gathered_read(at + 2u)),
        bitcast<f32>(gathered_read(at + 3u)),
        bitcast<f32>(gathered_read(at + 4u)),
        gathered_read(at + 5u),
        gathered_read(at + 6u),
        gathered_read(at + 7u),
    );
}

@compute @workgroup_size(WORKGROUP)
fn combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot >= params.rows) {
        return;
    }
    let row = open(slot);
    var state = state_empty();
    for (var shard = 0u; shard < params.shards; shard += 1u) {
        state = state_merge(state, gathered_state((shard * params.all_rows + params.origin + slot) * 8u));
    }
    closed_write(row, close(row, state));
}
