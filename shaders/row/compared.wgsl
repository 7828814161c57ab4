// Rows whose scores are compared with the score of the label.

const MINUS_INFINITY: u32 = INFINITY_BITS | SIGN_BIT;

struct Item {
    column: u32,
    bits: vec4<u32>,
    inside: vec4<bool>,
}

struct Row {
    index: u32,
    label: u32,
    // IGNORED, BAD_TARGET
    flags: u32,
    row_weight: f32,
    factor: f32,
    // The bits of the label's score.
    label_bits: u32,
    // By how much the label should be ahead.
    margin: f32,
    // The selected column, where the program selects one.
    last: Place,
}

// Flags of a state: a score is finite; a score is NaN or +inf.
const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;

fn open_compared(index: u32) -> Row {
    let entry = row_table[HEADER + place_of(index)];
    var row: Row;
    row.index = index;
    row.label = entry.x;
    row.flags = entry.y;
    row.row_weight = bitcast<f32>(entry.z);
    row.factor = row_factor(entry.z, entry.w, row_table[0].y, row_table[0].z);
    row.margin = params.margin;
    if (row.label != NONE) {
        row.label_bits = label_score(index, row.label, row.label);
    }
    return row;
}

// For the gradient, which only needs what the row was closed with.
fn reopen(index: u32) -> Row {
    var row: Row;
    row.index = index;
    return row;
}

fn row_streams(row: Row) -> bool {
    return !row_is_dropped(row);
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    var it: Item;
    it.column = column;
    it.bits = logits_quad(row.index, column);
    it.inside = inside;
    return it;
}

fn columns_of(it: Item) -> vec4<u32> {
    return vec4<u32>(it.column, it.column + 1u, it.column + 2u, it.column + 3u);
}

// The lead of a live column over a live label, margin included.
fn lead(row: Row, bits: u32) -> f32 {
    return row.margin + (bitcast<f32>(bits) - bitcast<f32>(row.label_bits));
}

// What a quad adds to the flags of a state.
fn flags_of_quad(it: Item) -> u32 {
    let is_live = finite(it.bits) & it.inside;
    let is_bad = !finite(it.bits) & (it.bits != vec4<u32>(MINUS_INFINITY)) & it.inside;
    return select(0u, STATE_LIVE, any(is_live)) | select(0u, STATE_BAD, any(is_bad));
}

// Whether a row with these flags has a finite score and none that is NaN or +inf.
fn is_usable(flags: u32) -> bool {
    return (flags & (STATE_LIVE | STATE_BAD)) == STATE_LIVE;
}

fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State {
    let left = state_merge(state_take_quad(row, state_empty(), a), state_take_quad(row, state_empty(), b));
    let right = state_merge(state_take_quad(row, state_empty(), c), state_take_quad(row, state_empty(), d));
    return state_merge(state, state_merge(left, right));
}
