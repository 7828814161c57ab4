// What most functors know of a row: its entry in the row table, and in the second of two rounds what the first one
// found.

struct Row {
    // The row's index within this stretch of rows.
    index: u32,
    // The column of its target; NONE without index targets.
    label: u32,
    // IGNORED, BAD_TARGET
    flags: u32,
    row_weight: f32,
    // row_weight · upstream / denominator: what the row's gradient is multiplied by
    factor: f32,
    // 1 in the second of two rounds and in the `emit` that follows, where `settled` is known.
    round: u32,
    settled: Settled,
}

fn open(index: u32) -> Row {
    let entry = row_table[HEADER + place_of(index)];
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
