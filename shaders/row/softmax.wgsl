// Rows as softmaxes: everything that follows from sums of exponentials over a row, in one or two reducing rounds.
//
// A functor says
//   const TWO_SOFTMAXES: bool             whether there is a second softmax beside the first (a teacher's, say)
//   struct Item                           with column: u32, u, second: vec4<f32> and bad: vec4<bool>
//   fn item(row, column, inside) -> Item  `u` and `second` are scores as `score_of` makes them
//   fn exponent(u, top) -> vec4<f32>      what is exponentiated, 0 or below: u - top, or less of it
//   fn terms(row, item, state) -> Terms   what a quad adds, given the state's maxima; in the second of two rounds
//                                         row.round is 1
//   fn reweighed(state, top, second_top) -> vec4<f32>   the weighed sums against maxima not below the state's own
//   fn close_live(row, state) -> Closed   what a row of numbers is closed with, but for flags
//   fn settle_live(row, state) -> Settled (two rounds) what the second round is to know
//   fn emit(row, closed, item)
// Its program is made by `RowProgram::softmax` (src/skeleton/row/contract.rs), which adds row/open.wgsl,
// row/dropped.wgsl and row/scores.wgsl.
//
// Sums: state.sum and state.second_sum are Σ e; state.weighed four sums that depend on the maxima, such as Σ e·f, Σ e² or
// Σ e·(u - top), and state.plain four sums that do not. All Σ e are against the maxima state.top and state.second_top:
// p = exp(exponent(u, top))/sum, Σ p·f = weighed/sum.

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

// exp of what is 0 or below, with relative accuracy far below it: a sum may consist of such numbers alone.
fn exp_below4(shift: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_far4(shift), shift > vec4<f32>(-FLOOR));
}

fn exp_below(shift: f32) -> f32 {
    return exp_below4(vec4<f32>(shift)).x;
}

// exp of a score's exponent below a maximum: 0 of a dead one, also where all before it are dead and the maximum is too.
fn exp_of(u: vec4<f32>, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_below4(exponent(u, top)), live(u));
}

// How far a state's maximum lies below another one; 0 where it has none, and sums of 0.
fn descent(top: f32, to: f32) -> f32 {
    return select(0.0, exponent(vec4<f32>(top), to).x, top != DEAD);
}

// What a quad adds to a state with these maxima, which are not below its own.
fn quad_state(row: Row, it: Item, top: f32, second_top: f32) -> State {
    var out: State;
    out.top = top;
    out.second_top = second_top;
    out.sum = sum4(exp_of(it.u, top));
    out.flags = select(0u, STATE_LIVE, any(live(it.u))) | select(0u, STATE_BAD, any(it.bad));
    if (TWO_SOFTMAXES) {
        out.second_sum = sum4(exp_of(it.second, second_top));
        out.flags |= select(0u, STATE_SECOND_LIVE, any(live(it.second)));
    }
    let added = terms(row, it, out);
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
    out.top = top;
    out.sum = state.sum * exp_below(descent(state.top, top));
    if (TWO_SOFTMAXES) {
        out.second_top = second_top;
        out.second_sum = state.second_sum * exp_below(descent(state.second_top, second_top));
    }
    out.weighed = reweighed(state, top, second_top);
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
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    if (!is_live(state)) {
        return closed_bad(row);
    }
    var closed = close_live(row, state);
    closed.flags |= factor_flags(row.factor);
    return closed;
}
