// Rows as softmaxes: all that follows from sums of exponentials over a row, in one or two reducing rounds.
//
// A functor supplies
//   const TWO_SOFTMAXES: bool             whether there is a second softmax beside the first (a teacher's, say)
//   fn item(row, column, inside) -> Item  `item_of_scores`, and what the functor reads beside the scores
//   fn terms(row, item, state) -> Terms   what a quad adds, given the state's maxima; in the second of two rounds
//                                         row.round is 1
//   fn reweighed(state, top, second_top) -> vec4<f32>   the weighed sums for maxima not below the state's own
//   fn close_live(row, state) -> Closed   the result of a row with usable numbers; flags are added later
//   fn settle_live(row, state) -> Settled (two rounds) what the second round needs
//   fn emit(row, closed, item)
// `RowProgram::softmax` (src/skeleton/row/contract.rs) makes its program, which adds row/open.wgsl, row/dropped.wgsl
// and row/scores.wgsl. `RowProgram::tempered` adds the temperature, which divides the scores of both softmaxes;
// `RowProgram::tempered_by` takes it from an input of the call.
//
// Sums: state.sum and state.second_sum are Σ e. state.weighed holds four sums that depend on the maxima, such as Σ e·f,
// Σ e² or Σ e·(u - top); state.plain holds four sums that do not. All Σ e are relative to the maxima state.top and
// state.second_top: p = exp(exponent(u, top))/sum, Σ p·f = weighed/sum.

// The state knows the lowest column at the maximum of each softmax.
override KEEPS_PLACES: bool = false;
// The temperature is the program's scalar, not a uniform.
override TEMPERATURE_GIVEN: bool = false;

// A quad of columns.
struct Item {
    column: u32,
    // Scores as `score_of` returns them, those of the second softmax beside those of the first.
    u: vec4<f32>,
    second: vec4<f32>,
    // The target distribution.
    q: vec4<f32>,
    // The row has no loss because of this column.
    bad: vec4<bool>,
    inside: vec4<bool>,
}

// What the scores of the call say of a quad.
fn item_of_scores(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let score = score_of(logits_quad(row.index, column), 1.0, inside);
    var it: Item;
    it.column = column;
    it.u = score.u;
    it.bad = score.bad;
    it.inside = inside;
    return it;
}

fn columns_of(it: Item) -> vec4<u32> {
    return vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u);
}

fn is_label(it: Item, label: u32) -> vec4<bool> {
    return columns_of(it) == vec4<u32>(label);
}

fn has_temperature() -> bool {
    return !TEMPERATURE_GIVEN || are_temperatures(vec4<u32>(scalar_bits())).x;
}

// T; 1 if the call gives a number that is no temperature.
fn temperature() -> f32 {
    if (TEMPERATURE_GIVEN) {
        return select(1.0, bitcast<f32>(scalar_bits()), has_temperature());
    }
    return params.temperature;
}

// 2/T
fn double_inverse_temperature() -> f32 {
    if (TEMPERATURE_GIVEN) {
        return 2.0 / temperature();
    }
    return params.double_inverse_temperature;
}

// The exponent (u - top)/T, 0 or below. The difference comes first, so that a common offset costs no digit; halving keeps
// it from overflowing, and half_reach keeps the quotient within f32.
fn exponent(u: vec4<f32>, top: f32) -> vec4<f32> {
    var half_reach = params.half_reach;
    if (TEMPERATURE_GIVEN) {
        half_reach = 1.7e38 * min(temperature(), 1.0);
    }
    return double_inverse_temperature() * max(0.5 * u - 0.5 * top, vec4<f32>(-half_reach));
}

// The exponent of a column with a live score; 0 of any other.
fn live_exponent(u: vec4<f32>, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exponent(u, top), live(u));
}

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
    // With KEEPS_PLACES: the lowest column at each maximum, and NONE where no live score has set it.
    place: u32,
    second_place: u32,
}

// Flags of a state: a column is live in the first softmax; a column is live in the second; a score is NaN or +inf.
const STATE_LIVE: u32 = 1u;
const STATE_SECOND_LIVE: u32 = 2u;
const STATE_BAD: u32 = 4u;

fn state_empty() -> State {
    var state: State;
    state.top = DEAD;
    state.second_top = DEAD;
    state.place = NONE;
    state.second_place = NONE;
    return state;
}

// The lowest live column of a quad whose score is the top.
fn place_at(it: Item, u: vec4<f32>, top: f32) -> u32 {
    let at_top = select(vec4<u32>(NONE), columns_of(it), live(u) & (u == vec4<f32>(top)));
    return min(min(at_top.x, at_top.y), min(at_top.z, at_top.w));
}

fn exp_below(shift: f32) -> f32 {
    return exp_below4(vec4<f32>(shift)).x;
}

// The exponential of a score below a maximum. 0 for a dead score, also while no live score has set the maximum.
fn exp_of(u: vec4<f32>, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_below4(exponent(u, top)), live(u));
}

// log(1 + x), given 1 + x and x. Relative accuracy holds both for x near 0 and for 1 + x near 0.
fn log_of4(one_and_x: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    let near = (x >= vec4<f32>(-0.5)) & (x <= vec4<f32>(1.0));
    let far = log4(max(one_and_x, vec4<f32>(1.2e-38)));
    return select(far, log1p4(select(vec4<f32>(0.0), x, near)), near);
}

// log(x/y), with relative accuracy also where x and y are nearly the same.
fn log_ratio(x: f32, y: f32) -> f32 {
    return log_of4(vec4<f32>(x / y), vec4<f32>((x - y) / y)).x;
}

// How far a state's maximum lies below another one; 0 for a state without live columns, whose sums are 0.
fn descent(top: f32, to: f32) -> f32 {
    return select(0.0, exponent(vec4<f32>(top), to).x, top != DEAD);
}

// log p of a column with this live score, given Σ e of all other columns. Unlike an exponential it has no floor: a loss may
// be a small part of it.
fn log_probability(u: f32, state: State, others: f32) -> f32 {
    let below = exponent(vec4<f32>(u), state.top).x;
    let ratio = others / exp_below(max(below, -80.0));
    let near = -log1p4(vec4<f32>(min(ratio, 1.0))).x;
    return select(below - log4(vec4<f32>(state.sum)).x, near, below > -80.0 && ratio < 1.0);
}

// What a quad adds to a state with these maxima, which are not below the quad's own.
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
    if (KEEPS_PLACES) {
        out.place = place_at(it, it.u, top);
        out.second_place = place_at(it, it.second, second_top);
    }
    let added = terms(row, it, out);
    out.weighed = added.weighed;
    out.plain = added.plain;
    return out;
}

// The sum of two states that have the same maxima.
fn state_sum(a: State, b: State) -> State {
    var out = a;
    out.sum += b.sum;
    out.second_sum += b.second_sum;
    out.weighed += b.weighed;
    out.plain += b.plain;
    out.flags |= b.flags;
    if (KEEPS_PLACES) {
        out.place = min(a.place, b.place);
        out.second_place = min(a.second_place, b.second_place);
    }
    return out;
}

// Rescales a state's sums to maxima not below its own.
fn rescale(state: State, top: f32, second_top: f32) -> State {
    var out = state;
    out.top = top;
    out.sum = state.sum * exp_below(descent(state.top, top));
    if (TWO_SOFTMAXES) {
        out.second_top = second_top;
        out.second_sum = state.second_sum * exp_below(descent(state.second_top, second_top));
    }
    out.weighed = reweighed(state, top, second_top);
    if (KEEPS_PLACES) {
        out.place = select(NONE, state.place, state.top == top);
        out.second_place = select(NONE, state.second_place, state.second_top == second_top);
    }
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

// Whether every softmax has a live column and a temperature, and no score is NaN or +inf.
fn is_live(state: State) -> bool {
    var wanted = STATE_LIVE;
    if (TWO_SOFTMAXES) {
        wanted |= STATE_SECOND_LIVE;
    }
    return (state.flags & (wanted | STATE_BAD)) == wanted && has_temperature();
}

// A row's part in the gradient of a number that all rows share: the row's factor times its slope, both given and returned
// as bits.
fn slope_bits(row: Row, slope: u32) -> u32 {
    return select(times(bitcast<u32>(row.factor), slope), 0u, is_nothing(row.factor));
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
