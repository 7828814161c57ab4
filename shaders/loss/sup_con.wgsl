// Supervised contrastive loss: the positives of a vector are the other vectors with its label.

fn positive_count(row: Row) -> f32 {
    return f32(row.label);
}

fn candidates(row: Row, column: u32) -> vec4<bool> {
    return columns_of(column) != vec4<u32>(row.number - params.first_class);
}

fn positives(row: Row, column: u32) -> vec4<bool> {
    return same_label(row, column) & candidates(row, column);
}
