// Generalised cross-entropy: (1 - p_y^q)/q of a softmax (row/softmax.wgsl).

const TWO_SOFTMAXES: bool = false;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return item_of_scores(row, column, inside);
}

// A weighed sum: S, over the other classes.
fn terms(row: Row, it: Item, state: State) -> Terms {
    let others = select(exp_of(it.u, state.top), vec4<f32>(0.0), is_label(it, row.label));
    var out: Terms;
    out.weighed = vec4<f32>(sum4(others), 0.0, 0.0, 0.0);
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    return state.weighed * exp_below(descent(state.top, top));
}

fn close_live(row: Row, state: State) -> Closed {
    let u = score_of(vec4<u32>(label_score(row.index, row.label, row.label)), 1.0, vec4<bool>(true)).u.x;
    let exponent_of_power = params.q * log_probability(max(u, LEAST), state, state.weighed.x);
    let alive = u != DEAD;
    let power = select(0.0, exp_below(exponent_of_power), alive);
    let loss = select(1.0, one_minus_exp(exponent_of_power), alive) / params.q;
    let inverse_sum = 1.0 / state.sum;
    var out: Closed;
    out.label = row.label;
    out.top = state.top;
    out.scale = row.factor * power * inverse_sum;
    out.label_slope = -(row.factor * power) * (state.weighed.x * inverse_sum);
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(loss));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let others = closed.scale * exp_of(it.u, closed.top);
    let g = select(others, vec4<f32>(closed.label_slope), is_label(it, closed.label));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
