// Supervised contrast: the positives of a vector are the others with its label.

fn candidates(row: Row, column: u32) -> vec4<bool> {
    return columns_of(column) != vec4<u32>(row.number);
}

fn positives(row: Row, column: u32) -> vec4<bool> {
    return same_label(row, column) & candidates(row, column);
}
