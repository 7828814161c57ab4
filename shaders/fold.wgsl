// Folds each block of tallies into one tally. Repeated until one workgroup can fold the rest.

@compute @workgroup_size(WORKGROUP)
fn fold(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let end = min((block + 1u) * BLOCK, params.tallies);
    var mine = tally_empty();
    for (var at = block * BLOCK + lane; at < end; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block * BLOCK < params.tallies) {
        tallies[params.folded + block] = all;
    }
}
