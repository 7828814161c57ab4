// A loss of a row that depends on its columns only through four sums. Another file supplies
//   struct Item, with column: u32, bad: bool and left_out: vec4<bool> (elements without a gradient); fn item
//   fn quad_sums(row, item) -> vec4<f32>           what a quad adds to the sums
//   fn row_loss(label, sums) -> f32                the loss of a row
//   fn quad_slopes(label, item, sums) -> vec4<f32> its derivatives
//   fn finished(row, closed) -> Closed             a row that is closed, with what else is known of it

struct State {
    sums: vec4<f32>,
    bad: u32,
}

fn state_empty() -> State {
    return State(vec4<f32>(0.0), 0u);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    return State(state.sums + quad_sums(row, it), state.bad | select(0u, 1u, it.bad));
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    let sums = (quad_sums(row, a) + quad_sums(row, b)) + (quad_sums(row, c) + quad_sums(row, d));
    return State(state.sums + sums, state.bad | select(0u, 1u, a.bad || b.bad || c.bad || d.bad));
}

fn state_merge(a: State, b: State) -> State {
    return State(a.sums + b.sums, a.bad | b.bad);
}

fn close(row: Row, state: State) -> Closed {
    if (row.flags != 0u) {
        return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
    }
    let flags = factor_flags(row.factor);
    if (state.bad != 0u && is_zero(bitcast<u32>(row.row_weight))) {
        // The loss of a row with weight 0 is 0, whatever its elements are.
        return closed_blank(ROW_ZERO, 0u, NAN_BITS);
    }
    if (state.bad != 0u) {
        return closed_blank(ROW_NAN | flags, NAN_BITS, NAN_BITS);
    }
    var out: Closed;
    out.loss = times(bitcast<u32>(row.row_weight), bitcast<u32>(row_loss(row.label, state.sums)));
    out.flags = flags;
    out.sums = state.sums;
    out.factor = row.factor;
    out.label = row.label;
    return finished(row, out);
}

fn emit(row: Row, closed: Closed, it: Item) {
    let slopes = closed.factor * quad_slopes(closed.label, it, closed.sums);
    let bits = gradient_bits(closed.flags, bitcast<vec4<u32>>(slopes));
    gradient_store(row.index, it.column, select(bits, vec4<u32>(0u), it.left_out));
}
