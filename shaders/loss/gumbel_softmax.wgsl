// Samples of a softmax with Gumbel noise, and their gradient (row/jacobian.wgsl).

// The sample is the one-hot vector of the largest perturbed score; the gradient is that of the softmax.
override HARD: bool = false;

// -log(-log(u)) for u = (k + 1/2)/2^23, where k are the upper 23 bits of a random word: u is an f32, and never 0 or 1.
fn gumbel4(bits: vec4<u32>) -> vec4<f32> {
    let u = (vec4<f32>(bits >> vec4<u32>(9u)) + 0.5) * (1.0 / 8388608.0);
    return -log4(-log_of4(u, u - 1.0));
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    var it = jacobian_item(row, column, inside);
    let counter = vec4<u32>(column / 4u, params.origin + row.index, params.offset_low, params.offset_high);
    let noise = gumbel4(philox(counter, vec2<u32>(params.seed_low, params.seed_high)));
    it.u = select(it.u, clamp(it.u + noise, vec4<f32>(LEAST), vec4<f32>(-LEAST)), live(it.u));
    return it;
}

fn close_live(row: Row, state: State) -> Closed {
    var out = jacobian_closed(row, state);
    out.place = state.place;
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    var sample = probability(closed, it);
    if (HARD) {
        sample = select(vec4<f32>(0.0), vec4<f32>(1.0), columns_of(it) == vec4<u32>(closed.place));
    }
    output_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(sample)));
    let slope = 0.5 * double_inverse_temperature() * jacobian_product(closed, it);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(slope)));
}
