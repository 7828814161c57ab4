// One lane per row: merges the statistics of the shards in their order and closes the row.
//
// The functor also supplies
//   fn state_gathered(words) -> State    the state that state_publish wrote; all zeros mean the state of no columns

fn gathered_words(at: u32) -> array<u32, STATISTICS_WORDS> {
    var words: array<u32, STATISTICS_WORDS>;
    for (var i = 0u; i < STATISTICS_WORDS; i += 1u) {
        words[i] = gathered_read(at + i);
    }
    return words;
}

@compute @workgroup_size(WORKGROUP)
fn merge_shards(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot >= params.rows) {
        return;
    }
    let row = open(slot);
    var state = state_empty();
    for (var shard = 0u; shard < params.shards; shard += 1u) {
        let at = (shard * params.all_rows + params.origin + slot) * STATISTICS_WORDS;
        state = state_merge(state, state_gathered(gathered_words(at)));
    }
    closed_write(row, close(row, state));
}
