// A Dice coefficient over the classes of a softmax as a row loss knows it: with the share of cross-entropy, and what the
// gradient needs of it (dice_pixels.wgsl).

// The largest slope is 2^100, whatever the smoothing is. A slope that large has only p near 0 to multiply.
const MOST_SLOPE: f32 = 1.26765060e30;

// Bits. A gradient with respect to P is slope, and `met` more where the class is the pixel's.
struct Coefficient {
    loss: u32,
    flags: u32,
    slope: u32,
    met: u32,
    // The coefficient's part of the gradient of the mean cross-entropy.
    share: u32,
    // 1, or 0 where the gradient is multiplied by 0.
    flows: u32,
}

// From the sums of dice_quotient.wgsl. Where a pixel has no cross-entropy (a bad target or bad scores), there is no
// coefficient.
fn coefficient(row: Row, sums: vec4<f32>) -> Coefficient {
    let mean = scalar_bits();
    let bad = is_nan(mean);
    let more = times(bitcast<u32>(params.cross_entropy_weight), mean);
    let finite_more = bitcast<f32>(select(0u, more, finite_one(more)));
    let loss = bits_or(dice_loss(sums) + finite_more, more, finite_one(more));
    let unit = min(dice_inverse(sums), MOST_SLOPE / params.raise) * params.raise;
    let factor = select(bitcast<u32>(row.factor), NAN_BITS, bad && !is_nothing(row.factor));
    let flows = bitcast<u32>(select(1.0, 0.0, is_nothing(row.factor)));
    var out: Coefficient;
    // The loss of a class with weight 0 is 0, whatever the pixels are.
    let spoilt = bad && !is_zero(bitcast<u32>(row.row_weight));
    out.loss = select(times(bitcast<u32>(row.row_weight), loss), NAN_BITS, spoilt);
    out.flags = factor_flags(row.factor) | select(0u, ROW_NAN, spoilt);
    out.slope = times(factor, bitcast<u32>(dice_alike(sums) * unit));
    out.met = times(factor, bitcast<u32>(-2.0 * unit));
    out.share = factor;
    out.flows = select(flows, NAN_BITS, is_nan(factor));
    return out;
}
