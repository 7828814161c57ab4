// The softmax of a target over itself and samples (row/softmax.wgsl): −log p of the last column, which is the target.

const TWO_SOFTMAXES: bool = false;

fn last_column() -> u32 {
    return params.classes - 1u;
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return item_of_scores(row, column, inside);
}

// A weighed sum: S, over the samples.
fn terms(row: Row, it: Item, state: State) -> Terms {
    let others = select(exp_of(it.u, state.top), vec4<f32>(0.0), is_label(it, last_column()));
    var out: Terms;
    out.weighed = vec4<f32>(sum4(others), 0.0, 0.0, 0.0);
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    return state.weighed * exp_below(descent(state.top, top));
}

fn close_live(row: Row, state: State) -> Closed {
    let bits = label_score(row.index, last_column(), last_column());
    let u = score_of(vec4<u32>(bits), 1.0, vec4<bool>(true)).u.x;
    let loss = bits_or(-log_probability(max(u, LEAST), state, state.weighed.x), INFINITY_BITS, u != DEAD);
    let inverse_sum = 1.0 / state.sum;
    var out: Closed;
    out.top = state.top;
    out.scale = row.factor * inverse_sum;
    out.label_slope = -row.factor * (state.weighed.x * inverse_sum);
    out.loss = times(bitcast<u32>(row.row_weight), loss);
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let others = closed.scale * exp_of(it.u, closed.top);
    let g = select(others, vec4<f32>(closed.label_slope), is_label(it, last_column()));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
