// By-products of cross-entropy with upstream gradients of their own: the gradient is that of the loss, if it takes part,
// plus Σ upstream·by-product over log_prob, entropy and lse.
//
// ∂log_prob/∂u = e - p and ∂lse/∂u = p join the loss's own factors. ∂entropy/∂u = -p·(log p + H) is p times a
// difference: log p + H = (u - top) - m, where m = Σ p·(u - top) is the mean score. Neither logarithm is computed.

// The upstream gradients of a row.
struct Pulls {
    log_prob: f32,
    entropy: f32,
    lse: f32,
}

fn pull(row: Row, word: u32) -> f32 {
    return bitcast<f32>(row_number(row.index, word));
}

fn pulls(row: Row) -> Pulls {
    return Pulls(
        pull(row, NUMBER_LOG_PROB_PULL),
        pull(row, NUMBER_ENTROPY_PULL),
        pull(row, NUMBER_LSE_PULL),
    );
}

fn loss_factor(factor: f32) -> f32 {
    return select(0.0, factor, params.loss_takes_part != 0u);
}

// A row has the gradient 0 where all of its factors are 0, and NaN where one of them is NaN.
fn flags_of(row: Row) -> u32 {
    let each = pulls(row);
    let loss = factor_flags(row.factor);
    let log_prob = factor_flags(each.log_prob);
    let entropy = factor_flags(each.entropy);
    let lse = factor_flags(each.lse);
    let nan = (loss | log_prob | entropy | lse) & ROW_FACTOR_NAN;
    return select(loss & log_prob & entropy & lse & ROW_ZERO, nan, nan != 0u);
}

// Σ p·(u - top), where top is the maximum, or the lse, that `emit` subtracts.
fn mean_score(row: Row, closed: Closed, streamed: State) -> f32 {
    if (HAS_LSE && params.knows_entropy != 0u) {
        return -pull(row, NUMBER_SAVED_ENTROPY);
    }
    if (!WANTS_ENTROPY) {
        return 0.0;
    }
    let mean = streamed.moment / max(streamed.sum, 1.2e-38);
    return select(mean, (streamed.top - closed.top) + mean, HAS_LSE);
}

fn close_byproducts(row: Row, closed: Closed, streamed: State) -> Closed {
    var out = closed;
    if (is_nothing(row.factor)) {
        // 0·NaN would be NaN.
        out.alpha = 0.0;
        out.beta = 0.0;
        out.kappa = 0.0;
        out.side = select(0.0, closed.side, HAS_PROBS);
        out.temperature_slope = 0u;
    }
    let each = pulls(row);
    out.alpha += each.lse;
    if (SEVERAL) {
        // ∂log_prob/∂u = q - Σq·p, and the coefficients are q.
        out.alpha -= select(each.log_prob * streamed.coefficient, 0.0, each.log_prob == 0.0);
        out.beta -= each.log_prob;
    } else {
        out.alpha -= each.log_prob;
        out.kappa -= each.log_prob;
    }
    out.entropy_pull = each.entropy;
    out.mean_score = select(mean_score(row, closed, streamed), 0.0, each.entropy == 0.0);
    // A call that wants this slope wants the moment of the scores too.
    if (WANTS_ENTROPY) {
        out.temperature_slope = plus(out.temperature_slope, temperature_slope(row, closed, streamed, each));
    }
    if ((closed.flags & ROW_FACTOR_NAN) != 0u) {
        out.temperature_slope = NAN_BITS;
    }
    return out;
}

// -Σ ∂u·u/τ of log_prob and lse, with u relative to the largest u as far as the sum of ∂u is 0. The entropy takes no
// part: the call is refused.
fn temperature_slope(row: Row, closed: Closed, streamed: State, each: Pulls) -> u32 {
    let mean = streamed.moment / max(streamed.sum, 1.2e-38);
    let of_lse = each.lse * (streamed.top + mean);
    if (each.log_prob == 0.0) {
        return bitcast<u32>(-of_lse / row.temperature);
    }
    var depth = streamed.coefficient * mean - streamed.term;
    var is_live = (streamed.flags & STATE_INFINITE) == 0u;
    if (!HAS_PROBS) {
        let label = share(row, row.label, 1.0, closed.top, 0.0);
        depth = depth_of(label, streamed) + mean;
        is_live = label.live;
    }
    let slope = bitcast<u32>(-(of_lse - each.log_prob * depth) / row.temperature);
    return select(times(bitcast<u32>(each.log_prob), INFINITY_BITS), slope, is_live);
}

fn taken_for(factor: f32, coefficient: vec4<f32>) -> vec4<f32> {
    return select(factor * coefficient, vec4<f32>(0.0), factor == 0.0);
}

fn with_byproducts(closed: Closed, g: vec4<f32>, p: vec4<f32>, shift: vec4<f32>) -> vec4<f32> {
    return g - closed.entropy_pull * (p * (shift - closed.mean_score));
}
