// Rows whose columns are samples of the classes, with the row's target behind them. One lane has one element of a matrix
// with a row for each row of the loss.

override WORKGROUP: u32 = 64u;

const MINUS_INFINITY: u32 = INFINITY_BITS | SIGN_BIT;

// The first word of a row's record.
fn record_of(row: u32) -> u32 {
    return (params.first_row + row) * RECORD_WORDS;
}

// The target of a row that is kept; NONE of any other row.
fn target_of(row: u32) -> u32 {
    let entry = row_table[HEADER + params.first_row + row];
    return select(NONE, entry.x, entry.y == 0u);
}

// The class of a sample; NONE if it is none.
fn class_of(sample: u32) -> u32 {
    return sample_table_read(2u * sample);
}

// The class of a column, NONE where it is left out: a sample that is the row's target, or no class.
fn class_at(row: u32, column: u32) -> u32 {
    let own = target_of(row);
    if (column == params.samples) {
        return own;
    }
    let label = class_of(column);
    return select(label, NONE, label == own);
}

// The element of this lane, as row and column; the row is past the end for a lane without one.
fn element_of(group: vec3<u32>, groups: vec3<u32>, local: u32, columns: u32) -> vec2<u32> {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    return vec2<u32>(slot / columns, slot % columns);
}
