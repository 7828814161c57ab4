// What multiplies the gradient of an element: weight·upstream/divisor, 0 for an element that counts for nothing.

// What the gradients of all elements are multiplied and divided by, as bits.
struct Scaling {
    upstream: u32,
    divisor: u32,
    // 1/divisor
    inverse: u32,
}

fn share_of(p: Place, weight: vec4<u32>, counts: vec4<bool>, scaling: Scaling) -> vec4<u32> {
    let upstream = times4(upstream_take(p), vec4<u32>(scaling.upstream));
    let factor = factor4(times4(weight, upstream), scaling.divisor, scaling.inverse);
    return select(vec4<u32>(0u), factor, counts);
}
