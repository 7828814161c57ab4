// Cross-entropy without upstream gradients of by-products: the gradient is that of the loss.

fn loss_factor(factor: f32) -> f32 {
    return factor;
}

fn flags_of(row: Row) -> u32 {
    return factor_flags(row.factor);
}

fn close_byproducts(row: Row, closed: Closed, streamed: State) -> Closed {
    return closed;
}

fn taken_for(factor: f32, coefficient: vec4<f32>) -> vec4<f32> {
    return factor * coefficient;
}

fn with_byproducts(closed: Closed, g: vec4<f32>, p: vec4<f32>, shift: vec4<f32>) -> vec4<f32> {
    return g;
}
