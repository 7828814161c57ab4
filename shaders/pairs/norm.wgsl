// The norm of a vector from its largest element and the sum of its squares.

// The least and the largest exponent of the largest element for which the scale is 1: 2^-40 and 2^40.
const LEAST_EXPONENT: u32 = 87u;
const MOST_EXPONENT: u32 = 167u;

struct Norm {
    inverse: u32,
    scale: f32,
}

// A power of two that brings the largest element (its bits) near 1, so that squares neither overflow nor vanish.
fn square_factor(top: u32) -> f32 {
    let exponent = top >> 23u;
    return bitcast<f32>(clamp(254u - min(exponent, 253u), 1u, 253u) << 23u);
}

// From Σ (square_factor·element)². A vector whose elements are all below 2^-126 counts as zeros, because devices may read
// such numbers as 0.
fn norm_from(top: u32, sum: f32) -> Norm {
    let factor = square_factor(top);
    let exponent = top >> 23u;
    let normal = top >= 0x00800000u && top < INFINITY_BITS;
    let scales = normal && (exponent < LEAST_EXPONENT || exponent > MOST_EXPONENT);
    let inverse = select(factor, 1.0, scales) / sqrt(max(sum, 1e-30));
    let bits = select(select(0u, bitcast<u32>(inverse), normal), NAN_BITS, top >= INFINITY_BITS);
    return Norm(bits, select(1.0, factor, scales));
}
