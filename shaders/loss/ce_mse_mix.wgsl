// A mix of cross-entropy and the squared error of the softmax (row/softmax.wgsl), as its mean over the C classes.
//
// Index targets: see brier.wgsl for the squared error. Its gradient is (2/C)·p∘(p - e - ⟨p, p - e⟩). In a row that is sure
// and wrong, the other factor is a small difference of numbers near 1. With D = Σ p·(p_top - p) it is
// D + min(p_j, p_y) - (p_top - max(p_j, p_y)), of which no part is larger than the result where that counts.

override WANTS_SATURATION: bool = false;

const TWO_SOFTMAXES: bool = false;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return item_of_scores(row, column, inside);
}

// What the gradient of the squared error follows from: Σ p·(p_top - p), 1/Σ e, and e of the label.
struct Pull {
    depth: f32,
    inverse_sum: f32,
    label_e: f32,
}

// p_j - ⟨p, p - e⟩ of classes that are not the label.
fn off_label(e: vec4<f32>, pull: Pull) -> vec4<f32> {
    let lower = min(e, vec4<f32>(pull.label_e));
    let upper = max(e, vec4<f32>(pull.label_e));
    return pull.depth + pull.inverse_sum * (lower - (1.0 - upper));
}

fn label_u(row: Row) -> f32 {
    return score_of(vec4<u32>(label_score(row.index, row.label, row.label)), 1.0, vec4<bool>(true)).u.x;
}

fn pull_of(row: Row, state: State) -> Pull {
    var pull: Pull;
    pull.inverse_sum = 1.0 / state.sum;
    pull.depth = state.weighed.z * pull.inverse_sum * pull.inverse_sum;
    pull.label_e = exp_of(vec4<f32>(label_u(row)), state.top).x;
    return pull;
}

// The size of the squared error's slopes, by which they are divided before they are squared: f32 would not hold the
// squares.
fn unit_of(pull: Pull) -> f32 {
    let label_p = pull.label_e * pull.inverse_sum;
    return max(pull.depth + select(label_p, 0.0, pull.label_e == 1.0), 1e-37);
}

// Weighed sums: Σ e and Σ e² over the other classes, and Σ e·(1 - e) over all. A plain sum, in the second round: Σ of the
// squared slopes of the squared error at the other classes.
fn terms(row: Row, it: Item, state: State) -> Terms {
    var out: Terms;
    let e = exp_of(it.u, state.top);
    let others = select(e, vec4<f32>(0.0), is_label(it, row.label));
    out.weighed = vec4<f32>(sum4(others), sum4(others * others), sum4(e * (1.0 - e)), 0.0);
    if (WANTS_SATURATION && row.round == 1u) {
        let pull = Pull(row.settled.depth, row.settled.inverse_sum, row.settled.label_e);
        let settled = exp_of(it.u, row.settled.top);
        let slope = settled * pull.inverse_sum * (off_label(settled, pull) / unit_of(pull));
        let counted = select(slope, vec4<f32>(0.0), is_label(it, row.label));
        out.plain.x = sum4(counted * counted);
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    let factor = exp_below(descent(state.top, top));
    let squared = factor * factor;
    let spread = squared * state.weighed.z + factor * (1.0 - factor) * state.sum;
    return vec4<f32>(factor * state.weighed.x, squared * state.weighed.y, spread, 0.0);
}

fn settle_live(row: Row, state: State) -> Settled {
    let pull = pull_of(row, state);
    var settled: Settled;
    settled.top = state.top;
    settled.depth = pull.depth;
    settled.inverse_sum = pull.inverse_sum;
    settled.label_e = pull.label_e;
    return settled;
}

// The slope of α: cross-entropy - squared error, with the bits of cross-entropy, which may be infinite.
fn alpha_slope(entropy: u32, squares: f32) -> u32 {
    let is_finite = finite_one(entropy);
    return select(INFINITY_BITS, bitcast<u32>(bitcast<f32>(select(0u, entropy, is_finite)) - squares), is_finite);
}

// α·cross-entropy + (1 - α)·squared error, where cross-entropy may be infinite.
fn mixed(alpha: f32, entropy: u32, squares: f32) -> u32 {
    let first = times(bitcast<u32>(alpha), entropy);
    let is_finite = finite_one(first);
    let sum = bitcast<f32>(select(0u, first, is_finite)) + (1.0 - alpha) * squares;
    return select(first, bitcast<u32>(sum), is_finite);
}

fn close_live(row: Row, state: State) -> Closed {
    if (!finite_one(scalar_bits())) {
        return closed_bad(row);
    }
    let alpha = params.alpha * bitcast<f32>(scalar_bits());
    let pull = pull_of(row, state);
    let label_p = pull.label_e * pull.inverse_sum;
    let miss = state.weighed.x * pull.inverse_sum;
    let squares = state.weighed.y * pull.inverse_sum * pull.inverse_sum + miss * miss;
    let u = label_u(row);
    let log_p = log_probability(max(u, LEAST), state, state.weighed.x);
    let entropy = select(INFINITY_BITS, bitcast<u32>(-log_p), u != DEAD);
    var out: Closed;
    out.label = row.label;
    out.top = state.top;
    out.depth = pull.depth;
    out.inverse_sum = pull.inverse_sum;
    out.label_e = pull.label_e;
    out.scale = alpha * row.factor;
    out.squared_scale = (1.0 - alpha) * (2.0 * params.share) * row.factor;
    out.label_slope = -(out.scale * miss + out.squared_scale * label_p * squares);
    out.alpha_slope = slope_bits(row, alpha_slope(entropy, params.share * squares));
    // Both gradients vanish in a row that is sure and right.
    let own = label_p * (squares / unit_of(pull));
    let norm = unit_of(pull) * sqrt(state.plain.x + own * own);
    let saturation = 2.0 * params.share * norm / sqrt(max(squares, 1e-37));
    out.saturation = bitcast<u32>(select(0.0, saturation, squares > 1e-37));
    out.loss = times(bitcast<u32>(row.row_weight), mixed(alpha, entropy, params.share * squares));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let e = exp_of(it.u, closed.top);
    let p = e * closed.inverse_sum;
    let off = off_label(e, Pull(closed.depth, closed.inverse_sum, closed.label_e));
    let others = closed.scale * p + closed.squared_scale * p * off;
    let g = select(others, vec4<f32>(closed.label_slope), is_label(it, closed.label));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
