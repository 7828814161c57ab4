// Chooses the divisor of a sum of losses.

const REDUCE_SUM: u32 = 1u;
const REDUCE_MEAN: u32 = 2u;
const REDUCE_OVER: u32 = 3u;
// The caller's denominator is in a buffer on the GPU.
const REDUCE_GIVEN: u32 = 4u;

// Returns bits: both the caller's denominator and the denominator of a mean may be NaN or infinite.
fn divisor_of(denominator: u32) -> u32 {
    if (params.reduction == REDUCE_GIVEN) {
        return denominator_at(0u, 0u);
    }
    if (params.reduction == REDUCE_MEAN) {
        return denominator;
    }
    return bitcast<u32>(select(1.0, params.over, params.reduction == REDUCE_OVER));
}

// 1/divisor as bits. For a divisor of 0 the result is arbitrary; `row_factor` does not use it in that case.
fn inverse_of(divisor: u32) -> u32 {
    if (is_nan(divisor)) {
        return NAN_BITS;
    }
    if (!finite_one(divisor)) {
        return 0u;
    }
    return bitcast<u32>(1.0 / bitcast<f32>(divisor));
}
