// How rows without a loss of their own are closed, for functors whose Row has a row_weight.

// Whether a row is closed whatever its scores are: it is ignored, its target is bad, or it weighs nothing.
fn row_is_dropped(row: Row) -> bool {
    return row.flags != 0u || is_zero(bitcast<u32>(row.row_weight));
}

fn closed_dropped(row: Row) -> Closed {
    return closed_blank(ROW_ZERO, select(0u, NAN_BITS, (row.flags & BAD_TARGET) != 0u), 0u);
}

// A row whose scores have no loss. Nothing comes down to a row with factor 0: its gradient is 0 all the same.
fn closed_bad(row: Row) -> Closed {
    return closed_blank(ROW_NAN | factor_flags(row.factor), NAN_BITS, NAN_BITS);
}
