// A loss of a row that depends on its columns through four sums alone. Another file supplies
//   struct Item, with column: u32 and bad: bool; fn item
//   fn quad_sums(row, item) -> vec4<f32>           what a quad adds to the sums
//   fn row_loss(label, sums) -> f32                the loss of a row
//   fn quad_slopes(label, item, sums) -> vec4<f32> its derivatives

struct Row {
    index: u32,
    label: u32,
    flags: u32,
    row_weight: f32,
    factor: f32,
}

struct State {
    sums: vec4<f32>,
    bad: u32,
}

struct Closed {
    loss: u32,
    sums: vec4<f32>,
    factor: f32,
    label: u32,
    flags: u32,
}

fn reopen(index: u32) -> Row {
    return Row(index, NONE, 0u, 0.0, 0.0);
}

fn open(index: u32) -> Row {
    let entry = row_table[HEADER + params.first_row + index];
    let row_weight = bitcast<f32>(entry.z);
    let inverse = bitcast<f32>(row_table[0].z);
    return Row(index, entry.x, entry.y, row_weight, row_weight * bitcast<f32>(entry.w) * inverse);
}

fn row_streams(row: Row) -> bool {
    return row.flags == 0u;
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

fn state_publish(row: u32, state: State) {}

fn close(row: Row, state: State) -> Closed {
    if (row.flags != 0u) {
        let loss = select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u);
        return Closed(loss, state.sums, 0.0, row.label, ROW_ZERO);
    }
    let zero = select(0u, ROW_ZERO, row.factor == 0.0);
    if (state.bad != 0u) {
        return Closed(NAN_BITS, state.sums, row.factor, row.label, ROW_NAN | zero);
    }
    let loss = row.row_weight * row_loss(row.label, state.sums);
    return Closed(bitcast<u32>(loss), state.sums, row.factor, row.label, zero);
}

fn closed_write(row: Row, closed: Closed) {
    let at = (params.first_row + row.index) * RECORD;
    records[at + RECORD_LOSS] = closed.loss;
    records[at + RECORD_CORRECT] = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        records[at + RECORD_FACTORS + i] = bitcast<u32>(closed.sums[i]);
    }
    records[at + 12u] = bitcast<u32>(closed.factor);
    records[at + 13u] = closed.label;
    records[at + RECORD_FLAGS] = closed.flags;
}

fn closed_read(row: Row) -> Closed {
    let at = (params.first_row + row.index) * RECORD;
    let sums = vec4<u32>(records[at + 8u], records[at + 9u], records[at + 10u], records[at + 11u]);
    return Closed(0u, bitcast<vec4<f32>>(sums), bitcast<f32>(records[at + 12u]), records[at + 13u], records[at + RECORD_FLAGS]);
}

fn emit(row: Row, closed: Closed, it: Item) {
    let slopes = closed.factor * quad_slopes(closed.label, it, closed.sums);
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(slopes)));
}
