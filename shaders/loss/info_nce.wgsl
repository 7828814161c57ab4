// InfoNCE: one positive per query. Other keys with the query's label are not negatives.

fn positive_count(row: Row) -> f32 {
    return 1.0;
}

fn positives(row: Row, column: u32) -> vec4<bool> {
    return columns_of(column) == vec4<u32>(row.label);
}

fn candidates(row: Row, column: u32) -> vec4<bool> {
    if (HAS_LABELS) {
        return !same_label(row, column) | positives(row, column);
    }
    return vec4<bool>(true);
}
