// A generator's loss on the discriminator's scores of generated samples: −log P, or log(1 − P).

override SATURATING: bool = false;

fn element(p: Place) -> Element {
    let z_bits = fake_take(p);
    let sign = z_bits & vec4<u32>(SIGN_BIT);
    // At ±200 the probabilities are exactly 0 and 1, as at ±inf.
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), sign != vec4<u32>(0u));
    let l = logistic4(select(edge, bitcast<vec4<f32>>(z_bits), finite(z_bits)));
    var loss = l.minus;
    var slope = -l.q;
    var limit = vec4<u32>(INFINITY_BITS | SIGN_BIT);
    if (SATURATING) {
        loss = -l.plus;
        slope = -l.p;
        limit = vec4<u32>(INFINITY_BITS);
    }
    // At one of the two infinities the loss is infinite too, with the opposite sign.
    let infinite = z_bits == limit;
    let fine = !is_nan4(z_bits);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), select(bitcast<vec4<u32>>(loss), limit ^ vec4<u32>(SIGN_BIT), infinite), fine);
    out.first = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(slope), fine);
    out.value = z_bits;
    out.monitored = -slope;
    return out;
}
