// The first round of two of a softmax row (row/softmax.wgsl): what its functor settles, or zeros where there are no
// numbers to settle anything with.

fn settle(row: Row, state: State) -> Settled {
    var settled: Settled;
    if (!row_is_dropped(row) && is_live(state)) {
        settled = settle_live(row, state);
    }
    return settled;
}
