// The free energy of a row of scores (row/entropy.wgsl): -T·lse(z/T), with the mean energy and the entropy beside it.
// The slope in T is minus the entropy.

fn close_live(row: Row, state: State) -> Closed {
    let depth = mean_depth(state);
    let logarithm = log_sum(state);
    var out: Closed;
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.scale = -row.factor;
    out.entropy = bitcast<u32>(logarithm + depth);
    out.energy = bitcast<u32>(temperature() * depth - state.top);
    out.temperature_slope = slope_bits(row, bitcast<u32>(-(logarithm + depth)));
    let free = -(state.top + temperature() * logarithm);
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(free));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let p = exp_of(it.u, closed.top) * closed.inverse_sum;
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(closed.scale * p)));
}
