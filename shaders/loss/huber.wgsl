// Huber's loss: quadratic near the target, linear far from it.

fn element(p: Place) -> Element {
    let z_bits = logits_take(p);
    let y_bits = targets_take(p);
    let fine = finite(y_bits) & !is_nan4(z_bits);
    let infinite = !finite(z_bits);
    let z = select(bitcast<vec4<f32>>(z_bits), vec4<f32>(0.0), infinite);
    let y = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), finite(y_bits));
    let apart = z - y;
    // |d| up to delta: then both cases are near·(|d| - near/2), without a branch.
    let near = min(abs(apart), vec4<f32>(params.delta));
    let loss = near * (abs(apart) - 0.5 * near);
    let slope = clamp(apart, vec4<f32>(-params.delta), vec4<f32>(params.delta));
    let signed_delta = vec4<u32>(bitcast<u32>(params.delta)) | (z_bits & vec4<u32>(SIGN_BIT));
    let loss_bits = select(bitcast<vec4<u32>>(loss), vec4<u32>(INFINITY_BITS), infinite);
    let slope_bits = select(bitcast<vec4<u32>>(slope), signed_delta, infinite);
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), loss_bits, fine);
    out.first = select(vec4<u32>(NAN_BITS), slope_bits, fine);
    out.value = y_bits;
    return out;
}
