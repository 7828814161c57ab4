// One word of each record, such as the loss, into a tally a block of rows.

@compute @workgroup_size(WORKGROUP)
fn total(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let end = min((block + 1u) * BLOCK, params.rows);
    var mine = tally_empty();
    for (var row = block * BLOCK + lane; row < end; row += WORKGROUP) {
        mine = tally_merge(mine, row_tally(row));
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block * BLOCK < params.rows) {
        tallies[params.first_tally + block] = all;
    }
}

fn row_tally(row: u32) -> Tally {
    var tally = tally_empty();
    let loss = records[row * RECORD + params.word];
    tally.sum = select(0.0, bitcast<f32>(loss), finite_one(loss));
    tally.sum_flags = flags_of(loss);
    tally.bad_rows = select(0u, 1u, (records[row * RECORD + RECORD_FLAGS] & ROW_NAN) != 0u);
    tally.correct = records[row * RECORD + RECORD_CORRECT];
    return tally;
}
