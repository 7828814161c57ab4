// The multi-class hinge (row/compared.wgsl). h is the lead of another class over the label, margin included, where it is
// above 0. The loss is Σ h^p over the other classes, or h^p of the best of them.

// Only the best other class counts.
override ONLY_BEST: bool = false;

struct State {
    // The hinge, and what its derivative has beside the factor `slope_share`.
    sum: f32,
    slope: f32,
    // The best column that is not the label.
    best_key: u32,
    best_column: u32,
    flags: u32,
}

fn open(index: u32) -> Row {
    var row = open_compared(index);
    if (row.label != NONE) {
        let margin = class_margin_at(0u, row.label);
        row.margin += bitcast<f32>(select(0u, margin, finite_one(margin)));
    }
    return row;
}

fn state_empty() -> State {
    var state: State;
    state.best_column = NONE;
    return state;
}

// h of the live columns that are not the label. A label at -inf is infinitely far behind: 1 stands for that.
fn opened(it: Item, label: u32, label_bits: u32, margin: f32) -> vec4<f32> {
    let counts = finite(it.bits) & it.inside & (columns_of(it) != vec4<u32>(label));
    let z = bitcast<vec4<f32>>(select(vec4<u32>(0u), it.bits, counts));
    let is_live = finite_one(label_bits);
    let label_z = bitcast<f32>(select(0u, label_bits, is_live));
    let h = select(vec4<f32>(1.0), max(margin + (z - label_z), vec4<f32>(0.0)), is_live);
    return select(vec4<f32>(0.0), h, counts);
}

// The share of each class in the hinge. It is small before anything large is added or squared, so that a mean within f32
// does not overflow.
fn powers(h: vec4<f32>) -> vec4<f32> {
    let share = params.share * h;
    return select(share, share * h, params.squared != 0u);
}

fn slopes(h: vec4<f32>) -> vec4<f32> {
    let is_open = select(vec4<f32>(0.0), vec4<f32>(1.0), h > vec4<f32>(0.0));
    return select(is_open, params.share * h, params.squared != 0u);
}

fn state_take_quad(row: Row, state: State, it: Item) -> State {
    var out = state;
    out.flags |= flags_of_quad(it);
    if (ONLY_BEST) {
        var best = Place(state.best_key, state.best_column);
        for (var i = 0u; i < 4u; i += 1u) {
            let place = Place(place_key(it.bits[i]), it.column + i);
            let counts = finite_one(it.bits[i]) && it.inside[i] && place.column != row.label;
            if (counts && before(place, best)) {
                best = place;
            }
        }
        out.best_key = best.key;
        out.best_column = best.column;
    } else {
        let h = opened(it, row.label, row.label_bits, row.margin);
        out.sum += sum4(powers(h));
        out.slope += sum4(slopes(h));
    }
    return out;
}

fn state_merge(a: State, b: State) -> State {
    var out = a;
    out.sum += b.sum;
    out.slope += b.slope;
    if (before(Place(b.best_key, b.best_column), Place(a.best_key, a.best_column))) {
        out.best_key = b.best_key;
        out.best_column = b.best_column;
    }
    out.flags |= b.flags;
    return out;
}

// The sums of a row in which only the best other class counts.
fn of_best(row: Row, state: State) -> State {
    var it: Item;
    it.column = state.best_column;
    it.bits = vec4<u32>(key_bits(state.best_key));
    it.inside = vec4<bool>(state.best_column != NONE, false, false, false);
    let h = opened(it, row.label, row.label_bits, row.margin);
    var out = state;
    out.sum = powers(h).x;
    out.slope = slopes(h).x;
    return out;
}

fn close(row: Row, streamed: State) -> Closed {
    if (row_is_dropped(row)) {
        return closed_dropped(row);
    }
    let weight = weight_at(0u, row.label);
    if (!is_usable(streamed.flags) || !finite_one(weight) || !finite_one(class_margin_at(0u, row.label))) {
        return closed_bad(row);
    }
    var state = streamed;
    if (ONLY_BEST) {
        state = of_best(row, streamed);
    }
    var out = closed_blank(factor_flags(row.factor), 0u, 0u);
    let is_open = state.slope > 0.0;
    let infinite = is_open && row.label_bits == MINUS_INFINITY;
    let capped = params.capped != 0u && (infinite || state.sum >= params.ramp);
    if (infinite && params.squared != 0u && !capped && !is_zero(weight) && !is_weightless(row)) {
        // The slope is infinite too: the row counts as a bad row, and its gradient is 0.
        out.flags |= ROW_ZERO | ROW_NAN;
    }
    let limit = select(select(bitcast<u32>(state.sum), INFINITY_BITS, infinite), bitcast<u32>(params.ramp), capped);
    out.loss = times(bitcast<u32>(row.row_weight), times(weight, limit));
    out.open_row = bitcast<u32>(select(0.0, 1.0, is_open));
    out.label = row.label;
    out.label_bits = row.label_bits;
    out.margin = row.margin;
    out.best_column = state.best_column;
    out.scale = select(params.slope_share * row.factor * bitcast<f32>(weight), 0.0, capped);
    out.label_slope = -(out.scale * state.slope);
    return out;
}

fn emit(row: Row, closed: Closed, it: Item) {
    var g = closed.scale * slopes(opened(it, closed.label, closed.label_bits, closed.margin));
    if (ONLY_BEST) {
        g = select(vec4<f32>(0.0), g, columns_of(it) == vec4<u32>(closed.best_column));
    }
    g = select(g, vec4<f32>(closed.label_slope), columns_of(it) == vec4<u32>(closed.label));
    gradient_store(row.index, it.column, gradient_bits(closed.flags, bitcast<vec4<u32>>(g)));
}
