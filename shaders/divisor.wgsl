// What a sum of losses is divided by.

const REDUCE_SUM: u32 = 1u;
const REDUCE_MEAN: u32 = 2u;
const REDUCE_OVER: u32 = 3u;

// The caller's denominator lies on the GPU.
override HAS_DENOMINATOR: bool = false;

fn divisor_of(denominator: f32) -> f32 {
    if (HAS_DENOMINATOR) {
        return bitcast<f32>(denominator_at(0u, 0u));
    }
    if (params.reduction == REDUCE_MEAN) {
        return denominator;
    }
    return select(1.0, params.over, params.reduction == REDUCE_OVER);
}

// A mean over nothing has gradient 0.
fn inverse_of(divisor: f32) -> f32 {
    return select(1.0 / divisor, 0.0, divisor == 0.0);
}
