// Softmax cross-entropy: index or probability targets, weights, smoothing, focal, soft-cap, z-loss.

override HAS_PROBS: bool = false;
// The target distribution is that of several index targets.
override SEVERAL: bool = false;
// The loss needs Σ coefficient·(u - max) over all columns: for probability targets or uniform smoothing.
override HAS_TERM: bool = false;
override ORDINAL: bool = false;
override SOFTCAP: bool = false;
// The columns are a shard of all classes. The coefficients are then the whole target distribution, and the state's
// `rank` field holds the bits of the target's u. The label may lie before or after the columns.
override SHARDED: bool = false;
override FOCAL: bool = false;
// The score of the target is lowered by a margin.
override MARGIN: bool = false;
override WANTS_ENTROPY: bool = false;
override WANTS_ARGMAX: bool = false;
override WANTS_RANK: bool = false;

// loss/byproducts.wgsl, or loss/no_byproducts.wgsl where no by-product has an upstream gradient, supplies
//   fn loss_factor(factor) -> f32                   the factor of the loss's part of the gradient
//   fn flags_of(row) -> u32                         the flags that all factors together give a row
//   fn close_byproducts(row, closed, streamed) -> Closed   adds the by-products' part to the factors
//   fn taken_for(factor, coefficient) -> vec4<f32>  a part of what `emit` subtracts for the target distribution
//   fn with_byproducts(closed, g, p, shift) -> vec4<f32>   adds the rest of the by-products' part to the gradient

// u differs from z: there is a bias, a cap or a temperature.
override TRANSFORMED: bool = false;

// Flags of a state.
const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;
const STATE_INFINITE: u32 = 4u;

// A quad of columns.
struct Item {
    column: u32,
    z: vec4<f32>,
    u: vec4<f32>,
    bad: vec4<bool>,
    coefficient: vec4<f32>,
}

struct Row {
    index: u32,
    label: u32,
    // IGNORED, BAD_TARGET
    flags: u32,
    row_weight: f32,
    // row_weight · upstream / denominator
    factor: f32,
    class_weights: f32,
    // τ, and whether the input `temperature` holds none; τ is then 1.
    temperature: f32,
    bad_temperature: bool,
    // The orderable key of the target's u, for the rank; with shards, the bits of the target's u.
    target_key: u32,
}

// The mergeable state of a stretch of columns, published as the statistics of a shard (src/spec/shard.rs).
struct State {
    top: f32,
    sum: f32,
    // Σ exp(u - top)·(u - top)
    moment: f32,
    // Σ coefficient and Σ coefficient·(u - top)
    coefficient: f32,
    term: f32,
    argmax: u32,
    rank: u32,
    flags: u32,
}

// Scores after cap, bias and temperature.
fn score(row: Row, z_bits: vec4<u32>, bias_bits: vec4<u32>) -> Score {
    let minus = vec4<u32>(INFINITY_BITS | SIGN_BIT);
    let z = clamped(z_bits);
    var dead = z_bits == minus;
    var bad = (z != z_bits) & !dead;
    var u = bitcast<vec4<f32>>(z);
    if (TRANSFORMED) {
        if (SOFTCAP) {
            u = params.softcap * tanh4(u * params.inverse_softcap);
        }
        let bias = clamped(bias_bits);
        bad = bad | ((bias != bias_bits) & (bias_bits != minus));
        dead = dead | (bias_bits == minus);
        // A quotient has one rounding less than a product with 1/τ. Where scores are large, that counts.
        u = (u + bitcast<vec4<f32>>(bias)) / row.temperature;
        u = bitcast<vec4<f32>>(clamped(bitcast<vec4<u32>>(u)));
    }
    return Score(select(max(u, vec4<f32>(LEAST)), vec4<f32>(DEAD), dead), bad);
}

// Scores as they are read, less the margin where the column is the target's. Scores that are not finite stay as they
// are; others become no less than the lowest finite number.
fn read_less_margin(row: Row, column: u32, bits: vec4<u32>) -> vec4<u32> {
    if (!MARGIN) {
        return bits;
    }
    let z = clamped(bits);
    let lowered = clamped(bitcast<vec4<u32>>(bitcast<vec4<f32>>(z) - vec4<f32>(params.target_margin)));
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    return select(bits, lowered, (columns == vec4<u32>(row.label)) & (z == bits));
}

fn coefficients(row: Row, column: u32) -> vec4<f32> {
    let weight = bitcast<vec4<f32>>(weight_quad(0u, column));
    if (SEVERAL) {
        // The weights of classes without a share are not read, be they NaN.
        let q = target_quad(row.index, column + params.first_class);
        return select(weight * q, vec4<f32>(0.0), q == vec4<f32>(0.0));
    }
    if (HAS_PROBS) {
        let q = bitcast<vec4<f32>>(target_probs_quad(row.index, column));
        return weight * (params.kept_share * q + params.spread_share);
    }
    if (SHARDED) {
        let q = index_target(row, column);
        return select(weight * q, vec4<f32>(0.0), q == vec4<f32>(0.0));
    }
    return weight;
}

// The shares of a class and of each of its neighbours under ordinal smoothing.
fn ordinal_shares(label: u32, classes: u32) -> vec2<f32> {
    let left = label > 0u;
    let right = label + 1u < classes;
    let side = select(params.ordinal_share, 0.5 * params.ordinal_share, left && right);
    return select(vec2<f32>(params.kept_share, side), vec2<f32>(1.0, 0.0), !left && !right);
}

// The target distribution of an index target at a quad of a shard's columns.
fn index_target(row: Row, column: u32) -> vec4<f32> {
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    let here = columns == vec4<u32>(row.label);
    if (ORDINAL) {
        let shares = ordinal_shares(row.label + params.first_class, params.all_classes);
        let next = (columns == vec4<u32>(row.label - 1u)) | (columns == vec4<u32>(row.label + 1u));
        return select(select(vec4<f32>(0.0), vec4<f32>(shares.y), next), vec4<f32>(shares.x), here);
    }
    return params.spread_share + select(vec4<f32>(0.0), vec4<f32>(params.kept_share), here);
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let z_bits = read_less_margin(row, column, logits_quad(row.index, column));
    let s = score(row, z_bits, logit_bias_quad(0u, column));
    var coefficient = vec4<f32>(0.0);
    if (HAS_TERM) {
        coefficient = select(vec4<f32>(0.0), coefficients(row, column), inside);
    }
    var it: Item;
    it.column = column;
    it.z = bitcast<vec4<f32>>(clamped(z_bits));
    it.u = select(vec4<f32>(DEAD), s.u, inside);
    it.bad = s.bad & inside;
    it.coefficient = coefficient;
    return it;
}

// Maps floats to integers of the same order; -inf and columns past the row come first.
fn key(u: f32) -> u32 {
    let bits = bitcast<u32>(u);
    let ordered = select(bits | SIGN_BIT, ~bits, (bits & SIGN_BIT) != 0u);
    return select(0u, ordered, u != DEAD);
}

// The score of the label, or of a column beside it.
fn target_score(row: Row, column: u32) -> Score {
    let bits = read_less_margin(row, column, vec4<u32>(label_score(row.index, row.label, column)));
    return score(row, vec4<u32>(bits.x), vec4<u32>(logit_bias_at(0u, column)));
}

// A row with τ of the option or of the input.
fn tempered(index: u32) -> Row {
    let bits = scalar_bits();
    let bad = !are_temperatures(vec4<u32>(bits)).x;
    var row: Row;
    row.index = index;
    row.temperature = select(params.temperature * bitcast<f32>(bits), 1.0, bad);
    row.bad_temperature = bad;
    return row;
}

// For the gradient, which needs nothing of the row but the temperature and, with shards or a margin, its label.
fn reopen(index: u32) -> Row {
    var label = NONE;
    if (SHARDED || MARGIN) {
        label = row_table[HEADER + place_of(index)].x;
    }
    var row = tempered(index);
    row.label = label;
    return row;
}

fn open(index: u32) -> Row {
    let entry = row_table[HEADER + place_of(index)];
    let head = row_table[0];
    var row = tempered(index);
    row.label = entry.x;
    row.flags = entry.y;
    row.row_weight = bitcast<f32>(entry.z);
    row.factor = loss_factor(row_factor(entry.z, entry.w, head.y, head.z));
    row.class_weights = bitcast<f32>(head.w);
    if (WANTS_RANK && row.label != NONE) {
        let at = target_score(row, row.label);
        row.target_key = key(at.u.x);
    }
    return row;
}

// Ignored rows and rows with a bad target need no stream.
fn row_streams(row: Row) -> bool {
    return row.flags == 0u;
}

fn state_empty() -> State {
    var empty: State;
    empty.top = DEAD;
    empty.argmax = NONE;
    empty.rank = select(0u, NONE, SHARDED);
    return empty;
}

// What a quad adds to a state with this maximum. The caller adds the argmax and the flags for live and bad columns.
fn part(row: Row, it: Item, top: f32) -> State {
    let shift = below4(it.u, top);
    let e = exponential(shift);
    var out = state_empty();
    out.top = top;
    out.sum = sum4(e);
    if (WANTS_ENTROPY) {
        out.moment = sum4(e * shift);
    }
    if (HAS_TERM) {
        out.coefficient = sum4(it.coefficient);
        out.term = sum4(it.coefficient * select(vec4<f32>(0.0), it.u - top, live(it.u)));
        out.flags = select(0u, STATE_INFINITE, any((it.coefficient != vec4<f32>(0.0)) & !live(it.u)));
    }
    if (WANTS_RANK) {
        out.rank = above(it, row);
    }
    if (SHARDED) {
        out.rank = target_bits(it, row);
    }
    return out;
}

fn first_at(it: Item, top: f32) -> u32 {
    let columns = vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u);
    let c = select(vec4<u32>(NONE), columns, it.u == vec4<f32>(top));
    return min(min(c.x, c.y), min(c.z, c.w));
}

fn above(it: Item, row: Row) -> u32 {
    var count = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        let column = it.column + i;
        let k = key(it.u[i]);
        let before = k > row.target_key || (k == row.target_key && column < row.label);
        count += select(0u, 1u, before && column < params.classes);
    }
    return count;
}

// The bits of the target's u if its column is in the quad, NONE otherwise.
fn target_bits(it: Item, row: Row) -> u32 {
    let columns = vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u);
    let here = (columns == vec4<u32>(row.label)) & (columns < vec4<u32>(params.classes));
    let bits = select(vec4<u32>(NONE), bitcast<vec4<u32>>(it.u), here);
    return min(min(bits.x, bits.y), min(bits.z, bits.w));
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    let quad_top = max4(it.u);
    let top = max(state.top, quad_top);
    var quad = part(row, it, top);
    if (WANTS_ARGMAX && quad_top == top && top != DEAD) {
        quad.argmax = first_at(it, top);
    }
    return taken(state, quad, quad_top, it.bad);
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    let tile_top = max4(max(max(a.u, b.u), max(c.u, d.u)));
    let top = max(state.top, tile_top);
    let left = joined(part(row, a, top), part(row, b, top), true);
    let right = joined(part(row, c, top), part(row, d, top), true);
    var tile = joined(left, right, true);
    if (WANTS_ARGMAX && tile_top == top && top != DEAD) {
        tile.argmax = min(min(first_at(a, top), first_at(b, top)), min(first_at(c, top), first_at(d, top)));
    }
    return taken(state, tile, tile_top, a.bad | b.bad | c.bad | d.bad);
}

// Adds columns to a state. The columns are already relative to the maximum of both, so only the state is rescaled.
fn taken(state: State, columns: State, columns_top: f32, bad: vec4<bool>) -> State {
    var right = columns;
    right.flags |= select(0u, STATE_LIVE, columns_top != DEAD) | select(0u, STATE_BAD, any(bad));
    return joined(rescale(state, columns.top), right, state.top == columns.top);
}

// Rescales a state's sums to a maximum not below its own.
fn rescale(state: State, top: f32) -> State {
    var out = state;
    // A state without live columns has sums of 0.
    let shift = below(state.top, top);
    let factor = exp(shift);
    out.top = top;
    out.sum = state.sum * factor;
    if (WANTS_ENTROPY) {
        out.moment = factor * (state.moment + state.sum * shift);
    }
    if (HAS_TERM) {
        out.term = state.term + state.coefficient * select(0.0, state.top - top, state.top != DEAD);
    }
    return out;
}

// The sum of two states that have the same maximum; a_top says whether a contained that maximum before.
fn joined(a: State, b: State, a_top: bool) -> State {
    var argmax = NONE;
    if (WANTS_ARGMAX) {
        argmax = min(select(NONE, a.argmax, a_top), b.argmax);
    }
    var out: State;
    out.top = a.top;
    out.sum = a.sum + b.sum;
    out.moment = a.moment + b.moment;
    out.coefficient = a.coefficient + b.coefficient;
    out.term = a.term + b.term;
    out.argmax = argmax;
    out.rank = select(a.rank + b.rank, min(a.rank, b.rank), SHARDED);
    out.flags = a.flags | b.flags;
    return out;
}

fn state_merge(a: State, b: State) -> State {
    let top = max(a.top, b.top);
    var right = rescale(b, top);
    right.argmax = select(NONE, b.argmax, b.top == top);
    return joined(rescale(a, top), right, a.top == top);
}

// Publishes the state, in the order of its fields.
fn state_publish(row: u32, state: State) {
    let at = row * STATISTICS_WORDS;
    statistics_write(at, bitcast<u32>(state.top));
    statistics_write(at + 1u, bitcast<u32>(state.sum));
    statistics_write(at + 2u, bitcast<u32>(state.moment));
    statistics_write(at + 3u, bitcast<u32>(state.coefficient));
    statistics_write(at + 4u, bitcast<u32>(state.term));
    statistics_write(at + 5u, select(NONE, state.argmax + params.first_class, state.argmax != NONE));
    statistics_write(at + 6u, state.rank);
    statistics_write(at + 7u, state.flags);
}

// The published state of a shard; all zeros mean the state of no columns.
fn state_gathered(words: array<u32, STATISTICS_WORDS>) -> State {
    if (words[7] == 0u) {
        return state_empty();
    }
    var state: State;
    state.top = bitcast<f32>(words[0]);
    state.sum = bitcast<f32>(words[1]);
    state.moment = bitcast<f32>(words[2]);
    state.coefficient = bitcast<f32>(words[3]);
    state.term = bitcast<f32>(words[4]);
    state.argmax = words[5];
    state.rank = words[6];
    state.flags = words[7];
    return state;
}

// One share of the target distribution: its weight, its distance lse - u (0 where u is -inf), its u, whether that is
// above -inf, and whether it makes the loss infinite.
struct Share {
    weight: f32,
    below: f32,
    u: f32,
    live: bool,
    infinite: bool,
}

fn share(row: Row, column: u32, part_of: f32, top: f32, log_sum: f32) -> Share {
    if (SHARDED) {
        // The share's weight is already included in the sums.
        let u = bitcast<f32>(row.target_key);
        let here = row.target_key != NONE && u != DEAD;
        return Share(0.0, select(0.0, log_sum + (top - u), here), u, here, false);
    }
    let s = target_score(row, column);
    let weight = part_of * bitcast<f32>(weight_at(0u, column));
    let below = select(0.0, log_sum + (top - s.u.x), s.u.x != DEAD);
    return Share(weight, below, s.u.x, s.u.x != DEAD, s.u.x == DEAD && weight != 0.0);
}

// What a share adds to the loss. A NaN weight gives NaN, also where the class is at -inf.
fn share_of_loss(s: Share) -> f32 {
    return select(s.weight * s.below, 0.0, s.infinite && !is_nan(bitcast<u32>(s.weight)));
}

// How far the score of a share lies below the largest one.
fn depth_of(s: Share, streamed: State) -> f32 {
    return select(0.0, streamed.top - s.u, s.live);
}

fn close(row: Row, streamed: State) -> Closed {
    if ((row.flags & IGNORED) != 0u) {
        return closed_blank(ROW_ZERO, 0u, 0u);
    }
    if (row.flags != 0u) {
        return closed_blank(ROW_ZERO, NAN_BITS, 0u);
    }
    var state = streamed;
    if (HAS_LSE) {
        let given = saved_lse(row.index);
        state.term += state.coefficient * select(0.0, state.top - bitcast<f32>(given), (state.flags & STATE_LIVE) != 0u);
        state.top = bitcast<f32>(given);
        state.sum = 1.0;
        state.flags = (state.flags & STATE_INFINITE) | select(STATE_BAD, STATE_LIVE, finite_one(given));
    }
    state.flags |= select(0u, STATE_BAD, row.bad_temperature);
    if ((state.flags & (STATE_LIVE | STATE_BAD)) != STATE_LIVE) {
        // A row's live classes may all be in other shards.
        let counts = !SHARDED || GATHERED || (state.flags & STATE_BAD) != 0u;
        let flags = flags_of(row);
        // The loss of a row with weight 0 is 0, and so is its gradient, unless a by-product has one.
        let weightless = is_zero(bitcast<u32>(row.row_weight));
        let is_bad = counts && !(weightless && flags == ROW_ZERO);
        return closed_blank(select(0u, ROW_NAN, is_bad) | flags, select(NAN_BITS, 0u, weightless), NAN_BITS);
    }
    var known = row;
    known.target_key = select(row.target_key, state.rank, SHARDED);
    return close_byproducts(known, close_live(known, state, streamed), streamed);
}

// `streamed` is the state before a saved lse takes the place of its maximum and its sum.
fn close_live(row: Row, state: State, streamed: State) -> Closed {
    let log_sum = log(state.sum);
    let lse = state.top + log_sum;
    // A row with factor 0 has the gradient 0, whatever its numbers are.
    var out = closed_blank(flags_of(row), 0u, 0u);
    out.label = row.label;
    out.lse = bitcast<u32>(lse);
    out.top = state.top;
    out.inverse_sum = 1.0 / state.sum;
    out.max_prob = bitcast<u32>(out.inverse_sum);
    out.entropy = bitcast<u32>(max(log_sum - state.moment * out.inverse_sum, 0.0));
    out.argmax = state.argmax;
    out.rank = state.rank;
    var terms: Terms;
    out.beta = row.factor;
    if (HAS_TERM) {
        // With index targets the coefficients are plain class weights, and each has the share ε/C.
        let reach = select(params.spread_share, 1.0, HAS_PROBS || SHARDED);
        terms.coefficient = select(row.class_weights, state.coefficient, STREAMED);
        terms.total = reach * (terms.coefficient * log_sum - state.term);
        terms.depth = -reach * streamed.term;
        terms.infinite = (state.flags & STATE_INFINITE) != 0u && reach != 0.0;
        out.beta = row.factor * reach;
    }
    if (HAS_PROBS) {
        // For the gradient of the target distribution: its factor, and log_sum, since log p = u - top - log_sum.
        out.kappa = row.factor * params.kept_share;
        out.side = log_sum;
        if (SEVERAL) {
            out.log_prob = bits_or(-terms.total, INFINITY_BITS | SIGN_BIT, !terms.infinite);
        }
    } else {
        return close_target(row, out, log_sum, terms, streamed);
    }
    let taken = Taken(out.beta * terms.coefficient, row.factor * terms.depth);
    return close_loss(row, out, terms.total, taken, streamed, terms.infinite);
}

// Sums over all columns.
struct Terms {
    // Σ w·q·(lse - u)
    total: f32,
    // Σ w·q·(top - u) with the maximum of the streamed scores
    depth: f32,
    // Σ w·q, whose share in beta is not multiplied in yet
    coefficient: f32,
    infinite: bool,
}

// What `emit` subtracts for the target distribution: its sum over the columns, and Σ of it times (top - u).
struct Taken {
    sum: f32,
    depth: f32,
}

// Adds the z-loss and weighs the row. Sets alpha to the sum of all that `emit` subtracts for the target distribution,
// with the same rounding: with one class the two cancel exactly.
fn close_loss(
    row: Row,
    given: Closed,
    total: f32,
    taken: Taken,
    streamed: State,
    infinite: bool,
) -> Closed {
    var out = given;
    let lse = bitcast<f32>(given.lse);
    let pull = row.factor * (2.0 * params.z_loss * lse);
    // -Σ ∂u·u/τ, with u relative to the largest u. Relative to the lse, scores that lie close together would give a
    // small difference of large numbers.
    let mean = streamed.moment / streamed.sum;
    let moment = pull * (streamed.top + mean) + taken.depth + taken.sum * mean;
    let slope = -moment / row.temperature;
    let limit = times(bitcast<u32>(row.factor), INFINITY_BITS | SIGN_BIT);
    out.temperature_slope = select(bitcast<u32>(slope), limit, infinite);
    let factor_flags = factor_flags(row.factor);
    out.temperature_slope = select(out.temperature_slope, NAN_BITS, factor_flags == ROW_FACTOR_NAN);
    out.temperature_slope = select(out.temperature_slope, 0u, factor_flags == ROW_ZERO);
    // A NaN weight is a factor in `total`, and wins over a class at -inf.
    let weighed = bitcast<u32>(total + params.z_loss * lse * lse);
    let unweighted = select(weighed, INFINITY_BITS, infinite && !is_nan(weighed));
    out.loss = times(bitcast<u32>(row.row_weight), unweighted);
    out.alpha = taken.sum + pull;
    return out;
}

// Index targets: the target, its neighbours (ordinal smoothing) and focal modulation.
fn close_target(row: Row, given: Closed, log_sum: f32, terms: Terms, streamed: State) -> Closed {
    var out = given;
    var total = terms.total;
    var depth = terms.depth;
    var sides = 0.0;
    var infinite = terms.infinite;
    var kept = params.kept_share;
    var side = 0.0;
    if (ORDINAL && !SHARDED) {
        let left = row.label > 0u;
        let right = row.label + 1u < params.classes;
        let shares = ordinal_shares(row.label, params.classes);
        kept = shares.x;
        side = shares.y;
        let s = share(row, select(row.label, row.label - 1u, left), select(0.0, side, left), out.top, log_sum);
        let t = share(row, select(row.label, row.label + 1u, right), select(0.0, side, right), out.top, log_sum);
        total += share_of_loss(s) + share_of_loss(t);
        depth += s.weight * depth_of(s, streamed) + t.weight * depth_of(t, streamed);
        sides = s.weight + t.weight;
        infinite = infinite || s.infinite || t.infinite;
    }
    let s = share(row, row.label, kept, out.top, log_sum);
    total += share_of_loss(s);
    depth += s.weight * depth_of(s, streamed);
    infinite = infinite || s.infinite;
    out.log_prob = bits_or(-s.below, INFINITY_BITS | SIGN_BIT, s.live);
    out.kappa = row.factor * s.weight;
    out.side = row.factor * side;
    var focal_pull = 0.0;
    if (FOCAL) {
        // (1 - p)^γ multiplies the whole smoothed sum. Its own gradient goes to the target, through p.
        let p = select(0.0, exp(-min(s.below, FLOOR)), s.live);
        let rest = select(1.0, one_minus_exp(-s.below), s.live);
        let modulation = select(power(rest, params.focal_gamma), 1.0, params.focal_gamma == 0.0);
        // total·γ·(1 - p)^(γ-1)·p tends to 0 at both ends of the interval.
        let open_interval = rest > 0.0 && p > 0.0 && !infinite;
        let slope = select(0.0, total * params.focal_gamma * power(rest, params.focal_gamma - 1.0) * p, open_interval);
        focal_pull = row.factor * slope;
        out.kappa = out.kappa * modulation + focal_pull;
        out.side = out.side * modulation;
        out.beta = out.beta * modulation;
        total = total * modulation;
        depth = depth * modulation;
        sides = sides * modulation;
    }
    out.correct = select(0u, 1u, WANTS_ARGMAX && out.argmax == row.label + params.first_class);
    let sum = out.beta * terms.coefficient + out.kappa + row.factor * sides;
    let taken = Taken(sum, row.factor * depth + focal_pull * depth_of(s, streamed));
    return close_loss(row, out, total, taken, streamed, infinite);
}

// Multiplications that `power` makes at most.
const WHOLE_POWERS: f32 = 8.0;

// x^y for x >= 0 and y >= -1. Whole powers are products: exp and log of some drivers cost several digits.
fn power(x: f32, y: f32) -> f32 {
    let whole = clamp(floor(y), 0.0, WHOLE_POWERS);
    var product = 1.0;
    for (var k = 0.0; k < whole; k += 1.0) {
        product *= x;
    }
    let rest = y - whole;
    let part = select(exp(rest * log(max(x, 1e-38))), 1.0, rest == 0.0);
    return select(0.0, product * part, x > 0.0);
}

fn emit(row: Row, closed: Closed, it: Item) {
    let shift = below4(it.u, closed.top);
    var e = exponential(shift);
    if (HAS_LSE) {
        // Relative to an lse instead of a maximum, the exponents of all classes may be far from 0.
        e = select(vec4<f32>(0.0), exp_far4(shift), shift > vec4<f32>(-FLOOR));
    }
    let p = e * closed.inverse_sum;
    // The subtrahends for the target distribution are added up first, in the order in which alpha was summed: with one
    // class the two cancel exactly.
    var taken = vec4<f32>(0.0);
    if (HAS_TERM) {
        taken = taken_for(closed.beta, it.coefficient);
    }
    if (!HAS_PROBS) {
        // The target's position relative to the quad.
        let place = closed.label - it.column;
        let places = vec4<u32>(0u, 1u, 2u, 3u);
        taken += select(vec4<f32>(0.0), vec4<f32>(closed.kappa), places == vec4<u32>(place));
        if (ORDINAL && !SHARDED) {
            let next = (places == vec4<u32>(place - 1u)) | (places == vec4<u32>(place + 1u));
            let side = taken_for(closed.side, bitcast<vec4<f32>>(weight_quad(0u, it.column)));
            taken += select(vec4<f32>(0.0), side, next);
        }
    } else {
        emit_target_gradient(row, closed, it);
    }
    var g = with_byproducts(closed, closed.alpha * p - taken, p, shift);
    if (TRANSFORMED) {
        g = g / row.temperature;
    }
    if (SOFTCAP) {
        let slope = sech_squared4(it.z * params.inverse_softcap);
        g = g * select(vec4<f32>(0.0), slope, live(it.u));
    }
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}

// -f·(1 - ε)·w∘log p. Where p = 0, the limit; the limit is 0 where its factor is 0.
fn emit_target_gradient(row: Row, closed: Closed, it: Item) {
    let factor = closed.kappa * bitcast<vec4<f32>>(weight_quad(0u, it.column));
    let below = closed.side + select(vec4<f32>(0.0), closed.top - it.u, live(it.u));
    let limit = vec4<u32>(INFINITY_BITS) | (bitcast<vec4<u32>>(factor) & vec4<u32>(SIGN_BIT));
    let finite_limit = live(it.u) | (factor == vec4<f32>(0.0)) | is_nan4(bitcast<vec4<u32>>(factor));
    // A row whose loss takes no part has the gradient 0, even if a class weight is NaN.
    let value = select(select(limit, bitcast<vec4<u32>>(factor * below), finite_limit), vec4<u32>(0u), closed.kappa == 0.0);
    target_gradient_store(row.index, it.column, gradient_bits(closed.flags, value));
}
