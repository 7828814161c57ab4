// Counts the vectors that cannot be normalised because their norm is 0.

@compute @workgroup_size(WORKGROUP)
fn zeros(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let end = min((block + 1u) * BLOCK, params.rows);
    var mine = tally_empty();
    for (var row = block * BLOCK + lane; row < end; row += WORKGROUP) {
        mine.zero_vectors += select(0u, 1u, table[row * params.entry_step] == 0u);
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block * BLOCK < params.rows) {
        tallies[params.first_tally + block] = all;
    }
}
