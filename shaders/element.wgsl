// The element skeleton: a walk over all elements, row after row, quad by quad; each is read once.
//
// A functor (loss/*.wgsl) supplies
//   fn element(p: Place) -> Element      the loss of a quad and its derivatives, before weights
// and reaches its tensors by NAME_take(p), as bits. It returns NaN and infinities as bit patterns and does not compute
// with them: WGSL may assume that they never occur. It fills an Element by name (`var out: Element; out.loss = …;`),
// which begins with zeros.
//
// The skeleton adds weight, mask, unknown targets, upstream gradient, denominator, sums and counts.
// Elements are counted from the first one of the tensor, whatever its layout: a workgroup takes a
// fixed block of them, so offsets, strides and windows of whole blocks change the loads and not the
// sums. Planes are walked in another order, and where images are cut between blocks (`windows` in
// src/skeleton/element/elements.rs) a sum may differ in its last bits; what is one element's never does.

struct Element {
    // Bits of the loss, and of its derivatives by the functor's first and second tensor.
    loss: vec4<u32>,
    first: vec4<u32>,
    second: vec4<u32>,
    // Elements that have no loss, and what is wrong with them. They are counted; their gradient is 0.
    bad: vec4<bool>,
    value: vec4<u32>,
    // What the loss has monitored beside it, such as how much of a gradient is left; finite.
    monitored: vec4<f32>,
}

// The mean of what is monitored is asked for.
override MONITORS: bool = false;

// What a quad leaves behind.
struct Visited {
    loss: vec4<u32>,
    bad: vec4<bool>,
    value: vec4<u32>,
    monitored: vec4<f32>,
}

// What multiplies and divides the gradients of all elements, as bits.
struct Scaling {
    upstream: u32,
    divisor: u32,
    // 1/divisor
    inverse: u32,
}

// A product where a first factor of 0 wins over NaN too: nothing comes down to the element.
fn handed_down(factor: vec4<u32>, bits: vec4<u32>) -> vec4<u32> {
    return select(times4(factor, bits), vec4<u32>(0u), is_zero4(factor));
}

fn visit(p: Place, inside: vec4<bool>, scaling: Scaling) -> Visited {
    let keep = kept(p, inside);
    let e = element(p);
    let bad = e.bad & keep;
    let weight = times4(weight_take(p), mask_take(p));
    let loss = select(times4(e.loss, weight), vec4<u32>(NAN_BITS), bad);
    let upstream = times4(upstream_take(p), vec4<u32>(scaling.upstream));
    let factor = factor4(times4(weight, upstream), scaling.divisor, scaling.inverse);
    let share = select(vec4<u32>(0u), factor, keep & !bad);
    first_give(p, inside, handed_down(share, e.first));
    second_give(p, inside, handed_down(share, e.second));
    let monitored = select(vec4<f32>(0.0), e.monitored, keep & vec4<bool>(MONITORS));
    let visited = Visited(select(vec4<u32>(0u), loss, keep), bad, e.value, monitored);
    loss_give(p, inside, visited.loss);
    return visited;
}
