// The element skeleton: visits all elements, row after row, quad by quad, and reads each element once.
//
// A functor (loss/*.wgsl) supplies
//   fn element(p: Place) -> Element      the loss of a quad and its derivatives, before weights
// and reads its tensors with NAME_take(p), which returns bits. The functor returns NaN and infinities as bit patterns
// and does not compute with them: WGSL may assume that they never occur. It fills an Element by name
// (`var out: Element; out.loss = …;`), whose fields start as zeros.
//
// The skeleton adds weight, mask, unknown targets, upstream gradient, denominator, sums and counts. Elements are
// counted from the first element of the tensor, whatever its layout, and each workgroup takes a fixed block of them. So
// offsets, strides and windows of whole blocks change the loads but not the sums. Elements of planes are visited in
// another order; where images are cut between blocks (`windows` in src/skeleton/element/elements.rs), a sum may differ
// in its last bits. Results of single elements never differ.

struct Element {
    // Bits of the loss, and of its derivatives with respect to the functor's first and second tensor.
    loss: vec4<u32>,
    first: vec4<u32>,
    second: vec4<u32>,
    // Elements that have no loss, and the value that is wrong. They are counted; their gradient is 0.
    bad: vec4<bool>,
    value: vec4<u32>,
    // What the loss monitors, such as how much of a gradient is left; finite.
    monitored: vec4<f32>,
}

// The caller wants the mean of the monitored value.
override MONITORS: bool = false;

// What a visit of a quad returns.
struct Visited {
    loss: vec4<u32>,
    bad: vec4<bool>,
    value: vec4<u32>,
    monitored: vec4<f32>,
}

// A product in which a first factor of 0 wins even over NaN: where the upstream gradient is 0, the gradient is 0.
fn handed_down(factor: vec4<u32>, bits: vec4<u32>) -> vec4<u32> {
    return select(times4(factor, bits), vec4<u32>(0u), is_zero4(factor));
}

fn visit(p: Place, inside: vec4<bool>, scaling: Scaling) -> Visited {
    let keep = kept(p, inside);
    let e = element(p);
    let bad = e.bad & keep;
    let weight = times4(weight_take(p), mask_take(p));
    let loss = select(times4(e.loss, weight), vec4<u32>(NAN_BITS), bad);
    let share = share_of(p, weight, keep & !bad, scaling);
    first_give(p, inside, handed_down(share, e.first));
    second_give(p, inside, handed_down(share, e.second));
    let monitored = select(vec4<f32>(0.0), e.monitored, keep & vec4<bool>(MONITORS));
    let visited = Visited(select(vec4<u32>(0u), loss, keep), bad, e.value, monitored);
    loss_give(p, inside, visited.loss);
    return visited;
}
