// sum/divisor, operands and result as bits. With a divisor of 0 the result is what the caller chose for a mean over
// nothing. A NaN in either operand gives NaN, and so does infinity/infinity.
fn quotient(sum: u32, divisor: u32) -> u32 {
    if (is_nan(sum) || is_nan(divisor)) {
        return NAN_BITS;
    }
    if (is_zero(divisor)) {
        return select(NAN_BITS, 0u, params.empty_is_zero != 0u);
    }
    let sign = (sum ^ divisor) & SIGN_BIT;
    if (!finite_one(divisor)) {
        return select(NAN_BITS, sign, finite_one(sum));
    }
    return bits_or(bitcast<f32>(sum) / bitcast<f32>(divisor), INFINITY_BITS | sign, finite_one(sum));
}
