// The label of a softmax row (row/softmax.wgsl), for functors whose first weighed sum is S = Σ e over the other columns.
//
// With Z = Σ e over all columns, 1 - p_y is S/Z, and log p_y is -log(1 + S/e_y): neither subtracts numbers near 1.

fn is_label(it: Item, label: u32) -> vec4<bool> {
    return vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u) == vec4<u32>(label);
}

// log p of the label, whose score is live. Unlike an exponent it has no floor: q times it may be small.
fn log_probability(u: f32, state: State) -> f32 {
    let below = 2.0 * max(0.5 * u - 0.5 * state.top, -1e30);
    let ratio = state.weighed.x / exp_below(max(below, -80.0));
    let near = -log1p4(vec4<f32>(min(ratio, 1.0))).x;
    return select(below - log4(vec4<f32>(state.sum)).x, near, below > -80.0 && ratio < 1.0);
}
