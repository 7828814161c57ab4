// The Brier score: the squared error of a softmax (row/softmax.wgsl).
//
// Index targets: let S = Σ e and Q = Σ e² over the other classes, and Z = Σ e over all classes. Then 1 - p_y is S/Z,
// and the loss is (Q + S²)/Z². Neither this loss nor its derivative with respect to z_y, -2·p_y·loss, subtracts numbers
// near 1. Target distributions need the normaliser first, and their squares in a second round.

override HAS_PROBS: bool = false;

const TWO_SOFTMAXES: bool = false;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    var it = item_of_scores(row, column, inside);
    if (HAS_PROBS) {
        let q = target_probs_quad(row.index, column);
        it.q = bitcast<vec4<f32>>(select(vec4<u32>(0u), q, finite(q) & inside));
        it.bad |= !finite(q) & inside;
    }
    return it;
}

// Weighed sums: S and Q. Plain sums, in the second round: Σ p·(p - q) and Σ (p - q)².
fn terms(row: Row, it: Item, state: State) -> Terms {
    var out: Terms;
    if (!HAS_PROBS) {
        let e = exp_of(it.u, state.top);
        let others = select(e, vec4<f32>(0.0), is_label(it, row.label));
        out.weighed = vec4<f32>(sum4(others), sum4(others * others), 0.0, 0.0);
    } else if (row.round == 1u) {
        let p = exp_of(it.u, row.settled.top) * row.settled.inverse_sum;
        let off = select(vec4<f32>(0.0), p - it.q, it.inside);
        out.plain = vec4<f32>(sum4(p * off), sum4(off * off), 0.0, 0.0);
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    let factor = exp_below(descent(state.top, top));
    return state.weighed * vec4<f32>(factor, factor * factor, 0.0, 0.0);
}

fn settle_live(row: Row, state: State) -> Settled {
    var settled: Settled;
    settled.top = state.top;
    settled.inverse_sum = 1.0 / state.sum;
    return settled;
}

fn close_live(row: Row, state: State) -> Closed {
    var out: Closed;
    out.label = row.label;
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.scale = 2.0 * params.share * row.factor;
    out.inner = state.plain.x;
    var squares = state.plain.y;
    if (!HAS_PROBS) {
        let u = score_of(vec4<u32>(label_score(row.index, row.label, row.label)), 1.0, vec4<bool>(true)).u;
        let label_p = exp_of(u, state.top).x * out.inverse_sum;
        let miss = state.weighed.x * out.inverse_sum;
        let others = state.weighed.y * out.inverse_sum * out.inverse_sum;
        squares = others + miss * miss;
        out.inner = others - label_p * miss;
        out.label_slope = -out.scale * label_p * squares;
    }
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(params.share * squares));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let p = exp_of(it.u, closed.top) * closed.inverse_sum;
    var g = closed.scale * p * (p - it.q - closed.inner);
    if (!HAS_PROBS) {
        g = select(g, vec4<f32>(closed.label_slope), is_label(it, closed.label));
    }
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
