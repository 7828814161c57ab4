// Dice on logits, with a share of binary cross-entropy: four sums of a row (sums.wgsl).
// The sums: Σ P·y, Σ P, Σ y, Σ BCE.

override HAS_BCE: bool = false;

struct Item {
    column: u32,
    z: vec4<f32>,
    y: vec4<f32>,
    inside: vec4<bool>,
    bad: bool,
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let z_bits = logits_quad(row.index, column);
    let y_bits = targets_quad(row.index, column);
    let minus = (z_bits & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u);
    // At ±200 the sigmoid is 0 or 1: what it is at ±inf.
    let edge = select(vec4<f32>(200.0), vec4<f32>(-200.0), minus);
    let bad = is_nan4(z_bits) | !finite(y_bits);
    var it: Item;
    it.column = column;
    it.z = select(edge, bitcast<vec4<f32>>(z_bits), finite(z_bits));
    it.y = select(vec4<f32>(0.0), bitcast<vec4<f32>>(y_bits), finite(y_bits));
    it.inside = inside;
    it.bad = any(bad & inside);
    return it;
}

fn quad_sums(row: Row, it: Item) -> vec4<f32> {
    let l = logistic4(it.z);
    let p = select(vec4<f32>(0.0), l.p, it.inside);
    let y = select(vec4<f32>(0.0), it.y, it.inside);
    var bce = 0.0;
    if (HAS_BCE) {
        bce = sum4(select(vec4<f32>(0.0), it.y * l.minus + (1.0 - it.y) * l.plus, it.inside));
    }
    return vec4<f32>(sum4(p * y), sum4(p), sum4(y), bce);
}

fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
    // (ΣP + Σy − 2ΣPy)/(ΣP + Σy + s); two empty masks are the same mask.
    let whole = sums.y + sums.z + params.smooth_by;
    let apart = (sums.y + sums.z) - 2.0 * sums.x;
    return select(apart / whole, 0.0, whole == 0.0) + params.bce_share * sums.w;
}

fn quad_slopes(label: u32, it: Item, sums: vec4<f32>) -> vec4<f32> {
    let whole = sums.y + sums.z + params.smooth_by;
    let inverse = select(1.0 / whole, 0.0, whole == 0.0);
    let l = logistic4(it.z);
    let alike = (2.0 * sums.x + params.smooth_by) * inverse;
    var slopes = (l.p * l.q) * ((alike - 2.0 * it.y) * inverse);
    if (HAS_BCE) {
        slopes += params.bce_share * ((1.0 - it.y) * l.p - it.y * l.q);
    }
    return slopes;
}
