// The classes of a Dice loss over the classes of a softmax: a row is a class and a column is a pixel. With
// P = m·softmax(z) and t = m·[the pixel's target is the class], where m is the mask, the loss needs three sums of a row
// (sums.wgsl): those of the quotient (dice_quotient.wgsl), and Σ t. Of each pixel it reads what dice_pixels.wgsl has
// left: the largest score, and 1/Σ e.

// The least raise·P is 2^-125, above the numbers that a device may treat as 0.
const LEAST_RAISED: f32 = 2.35098870e-38;

struct Item {
    column: u32,
    // raise·P, and raise·P or 0 by whether the class is the pixel's target.
    p: vec4<f32>,
    both: vec4<f32>,
    t: vec4<f32>,
    left_out: vec4<bool>,
    bad: bool,
}

// Whether a pixel's target is this class.
fn is_target(column: u32, own: u32) -> bool {
    return all(targets_at(min(column, params.classes - 1u)) == vec2<u32>(own, 0u));
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let z_bits = logits_quad(row.index, column);
    let top_bits = pixel_top_quad(row.index, column);
    let scale_bits = pixel_scale_quad(row.index, column);
    let m_bits = mask_quad(row.index, column);
    // Pixels without a loss (ignored, say) have the scale 0.
    let counts = inside & !is_zero4(scale_bits) & !is_zero4(m_bits);
    let known = counts & finite(z_bits) & finite(top_bits) & finite(scale_bits) & finite(m_bits);
    let z = bitcast<vec4<f32>>(select(vec4<u32>(0u), z_bits, known));
    let top = bitcast<vec4<f32>>(select(vec4<u32>(0u), top_bits, known));
    let scale = bitcast<vec4<f32>>(select(vec4<u32>(0u), scale_bits, known));
    let m = bitcast<vec4<f32>>(select(vec4<u32>(0u), m_bits, counts & finite(m_bits)));
    // Halves, because the difference of huge scores may be above the largest f32.
    let apart = 2.0 * max(0.5 * z - 0.5 * top, vec4<f32>(-200.0));
    let x = clamp(apart, vec4<f32>(params.least_logit), vec4<f32>(0.0));
    let e = exp_raised4(x, round(x * 1.44269504), i32(params.raised));
    let own = params.origin + row.index;
    let hit = vec4<bool>(
        is_target(column, own),
        is_target(column + 1u, own),
        is_target(column + 2u, own),
        is_target(column + 3u, own),
    );
    let t = select(vec4<f32>(0.0), m, hit);
    var it: Item;
    it.column = column;
    // A score of -inf is not known, and has P = 0.
    let p = max(e * scale, vec4<f32>(LEAST_RAISED));
    it.p = select(m * p, vec4<f32>(0.0), !known | (apart < vec4<f32>(params.nothing_below)));
    it.both = it.p * t;
    it.t = t;
    return it;
}

fn quad_sums(row: Row, it: Item) -> vec4<f32> {
    let hits = sum4(it.t);
    return vec4<f32>(sum4(it.both), sum4(it.p) + params.raise * hits, hits, 0.0);
}

fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
    return dice_loss(sums);
}

// The gradient is written by pixels.
fn quad_slopes(label: u32, it: Item, sums: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(0.0);
}

// Leaves the coefficient's slopes, and the sums themselves for a coefficient over all classes (dice_joint.wgsl).
fn finished(row: Row, closed: Closed) -> Closed {
    let own = coefficient(row, closed.sums);
    var out = closed;
    out.loss = own.loss;
    out.flags = own.flags;
    out.slope = own.slope;
    out.met = own.met;
    out.share = own.share;
    out.flows = own.flows;
    out.both = bitcast<u32>(closed.sums.x);
    out.whole = bitcast<u32>(closed.sums.y);
    out.hits = bitcast<u32>(closed.sums.z);
    return out;
}
