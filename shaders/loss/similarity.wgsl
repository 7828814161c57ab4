// Similarity: stores the scores themselves where other losses store the gradient of the scores.

struct State {
    bad: u32,
}

fn positives(row: Row, column: u32) -> vec4<bool> {
    return vec4<bool>(false);
}

fn candidates(row: Row, column: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

fn state_empty() -> State {
    return State(0u);
}

fn state_merge(a: State, b: State) -> State {
    return State(a.bad | b.bad);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    return State(state.bad | select(0u, 1u, any(it.bad)));
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    return State(state.bad | select(0u, 1u, any(a.bad | b.bad | c.bad | d.bad)));
}

fn close(row: Row, state: State) -> Closed {
    return closed_blank(select(0u, ROW_NAN, state.bad != 0u), 0u, 0u);
}

fn score_bits(row: Row, it: Item) -> vec4<u32> {
    return select(vec4<u32>(NAN_BITS), bitcast<vec4<u32>>(it.s), it.live);
}

fn emit(row: Row, closed: Closed, it: Item) {
    gradient_store(row.index, it.column, score_bits(row, it));
}
