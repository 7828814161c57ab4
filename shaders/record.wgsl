// What is known of a row before its stream (the row table) and what it leaves behind (its record). The words of a
// record that are a loss's own are constants too, written in front of the kernel (src/skeleton/row/contract.rs).

// Flags of an entry.
const IGNORED: u32 = 1u;
const BAD_TARGET: u32 = 2u;

// Flags of a row: its gradient is 0 (ignored, bad target); its gradient is NaN, because of its logits or because of
// what the gradient is multiplied by.
const ROW_ZERO: u32 = 1u;
const ROW_NAN: u32 = 2u;
const ROW_FACTOR_NAN: u32 = 4u;

// What a factor makes of its row's gradient: NaN first, which nothing else may hide.
fn factor_flags(factor: f32) -> u32 {
    if (is_nan(bitcast<u32>(factor))) {
        return ROW_FACTOR_NAN;
    }
    return select(0u, ROW_ZERO, factor == 0.0);
}

// Whether a factor is 0, which a NaN is not.
fn is_nothing(factor: f32) -> bool {
    return factor_flags(factor) == ROW_ZERO;
}

// A gradient, or what a row of these flags has for one: 0 wins over NaN, since nothing comes down to it.
//
// Hazard: with a store of its own for such rows, behind an `if`, every row took an eighth longer on
// lavapipe, which runs both sides of a branch under a mask, and a masked store costs as much as another.
fn gradient_bits(flags: u32, bits: vec4<u32>) -> vec4<u32> {
    let fill = select(NAN_BITS, 0u, (flags & ROW_ZERO) != 0u);
    return select(bits, vec4<u32>(fill), flags != 0u);
}
