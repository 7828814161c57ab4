// Sums for the divergence of two distributions, exact also where these are nearly the same (row/softmax.wgsl).
//
// With own terms o, other terms r and d = log(o/r), Σ o·d is a small sum of larger terms of both signs. But Σ o·h(d) has
// only positive terms, where h(d) = d - 1 + exp(-d), and Σ o·d = Σ o·h(d) - Σ (r - o).

// h(x) = x - 1 + exp(-x) for |x| < 1/4, without cancellation.
fn bend4(x: vec4<f32>) -> vec4<f32> {
    let rest = 1.0 - x * (1.0 / 4.0) * (1.0 - x * (1.0 / 5.0) * (1.0 - x * (1.0 / 6.0) * (1.0 - x * (1.0 / 7.0))));
    return 0.5 * x * x * (1.0 - x * (1.0 / 3.0) * rest);
}

fn is_small4(x: vec4<f32>) -> vec4<bool> {
    return abs(x) < vec4<f32>(0.25);
}

// own·h(d) and other - own of a quad.
struct Bent {
    bends: vec4<f32>,
    gains: vec4<f32>,
}

// d = log(own/other), or 0 if one of the two is 0.
fn bent(own: vec4<f32>, other: vec4<f32>, d: vec4<f32>, both: vec4<bool>) -> Bent {
    let small = is_small4(d) & both;
    let bend = bend4(select(vec4<f32>(0.0), d, small));
    var out: Bent;
    out.bends = select(own * (d - 1.0) + other, own * bend, small);
    out.gains = select(other - own, own * (bend - d), small);
    return out;
}

// What a quad adds to the sums: (Σ own·d, 0, Σ own·h(d), Σ (other - own)).
fn mean_terms(own: vec4<f32>, other: vec4<f32>, d: vec4<f32>, both: vec4<bool>) -> vec4<f32> {
    let quad = bent(own, other, d, both);
    return vec4<f32>(sum4(own * d), 0.0, sum4(quad.bends), sum4(quad.gains));
}

// a - log(1 + a) = a·s - 2·(s³/3 + s⁵/5 + …) with s = a/(2 + a), for |a| < 1/4.
fn log_excess(a: f32) -> f32 {
    let s = a / (2.0 + a);
    let t = s * s;
    return a * s - 2.0 * s * t * (1.0 / 3.0 + t * (1.0 / 5.0 + t * (1.0 / 7.0 + t * (1.0 / 9.0))));
}
