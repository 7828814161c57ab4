// The end of the first of two rounds of a softmax row (row/softmax.wgsl): what the functor settles, or zeros where the
// row has no usable numbers.

fn settle(row: Row, state: State) -> Settled {
    var settled: Settled;
    if (!row_is_dropped(row) && is_live(state)) {
        settled = settle_live(row, state);
    }
    return settled;
}
