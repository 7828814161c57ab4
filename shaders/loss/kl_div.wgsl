// The divergence of a softmax p = softmax(z/T) and a target distribution q: KL(q‖p) or KL(p‖q) (row/divergence.wgsl).
//
// The first round finds the normaliser of p, the second compares p and q. Where they are close, the logarithm is taken of
// their quotient: the difference of two logarithms would keep few digits. A rounded 1/Σ e makes all p wrong by the same
// factor, which must not reach a small divergence: it is that of both distributions as if normalised, and what Σ q lacks
// of 1 is added. Σ q is kept in two parts for that.

// With x = (z - top)/T and its mean x̄ under p, the slope in T is Σ q·(x - x̄)/T for KL(q‖p), and
// -Σ p·log(p/q)·(x - x̄)/T for KL(p‖q).

// KL(p‖q) instead of KL(q‖p).
override REVERSE: bool = false;
// The slope in T is asked for.
override WANTS_SLOPE: bool = false;

const TWO_SOFTMAXES: bool = false;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    var it = item_of_scores(row, column, inside);
    let bits = target_probs_quad(row.index, column);
    let good = finite(bits) & !negative4(bits);
    it.bad |= !good & inside;
    // A device may take a number below the normal ones for 0, which has another meaning: it becomes the least normal
    // number.
    let normal = max(bits, vec4<u32>(0x00800000u));
    it.q = bitcast<vec4<f32>>(select(vec4<u32>(0u), normal, good & inside & !is_zero4(bits)));
    return it;
}

// p and log p of a quad. A probability below the normal numbers is 0; its logarithm is right all the same.
struct Known {
    p: vec4<f32>,
    log_p: vec4<f32>,
}

fn known(row: Row, it: Item) -> Known {
    var out: Known;
    out.p = exp_of(it.u, row.settled.top) * row.settled.inverse_sum;
    out.log_p = select(vec4<f32>(0.0), exponent(it.u, row.settled.top) - row.settled.log_sum, live(it.u));
    return out;
}

// log(q/p), and 0 where p or q is 0.
fn log_quotient(k: Known, it: Item) -> vec4<f32> {
    let both = live(it.u) & (it.q > vec4<f32>(0.0));
    // Quotients of these are far from the limits of f32.
    let solid = both & (k.p > vec4<f32>(1e-18)) & (it.q > vec4<f32>(1e-18)) & (it.q < vec4<f32>(1e18));
    let p = select(vec4<f32>(1.0), k.p, solid);
    let q = select(vec4<f32>(1.0), it.q, solid);
    let far = log4(select(vec4<f32>(1.0), it.q, both)) - k.log_p;
    return select(select(vec4<f32>(0.0), far, both), log_of4(q / p, (q - p) / p), solid);
}

// The part of q that a sum of f32 holds exactly; the rest is small.
fn coarse(q: vec4<f32>) -> vec4<f32> {
    return select(q, round(q * 4096.0) * (1.0 / 4096.0), q < vec4<f32>(1024.0));
}

// Plain sums of the second round: `mean_terms`, with the coarse part of Σ q as the second. In `weighed`, beside any
// maximum: the rest of Σ q, and how many quads make the divergence infinite. In `weighed` also Σ e·x, which x̄ follows from,
// and in the second round -T times the slope.
fn terms(row: Row, it: Item, state: State) -> Terms {
    var out: Terms;
    if (row.round == 1u) {
        let k = known(row, it);
        let d = log_quotient(k, it);
        let has_q = it.q > vec4<f32>(0.0);
        let both = has_q & live(it.u);
        let infinite = select(has_q & !live(it.u), live(it.u) & !has_q, vec4<bool>(REVERSE));
        if (REVERSE) {
            out.plain = mean_terms(k.p, it.q, -d, both);
        } else {
            out.plain = mean_terms(it.q, k.p, d, both);
        }
        out.plain.y = sum4(coarse(it.q));
        out.weighed.x = sum4(it.q - coarse(it.q));
        out.weighed.y = select(0.0, 1.0, any(infinite));
        if (WANTS_SLOPE) {
            let off = live_exponent(it.u, row.settled.top) - row.settled.mean_exponent;
            let pull = select(-it.q, k.p * -d, vec4<bool>(REVERSE));
            out.weighed.w = sum4(select(vec4<f32>(0.0), pull * off, live(it.u)));
        }
    }
    if (WANTS_SLOPE) {
        out.weighed.z = sum4(exp_of(it.u, state.top) * live_exponent(it.u, state.top));
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    var out = state.weighed;
    if (WANTS_SLOPE) {
        let x = max(descent(state.top, top), -FLOOR);
        out.z = exp_below(x) * (state.weighed.z + state.sum * x);
    }
    return out;
}

// The divergence, from the sums of the second round.
fn divergence(state: State, q_sum: f32) -> f32 {
    let log_q_sum = log_of4(vec4<f32>(q_sum), vec4<f32>((state.plain.y - 1.0) + state.weighed.x)).x;
    let own_sum = select(q_sum, 1.0, REVERSE);
    let a = state.plain.w / max(own_sum, 1e-37);
    let near = state.plain.z - own_sum * log_excess(a) + select(q_sum, -1.0, REVERSE) * log_q_sum;
    return select(state.plain.x, near, is_small4(vec4<f32>(a)).x);
}

fn settle_live(row: Row, state: State) -> Settled {
    var settled: Settled;
    settled.top = state.top;
    settled.inverse_sum = 1.0 / state.sum;
    settled.log_sum = log4(vec4<f32>(state.sum)).x;
    settled.mean_exponent = state.weighed.z * settled.inverse_sum;
    return settled;
}

fn close_live(row: Row, state: State) -> Closed {
    let infinite = state.weighed.y > 0.0;
    let q_sum = state.plain.y + state.weighed.x;
    let found = divergence(state, q_sum);
    var out: Closed;
    let inverse_temperature = 0.5 * double_inverse_temperature();
    out.scale = row.factor * inverse_temperature;
    // The mean of log(p/q) that `emit` subtracts is wrong by what all of these logarithms are wrong by.
    out.mean = select(q_sum, state.plain.x, REVERSE);
    if (REVERSE && infinite) {
        // An infinite KL(p‖q) has no gradient: the row counts as a bad row, and its gradient is 0.
        out.flags = ROW_ZERO | ROW_NAN;
    }
    // Towards an infinite KL(q‖p) the slope falls without bounds; an infinite KL(p‖q) has none.
    let limit = select(INFINITY_BITS | SIGN_BIT, 0u, REVERSE);
    let slope = bitcast<u32>(-inverse_temperature * state.weighed.w);
    out.temperature_slope = slope_bits(row, select(slope, limit, infinite));
    let loss = select(bitcast<u32>(found), INFINITY_BITS, infinite);
    out.loss = times(bitcast<u32>(row.row_weight), loss);
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let k = known(row, it);
    var g = closed.mean * k.p - it.q;
    if (REVERSE) {
        g = k.p * (-log_quotient(k, it) - closed.mean);
    }
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(closed.scale * g)));
}
