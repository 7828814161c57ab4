// Counts the samples that are no class, as bad targets of the rows behind the last one.

@compute @workgroup_size(WORKGROUP)
fn samples_found(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let end = min((block + 1u) * BLOCK, params.rows);
    var mine = tally_empty();
    for (var at = block * BLOCK + lane; at < end; at += WORKGROUP) {
        let words = samples_at(at);
        if (words.y != 0u || words.x >= params.all_classes) {
            var bad = tally_empty();
            bad.bad_targets = 1u;
            bad.first_bad_row = params.first_row + at;
            bad.bad_value_low = words.x;
            bad.bad_value_high = words.y;
            mine = tally_merge(mine, bad);
        }
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block * BLOCK < params.rows) {
        tallies[params.first_tally + block] = all;
    }
}
