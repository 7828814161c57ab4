// Counts with a hurdle: a logit for k > 0, and a zero-truncated Poisson distribution for such k.

// log k! of whole numbers: exact products as far as f32 can hold them, then Stirling's series.
fn log_factorial4(k: vec4<f32>) -> vec4<f32> {
    var product = vec4<f32>(1.0);
    for (var i = 2u; i <= 12u; i += 1u) {
        product *= select(vec4<f32>(1.0), vec4<f32>(f32(i)), k >= vec4<f32>(f32(i)));
    }
    let many = max(k, vec4<f32>(12.0));
    let inverse = 1.0 / many;
    let series = inverse * (1.0 / 12.0 - inverse * inverse * (1.0 / 360.0));
    let far = many * (log4(many) - 1.0) + 0.5 * log4(6.28318531 * many) + series;
    return select(log4(product), far, k > vec4<f32>(12.0));
}

// λ - kη + log(1 - exp(-λ)) for finite η. Near λ = 0 the logarithm is near η, so one η cancels and is left out.
fn truncated4(eta: vec4<f32>, rate: vec4<f32>, k: vec4<f32>) -> vec4<f32> {
    let s = min(rate, vec4<f32>(1.0));
    let t = s * s;
    let near = s * 0.5 + t * (1.0 / 24.0 - t * (1.0 / 2880.0 - t * (1.0 / 181440.0))) - (k - 1.0) * eta;
    let far = rate - k * eta + log1p4(-exp_far4(-clamp(rate, vec4<f32>(1.0), vec4<f32>(FLOOR))));
    return select(far, near, rate < vec4<f32>(1.0));
}

// λ/(1 - exp(-λ)) - k.
fn truncated_slope4(rate: vec4<f32>, k: vec4<f32>) -> vec4<f32> {
    let s = min(rate, vec4<f32>(1.0));
    let t = s * s;
    let near = s * 0.5 + t * (1.0 / 12.0 - t * (1.0 / 720.0 - t * (1.0 / 30240.0 - t * (1.0 / 1209600.0)))) + (1.0 - k);
    let far = rate / (1.0 - exp_far4(-clamp(rate, vec4<f32>(1.0), vec4<f32>(FLOOR)))) - k;
    return select(far, near, rate < vec4<f32>(1.0));
}

fn element(p: Place) -> Element {
    let z_bits = logits_take(p);
    let eta_bits = log_rate_take(p);
    let k_bits = targets_take(p);
    let fine = !is_nan4(z_bits) & !is_nan4(eta_bits);
    let k = select(vec4<f32>(-1.0), bitcast<vec4<f32>>(k_bits), finite(k_bits));
    let bad = (k < vec4<f32>(0.0)) | (k != floor(k));
    let some = k > vec4<f32>(0.0);
    // The gate. At ±200 it is exactly shut or open, as at ±inf.
    let z_minus = (z_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), z_minus);
    let l = logistic4(select(edge, bitcast<vec4<f32>>(z_bits), finite(z_bits)));
    let shut = !finite(z_bits) & (z_minus == some);
    // The count.
    let eta_minus = (eta_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    let eta = select(vec4<f32>(0.0), bitcast<vec4<f32>>(eta_bits), finite(eta_bits));
    let rate_bits = exp_bits4(select(eta, vec4<f32>(-200.0), !finite(eta_bits)));
    let grown = some & (!finite(rate_bits) | (!finite(eta_bits) & !eta_minus));
    let rate = select(bitcast<vec4<f32>>(rate_bits), vec4<f32>(0.0), grown);
    let none = some & !finite(eta_bits) & eta_minus & (k > vec4<f32>(1.0));
    let count = truncated4(eta, rate, k) + log_factorial4(max(k, vec4<f32>(0.0)));
    let loss = select(l.plus, l.minus + count, some);
    let by_gate = select(l.p, -l.q, some);
    let by_rate = select(vec4<f32>(0.0), truncated_slope4(rate, k), some);
    let loss_bits = select(bitcast<vec4<u32>>(loss), vec4<u32>(INFINITY_BITS), shut | grown | none);
    let rate_slope = select(bitcast<vec4<u32>>(by_rate), vec4<u32>(INFINITY_BITS), grown);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(by_gate), fine);
    out.second = select(vec4<u32>(NAN_BITS), rate_slope, fine);
    out.bad = bad;
    out.value = k_bits;
    return out;
}
