// Binary cross-entropy on logits: positive weights, smoothing, temperature, focal modulation.

override FOCAL: bool = false;
override CHECKS_TARGETS: bool = false;
// All elements have the same target, which is a parameter.
override ONE_TARGET: bool = false;

// SHIFTED, SCALED: u differs from z by a bias or a temperature. LEARNED: the temperature is a tensor. SMOOTHED: y'
// differs from y.
override SHIFTED: bool = false;
override SCALED: bool = false;
override LEARNED: bool = false;
override SMOOTHED: bool = false;

// 1/τ, and whether there is none.
struct Coldness {
    value: vec4<f32>,
    bad: vec4<bool>,
}

fn coldness(p: Place) -> Coldness {
    if (!LEARNED) {
        return Coldness(vec4<f32>(params.inverse_temperature), vec4<bool>(false));
    }
    let bits = temperature_take(p);
    let bad = !are_temperatures(bits);
    return Coldness(1.0 / select(bitcast<vec4<f32>>(bits), vec4<f32>(1.0), bad), bad);
}

// (z + bias)/τ as bits.
fn score(z: vec4<u32>, bias: vec4<u32>, inverse_temperature: vec4<f32>) -> vec4<u32> {
    if (!SHIFTED && !SCALED) {
        return z;
    }
    let whole = finite(z) & finite(bias);
    let sum = (bitcast<vec4<f32>>(z) + bitcast<vec4<f32>>(bias)) * inverse_temperature;
    let agree = finite(z) | finite(bias) | (z == bias);
    let limit = select(vec4<u32>(NAN_BITS), select(z, bias, finite(z)), agree);
    return select(limit, bitcast<vec4<u32>>(sum), whole);
}

fn element(p: Place) -> Element {
    let cold = coldness(p);
    let u_bits = score(logits_take(p), logit_bias_take(p), cold.value);
    var y_bits = targets_take(p);
    if (ONE_TARGET) {
        y_bits = vec4<u32>(bitcast<u32>(params.one_target));
    }
    let pos_weight = pos_weight_take(p);
    let fine = finite(y_bits) & !is_nan4(u_bits) & !is_nan4(pos_weight) & !cold.bad;
    let negative = (u_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    // At ±200 the probabilities are exactly 0 and 1, as at ±inf.
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), negative);
    let l = logistic4(select(edge, bitcast<vec4<f32>>(u_bits), finite(u_bits)));
    let target_value = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), finite(y_bits));
    var y = target_value;
    if (SMOOTHED) {
        y = y * params.kept_share + params.half_share;
    }
    let no = 1.0 - y;
    let yes = bitcast<vec4<f32>>(pos_weight) * y;
    var loss = yes * l.minus + no * l.plus;
    var slope = no * l.p - yes * l.q;
    // A term that is infinite counts only where its factor is not 0.
    let part = select(no, yes, negative);
    let infinite = !finite(u_bits) & (part != vec4<f32>(0.0));
    if (FOCAL) {
        let rest = l.p * no + l.q * y;
        let live = rest > vec4<f32>(1e-37);
        let safe = select(vec4<f32>(1.0), rest, live);
        let modulation = select(vec4<f32>(select(0.0, 1.0, params.focal_gamma == 0.0)), exp_far4(max(params.focal_gamma * log4(safe), vec4<f32>(-FLOOR))), live);
        let pull = params.focal_gamma * (no - y) * (l.p * l.q / safe);
        let alpha = params.alpha_positive * y + params.alpha_negative * no;
        slope = alpha * modulation * (slope + select(loss * pull, vec4<f32>(0.0), infinite));
        loss = alpha * modulation * loss;
    }
    let limit = vec4<u32>(INFINITY_BITS) | (bitcast<vec4<u32>>(part) & vec4<u32>(SIGN_BIT));
    let loss_bits = select(bitcast<vec4<u32>>(loss), limit, infinite);
    if (SCALED) {
        slope *= cold.value;
    }
    let slope_bits = bitcast<vec4<u32>>(slope);
    var bad = vec4<bool>(false);
    if (CHECKS_TARGETS) {
        bad = !finite(y_bits) | negative4(y_bits) | (target_value > vec4<f32>(1.0));
    }
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), slope_bits, fine);
    if (LEARNED) {
        out.second = select(vec4<u32>(NAN_BITS), times4(slope_bits ^ vec4<u32>(SIGN_BIT), u_bits), fine);
    }
    out.bad = bad;
    out.value = y_bits;
    out.monitored = abs(slope);
    return out;
}
