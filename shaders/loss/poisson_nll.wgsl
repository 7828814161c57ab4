// The negative log-likelihood of a Poisson distribution.

override LOG_INPUT: bool = true;
override FULL: bool = false;

fn stirling(y: vec4<f32>) -> vec4<f32> {
    let many = max(y, vec4<f32>(1.0));
    let value = many * log4(many) - many + 0.5 * log4(6.28318531 * many);
    return select(vec4<f32>(0.0), value, y > vec4<f32>(1.0));
}

fn element(p: Place) -> Element {
    let x_bits = rate_take(p);
    let y_bits = targets_take(p);
    let fine = finite(y_bits) & !is_nan4(x_bits);
    let minus = (x_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    let y = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), finite(y_bits));
    let x = select(vec4<f32>(0.0), bitcast<vec4<f32>>(x_bits), finite(x_bits));
    let some = y > vec4<f32>(0.0);
    var bad = negative4(y_bits);
    var value = y_bits;
    var loss: vec4<f32>;
    var slope: vec4<f32>;
    // infinite: the loss is +inf. steep: the slope is infinite, with the sign in `down`.
    var infinite: vec4<bool>;
    var steep: vec4<bool>;
    var down = vec4<u32>(0u);
    if (LOG_INPUT) {
        let rate = exp_bits4(select(x, vec4<f32>(-200.0), !finite(x_bits)));
        let grown = !finite(rate) | (!finite(x_bits) & !minus);
        let expected = select(bitcast<vec4<f32>>(rate), vec4<f32>(0.0), grown);
        loss = expected - y * x;
        slope = expected - y;
        infinite = grown | (!finite(x_bits) & minus & some);
        steep = grown;
    } else {
        value = select(x_bits, y_bits, bad);
        bad = bad | negative4(x_bits);
        let sum = x + params.eps;
        let positive = sum > vec4<f32>(1.1754944e-38);
        let safe = select(vec4<f32>(1.0), sum, positive);
        loss = x - select(vec4<f32>(0.0), y * log4(safe), some);
        slope = 1.0 - y / safe;
        steep = !positive & some;
        infinite = !finite(x_bits) | steep;
        slope = select(slope, vec4<f32>(1.0), !finite(x_bits));
        down = vec4<u32>(SIGN_BIT);
    }
    if (FULL) {
        loss += stirling(y);
    }
    let loss_bits = select(bitcast<vec4<u32>>(loss), vec4<u32>(INFINITY_BITS), infinite);
    let slope_bits = select(bitcast<vec4<u32>>(slope), vec4<u32>(INFINITY_BITS) | down, steep);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), slope_bits, fine);
    out.bad = bad;
    out.value = value;
    return out;
}
