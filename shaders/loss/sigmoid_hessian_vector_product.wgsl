// The Hessian of binary cross-entropies times a vector: every element by itself, weight·P·(1 - P)·v/T² with P = sigmoid(z/T).

struct Item {
    column: u32,
    z: vec4<u32>,
    weight: vec4<u32>,
    v: vec4<u32>,
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let weight = weight_quad(row.index, column);
    return Item(column, logits_quad(row.index, column), weight, vector_quad(row.index, column));
}

fn close(row: Row, state: State) -> Closed {
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    var out = closed_blank(factor_flags(row.factor), 0u, 0u);
    out.factor = row.factor;
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    // At ±200 one of P and 1 - P is 0, as at ±inf.
    let reach = 200.0 / params.inverse_temperature;
    let edge = select(vec4<f32>(reach), vec4<f32>(-reach), (it.z & vec4<u32>(SIGN_BIT)) != vec4<u32>(0u));
    let z = clamp(select(edge, bitcast<vec4<f32>>(it.z), finite(it.z)), vec4<f32>(-reach), vec4<f32>(reach));
    let l = logistic4(z * params.inverse_temperature);
    let curvature = closed.factor * params.share * params.inverse_temperature * params.inverse_temperature * (l.p * l.q);
    let product = times4(times4(it.weight, it.v), bitcast<vec4<u32>>(curvature));
    let lost = is_nan4(it.z) | !finite(it.v) | !finite(it.weight);
    let bits = select(product, vec4<u32>(NAN_BITS), lost);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bits));
}
