// Dice on logits, with a share of binary cross-entropy. With P = m·sigmoid(z) and t = m·y, where m is the mask, the loss
// needs up to four sums of a row (sums.wgsl): those of the quotient (dice_quotient.wgsl), Σ m and Σ m·BCE.

override HAS_BCE: bool = false;
// More than one target stands for no target.
override IGNORES_SEVERAL: bool = false;

// 2^-64 and 2^-85. Their product is the smallest f32; it is split in two factors so that neither is subnormal.
const TINY: f32 = 5.42101086242752217e-20;
const SMALLEST: f32 = 2.58493941422821148e-26;

struct Item {
    column: u32,
    z: vec4<f32>,
    // raise·t, and the target y.
    raised_t: vec4<f32>,
    y: vec4<f32>,
    // The mask; 0 in columns past the row.
    m: vec4<f32>,
    // The sigmoid is 0.
    none: vec4<bool>,
    left_out: vec4<bool>,
    bad: bool,
}

// raise times a finite number given by its bits; the number may be below 2^-126.
fn raised4(bits: vec4<u32>) -> vec4<f32> {
    let tiny = vec4<f32>(bits & vec4<u32>(0x7fffffu)) * (params.raise * TINY) * SMALLEST;
    let sign = bits & vec4<u32>(SIGN_BIT);
    let subnormal = (bits & vec4<u32>(INFINITY_BITS)) == vec4<u32>(0u);
    let signed = bitcast<vec4<f32>>(bitcast<vec4<u32>>(tiny) | sign);
    return select(params.raise * bitcast<vec4<f32>>(bits), signed, subnormal);
}

// raise·sigmoid(z). Finite logits below params.least_logit count as least_logit, or as P = 0: see src/losses/dice.rs.
fn raised_probability4(it: Item, l: Logistic) -> vec4<f32> {
    let x = clamp(it.z, vec4<f32>(params.least_logit), vec4<f32>(0.0));
    let low = exp_raised4(x, round(x * 1.44269504), i32(params.raised)) * l.q;
    return select(select(low, vec4<f32>(0.0), it.none), params.raise * l.p, it.z > vec4<f32>(0.0));
}

// Whether a target is one of those that stand for no target. The unused ones of the four repeat the first.
fn is_ignored(target_bits: vec4<u32>) -> vec4<bool> {
    // -0 is 0.
    let y = select(target_bits, vec4<u32>(0u), is_zero4(target_bits));
    var ignored = y == vec4<u32>(params.ignored_0);
    if (IGNORES_SEVERAL) {
        ignored |= (y == vec4<u32>(params.ignored_1)) | (y == vec4<u32>(params.ignored_2));
        ignored |= y == vec4<u32>(params.ignored_3);
    }
    return ignored & vec4<bool>(params.ignored > 0u);
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let z_bits = logits_quad(row.index, column);
    let y_bits = targets_quad(row.index, column);
    let m_bits = mask_quad(row.index, column);
    let counts = inside & !is_zero4(m_bits) & !is_ignored(y_bits);
    let minus = (z_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    // At ±200 the sigmoid is exactly 0 or 1, as at ±inf.
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), minus);
    let bad = is_nan4(z_bits) | !finite(y_bits) | !finite(m_bits);
    let z = select(edge, bitcast<vec4<f32>>(z_bits), finite(z_bits));
    let known = select(vec4<u32>(0u), y_bits, finite(y_bits));
    let m = bitcast<vec4<f32>>(select(vec4<u32>(0u), m_bits, counts & finite(m_bits)));
    var it: Item;
    it.column = column;
    it.z = z;
    it.raised_t = m * raised4(known);
    it.y = bitcast<vec4<f32>>(known);
    it.m = m;
    it.left_out = !counts;
    it.none = (minus & !finite(z_bits)) | (z < vec4<f32>(params.nothing_below));
    it.bad = any(bad & counts);
    return it;
}

fn quad_sums(row: Row, it: Item) -> vec4<f32> {
    let l = logistic4(it.z);
    let p = it.m * raised_probability4(it, l);
    let both = sum4(p * (it.m * it.y));
    let whole = sum4(p) + sum4(it.raised_t);
    if (HAS_BCE) {
        let bce = sum4(it.m * (it.y * l.minus + (1.0 - it.y) * l.plus));
        return vec4<f32>(both, whole, sum4(it.m), bce);
    }
    return vec4<f32>(both, whole, 0.0, 0.0);
}

// The weight of an element's cross-entropy. Where all is masked, there is none.
fn bce_share(sums: vec4<f32>) -> f32 {
    return select(params.bce / sums.z, 0.0, sums.z == 0.0);
}

fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
    var loss = dice_loss(sums);
    if (HAS_BCE) {
        loss += bce_share(sums) * sums.w;
    }
    return loss;
}

fn quad_slopes(label: u32, it: Item, sums: vec4<f32>) -> vec4<f32> {
    let l = logistic4(it.z);
    let apart = dice_alike(sums) - 2.0 * (it.m * it.y);
    var slopes = (raised_probability4(it, l) * l.q) * (apart * dice_inverse(sums));
    if (HAS_BCE) {
        slopes += bce_share(sums) * ((1.0 - it.y) * l.p - it.y * l.q);
    }
    return it.m * slopes;
}

fn finished(row: Row, closed: Closed) -> Closed {
    return closed;
}
