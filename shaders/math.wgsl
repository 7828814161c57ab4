// Numbers by their bits. WGSL lets a compiler assume that NaN and infinity never occur. So they are detected by u32
// tests and written as u32 words; no float that may be one of them enters arithmetic.

const NAN_BITS: u32 = 0x7fc00000u;
const INFINITY_BITS: u32 = 0x7f800000u;
const SIGN_BIT: u32 = 0x80000000u;
const NONE: u32 = 0xffffffffu;
// The start value of a maximum, and the stand-in for -inf. Use it only in max() and in the guarded differences below.
const LOWEST: f32 = -3.40282346638528859812e38;
// exp(-104) rounds to 0 in f32.
const FLOOR: f32 = 104.0;

fn finite(bits: vec4<u32>) -> vec4<bool> {
    return (bits & vec4<u32>(INFINITY_BITS)) != vec4<u32>(INFINITY_BITS);
}

fn finite_one(bits: u32) -> bool {
    return (bits & INFINITY_BITS) != INFINITY_BITS;
}

fn is_nan4(bits: vec4<u32>) -> vec4<bool> {
    return (bits & vec4<u32>(~SIGN_BIT)) > vec4<u32>(INFINITY_BITS);
}

fn is_nan(bits: u32) -> bool {
    return (bits & ~SIGN_BIT) > INFINITY_BITS;
}

fn is_zero(bits: u32) -> bool {
    return (bits & ~SIGN_BIT) == 0u;
}

fn is_zero4(bits: vec4<u32>) -> vec4<bool> {
    return (bits & vec4<u32>(~SIGN_BIT)) == vec4<u32>(0u);
}

// Whether these are temperatures: from 2^-126 to 2^126, since others have no normal inverse.
fn are_temperatures(bits: vec4<u32>) -> vec4<bool> {
    return (bits >= vec4<u32>(0x00800000u)) & (bits <= vec4<u32>(0x7e800000u));
}

// a·b of any two numbers, as bits: NaN times anything is NaN, and 0·infinity is 0.
fn times4(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    let infinite = !(finite(a) & finite(b));
    let zero = is_zero4(a) | is_zero4(b);
    let limit = select(vec4<u32>(INFINITY_BITS) | ((a ^ b) & vec4<u32>(SIGN_BIT)), vec4<u32>(0u), zero);
    let product = select(bitcast<vec4<u32>>(bitcast<vec4<f32>>(a) * bitcast<vec4<f32>>(b)), limit, infinite);
    return select(product, vec4<u32>(NAN_BITS), is_nan4(a) | is_nan4(b));
}

fn times(a: u32, b: u32) -> u32 {
    return times4(vec4<u32>(a), vec4<u32>(b)).x;
}

// a + b of any two numbers, as bits.
fn plus(a: u32, b: u32) -> u32 {
    let finite_sum = bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b));
    let infinite = select(b, a, !finite_one(a));
    let opposed = !finite_one(a) && !finite_one(b) && a != b;
    let sum = select(infinite, finite_sum, finite_one(a) && finite_one(b));
    return select(sum, NAN_BITS, is_nan(a) || is_nan(b) || opposed);
}

// The factors of gradients: above/divisor. The arguments are bits; `inverse` is 1/divisor. A factor is 0 where `above` is
// 0, whatever the divisor, and where the divisor is 0: a mean over nothing has the gradient 0. It may be NaN, as
// infinity/infinity is.
fn factor4(above: vec4<u32>, divisor: u32, inverse: u32) -> vec4<u32> {
    let no_number = !finite(above) & vec4<bool>(!finite_one(divisor));
    let factor = select(times4(above, vec4<u32>(inverse)), vec4<u32>(NAN_BITS), no_number);
    return select(factor, vec4<u32>(0u), is_zero4(above) | vec4<bool>(is_zero(divisor)));
}

// The factor of a row: weight·upstream/divisor. A row of weight 0 has the factor 0 whatever its upstream gradient is.
fn row_factor(weight: u32, upstream: u32, divisor: u32, inverse: u32) -> f32 {
    let above = select(times(weight, upstream), 0u, is_zero(weight));
    return bitcast<f32>(factor4(vec4<u32>(above), divisor, inverse).x);
}

// Whether a number is below 0; false for -0 and NaN. Tests the bits, because a number below 2^-126 may compare as 0.
fn negative4(bits: vec4<u32>) -> vec4<bool> {
    return (bits > vec4<u32>(SIGN_BIT)) & !is_nan4(bits);
}

fn max4(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// A fixed tree, so that the order of the sum is part of the source.
fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// u - top for u <= top, not below -FLOOR. Halving keeps the difference of huge numbers from overflowing, and is exact.
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
    let near = -(x + x * x * exp_rest4(vec4<f32>(x)).x);
    return select(1.0 - exp(max(x, -FLOOR)), near, x > -HALF_LN_2);
}

const HALF_LN_2: f32 = 0.34657359;

// (exp(r) - 1 - r)/r^2 for |r| <= ln 2/2, within 1e-8: a fit.
fn exp_rest4(r: vec4<f32>) -> vec4<f32> {
    return 0.5 + r * (0.166665766 + r * (0.0416664642 + r * (0.00836323538 + r * 0.00139337325)));
}

// exp(x) for |x| < 128 ln 2, as 2^n·exp(r) with |r| <= ln 2/2. The built-in exp loses digits far from 0, and costs
// another range reduction.
fn exp_far4(x: vec4<f32>) -> vec4<f32> {
    let n = clamp(round(x * 1.44269504), vec4<f32>(-126.0), vec4<f32>(127.0));
    let value = exp_raised4(x, n, 0);
    // Below the normal numbers r is no longer small, and drivers may flush subnormal results to 0 anyway.
    return select(vec4<f32>(0.0), value, x > vec4<f32>(-87.33));
}

// 2^raised·exp(x), where n is the whole part of x/ln 2: 2^raised·2^n·exp(r).
fn exp_raised4(x: vec4<f32>, n: vec4<f32>, raised: i32) -> vec4<f32> {
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    return (1.0 + (r + r * r * exp_rest4(r))) * bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(n) + (127 + raised)) << vec4<u32>(23u));
}

// The bits of x where use_x is true, of `otherwise` where it is false.
fn bits_or(x: f32, otherwise: u32, use_x: bool) -> u32 {
    return select(otherwise, bitcast<u32>(x), use_x);
}

// exp(x) as bits: infinity above the range of f32.
fn exp_bits4(x: vec4<f32>) -> vec4<u32> {
    let value = exp_far4(clamp(x, vec4<f32>(-FLOOR), vec4<f32>(88.722839)));
    return select(bitcast<vec4<u32>>(value), vec4<u32>(INFINITY_BITS), x > vec4<f32>(88.722839));
}

// 2·atanh(s) for |s| <= 1/3. (A fit of (atanh(s)/s - 1)/s^2, within 2e-8.)
fn atanh_twice4(s: vec4<f32>) -> vec4<f32> {
    let t = s * s;
    let series = 0.333333198 + t * (0.200038354 + t * (0.14116978 + t * 0.134337742));
    return 2.0 * (s + s * t * series);
}

// log(1 + x) for -1/2 <= x <= 1 with relative accuracy down to the smallest x. (The built-in log loses relative
// accuracy near 1.)
fn log1p4(x: vec4<f32>) -> vec4<f32> {
    return atanh_twice4(x / (2.0 + x));
}

// log(x) for normal x > 0, from its exponent and its mantissa between sqrt(1/2) and sqrt(2).
fn log4(x: vec4<f32>) -> vec4<f32> {
    let shifted = bitcast<vec4<u32>>(x) - vec4<u32>(0x3f3504f3u);
    let exponent = bitcast<vec4<i32>>(shifted) >> vec4<u32>(23u);
    let mantissa = bitcast<vec4<f32>>((shifted & vec4<u32>(0x7fffffu)) + vec4<u32>(0x3f3504f3u));
    let n = vec4<f32>(exponent);
    return n * 0.693359375 + (atanh_twice4((mantissa - 1.0) / (mantissa + 1.0)) - n * 2.12194440e-4);
}

// The logistic function of finite x and related values, each with relative accuracy.
struct Logistic {
    // 1/(1 + exp(-x)) and 1/(1 + exp(x))
    p: vec4<f32>,
    q: vec4<f32>,
    // log(1 + exp(x)) and log(1 + exp(-x))
    plus: vec4<f32>,
    minus: vec4<f32>,
}

fn logistic4(x: vec4<f32>) -> Logistic {
    let e = exp_far4(-min(abs(x), vec4<f32>(FLOOR)));
    // 1/(1 + e), and e/(2 + e) for log(1 + e), with one division.
    let one = 1.0 + e;
    let two = 2.0 + e;
    let inverse = 1.0 / (one * two);
    let near = two * inverse;
    let far = e * near;
    let rest = atanh_twice4(e * one * inverse);
    let above = x > vec4<f32>(0.0);
    return Logistic(
        select(far, near, above),
        select(near, far, above),
        rest + max(x, vec4<f32>(0.0)),
        rest + max(-x, vec4<f32>(0.0)),
    );
}
