// Scores of pairs: s = scale·x + bias, x = r_i·c_j·⟨query_i, key_j⟩, less a margin where the key is a positive. The chunk
// holds the products ⟨query_i, key_j⟩; the query table and the key table hold the rest. The gradient is the gradient of the
// product: ∂s·scale·r_i·c_j.
//
// A functor (loss/*.wgsl) supplies
//   fn positives(row, columns) -> vec4<bool>     which keys are positives of a query
//   fn candidates(row, columns) -> vec4<bool>    which keys take part at all
// pairs/open.wgsl or pairs/softmax.wgsl supplies open(row) and reopen(row).

override HAS_LABELS: bool = false;
override HAS_SCALE: bool = false;
// A margin is taken from the similarity of every positive.
override MARGIN: bool = false;

// Words of an entry of the query table, and planes of the key table (pairs/vectors.wgsl).
const VECTOR_FACTOR: u32 = 0u;
const VECTOR_LABEL: u32 = 1u;

struct Item {
    column: u32,
    x: vec4<f32>,
    // LOWEST where the column is not live.
    s: vec4<f32>,
    live: vec4<bool>,
    bad: vec4<bool>,
    positive: vec4<bool>,
    key_factor: vec4<f32>,
}

struct Row {
    // The row's index in the chunk, and in the call.
    index: u32,
    number: u32,
    // The column of the positive key (of a shard: before or after its keys if the positive is in another shard), or the
    // number of positives.
    label: u32,
    // IGNORED, BAD_TARGET
    flags: u32,
    // upstream · share of this direction / denominator
    factor: f32,
    query_factor: f32,
    scale: f32,
    bias: f32,
    // Whether query_factor, scale and bias are finite.
    known: bool,
    name: vec2<u32>,
    // The x of the label's pair before any margin, where keys are filtered by it (pairs/softmax.wgsl).
    positive: f32,
}

fn row_of(index: u32) -> Row {
    let entry = row_table[HEADER + params.first_row + index];
    let vector = query_table_quad(index, 0u);
    let bias_bits = bias_at(index, 0u);
    let scale_bits = select(bitcast<u32>(params.scale), scale_at(index, 0u), HAS_SCALE);
    let known = finite_one(vector.x) && finite_one(scale_bits) && finite_one(bias_bits);
    let number = params.origin + index;
    var row: Row;
    row.index = index;
    row.number = number;
    row.label = select(entry.x, number - params.first_class, params.diagonal != 0u);
    row.flags = entry.y;
    row.factor = row_factor(bitcast<u32>(params.share), entry.w, row_table[0].y, row_table[0].z);
    row.query_factor = select(0.0, bitcast<f32>(vector.x), known);
    row.scale = select(0.0, bitcast<f32>(scale_bits), known);
    row.bias = select(0.0, bitcast<f32>(bias_bits), known);
    row.known = known;
    row.name = vector.yz;
    return row;
}

// Ignored rows and rows with a bad target need no stream.
fn row_streams(row: Row) -> bool {
    return row.flags == 0u;
}

fn columns_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u);
}

// Which keys have the query's label.
fn same_label(row: Row, column: u32) -> vec4<bool> {
    let low = key_table_quad(VECTOR_LABEL, column);
    let high = key_table_quad(VECTOR_LABEL + 1u, column);
    return (low == vec4<u32>(row.name.x)) & (high == vec4<u32>(row.name.y));
}

// A score that is NaN or infinite makes its row bad, even if the key is no candidate: the key or the query holds such a
// number.
//
// The two factors are multiplied first. A pair and its mirror image then have the same bits, so that their gradient is
// exactly 0 where both probabilities are 1.
fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let raw = logits_quad(row.index, column);
    let key = key_table_quad(VECTOR_FACTOR, column);
    let known = finite(raw) & finite(key) & vec4<bool>(row.known);
    let key_factor = select(vec4<f32>(0.0), bitcast<vec4<f32>>(key), known);
    let positive = positives(row, column) & inside;
    var x = select(vec4<f32>(0.0), bitcast<vec4<f32>>(raw), known) * (row.query_factor * key_factor);
    if (MARGIN) {
        x -= select(vec4<f32>(0.0), vec4<f32>(params.target_margin), positive);
    }
    let s = row.scale * x + row.bias;
    let whole = known & finite(bitcast<vec4<u32>>(s));
    let live = whole & inside & candidates(row, column);
    var it: Item;
    it.column = column;
    it.x = select(vec4<f32>(0.0), x, whole);
    it.s = select(vec4<f32>(LOWEST), s, live);
    it.live = live;
    it.bad = !whole & inside;
    it.positive = positive;
    it.key_factor = key_factor;
    return it;
}

// The x of the label's pair before any margin; 0 where the similarity is not finite or the label is in another shard.
fn similarity(row: Row, column: u32) -> f32 {
    let here = min(column, params.classes - 1u);
    let raw = label_score(row.index, row.label, here);
    let key = key_table_at(VECTOR_FACTOR, here);
    let known = finite_one(raw) && finite_one(key) && here == column;
    return select(0.0, bitcast<f32>(raw) * (row.query_factor * bitcast<f32>(key)), known);
}

// Stores the gradient of the products, given the gradient g of the scores.
fn emit_scores(row: Row, it: Item, g: vec4<f32>, bad: vec4<bool>) {
    let bits = bitcast<vec4<u32>>(g * (row.scale * row.query_factor) * it.key_factor);
    gradient_store(row.index, it.column, select(bits, vec4<u32>(NAN_BITS), bad));
}
