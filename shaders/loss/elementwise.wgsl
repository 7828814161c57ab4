// A user's loss of a single score. The user's module supplies
//   fn element_loss(z, y) -> f32      the loss of an element
//   fn element_slope(z, y) -> f32     its derivative with respect to z

fn element(p: Place) -> Element {
    let z_bits = logits_take(p);
    let y_bits = targets_take(p);
    let fine = finite(z_bits) & finite(y_bits);
    let z = select(vec4<f32>(0.0), bitcast<vec4<f32>>(z_bits), fine);
    let y = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), fine);
    let loss = vec4<f32>(element_loss(z.x, y.x), element_loss(z.y, y.y), element_loss(z.z, y.z), element_loss(z.w, y.w));
    let slope = vec4<f32>(element_slope(z.x, y.x), element_slope(z.y, y.y), element_slope(z.z, y.z), element_slope(z.w, y.w));
    var out: Element;
    out.loss = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(loss), fine);
    out.first = select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(slope), fine);
    out.value = y_bits;
    return out;
}
