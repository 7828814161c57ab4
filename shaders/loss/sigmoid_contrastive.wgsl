// Sigmoid contrastive loss: each pair by itself, Σ softplus(-l·s), where l = 1 for positives and -1 for the rest.

struct State {
    sum: f32,
    // Σ of the gradient of the scores, and Σ of that gradient times x.
    slope: f32,
    moment: f32,
    bad: u32,
}

fn positives(row: Row, column: u32) -> vec4<bool> {
    return columns_of(column) == vec4<u32>(row.label);
}

fn candidates(row: Row, column: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

// -l·s where the column is live.
fn misfit(it: Item) -> vec4<f32> {
    return select(vec4<f32>(0.0), select(it.s, -it.s, it.positive), it.live);
}

// ∂softplus(-l·s)/∂s = -l·sigmoid(-l·s).
fn slope(it: Item, sigmoid: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), select(sigmoid, -sigmoid, it.positive), it.live);
}

fn quad(it: Item) -> State {
    let l = logistic4(misfit(it));
    let loss = l.plus;
    let g = slope(it, l.p);
    return State(
        sum4(select(vec4<f32>(0.0), loss, it.live)),
        sum4(g),
        sum4(g * it.x),
        select(0u, 1u, any(it.bad)),
    );
}

fn state_empty() -> State {
    return State(0.0, 0.0, 0.0, 0u);
}

fn state_merge(a: State, b: State) -> State {
    return State(a.sum + b.sum, a.slope + b.slope, a.moment + b.moment, a.bad | b.bad);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    return state_merge(state, quad(it));
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    return state_merge(state, state_merge(state_merge(quad(a), quad(b)), state_merge(quad(c), quad(d))));
}

fn close(row: Row, state: State) -> Closed {
    if (row.flags != 0u) {
        return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
    }
    let flags = factor_flags(row.factor);
    if (state.bad != 0u) {
        let fill = select(NAN_BITS, 0u, flags == ROW_ZERO);
        return closed_blank(ROW_NAN | flags, NAN_BITS, fill);
    }
    var out: Closed;
    out.loss = bitcast<u32>(state.sum);
    out.scale = times(bitcast<u32>(row.factor), bitcast<u32>(state.moment));
    out.bias = times(bitcast<u32>(row.factor), bitcast<u32>(state.slope));
    out.factor = row.factor;
    out.flags = flags;
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    if (closed.flags != 0u) {
        // A factor of 0 wins over NaN: the row's gradient is then 0.
        gradient_store(row.index, it.column, vec4<u32>(select(NAN_BITS, 0u, (closed.flags & ROW_ZERO) != 0u)));
        return;
    }
    emit_scores(row, it, closed.factor * slope(it, logistic4(misfit(it)).p), vec4<bool>(false));
}
