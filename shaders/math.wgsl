// Numbers by their bits. WGSL lets a compiler assume that NaN and infinity never occur, so they are
// told apart by u32 tests and written as u32 words; no float that may be one enters arithmetic.

const NAN_BITS: u32 = 0x7fc00000u;
const INFINITY_BITS: u32 = 0x7f800000u;
const SIGN_BIT: u32 = 0x80000000u;
const NONE: u32 = 0xffffffffu;
// Seeds a maximum and stands in for -inf; it enters max() and differences guarded below, nothing else.
const LOWEST: f32 = -3.40282346638528859812e38;
// exp(-104) rounds to 0 in f32.
const FLOOR: f32 = 104.0;

fn finite(bits: vec4<u32>) -> vec4<bool> {
    return (bits & vec4<u32>(INFINITY_BITS)) != vec4<u32>(INFINITY_BITS);
}

fn finite_one(bits: u32) -> bool {
    return (bits & INFINITY_BITS) != INFINITY_BITS;
}

fn max4(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// A fixed tree, so that the order of the sum is part of the source.
fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// u - top for u <= top, not below -FLOOR. Halved, the difference of huge numbers cannot overflow, and
// halving is exact.
fn below4(u: vec4<f32>, top: f32) -> vec4<f32> {
    return 2.0 * max(0.5 * u - 0.5 * top, vec4<f32>(-0.5 * FLOOR));
}

fn below(u: f32, top: f32) -> f32 {
    return 2.0 * max(0.5 * u - 0.5 * top, -0.5 * FLOOR);
}

// tanh with relative accuracy near 0 and no overflow far from it (the built-in has neither).
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x), vec4<f32>(20.0));
    let e = exp(-2.0 * a);
    let far = (1.0 - e) / (1.0 + e);
    let s = a * a;
    let near = a * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)))));
    return select(far, near, a < vec4<f32>(0.25)) * sign(x);
}

// 1 - tanh(x)^2 without cancellation.
fn sech_squared4(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-2.0 * min(abs(x), vec4<f32>(20.0)));
    let d = 1.0 + e;
    return 4.0 * e / (d * d);
}

// 1 - exp(x) for x <= 0, with relative accuracy near 0.
fn one_minus_exp(x: f32) -> f32 {
    let near = -x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0))));
    return select(1.0 - exp(max(x, -FLOOR)), near, x > -0.06);
}

// exp(x) for |x| < 128 ln 2, as 2^n·exp(r) with a small r: the built-in loses digits far from 0.
fn exp_far4(x: vec4<f32>) -> vec4<f32> {
    let n = clamp(round(x * 1.44269504), vec4<f32>(-126.0), vec4<f32>(127.0));
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    return exp(r) * bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(n) + 127) << vec4<u32>(23u));
}

// Bits of float x, or of what stands for it.
fn bits_or(x: f32, otherwise: u32, use_x: bool) -> u32 {
    return select(otherwise, bitcast<u32>(x), use_x);
}
