// The entropy of a softmax (row/entropy.wgsl). Its slope in T, which is asked for with a second round, is the variance of
// (z - top)/T, divided by T.

fn close_live(row: Row, state: State) -> Closed {
    var out: Closed;
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.depth = mean_depth(state);
    let inverse_temperature = 0.5 * double_inverse_temperature();
    out.scale = -inverse_temperature * row.factor;
    out.temperature_slope = slope_bits(row, bitcast<u32>(inverse_temperature * state.plain.x));
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(log_sum(state) + out.depth));
    return out;
}

// -p·(log p + H), where log p + H is x + the mean of -x.
fn emit(row: Row, closed: Closed, it: Item) {
    let p = exp_of(it.u, closed.top) * closed.inverse_sum;
    let x = live_exponent(it.u, closed.top);
    let g = closed.scale * p * (x + closed.depth);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
