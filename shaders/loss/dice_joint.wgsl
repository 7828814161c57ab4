// One Dice coefficient over all classes of a softmax, each with a weight: a row of one column a class, from the sums that
// dice_classes.wgsl has left. The scores are raise·Σ (P + t); `both` is raise·Σ P·t, and `hits` is Σ t.
//
// With weights of 1/(Σ t)², a class that no pixel has gets the largest weight of the others.

// A smaller Σ t counts as this one, so that no weight is above 2^20.
const LEAST_HITS: f32 = 9.765625e-4;
const MOST_HITS: f32 = 3.0e38;

struct Item {
    column: u32,
    whole: vec4<f32>,
    both: vec4<f32>,
    hits: vec4<f32>,
    inside: vec4<bool>,
}

struct State {
    // Σ w·both and Σ w·whole over the classes with a weight of their own, and Σ whole over the others.
    both: f32,
    whole: f32,
    absent: f32,
    // The least Σ t of the classes with a weight of their own.
    hits: f32,
}

fn state_empty() -> State {
    return State(0.0, 0.0, 0.0, MOST_HITS);
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let none = vec4<u32>(0u);
    var it: Item;
    it.column = column;
    it.whole = bitcast<vec4<f32>>(select(none, logits_quad(row.index, column), inside));
    it.both = bitcast<vec4<f32>>(select(none, both_quad(row.index, column), inside));
    it.hits = bitcast<vec4<f32>>(select(none, hits_quad(row.index, column), inside));
    it.inside = inside;
    return it;
}

fn is_absent(it: Item) -> vec4<bool> {
    return (it.hits == vec4<f32>(0.0)) & vec4<bool>(params.inverse_square > 0u);
}

fn inverse_square4(hits: vec4<f32>) -> vec4<f32> {
    let least = max(hits, vec4<f32>(LEAST_HITS));
    return (1.0 / least) / least;
}

// The weights of classes, given that of a class without hits.
fn weights(it: Item, absent: f32) -> vec4<f32> {
    let own = select(vec4<f32>(1.0), inverse_square4(it.hits), vec4<bool>(params.inverse_square > 0u));
    return select(own, vec4<f32>(absent), is_absent(it));
}

fn quad_state(it: Item) -> State {
    let absent = is_absent(it);
    let w = weights(it, 0.0);
    let hits = select(it.hits, vec4<f32>(MOST_HITS), absent | !it.inside);
    return State(
        sum4(w * it.both),
        sum4(w * it.whole),
        sum4(select(vec4<f32>(0.0), it.whole, absent)),
        -max4(-hits),
    );
}

fn state_merge(a: State, b: State) -> State {
    return State(a.both + b.both, a.whole + b.whole, a.absent + b.absent, min(a.hits, b.hits));
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    return state_merge(state, quad_state(it));
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    let left = state_merge(quad_state(a), quad_state(b));
    let right = state_merge(quad_state(c), quad_state(d));
    return state_merge(state, state_merge(left, right));
}

fn close(row: Row, state: State) -> Closed {
    // Where no class has hits, all sums are 0.
    let absent = inverse_square4(vec4<f32>(state.hits)).x;
    let own = coefficient(row, vec4<f32>(state.both, state.whole + absent * state.absent, 0.0, 0.0));
    var out: Closed;
    out.loss = own.loss;
    out.flags = own.flags;
    out.flows = own.flows;
    out.slope_unit = own.slope;
    out.met_unit = own.met;
    out.share_unit = own.share;
    out.absent = absent;
    return out;
}

// The slopes of the classes. The share of cross-entropy is given once, to the first class.
fn emit(row: Row, closed: Closed, it: Item) {
    let w = bitcast<vec4<u32>>(weights(it, closed.absent));
    let first = vec4<bool>(it.column == 0u, false, false, false);
    slope_store(row.index, it.column, times4(vec4<u32>(closed.slope_unit), w));
    met_store(row.index, it.column, times4(vec4<u32>(closed.met_unit), w));
    share_store(row.index, it.column, select(vec4<u32>(0u), vec4<u32>(closed.share_unit), first));
}
