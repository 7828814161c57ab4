// A lane a row: merges the statistics of its shards in their order and closes it.
//
// The functor also supplies
//   fn state_gathered(low, high) -> State    what state_publish wrote, eight zeros being no columns

fn gathered_quad(at: u32) -> vec4<u32> {
    return vec4<u32>(gathered_read(at), gathered_read(at + 1u), gathered_read(at + 2u), gathered_read(at + 3u));
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
        let at = (shard * params.all_rows + params.origin + slot) * 8u;
        state = state_merge(state, state_gathered(gathered_quad(at), gathered_quad(at + 4u)));
    }
    closed_write(row, close(row, state));
}
