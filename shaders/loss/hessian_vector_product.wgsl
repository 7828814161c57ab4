// The Hessian of a cross-entropy times a vector (row/jacobian.wgsl).

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return jacobian_item(row, column, inside);
}

fn close_live(row: Row, state: State) -> Closed {
    var out = jacobian_closed(row, state);
    out.factor = row.factor;
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let inverse_temperature = 0.5 * double_inverse_temperature();
    let product = closed.factor * inverse_temperature * inverse_temperature * jacobian_product(closed, it);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(product)));
}
