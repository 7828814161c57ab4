// The top-k hinge. An earlier kernel (row/select.wgsl) has found the k-th best column of each row without its label
// (`selected`). A column is one of the k best if it does not come after that column.

// Use the mean of the k best columns instead of the k-th column alone.
override AVERAGE: bool = false;

// A column before the k-th best one is -inf.
const STATE_MASKED: u32 = 4u;

// Over the columns that come before the k-th best one: Σ of their lead over the label, margin included, and the number
// of these columns that are not -inf.
struct State {
    sum: f32,
    count: u32,
    flags: u32,
}

fn open(index: u32) -> Row {
    var row = open_compared(index);
    row.last = Place(selected_read(index * 3u), selected_read(index * 3u + 1u));
    return row;
}

// The k-th best is searched among all columns but the label.
fn score_bits(row: Row, it: Item) -> vec4<u32> {
    return select(it.bits, vec4<u32>(NONE), columns_of(it) == vec4<u32>(row.label));
}

fn state_empty() -> State {
    return State(0.0, 0u, 0u);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    var terms = vec4<f32>(0.0);
    var count = state.count;
    var flags = state.flags | flags_of_quad(it);
    for (var i = 0u; i < 4u; i += 1u) {
        let bits = it.bits[i];
        let is_live = finite_one(bits) && it.inside[i];
        let masked = bits == MINUS_INFINITY && it.inside[i];
        if (AVERAGE) {
            let column = it.column + i;
            let best = before(Place(place_key(bits), column), row.last) && column != row.label;
            flags |= select(0u, STATE_MASKED, best && masked);
            count += select(0u, 1u, best && is_live);
            terms[i] = select(0.0, lead(row, select(0u, bits, is_live)), best && is_live && finite_one(row.label_bits));
        }
    }
    return State(state.sum + sum4(terms), count, flags);
}

fn state_merge(a: State, b: State) -> State {
    return State(a.sum + b.sum, a.count + b.count, a.flags | b.flags);
}

fn close(row: Row, state: State) -> Closed {
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    if (!is_usable(state.flags)) {
        return closed_bad(row);
    }
    var out = closed_blank(factor_flags(row.factor), 0u, 0u);
    out.label = row.label;
    out.last_key = row.last.key;
    out.last_column = row.last.column;
    let last_bits = key_bits(row.last.key);
    let last_live = last_bits != MINUS_INFINITY;
    let label_live = row.label_bits != MINUS_INFINITY;
    var last_ahead = 0.0;
    if (last_live && label_live) {
        last_ahead = lead(row, last_bits);
    }
    var sum = last_ahead;
    var masked = !last_live;
    var count = select(0u, 1u, last_live);
    out.takes_last = 1u;
    if (AVERAGE) {
        // The label's own 0 replaces the k-th best column, if the label comes before that column.
        let label_first = !last_live || (label_live && (last_ahead < 0.0 || (last_ahead == 0.0 && row.label < row.last.column)));
        out.takes_last = select(1u, 0u, label_first);
        masked = (state.flags & STATE_MASKED) != 0u;
        sum = state.sum + select(last_ahead, 0.0, label_first);
        count = state.count + select(count, 0u, label_first);
    }
    let open_hinge = !label_live || (!masked && sum > 0.0);
    out.share = select(0.0, row.factor * params.share, open_hinge);
    out.label_share = -(out.share * f32(count));
    let hinge = bitcast<u32>(params.share * select(0.0, sum, open_hinge));
    out.loss = times(bitcast<u32>(row.row_weight), select(INFINITY_BITS, hinge, label_live));
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    let last = Place(closed.last_key, closed.last_column);
    var g = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        let column = it.column + i;
        let best = AVERAGE && before(Place(place_key(it.bits[i]), column), last);
        let taken = (best || (column == last.column && closed.takes_last != 0u)) && it.bits[i] != MINUS_INFINITY;
        g[i] = select(select(0.0, closed.share, taken), closed.label_share, column == closed.label);
    }
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
