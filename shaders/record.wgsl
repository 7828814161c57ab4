// What is known of a row before its stream (the row table) and what it leaves behind (its record).

// Flags of an entry.
const IGNORED: u32 = 1u;
const BAD_TARGET: u32 = 2u;

const RECORD_LOSS: u32 = 0u;
// Its parts of the gradients of a scale and a bias that all pairs share.
const RECORD_SCALE: u32 = 2u;
const RECORD_BIAS: u32 = 3u;
const RECORD_CORRECT: u32 = 7u;
// The first factor of a gradient; before the row is closed, its saved lse.
const RECORD_FACTORS: u32 = 8u;
// Before the row is closed, where its columns go by in blocks: the scores of the column before its label,
// of the label and of the column after it.
const RECORD_BESIDE: u32 = 9u;
const RECORD_FLAGS: u32 = 15u;
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
