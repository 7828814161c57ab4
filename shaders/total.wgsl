// Sums one word of each record, such as the loss, into one tally per block of rows, and counts a second word where
// asked to.

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

// Whether the loss of a row is NaN although its target is good: a number beside the scores, such as a weight, is NaN. One
// shard of several does not know the loss.
fn has_no_loss(row: u32, loss: u32) -> bool {
    return params.knows_losses != 0u && is_nan(loss) && (row_table[HEADER + row].y & BAD_TARGET) == 0u;
}

fn row_tally(row: u32) -> Tally {
    var tally = tally_empty();
    let at = row * params.record_words;
    var value = records[at + params.word];
    if (params.integers != 0u) {
        value = bitcast<u32>(f32(value));
    }
    tally.sum = select(0.0, bitcast<f32>(value), finite_one(value));
    tally.sum_flags = flags_of(value);
    let is_bad = (records[at + RECORD_FLAGS] & ROW_NAN) != 0u;
    tally.bad_rows = select(0u, 1u, is_bad || has_no_loss(row, records[at + RECORD_LOSS]));
    if (params.counted_word != NONE) {
        tally.correct = records[at + params.counted_word];
    }
    return tally;
}
