// The negative log-likelihood of a normal distribution.

override LOG_VARIANCE: bool = false;

fn element(p: Place) -> Element {
    let mean = mean_take(p);
    let variance = variance_take(p);
    let target_bits = targets_take(p);
    let fine = finite(mean) & finite(variance) & finite(target_bits);
    let apart = select(vec4<f32>(0.0), bitcast<vec4<f32>>(mean) - bitcast<vec4<f32>>(target_bits), fine);
    let given = select(vec4<f32>(1.0), bitcast<vec4<f32>>(variance), fine);
    var log_variance: vec4<f32>;
    // The variance's gradient divided by the gradient of its logarithm.
    var chain = vec4<f32>(1.0);
    var squared: vec4<f32>;
    var by_mean: vec4<u32>;
    if (LOG_VARIANCE) {
        log_variance = max(given, vec4<f32>(params.log_least));
        let inverse = exp_far4(clamp(-log_variance, vec4<f32>(-FLOOR), vec4<f32>(88.0)));
        squared = (apart * inverse) * apart;
        by_mean = bitcast<vec4<u32>>(apart * inverse);
    } else {
        let v = max(given, vec4<f32>(params.least));
        log_variance = log4(v);
        squared = (apart / v) * apart;
        by_mean = bitcast<vec4<u32>>(apart / v);
        chain = 1.0 / v;
    }
    let loss = 0.5 * (log_variance + squared) + params.constant;
    let by_variance = 0.5 * (1.0 - squared) * chain;
    let bad = negative4(variance) & vec4<bool>(!LOG_VARIANCE);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(loss), fine);
    out.first = select(vec4<u32>(NAN_BITS), by_mean, fine);
    out.second = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(by_variance), fine);
    out.bad = bad;
    out.value = variance;
    return out;
}
