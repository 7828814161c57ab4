// The cross-entropy of a leaf of a tree: −log p of each node on its path, p a softmax over the node's siblings.

// Some scores of a softmax: their maximum, and Σ exp(u − top) of all of them but one that is at the maximum. Without this
// one, a p near 1 keeps the digits of what it lacks.
struct State {
    top: f32,
    rest: f32,
    flags: u32,
}

// A score is finite; a score is NaN or +inf.
const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;

// Some nodes of a path: their loss, and PATH_… of any of them.
struct Path {
    loss: f32,
    flags: u32,
}

// A softmax has no value; p of a node is 0.
const PATH_BAD: u32 = 1u;
const PATH_INFINITE: u32 = 2u;

fn state_empty() -> State {
    return State(DEAD, 0.0, 0u);
}

fn state_merge(a: State, b: State) -> State {
    let a_first = a.top >= b.top;
    let top = max(a.top, b.top);
    let low = min(a.top, b.top);
    let above = select(b.rest, a.rest, a_first);
    let under = 1.0 + select(a.rest, b.rest, a_first);
    // A state without live scores has nothing to add.
    let shift = exp_below4(below4(vec4<f32>(low), top)).x;
    return State(top, above + select(under * shift, 0.0, low == DEAD), a.flags | b.flags);
}

// exp(u − top), 0 for dead scores.
fn exp_of(u: vec4<f32>, top: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_below4(below4(u, top)), live(u));
}

fn state_take_quad(state: State, bits: vec4<u32>, inside: vec4<bool>) -> State {
    let score = score_of(bits, 1.0, inside);
    let top = max4(score.u);
    let e = exp_of(score.u, top);
    // The first score at the maximum is left out.
    let at = score.u == vec4<f32>(top);
    let first = vec4<bool>(at.x, at.y && !at.x, at.z && !(at.x || at.y), at.w && !(at.x || at.y || at.z));
    var quad = State(top, sum4(select(e, vec4<f32>(0.0), first)), 0u);
    quad.flags = select(0u, STATE_LIVE, any(live(score.u))) | select(0u, STATE_BAD, any(score.bad));
    return state_merge(state, quad);
}

// log Σ exp(u − top).
fn log_sum(state: State) -> f32 {
    let near = log1p4(vec4<f32>(min(state.rest, 1.0)));
    return select(log4(vec4<f32>(1.0 + state.rest)), near, state.rest <= 1.0).x;
}

// A sum of losses within f32.
fn loss_sum(a: f32, b: f32) -> f32 {
    return min(a, 1.7e38) + min(b, 1.7e38);
}

fn path_take(path: Path, state: State, bits: u32) -> Path {
    let u = score_of(vec4<u32>(bits), 1.0, vec4<bool>(true)).u.x;
    var out = path;
    if ((state.flags & (STATE_LIVE | STATE_BAD)) != STATE_LIVE) {
        out.flags |= PATH_BAD;
    } else if (u == DEAD) {
        out.flags |= PATH_INFINITE;
    } else {
        // Halving keeps the difference from overflowing.
        let depth = 2.0 * min(0.5 * state.top - 0.5 * u, 1.7e38);
        out.loss = loss_sum(path.loss, loss_sum(depth, log_sum(state)));
    }
    return out;
}

fn path_merge(a: Path, b: Path) -> Path {
    return Path(loss_sum(a.loss, b.loss), a.flags | b.flags);
}

fn close(row: Row, path: Path) -> Closed {
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    if ((path.flags & PATH_BAD) != 0u) {
        return closed_bad(row);
    }
    let loss = bits_or(path.loss, INFINITY_BITS, path.flags == 0u);
    return closed_blank(factor_flags(row.factor), times(bitcast<u32>(row.row_weight), loss), 0u);
}

// p, and p − 1 at the node itself.
fn slopes(row: Row, state: State, bits: vec4<u32>, own: vec4<bool>) -> vec4<u32> {
    let u = score_of(bits, 1.0, vec4<bool>(true)).u;
    let inverse = 1.0 / (1.0 + state.rest);
    let p = exp_of(u, state.top) * inverse;
    let less_one = select(p - 1.0, vec4<f32>(-state.rest * inverse), u == vec4<f32>(state.top));
    return bitcast<vec4<u32>>(row.factor * select(p, less_one, own));
}
