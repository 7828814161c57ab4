// Distillation (row/softmax.wgsl): how far the student's softmax p = softmax(z/T) is from the teacher's q =
// softmax(t/T), plus the student's cross-entropy. The first softmax is the student's.
//
// KL(q‖p) is Σ q·d + log(Σ_p/Σ_q). Here d is the difference of the two exponents, each relative to its own maximum, and
// Σ_p and Σ_q are the sums of exponentials. KL(p‖q) is computed likewise. Neither term contains a common offset of
// either row. Where p and q are nearly the same, the two terms cancel. So with h(d) = d - 1 + exp(-d) and a = Σ_p/Σ_q -
// 1, the divergence is computed as Σ q·h(d) - (a - log(1 + a)), whose terms are no larger than the divergence itself.
// The Jensen-Shannon divergence needs the normalisers first, and its terms in a second round.

// 0: KL(q‖p), 1: KL(p‖q), 2: Jensen-Shannon.
override DIVERGENCE: u32 = 0u;
// There is a hard term.
override HARD: bool = false;
// The slope in T is asked for: that of T²·D is T·(2·D - S), where S = Σ x·∂D/∂x over the exponents x of both rows, which
// fall by x/T.
override WANTS_SLOPE: bool = false;

const KL: u32 = 0u;
const REVERSE_KL: u32 = 1u;
const JENSEN_SHANNON: u32 = 2u;

const TWO_SOFTMAXES: bool = true;

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let teacher = score_of(teacher_logits_quad(row.index, column), 1.0, inside);
    var it = item_of_scores(row, column, inside);
    it.second = teacher.u;
    it.bad |= teacher.bad;
    return it;
}

// exp of a score relative to a maximum, at temperature 1.
fn hard_exp(u: vec4<f32>, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_below4(below4(u, top)), live(u));
}

// Whether a column makes the divergence infinite: it is live in one softmax and at -inf in the other.
fn is_infinite(it: Item) -> bool {
    if (DIVERGENCE == KL) {
        return any(live(it.second) & !live(it.u));
    }
    return DIVERGENCE == REVERSE_KL && any(live(it.u) & !live(it.second));
}

// Whether T² is a normal number.
fn has_square(t: f32) -> bool {
    return t >= 1.0842021724855044e-19 && t < 18446744073709551616.0;
}

// A softmax, with results below the normal numbers set to 0, since a quotient of two of those could overflow.
fn softmax(u: vec4<f32>, top: f32, inverse_sum: f32) -> vec4<f32> {
    let p = exp_of(u, top) * inverse_sum;
    return select(vec4<f32>(0.0), p, p > vec4<f32>(2e-38));
}

// log(p/m) where p > 0, from m/p = 1 - weight + weight·q/p = 1 + weight·(q - p)/p.
fn log_of_mixed(p: vec4<f32>, q: vec4<f32>, weight: f32) -> vec4<f32> {
    let there = p > vec4<f32>(0.0);
    let whole = select(vec4<f32>(1.0), p, there);
    let log_m = log_of4((1.0 - weight) + weight * (q / whole), weight * ((q - whole) / whole));
    return select(vec4<f32>(0.0), -log_m, there);
}

// The same sums after the maxima rise: the exponents of own terms fall by `own`, those of other terms by `other`.
fn mean_terms_below(sums: vec4<f32>, own_sum: f32, own: f32, other: f32) -> vec4<f32> {
    let factor = exp_below(own);
    let d = own - other;
    let small = is_small4(vec4<f32>(d)).x;
    let bend = bend4(vec4<f32>(select(0.0, d, small))).x;
    // factor·(exp(-d) - 1), and factor·h(d)
    let gain = select(exp_below(other) - factor, factor * (bend - d), small);
    let bent = select(factor * d + gain, factor * bend, small);
    return vec4<f32>(
        factor * (sums.x + own_sum * d),
        0.0,
        factor * sums.z + bent * own_sum + gain * sums.w,
        factor * sums.w + gain * (own_sum + sums.w),
    );
}

// The divergence, from those sums.
fn divergence_of(sums: vec4<f32>, own_sum: f32, other_sum: f32) -> f32 {
    let a = sums.w / own_sum;
    let far = sums.x / own_sum + log_ratio(other_sum, own_sum);
    return select(far, sums.z / own_sum - log_excess(a), is_small4(vec4<f32>(a)).x);
}

// One of the two rows of a quad: its probabilities, its exponents, and which of its columns are live.
struct Side {
    p: vec4<f32>,
    x: vec4<f32>,
    live: vec4<bool>,
}

fn side(u: vec4<f32>, top: f32, inverse_sum: f32) -> Side {
    return Side(softmax(u, top, inverse_sum), live_exponent(u, top), live(u));
}

// What a quad adds to S for KL(own‖other). With d = log(own/other), S is Σ (other - own)·x_other + Σ own·(d - D)·x_own. As
// x_other is x_own - d up to a constant, it is also Σ own·(h(d) - D)·x_own + Σ (own - other)·d, whose terms are no larger
// than S where own and other are nearly the same. offset: log(Σ_own/Σ_other).
fn kl_slope(own: Side, other: Side, offset: f32, divergence: f32) -> f32 {
    let both = own.live & other.live;
    let d = select(vec4<f32>(0.0), own.x - other.x - offset, both);
    let quad = bent(own.p, other.p, d, both);
    // A column that is live in the other row alone.
    let alone = select(vec4<f32>(0.0), other.p * (other.x + offset), other.live);
    return sum4(select(alone, (quad.bends - divergence * own.p) * own.x - quad.gains * d, both));
}

// The divergence of the first round; that of Jensen-Shannon is not known there.
fn first_divergence(state: State) -> f32 {
    if (DIVERGENCE == KL) {
        return divergence_of(state.weighed, state.second_sum, state.sum);
    }
    if (DIVERGENCE == REVERSE_KL) {
        return divergence_of(state.weighed, state.sum, state.second_sum);
    }
    return 0.0;
}

// The slope of T²·D with respect to T, from the sums of the second round.
fn slope_of(state: State, divergence: f32) -> f32 {
    var moved = state.plain.y;
    if (DIVERGENCE == JENSEN_SHANNON) {
        let of_student = (1.0 - params.beta) * state.plain.z;
        moved = state.plain.w - of_student * state.weighed.x - (divergence - of_student) * state.weighed.z;
    }
    return temperature() * (2.0 * divergence - moved);
}

// -Σ q·log q over a quad of the teacher, in the second round.
fn entropy_terms(row: Row, q: Side) -> f32 {
    let log_sum = -log4(vec4<f32>(row.settled.second_inverse_sum)).x;
    return sum4(q.p * (log_sum - q.x));
}

// Weighed sums: `mean_terms`, with the student's Σ e at temperature 1 as the second. Plain sums: how many quads make
// the divergence infinite; in the second round of Jensen-Shannon also Σ of its terms, Σ p·log(p/m) and, if the slope is
// asked for, S without the means, with Σ p·x and Σ q·x as weighed sums beside any maximum; in that of other divergences S.
// The teacher's entropy is the third plain sum of these, and the first one of Jensen-Shannon, which is never infinite.
fn terms(row: Row, it: Item, state: State) -> Terms {
    var out: Terms;
    out.plain.x = select(0.0, 1.0, is_infinite(it));
    let z = exponent(it.u, state.top);
    let t = exponent(it.second, state.second_top);
    let ahead = select(vec4<f32>(0.0), t - z, live(it.u) & live(it.second));
    let both = live(it.u) & live(it.second);
    let student = exp_of(it.u, state.top);
    let teacher = exp_of(it.second, state.second_top);
    if (DIVERGENCE == KL) {
        out.weighed = mean_terms(teacher, student, ahead, both);
    }
    if (DIVERGENCE == REVERSE_KL) {
        out.weighed = mean_terms(student, teacher, -ahead, both);
    }
    if (HARD) {
        out.weighed.y = sum4(hard_exp(it.u, state.top));
    }
    if (ROUNDS == 2u && row.round == 1u) {
        let p = side(it.u, row.settled.top, row.settled.inverse_sum);
        let q = side(it.second, row.settled.second_top, row.settled.second_inverse_sum);
        if (DIVERGENCE == JENSEN_SHANNON) {
            let of_student = p.p * log_of_mixed(p.p, q.p, params.beta);
            let of_teacher = q.p * log_of_mixed(q.p, p.p, 1.0 - params.beta);
            out.plain.y = sum4(params.beta * of_teacher + (1.0 - params.beta) * of_student);
            out.plain.z = sum4(of_student);
            if (WANTS_SLOPE) {
                let moved = params.beta * of_teacher * q.x + (1.0 - params.beta) * of_student * p.x;
                out.plain.w = sum4(moved);
                out.weighed.x = sum4(p.p * p.x);
                out.weighed.z = sum4(q.p * q.x);
            }
            out.plain.x = entropy_terms(row, q);
        } else {
            out.plain.z = entropy_terms(row, q);
            let offset = log_ratio(row.settled.inverse_sum, row.settled.second_inverse_sum);
            if (DIVERGENCE == KL) {
                out.plain.y = kl_slope(q, p, offset, row.settled.divergence);
            } else {
                out.plain.y = kl_slope(p, q, -offset, row.settled.divergence);
            }
        }
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    let student = descent(state.top, top);
    let teacher = descent(state.second_top, second_top);
    var out = state.weighed;
    if (DIVERGENCE == KL) {
        out = mean_terms_below(state.weighed, state.second_sum, teacher, student);
    }
    if (DIVERGENCE == REVERSE_KL) {
        out = mean_terms_below(state.weighed, state.sum, student, teacher);
    }
    if (HARD) {
        out.y = state.weighed.y * hard_exp(vec4<f32>(state.top), top).x;
    }
    return out;
}

fn settle_live(row: Row, state: State) -> Settled {
    var settled: Settled;
    settled.top = state.top;
    settled.inverse_sum = 1.0 / state.sum;
    settled.second_top = state.second_top;
    settled.second_inverse_sum = 1.0 / state.second_sum;
    settled.divergence = first_divergence(state);
    return settled;
}

fn close_live(row: Row, state: State) -> Closed {
    if (!has_square(temperature())) {
        return closed_bad(row);
    }
    var out: Closed;
    out.label = row.label;
    out.top = state.top;
    out.second_top = state.second_top;
    out.inverse_sum = 1.0 / state.sum;
    out.second_inverse_sum = 1.0 / state.second_sum;
    out.scale = params.soft_slope * temperature() * row.factor;
    let divergence = select(first_divergence(state), state.plain.y, DIVERGENCE == JENSEN_SHANNON);
    out.mean = select(state.plain.z, state.weighed.x * out.inverse_sum, DIVERGENCE == REVERSE_KL);
    let is_mixed = DIVERGENCE == JENSEN_SHANNON;
    let entropy = select(state.plain.z, state.plain.x, is_mixed);
    out.teacher_entropy = bitcast<u32>(entropy);
    out.agrees = bitcast<u32>(select(0.0, 1.0, state.place == state.second_place));
    var infinite = !is_mixed && state.plain.x > 0.0 && params.soft_share > 0.0;
    if (infinite && DIVERGENCE == REVERSE_KL) {
        // An infinite reverse KL has no gradient: the row counts as a bad row, and its gradient is 0.
        out.flags = ROW_ZERO | ROW_NAN;
    }
    let t = temperature();
    var loss = params.soft_share * t * t * max(divergence, 0.0);
    if (WANTS_SLOPE) {
        // An infinite divergence has no slope.
        let limit = select(NAN_BITS, 0u, DIVERGENCE == REVERSE_KL);
        let slope = bitcast<u32>(params.soft_share * slope_of(state, divergence));
        out.temperature_slope = slope_bits(row, select(slope, limit, infinite));
    }
    if (HARD) {
        let bits = label_score(row.index, row.label, row.label);
        let u = score_of(vec4<u32>(bits), 1.0, vec4<bool>(true)).u.x;
        infinite = infinite || u == DEAD;
        out.hard_scale = params.alpha * row.factor;
        out.hard_inverse_sum = 1.0 / state.weighed.y;
        loss += params.alpha * (log_ratio(state.weighed.y, 1.0) + select(0.0, state.top - u, u != DEAD));
    }
    out.loss = times(bitcast<u32>(row.row_weight), select(bitcast<u32>(loss), INFINITY_BITS, infinite));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let p = softmax(it.u, closed.top, closed.inverse_sum);
    let q = softmax(it.second, closed.second_top, closed.second_inverse_sum);
    var g = p - q;
    if (DIVERGENCE == REVERSE_KL) {
        let behind = exponent(it.u, closed.top) - exponent(it.second, closed.second_top);
        g = p * (select(vec4<f32>(0.0), behind, live(it.u) & live(it.second)) - closed.mean);
    }
    if (DIVERGENCE == JENSEN_SHANNON) {
        g = p * (log_of_mixed(p, q, params.beta) - closed.mean);
    }
    g = closed.scale * g;
    if (HARD) {
        let hard = hard_exp(it.u, closed.top) * closed.hard_inverse_sum;
        let onehot = select(vec4<f32>(0.0), vec4<f32>(1.0), is_label(it, closed.label));
        g += closed.hard_scale * (hard - onehot);
    }
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
