// The negative log-likelihood of given log-probabilities or probabilities. Only the target's number is read.

// The scores are probabilities.
override PROBABILITIES: bool = false;

struct Item {
    column: u32,
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    return Item(column);
}

// The loss of the target's number without weights, as bits, and its derivative.
struct Likelihood {
    loss: u32,
    slope: f32,
}

fn likelihood(bits: u32) -> Likelihood {
    let lowest = bits == (INFINITY_BITS | SIGN_BIT);
    let x = bitcast<f32>(select(bits, 0u, lowest));
    if (PROBABILITIES) {
        // Below eps, where the slope would grow without bound, the loss is that of eps.
        let above = !lowest && x >= params.eps;
        let p = select(params.eps, x, above);
        return Likelihood(bitcast<u32>(-log4(vec4<f32>(p)).x), select(0.0, -1.0 / p, above));
    }
    return Likelihood(select(bits ^ SIGN_BIT, INFINITY_BITS, lowest), -1.0);
}

fn close(row: Row, state: State) -> Closed {
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    let bits = label_score(row.index, row.label, row.label);
    let weight = weight_at(0u, row.label);
    if (is_nan(bits) || bits == INFINITY_BITS || !finite_one(weight)) {
        return closed_bad(row);
    }
    let found = likelihood(bits);
    var out = closed_blank(factor_flags(row.factor), 0u, 0u);
    out.label = row.label;
    out.label_slope = row.factor * bitcast<f32>(weight) * found.slope;
    out.loss = times(bitcast<u32>(row.row_weight), times(weight, found.loss));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let columns = vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u);
    let g = select(vec4<f32>(0.0), vec4<f32>(closed.label_slope), columns == vec4<u32>(closed.label));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
