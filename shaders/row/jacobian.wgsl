// The derivative of a softmax p = softmax(z/T) in the direction of a vector v: p∘(v - ⟨p, v⟩), which 1/T still multiplies.
//
// The first round finds the normaliser and the most probable column, the second the mean of v under p. Both v and its mean
// are taken relative to v at the most probable column: where its p is near 1, nothing cancels.
//
// `RowProgram::jacobian` (src/skeleton/row/contract.rs) makes its program. The functor supplies `item`, which begins with
// `jacobian_item`, `close_live`, which begins with `jacobian_closed`, and `emit`.

const TWO_SOFTMAXES: bool = false;

// The scores and v; a row with a v that is NaN or infinite is a bad row.
fn jacobian_item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    var it = item_of_scores(row, column, inside);
    let v = vector_quad(row.index, column);
    it.q = bitcast<vec4<f32>>(select(vec4<u32>(0u), v, finite(v) & inside));
    it.bad |= !finite(v) & inside;
    return it;
}

fn terms(row: Row, it: Item, state: State) -> Terms {
    var out: Terms;
    if (row.round == 1u) {
        let p = exp_of(it.u, row.settled.top) * row.settled.inverse_sum;
        out.plain.x = sum4(select(vec4<f32>(0.0), p * (it.q - row.settled.centre), live(it.u)));
    }
    return out;
}

fn reweighed(state: State, top: f32, second_top: f32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn settle_live(row: Row, state: State) -> Settled {
    var settled: Settled;
    settled.top = state.top;
    settled.inverse_sum = 1.0 / state.sum;
    let centre = vector_at(row.index, state.place);
    settled.centre = bitcast<f32>(select(0u, centre, finite_one(centre)));
    return settled;
}

fn jacobian_closed(row: Row, state: State) -> Closed {
    var out: Closed;
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.centre = row.settled.centre;
    out.mean = state.plain.x;
    return out;
}

fn probability(closed: Closed, it: Item) -> vec4<f32> {
    return exp_of(it.u, closed.top) * closed.inverse_sum;
}

fn jacobian_product(closed: Closed, it: Item) -> vec4<f32> {
    return probability(closed, it) * ((it.q - closed.centre) - closed.mean);
}
