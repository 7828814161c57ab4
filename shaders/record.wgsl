// What is known of a row before its stream (the row table) and what it leaves behind (its record). The words of a
// record that are a loss's own are constants too, written in front of the kernel (src/row/contract.rs).

// Flags of an entry.
const IGNORED: u32 = 1u;
const BAD_TARGET: u32 = 2u;

// Flags of a row: its gradient is 0 (ignored, bad target); its gradient is NaN (bad logits).
const ROW_ZERO: u32 = 1u;
const ROW_NAN: u32 = 2u;

// A gradient, or what a row of these flags has for one: 0 wins over NaN, since nothing comes down to it.
//
// Hazard: with a store of its own for such rows, behind an `if`, every row took an eighth longer on
// lavapipe, which runs both sides of a branch under a mask, and a masked store costs as much as another.
fn gradient_bits(flags: u32, bits: vec4<u32>) -> vec4<u32> {
    let fill = select(NAN_BITS, 0u, (flags & ROW_ZERO) != 0u);
    return select(bits, vec4<u32>(fill), flags != 0u);
}
