override EMPTY_IS_ZERO: bool = false;

// sum/divisor as bits; over nothing it is what the caller chose, but a NaN stays one.
fn quotient(sum: u32, divisor: f32) -> u32 {
    if (divisor == 0.0) {
        return select(NAN_BITS, 0u, EMPTY_IS_ZERO && (sum & ~SIGN_BIT) <= INFINITY_BITS);
    }
    let flipped = sum ^ select(0u, SIGN_BIT, divisor < 0.0);
    return bits_or(bitcast<f32>(sum) / divisor, select(flipped, NAN_BITS, (sum & ~SIGN_BIT) > INFINITY_BITS), finite_one(sum));
}
