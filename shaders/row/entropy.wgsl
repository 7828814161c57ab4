// The sums of a softmax (row/softmax.wgsl) that its entropy and its mean score follow from.
//
// Let x = (z - top)/T. The entropy is log Σ e - Σ e·x/Σ e. In a row that is nearly sure of one class, Σ e is near 1 and
// its logarithm would lose digits: there it is log(1 + Σ e), summed over the columns below the top.

const TWO_SOFTMAXES: bool = false;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return item_of_scores(row, column, inside);
}

// Weighed sums: Σ e·x, the number of columns at the top, and Σ e of the columns below it. A plain sum, in the second
// round: the variance of x.
fn terms(row: Row, it: Item, state: State) -> Terms {
    let e = exp_of(it.u, state.top);
    let x = live_exponent(it.u, state.top);
    let at_top = live(it.u) & (it.u == vec4<f32>(state.top));
    let tops = sum4(select(vec4<f32>(0.0), vec4<f32>(1.0), at_top));
    var out: Terms;
    out.weighed = vec4<f32>(sum4(e * x), tops, sum4(select(e, vec4<f32>(0.0), at_top)), 0.0);
    if (ROUNDS == 2u && row.round == 1u) {
        let p = exp_of(it.u, row.settled.top) * row.settled.inverse_sum;
        let off = live_exponent(it.u, row.settled.top) + row.settled.depth;
        out.plain.x = sum4(p * off * off);
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    let x = max(descent(state.top, top), -FLOOR);
    let factor = exp_below(x);
    let rises = state.top != top;
    return vec4<f32>(
        factor * (state.weighed.x + state.sum * x),
        select(state.weighed.y, 0.0, rises),
        select(state.weighed.z, factor * state.sum, rises),
        0.0,
    );
}

// log Σ e.
fn log_sum(state: State) -> f32 {
    let rest = vec4<f32>(min(state.weighed.z, 1.0));
    let sure = state.weighed.y == 1.0 && state.weighed.z <= 1.0;
    return select(log4(vec4<f32>(state.sum)), log1p4(rest), sure).x;
}

// The mean of -x, 0 or above.
fn mean_depth(state: State) -> f32 {
    return -state.weighed.x / state.sum;
}

fn settle_live(row: Row, state: State) -> Settled {
    var settled: Settled;
    settled.top = state.top;
    settled.inverse_sum = 1.0 / state.sum;
    settled.depth = mean_depth(state);
    return settled;
}
