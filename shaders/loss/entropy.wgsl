// The entropy of a softmax (row/entropy.wgsl).

fn close_live(row: Row, state: State) -> Closed {
    var out: Closed;
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.depth = mean_depth(state);
    out.scale = -0.5 * params.double_inverse_temperature * row.factor;
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(log_sum(state) + out.depth));
    return out;
}

// -p·(log p + H), where log p + H is x + the mean of -x.
fn emit(row: Row, closed: Closed, it: Item) {
    let p = exp_of(it.u, closed.top) * closed.inverse_sum;
    let x = select(vec4<f32>(0.0), exponent(it.u, closed.top), live(it.u));
    let g = closed.scale * p * (x + closed.depth);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
