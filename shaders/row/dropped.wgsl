// How to close rows that have no loss of their own, for functors whose Row has a row_weight.

// Whether a row is closed without looking at its scores: it is ignored, its target is bad, or its weight is 0 and it has
// no by-products.
fn row_is_dropped(row: Row) -> bool {
    return row.flags != 0u || (!HAS_BY_PRODUCTS && is_weightless(row));
}

fn is_weightless(row: Row) -> bool {
    return is_zero(bitcast<u32>(row.row_weight));
}

fn closed_dropped(row: Row) -> Closed {
    return closed_blank(ROW_ZERO, select(0u, NAN_BITS, (row.flags & BAD_TARGET) != 0u), 0u);
}

// A row whose scores have no loss. If its factor is 0, its gradient is 0 all the same. If its weight is 0, so is its loss.
fn closed_bad(row: Row) -> Closed {
    if (is_weightless(row)) {
        return closed_blank(ROW_ZERO, 0u, NAN_BITS);
    }
    return closed_blank(ROW_NAN | factor_flags(row.factor), NAN_BITS, NAN_BITS);
}
