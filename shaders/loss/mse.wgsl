// Squared error, plain or on a sigmoid.

override SIGMOID: bool = false;

fn element(p: Place) -> Element {
    let z_bits = logits_take(p);
    let y_bits = targets_take(p);
    let fine = finite(y_bits) & !is_nan4(z_bits);
    let sign = z_bits & vec4<u32>(SIGN_BIT);
    let y = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), finite(y_bits));
    // At ±200 the sigmoid is exactly 0 or 1, as at ±inf.
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), sign != vec4<u32>(0u));
    let z = select(edge, bitcast<vec4<f32>>(z_bits), finite(z_bits));
    var apart = z - y;
    var slope = 2.0 * apart;
    var infinite = !finite(z_bits);
    var monitored = vec4<f32>(0.0);
    if (SIGMOID) {
        let l = logistic4(z);
        // P - y, computed from 1 - P where 1 - P is the smaller one.
        apart = select(l.p - y, (1.0 - y) - l.q, z > vec4<f32>(0.0));
        slope = 2.0 * apart * (l.p * l.q);
        infinite = vec4<bool>(false);
        monitored = 2.0 * (l.p * l.q);
    }
    let loss_bits = select(bitcast<vec4<u32>>(apart * apart), vec4<u32>(INFINITY_BITS), infinite);
    let slope_bits = select(bitcast<vec4<u32>>(slope), vec4<u32>(INFINITY_BITS) | sign, infinite);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), slope_bits, fine);
    out.value = y_bits;
    out.monitored = monitored;
    return out;
}
