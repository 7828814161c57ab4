// What is known of a row before it is streamed (the row table), and what a row leaves behind (its record). The words of
// a record that belong to the loss are constants too, written in front of the kernel (src/skeleton/row/contract.rs).

// Flags of a row table entry.
const IGNORED: u32 = 1u;
const BAD_TARGET: u32 = 2u;

// Flags of a record. ROW_ZERO: the gradient is 0 (ignored row, bad target, or factor 0). ROW_NAN: the gradient is NaN
// because of the logits. ROW_FACTOR_NAN: the gradient is NaN because its factor is.
const ROW_ZERO: u32 = 1u;
const ROW_NAN: u32 = 2u;
const ROW_FACTOR_NAN: u32 = 4u;

// The flags that a factor gives its row. NaN is tested first, so that no other flag can hide it.
fn factor_flags(factor: f32) -> u32 {
    if (is_nan(bitcast<u32>(factor))) {
        return ROW_FACTOR_NAN;
    }
    return select(0u, ROW_ZERO, factor == 0.0);
}

// Whether a factor is 0; false for NaN.
fn is_nothing(factor: f32) -> bool {
    return factor_flags(factor) == ROW_ZERO;
}

// The gradient, or its replacement in a row with flags. 0 wins over NaN: a row whose factor is 0 has the gradient 0.
//
// Hazard: do not store the replacement separately behind an `if`. Symptom: every row took an eighth longer on lavapipe.
// Cause: lavapipe runs both sides of a branch under a mask, and a masked store costs as much as any other. Remedy: one
// store of a selected value.
fn gradient_bits(flags: u32, bits: vec4<u32>) -> vec4<u32> {
    let fill = select(NAN_BITS, 0u, (flags & ROW_ZERO) != 0u);
    return select(bits, vec4<u32>(fill), flags != 0u);
}
