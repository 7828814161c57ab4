// What most functors know of a row: its entry in the row table, and what the first of two rounds found.

struct Row {
    // The row of this stretch of rows.
    index: u32,
    // Its target's column, NONE without index targets.
    label: u32,
    // IGNORED, BAD_TARGET
    flags: u32,
    row_weight: f32,
    // row_weight · upstream / denominator: what the row's gradient is multiplied by
    factor: f32,
    // 1 in the second round of two and in `emit` after it, where `settled` is known.
    round: u32,
    settled: Settled,
}

fn open(index: u32) -> Row {
    let entry = row_table[HEADER + params.first_row + index];
    let head = row_table[0];
    var row: Row;
    row.index = index;
    row.label = entry.x;
    row.flags = entry.y;
    row.row_weight = bitcast<f32>(entry.z);
    row.factor = row_factor(entry.z, entry.w, head.y, head.z);
    return row;
}

fn reopen(index: u32) -> Row {
    return open(index);
}

// Ignored rows and rows with a bad target need no stream.
fn row_streams(row: Row) -> bool {
    return row.flags == 0u;
}
