// The hinge loss of one score.

override SQUARED: bool = false;
override RAMP: bool = false;
override CHECKS_TARGETS: bool = false;

fn element(p: Place) -> Element {
    let z_bits = logits_take(p);
    let t_bits = targets_take(p);
    let fine = finite(t_bits) & !is_nan4(z_bits);
    let t = select(vec4<f32>(0.0), bitcast<vec4<f32>>(t_bits), finite(t_bits));
    let infinite = !finite(z_bits) & (t != vec4<f32>(0.0));
    // With an infinite score the hinge is either infinitely open or shut.
    let wide = infinite & (((z_bits ^ t_bits) & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u));
    let z = select(vec4<f32>(0.0), bitcast<vec4<f32>>(z_bits), finite(z_bits));
    var open = max(params.margin - t * z, vec4<f32>(0.0));
    open = select(open, select(vec4<f32>(0.0), vec4<f32>(1.0), wide), infinite);
    var loss = open;
    var slope = select(-t, vec4<f32>(0.0), open == vec4<f32>(0.0));
    var unbounded = vec4<bool>(false);
    if (SQUARED) {
        loss = open * open;
        slope = -2.0 * t * open;
        unbounded = wide;
    }
    var loss_bits = select(bitcast<vec4<u32>>(loss), vec4<u32>(INFINITY_BITS), wide);
    let flipped = (t_bits & vec4<u32>(SIGN_BIT)) ^ vec4<u32>(SIGN_BIT);
    var slope_bits = select(bitcast<vec4<u32>>(slope), vec4<u32>(INFINITY_BITS) | flipped, unbounded);
    if (RAMP) {
        let capped = wide | (loss >= vec4<f32>(params.ramp));
        loss_bits = select(loss_bits, vec4<u32>(bitcast<u32>(params.ramp)), capped);
        slope_bits = select(slope_bits, vec4<u32>(0u), capped);
    }
    var bad = vec4<bool>(false);
    if (CHECKS_TARGETS) {
        bad = !finite(t_bits) | (abs(t) > vec4<f32>(1.0));
    }
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), slope_bits, fine);
    out.bad = bad;
    out.value = t_bits;
    return out;
}
