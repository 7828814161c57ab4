// A softmax over the keys of a query; the loss is the mean of -log p over the query's P positives.
//
// The loss of a row is log Σ exp(s - top) - Σ_positives (s - top)/P. A common offset of the scores cancels before
// anything is rounded.
//
// A functor also supplies fn positive_count(row) -> f32, the count over all shards.

// The keys have their own softmax over the queries, or the keys are queries themselves because both are the same
// vectors. That softmax adds a part to the gradient, which is computed from column_table.
override JOINT: bool = false;
// The keys are a shard of all keys.
override SHARDED: bool = false;
// The caller wants the gradient of the scale.
override SCALE_GRADIENT: bool = false;
// A key that is no positive and whose x exceeds that of the positive, before any margin of the positive's, by more than
// params.false_negative_margin takes no part in the row's softmax. A column's softmax leaves out rows in the same way.
override FILTERS: bool = false;

const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;
// The column of the positive has no usable softmax.
const STATE_COLUMN_BAD: u32 = 4u;

struct State {
    top: f32,
    sum: f32,
    // Σ exp(s - top)·(x - reference), where reference is the x of the largest s.
    moment: f32,
    reference: f32,
    // Σ_positives (s - top), and the number of positives.
    term: f32,
    positives: f32,
    // -log p of the positive in its column's softmax, known to the shard that has that column.
    back: f32,
    flags: u32,
}

fn open(index: u32) -> Row {
    var row = row_of(index);
    if (FILTERS) {
        row.positive = similarity(row, row.label);
    }
    return row;
}

// For use after the row is closed, when the score of its label may be gone.
fn reopen(index: u32) -> Row {
    var row = row_of(index);
    if (FILTERS) {
        row.positive = bitcast<f32>(records[record_of(index) + OUT_X]);
    }
    return row;
}

// A quad without the pairs that exceed these positives by too much. A positive pair itself always stays.
fn filtered(it: Item, positive: vec4<f32>) -> Item {
    var out = it;
    out.live = it.live & (it.positive | (it.x <= positive + vec4<f32>(params.false_negative_margin)));
    out.s = select(vec4<f32>(LOWEST), it.s, out.live);
    return out;
}

fn filtered_by_row(row: Row, it: Item) -> Item {
    if (FILTERS) {
        return filtered(it, vec4<f32>(row.positive));
    }
    return it;
}

fn state_empty() -> State {
    var empty: State;
    empty.top = LOWEST;
    return empty;
}

fn state_take_quad(row: Row, state: State, given: Item) -> State {
    let it = filtered_by_row(row, given);
    let quad_top = max4(it.s);
    var moved = rescale(state, max(state.top, quad_top));
    if (SCALE_GRADIENT && quad_top > state.top) {
        moved = refer(moved, reference(it, moved.top));
    }
    return added(moved, part(it, moved));
}

fn state_take_tile(row: Row, state: State, e: Item, f: Item, g: Item, h: Item) -> State {
    let a = filtered_by_row(row, e);
    let b = filtered_by_row(row, f);
    let c = filtered_by_row(row, g);
    let d = filtered_by_row(row, h);
    let tile_top = max4(max(max(a.s, b.s), max(c.s, d.s)));
    let top = max(state.top, tile_top);
    var moved = rescale(state, top);
    if (SCALE_GRADIENT && tile_top > state.top) {
        let x = max(max(reference(a, top), reference(b, top)), max(reference(c, top), reference(d, top)));
        moved = refer(moved, x);
    }
    return added(moved, added(added(part(a, moved), part(b, moved)), added(part(c, moved), part(d, moved))));
}

// What a quad adds to a state whose maximum is not below the quad's; all moments use the state's reference.
fn part(it: Item, state: State) -> State {
    let e = exponents(it, state.top);
    var moment = 0.0;
    if (SCALE_GRADIENT) {
        moment = sum4(e * (it.x - vec4<f32>(state.reference)));
    }
    var out: State;
    out.top = state.top;
    out.sum = sum4(e);
    out.moment = moment;
    out.reference = state.reference;
    out.term = term(it, state.top);
    out.positives = sum4(select(vec4<f32>(0.0), vec4<f32>(1.0), it.positive));
    out.flags = select(0u, STATE_LIVE, any(it.live)) | select(0u, STATE_BAD, any(it.bad));
    return out;
}

// The sum of two states that have the same maximum and reference.
fn added(a: State, b: State) -> State {
    var out: State;
    out.top = a.top;
    out.sum = a.sum + b.sum;
    out.moment = a.moment + b.moment;
    out.reference = a.reference;
    out.term = a.term + b.term;
    out.positives = a.positives + b.positives;
    out.back = a.back + b.back;
    out.flags = a.flags | b.flags;
    return out;
}

fn exponents(it: Item, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp(below4(it.s, top)), it.live);
}

fn term(it: Item, top: f32) -> f32 {
    return sum4(select(vec4<f32>(0.0), it.s - top, it.positive & it.live));
}

fn reference(it: Item, top: f32) -> f32 {
    return max4(select(vec4<f32>(LOWEST), it.x, it.live & (it.s == vec4<f32>(top))));
}

// The state with its moment relative to another reference x.
fn refer(state: State, x: f32) -> State {
    var out = state;
    out.moment = state.moment + state.sum * (state.reference - x);
    out.reference = x;
    return out;
}

// Rescales a state's sums to a maximum not below its own.
fn rescale(state: State, top: f32) -> State {
    var out = state;
    let live = (state.flags & STATE_LIVE) != 0u;
    let factor = exp(select(0.0, below(state.top, top), live));
    out.top = top;
    out.sum = state.sum * factor;
    out.moment = state.moment * factor;
    out.term = state.term + state.positives * select(0.0, state.top - top, live);
    return out;
}

fn state_merge(a: State, b: State) -> State {
    let top = max(a.top, b.top);
    var left = rescale(a, top);
    var right = rescale(b, top);
    if (SCALE_GRADIENT) {
        let x = select(b.reference, a.reference, a.top == top);
        left = refer(left, x);
        right = refer(right, x);
    }
    return added(left, right);
}

// Publishes the state at the word offsets that cross-entropy uses. `join` adds what it finds for the columns.
fn state_publish(row: u32, state: State) {
    let at = row * STATISTICS_WORDS;
    statistics_write(at, bitcast<u32>(state.top));
    statistics_write(at + 1u, bitcast<u32>(state.sum));
    statistics_write(at + 2u, 0u);
    statistics_write(at + 3u, bitcast<u32>(state.positives));
    statistics_write(at + 4u, bitcast<u32>(state.term));
    statistics_write(at + 5u, 0u);
    statistics_write(at + 6u, 0u);
    statistics_write(at + 7u, state.flags);
}

// The published state of a shard; all zeros mean the state of no columns.
fn state_gathered(words: array<u32, STATISTICS_WORDS>) -> State {
    var state = state_empty();
    if (words[7] == 0u) {
        return state;
    }
    state.top = bitcast<f32>(words[0]);
    state.sum = bitcast<f32>(words[1]);
    state.positives = bitcast<f32>(words[3]);
    state.term = bitcast<f32>(words[4]);
    state.back = bitcast<f32>(words[5]);
    state.flags = words[7];
    return state;
}

// A row without usable numbers, whose column may still count.
fn closed_row(row: Row, flags: u32, loss: u32, fill: u32) -> Closed {
    var out = closed_blank(flags, loss, fill);
    out.s = 0u;
    out.x = 0u;
    out.factor = row.factor;
    return out;
}

fn close(row: Row, streamed: State) -> Closed {
    var out = close_softmax(row, streamed);
    if (FILTERS) {
        // Columns need it even where the row itself is bad.
        out.x = bitcast<u32>(row.positive);
    }
    return out;
}

fn close_softmax(row: Row, streamed: State) -> Closed {
    if (row.flags != 0u) {
        return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
    }
    // A row with factor 0 has the gradient 0, whatever its numbers are.
    let given = factor_flags(row.factor);
    var state = streamed;
    if (HAS_LSE) {
        let given = saved_lse(row.index);
        state.top = bitcast<f32>(given);
        state.sum = 1.0;
        state.flags = select(STATE_BAD, STATE_LIVE, finite_one(given));
    }
    if ((state.flags & (STATE_LIVE | STATE_BAD)) != STATE_LIVE) {
        // A row's live keys may all be in other shards.
        let counts = !SHARDED || GATHERED || (state.flags & STATE_BAD) != 0u;
        let scale = select(NAN_BITS, 0u, (given & ROW_ZERO) != 0u);
        return closed_row(row, select(0u, ROW_NAN, counts) | given, NAN_BITS, scale);
    }
    var out = closed_row(row, given, 0u, 0u);
    let log_sum = log(state.sum);
    let count = positive_count(row);
    out.loss = bitcast<u32>(log_sum - state.term / count);
    out.lse = bitcast<u32>(state.top + log_sum);
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.share = 1.0 / count;
    if (GATHERED) {
        // The mean over both directions, where the columns have a softmax.
        let loss = params.share * ((log_sum - state.term / count) + state.back);
        let bad = (state.flags & STATE_COLUMN_BAD) != 0u;
        out.loss = select(bitcast<u32>(loss), NAN_BITS, bad);
        out.flags |= select(0u, ROW_NAN, bad);
    } else if (HAS_LSE) {
        return out;
    } else if (SCALE_GRADIENT) {
        let positive = similarity(row, row.label);
        let x = positive - params.target_margin;
        out.x = bitcast<u32>(positive);
        out.s = bitcast<u32>(row.scale * x);
        let mean = state.moment * out.inverse_sum;
        out.scale = times(bitcast<u32>(row.factor), bitcast<u32>(mean + (state.reference - x)));
    } else if (JOINT) {
        out.s = bitcast<u32>(row.scale * (similarity(row, row.label) - params.target_margin));
    }
    return out;
}

// factor·(p - [positive]·share), with p = exp(s - top)/Σ. The maximum of a column without a softmax is arbitrary, so
// the exponent is bounded.
fn side(it: Item, top: vec4<f32>, inverse_sum: vec4<f32>, factor: vec4<f32>, share: f32) -> vec4<f32> {
    let shift = min(2.0 * max(0.5 * it.s - 0.5 * top, vec4<f32>(-0.5 * FLOOR)), vec4<f32>(1.0));
    let p = select(vec4<f32>(0.0), exp(shift) * inverse_sum, it.live);
    return factor * (p - select(vec4<f32>(0.0), vec4<f32>(share), it.positive));
}

// The gradient of the scores, and where it is NaN. A factor of 0 wins over NaN: the row's gradient is then 0.
struct Slope {
    g: vec4<f32>,
    bad: vec4<bool>,
}

fn slope(row: Row, closed: Closed, it: Item) -> Slope {
    let row_bad = vec4<bool>((closed.flags & (ROW_NAN | ROW_FACTOR_NAN)) != 0u && !is_nothing(closed.factor));
    var g = vec4<f32>(0.0);
    if (closed.flags == 0u) {
        let factor = vec4<f32>(closed.factor);
        g = side(filtered_by_row(row, it), vec4<f32>(closed.top), vec4<f32>(closed.inverse_sum), factor, closed.share);
    }
    if (!JOINT) {
        return Slope(g, row_bad);
    }
    let column_bits = column_table_quad(COLUMN_FACTOR, it.column);
    let good = finite(column_bits);
    let column_factor = select(vec4<f32>(0.0), bitcast<vec4<f32>>(column_bits), good);
    let top = bitcast<vec4<f32>>(column_table_quad(COLUMN_TOP, it.column));
    let inverse_sum = bitcast<vec4<f32>>(column_table_quad(COLUMN_SUM, it.column));
    let column_live = good & (column_factor != vec4<f32>(0.0));
    var by_column = it;
    if (FILTERS) {
        by_column = filtered(it, bitcast<vec4<f32>>(column_table_quad(COLUMN_POSITIVE, it.column)));
    }
    g += select(vec4<f32>(0.0), side(by_column, top, inverse_sum, column_factor, closed.share), column_live);
    return Slope(g, !good | row_bad);
}

fn emit(row: Row, closed: Closed, it: Item) {
    let s = slope(row, closed, it);
    emit_scores(row, it, s.g, s.bad);
}
