// The pixels of a Dice loss over the classes of a softmax (row/softmax.wgsl): first what the classes
// need to know of each pixel, with its cross-entropy; later the gradient, from what is then known of the classes.
//
// The loss depends on a pixel's probabilities p through Σ_c p_c·f_c, where f_c is the slope a_c of class c, and
// a_y + m·b_y for the label y. Let D = Σ p_c·(f_y - a_c) over the classes but y. Then ∂z_c = p_c·(a_c - f_y + D), and
// ∂z_y = p_y·D. The a_c are not below 0 and f_y is not above 0, so D adds numbers of one sign.

const TWO_SOFTMAXES: bool = false;

// In place of a second softmax's scores: a. In place of a target distribution: what the class's coefficient takes of the
// cross-entropy.
fn slope_of(it: Item) -> vec4<f32> {
    return it.second;
}

fn shares_of(it: Item) -> vec4<f32> {
    return it.q;
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let slope = slope_quad(row.index, column);
    let share = share_quad(row.index, column);
    let known = inside & finite(slope) & finite(share);
    var it = item_of_scores(row, column, inside);
    it.second = bitcast<vec4<f32>>(select(vec4<u32>(0u), slope, known));
    it.q = bitcast<vec4<f32>>(select(vec4<u32>(0u), share, known));
    it.bad = it.bad | (inside & !known);
    return it;
}

// Weighed sums over the classes but the label: Σ e and Σ e·a. A plain sum: that of the shares.
fn terms(row: Row, it: Item, state: State) -> Terms {
    let others = select(exp_of(it.u, state.top), vec4<f32>(0.0), is_label(it, row.label));
    var out: Terms;
    out.weighed = vec4<f32>(sum4(others), sum4(others * slope_of(it)), 0.0, 0.0);
    out.plain = vec4<f32>(sum4(shares_of(it)), 0.0, 0.0, 0.0);
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    return state.weighed * exp_below(descent(state.top, top));
}

// -log p of the label as bits; infinite where its score is -inf.
fn cross_entropy_of(u: f32, state: State) -> u32 {
    // Halves, because the difference of huge scores may be above the largest f32.
    let half = 0.5 * state.top - 0.5 * max(u, LEAST);
    let far = 2.0 * min(half, 1.7e38) + log4(vec4<f32>(state.sum)).x;
    let loss = select(far, -log_probability(max(u, LEAST), state, state.weighed.x), half < 40.0);
    return bits_or(loss, INFINITY_BITS, u != DEAD && half < 1.7e38);
}

fn close_live(row: Row, state: State) -> Closed {
    let u = score_of(vec4<u32>(label_score(row.index, row.label, row.label)), 1.0, vec4<bool>(true)).u.x;
    let inverse_sum = 1.0 / state.sum;
    let label_p = exp_of(vec4<f32>(u), state.top).x * inverse_sum;
    let others = state.weighed * inverse_sum;
    let met = row.row_weight * bitcast<f32>(met_at(row.index, row.label));
    let label_slope = bitcast<f32>(slope_at(row.index, row.label)) + met;
    let deficit = label_slope * others.x - others.y;
    let share = params.cross_entropy_weight * state.plain.x / bitcast<f32>(scalar_bits());
    var out: Closed;
    out.pixel_top = bitcast<u32>(state.top);
    out.pixel_scale = bitcast<u32>(inverse_sum);
    out.loss = times(bitcast<u32>(row.row_weight), cross_entropy_of(u, state));
    out.label = row.label;
    out.top = state.top;
    out.scale = row.factor * inverse_sum;
    out.base = deficit - label_slope + share;
    out.label_gradient = row.factor * (label_p * deficit - share * others.x);
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let others = closed.scale * exp_of(it.u, closed.top) * (slope_of(it) + closed.base);
    let g = select(others, vec4<f32>(closed.label_gradient), is_label(it, closed.label));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
