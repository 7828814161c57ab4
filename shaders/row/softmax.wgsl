// Rows as softmaxes: everything that follows from sums of exponentials over a row, in one or two reducing rounds.
//
// A functor says
//   const TWO_SOFTMAXES: bool             whether there is a second softmax beside the first (a teacher's, say)
//   const OF_SECOND: vec4<bool>           which of the four weighed sums are over the second one's exponentials
//   const SQUARED: vec4<bool>             which of them hold squares of exponentials: Σ e²·f
//   struct Item                           with column: u32, u, second: vec4<f32> and bad: vec4<bool>
//   fn item(row, column, inside) -> Item  `u` and `second` are scores as `score_of` makes them
//   fn terms(row, item, e, second) -> Terms   what a quad adds, given e = exp(u - top) of both softmaxes; in the
//                                         second of two rounds row.round is 1
//   fn close_live(row, state) -> Closed   what a row of numbers is closed with, but for flags
//   fn settle_live(row, state) -> Settled (two rounds) what the second round is to know
//   fn emit(row, closed, item)
// Its program is made by `RowProgram::softmax` (src/row/contract.rs), which adds row/open.wgsl and row/scores.wgsl.
//
// Sums: state.sum and state.second_sum are Σ e; state.weighed four sums Σ e·f, state.plain four sums Σ f. All Σ e are
// against the maxima state.top and state.second_top: p = exp(u - top)/sum, Σ p·f = weighed/sum, lse = top + log(sum).

struct Terms {
    weighed: vec4<f32>,
    plain: vec4<f32>,
}

struct State {
    weighed: vec4<f32>,
    plain: vec4<f32>,
    top: f32,
    sum: f32,
    second_top: f32,
    second_sum: f32,
    flags: u32,
}

// Flags of a state: a column counts in the first softmax, in the second one; a score is no number.
const STATE_LIVE: u32 = 1u;
const STATE_SECOND_LIVE: u32 = 2u;
const STATE_BAD: u32 = 4u;

fn state_empty() -> State {
    var state: State;
    state.top = DEAD;
    state.second_top = DEAD;
    return state;
}

// What a quad adds to a state with these maxima, which are not below its own.
fn quad_state(row: Row, it: Item, top: f32, second_top: f32) -> State {
    var out: State;
    out.top = top;
    out.second_top = second_top;
    let e = exponential(below4(it.u, top));
    out.sum = sum4(e);
    out.flags = select(0u, STATE_LIVE, any(live(it.u))) | select(0u, STATE_BAD, any(it.bad));
    var second = vec4<f32>(0.0);
    if (TWO_SOFTMAXES) {
        second = exponential(below4(it.second, second_top));
        out.second_sum = sum4(second);
        out.flags |= select(0u, STATE_SECOND_LIVE, any(live(it.second)));
    }
    let added = terms(row, it, e, second);
    out.weighed = added.weighed;
    out.plain = added.plain;
    return out;
}

// Two states against the same maxima.
fn state_sum(a: State, b: State) -> State {
    var out = a;
    out.sum += b.sum;
    out.second_sum += b.second_sum;
    out.weighed += b.weighed;
    out.plain += b.plain;
    out.flags |= b.flags;
    return out;
}

// The state with its sums taken against maxima not below its own.
fn rescale(state: State, top: f32, second_top: f32) -> State {
    var out = state;
    let factor = exp(below(state.top, top));
    out.top = top;
    out.sum = state.sum * factor;
    var factors = vec4<f32>(factor);
    if (TWO_SOFTMAXES) {
        let second_factor = exp(below(state.second_top, second_top));
        out.second_top = second_top;
        out.second_sum = state.second_sum * second_factor;
        factors = select(factors, vec4<f32>(second_factor), OF_SECOND);
    }
    out.weighed = state.weighed * select(factors, factors * factors, SQUARED);
    return out;
}

fn second_of(it: Item) -> vec4<f32> {
    if (TWO_SOFTMAXES) {
        return it.second;
    }
    return vec4<f32>(DEAD);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    let top = max(state.top, max4(it.u));
    let second_top = max(state.second_top, max4(second_of(it)));
    return state_sum(rescale(state, top, second_top), quad_state(row, it, top, second_top));
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    let tops = max(max(a.u, b.u), max(c.u, d.u));
    let second_tops = max(max(second_of(a), second_of(b)), max(second_of(c), second_of(d)));
    let top = max(state.top, max4(tops));
    let second_top = max(state.second_top, max4(second_tops));
    let left = state_sum(quad_state(row, a, top, second_top), quad_state(row, b, top, second_top));
    let right = state_sum(quad_state(row, c, top, second_top), quad_state(row, d, top, second_top));
    return state_sum(rescale(state, top, second_top), state_sum(left, right));
}

fn state_merge(a: State, b: State) -> State {
    let top = max(a.top, b.top);
    let second_top = max(a.second_top, b.second_top);
    return state_sum(rescale(a, top, second_top), rescale(b, top, second_top));
}

// Whether every softmax has a column that counts, and no score is NaN or +inf.
fn is_live(state: State) -> bool {
    var wanted = STATE_LIVE;
    if (TWO_SOFTMAXES) {
        wanted |= STATE_SECOND_LIVE;
    }
    return (state.flags & (wanted | STATE_BAD)) == wanted;
}

fn close(row: Row, state: State) -> Closed {
    if (row.flags != 0u) {
        return closed_blank(ROW_ZERO, select(NAN_BITS, 0u, (row.flags & IGNORED) != 0u), 0u);
    }
    // Nothing comes down to a row with factor 0: its gradient is 0 whatever its numbers are.
    let zero = select(0u, ROW_ZERO, row.factor == 0.0);
    if (!is_live(state)) {
        return closed_blank(ROW_NAN | zero, NAN_BITS, NAN_BITS);
    }
    var closed = close_live(row, state);
    closed.flags |= zero;
    return closed;
}
