// The tile of every product of a linear loss: output[i, j] = initial[i, j] + Σ_k a(i, k)·b(j, k). Scores also get a
// bias, which is added last: if the sum started from a large bias, every step would cost half its last bit.
//
//   scores      a = hidden,  b = W,       k over the depth, addend = bias
//   ∂hidden     a = G,       b = W,       k over the classes
//   ∂W          a = G,       b = hidden,  k over the rows (or a = hidden, b = G where W is [D, V])
//   ∂bias       a = 1,       b = G,       k over the rows
//
// Operands are read four elements at a time along their contiguous index, and transposed in registers, so no operand is
// ever transposed in memory. A lane owns 8, 24 or 48 rows of one, two or four bands of four columns. Each way to load
// the operands has its own file: every lane loads for itself (linear/lane.wgsl), the lanes of a subgroup load the rows
// of a for each other (linear/subgroup.wgsl), or a workgroup loads tiles of both operands into its memory
// (linear/workgroup.wgsl). The owner of an output sums it in the order of k, starting from the initial value. So the
// way of loading, the tile's size and cutting k into several dispatches do not change a bit, and no atomics are needed.

override WORKGROUP: u32 = 64u;
// Lanes of a workgroup that lie side by side; the other lanes lie in rows below them.
override ACROSS: u32 = 64u;
// Whether, in memory, the rows of a (of b) run over i (over j) and the columns over k; false for the other way round.
override A_WALKS: bool = true;
override B_WALKS: bool = true;
// What a lane owns: groups of eight rows (1, 3 or 6) and bands of four columns (1, 2 or 4).
override EIGHTS: u32 = 1u;
override BANDS: u32 = 1u;
// Not all four k of a step count: the depth is not a multiple of four, or rows are skipped.
override MASKED: bool = false;
// A sum over rows leaves out rows whose gradient is 0, because their hidden state may hold NaN.
override SKIPS_WALKED: bool = false;
// Outputs of rows whose gradient is 0 are 0, whatever W holds.
override SKIPS_OWNED: bool = false;
// Whether a skipped row keeps its initial values; otherwise it becomes 0.
override KEEPS_SKIPPED: bool = false;

// The rows of a dispatch are slots (row/order.wgsl). Rows that count come first, and nothing is summed for the others.
override ORDERED: bool = false;
// Rows of the output (of the initial values) are those of the whole window, not slots.
override OUTPUT_BY_ROW: bool = false;
override INITIAL_BY_ROW: bool = false;
// The sums start from what the output holds.
override RESUMES: bool = false;

// Every vector of an operand is multiplied by its own factor while it is loaded: by a power of two, if vectors are
// normalised later and their products could otherwise overflow or underflow, or by two factors that divide it by its
// norm (pairs/vectors.wgsl).
override SCALES_A: bool = false;
override SCALES_B: bool = false;
override NORMALIZES: bool = false;
// The vectors of b are columns in memory.
override SCALES_COLUMNS: bool = false;

// A row of addends (the bias) is added to every row of sums.
override HAS_ADDEND: bool = false;

const STEPS: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

// Eight rows as two matrices of four: an array indexed in a loop ends up in memory on some drivers. As sums, each row
// is a vector over four columns; as an operand, a vector over four k.
struct Eight {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

// The rows of a lane. Those past EIGHTS are never touched.
struct Band {
    e0: Eight,
    e1: Eight,
    e2: Eight,
    e3: Eight,
    e4: Eight,
    e5: Eight,
}

// The row of a slot in its window.
fn row_of(index: u32) -> u32 {
    let slot = params.first_row + index;
    if (ORDERED) {
        return order_read(4u + slot);
    }
    return slot;
}

fn row_is_zero(row: u32) -> bool {
    return (records_read(row_of(row) * params.record_words + RECORD_FLAGS) & ROW_ZERO) != 0u;
}

fn output_row(i: u32) -> u32 {
    if (OUTPUT_BY_ROW) {
        return row_of(i);
    }
    return i;
}

fn initial_row(i: u32) -> u32 {
    let row = min(i, params.outputs - 1u);
    if (INITIAL_BY_ROW) {
        return row_of(row);
    }
    return row;
}

// The number of steps of a tile: none where all its slots are past the last row that counts.
fn steps_of(row: u32) -> u32 {
    if (ORDERED) {
        let left = max(order_read(0u), params.first_row) - params.first_row;
        return select(select(0u, params.depth, row < left), min(params.depth, left), SKIPS_WALKED);
    }
    return params.depth;
}

// Whether a tile without steps has nothing to write: nobody reads the scores of its slots, or its output stays as it is.
fn is_idle(steps: u32) -> bool {
    return ORDERED && steps == 0u && (RESUMES || !(SKIPS_WALKED || SKIPS_OWNED));
}

var<workgroup> agreed_steps: u32;

// The number of steps as all lanes know it. Before a barrier, a browser wants proof that it is the same for all.
fn agreed(steps: u32, lane: u32) -> u32 {
    if (ORDERED) {
        if (lane == 0u) {
            agreed_steps = steps;
        }
        return workgroupUniformLoad(&agreed_steps);
    }
    return params.depth;
}

// The first of four columns; past the end, the start of the row's last quad.
fn quad_start(column: u32, count: u32) -> u32 {
    return min(column, (count - 1u) / 4u * 4u);
}

fn a_loaded(row: u32, column: u32) -> vec4<f32> {
    let loaded = bitcast<vec4<f32>>(a_quad(row, column));
    if (SCALES_A) {
        let at = row * params.a_scale_step;
        let scaled = loaded * bitcast<f32>(a_scales_read(at));
        if (NORMALIZES) {
            return scaled * bitcast<f32>(a_scales_read(at + params.a_second));
        }
        return scaled;
    }
    return loaded;
}

fn b_factors(vector: u32, word: u32) -> vec4<f32> {
    let step = params.b_scale_step;
    let at = vector * step + word;
    if (SCALES_COLUMNS) {
        let next = vec2<u32>(b_scales_read(at), b_scales_read(at + step));
        let last = vec2<u32>(b_scales_read(at + 2u * step), b_scales_read(at + 3u * step));
        return bitcast<vec4<f32>>(vec4<u32>(next, last));
    }
    return vec4<f32>(bitcast<f32>(b_scales_read(at)));
}

fn b_loaded(row: u32, column: u32) -> vec4<f32> {
    let loaded = bitcast<vec4<f32>>(b_quad(row, column));
    if (SCALES_B) {
        let vector = select(row, column, SCALES_COLUMNS);
        let scaled = loaded * b_factors(vector, 0u);
        if (NORMALIZES) {
            return scaled * b_factors(vector, params.b_second);
        }
        return scaled;
    }
    return loaded;
}

// One of the four vectors, as they lie in memory, that hold rows i to i + 3 of a at steps k to k + 3.
fn a_vector(i: u32, k: u32, index: u32) -> vec4<f32> {
    if (A_WALKS) {
        return a_loaded(min(i + index, params.outputs - 1u), k);
    }
    return a_loaded(min(k + index, params.depth - 1u), quad_start(i, params.outputs));
}

// The same for columns j to j + 3 of b.
fn b_vector(j: u32, k: u32, index: u32) -> vec4<f32> {
    if (B_WALKS) {
        return b_loaded(min(j + index, params.classes - 1u), k);
    }
    return b_loaded(min(k + index, params.depth - 1u), quad_start(j, params.classes));
}

// Rows of a, each a vector over four k, from a block as it lies in memory.
fn a_rows(block: mat4x4<f32>, keep: vec4<bool>) -> mat4x4<f32> {
    var rows = block;
    if (!A_WALKS) {
        rows = transpose(block);
    }
    if (MASKED) {
        let nothing = vec4<f32>(0.0);
        rows[0] = select(nothing, rows[0], keep);
        rows[1] = select(nothing, rows[1], keep);
        rows[2] = select(nothing, rows[2], keep);
        rows[3] = select(nothing, rows[3], keep);
    }
    return rows;
}

// Steps k to k + 3 of b, each a vector over columns j to j + 3.
fn b_steps(j: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    var steps = mat4x4<f32>(b_vector(j, k, 0u), b_vector(j, k, 1u), b_vector(j, k, 2u), b_vector(j, k, 3u));
    if (B_WALKS) {
        steps = transpose(steps);
    }
    if (MASKED) {
        let nothing = vec4<f32>(0.0);
        steps[0] = select(nothing, steps[0], keep.x);
        steps[1] = select(nothing, steps[1], keep.y);
        steps[2] = select(nothing, steps[2], keep.z);
        steps[3] = select(nothing, steps[3], keep.w);
    }
    return steps;
}

// Which of the four steps count.
fn kept(k: u32) -> vec4<bool> {
    let steps = vec4<u32>(k) + STEPS;
    var keep = steps < vec4<u32>(params.depth);
    if (SKIPS_WALKED) {
        let rows = min(steps, vec4<u32>(params.depth - 1u));
        keep = keep & !vec4<bool>(row_is_zero(rows.x), row_is_zero(rows.y), row_is_zero(rows.z), row_is_zero(rows.w));
    }
    return keep;
}

// Adds four steps to one row's sums. Written out, so that the order of k is part of the source.
fn add_row(sum: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    return (((sum + a.x * b[0]) + a.y * b[1]) + a.z * b[2]) + a.w * b[3];
}

fn add_four(sums: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(add_row(sums[0], a[0], b), add_row(sums[1], a[1], b), add_row(sums[2], a[2], b), add_row(sums[3], a[3], b));
}

fn add_eight(sums: Eight, a: Eight, b: mat4x4<f32>) -> Eight {
    return Eight(add_four(sums.low, a.low, b), add_four(sums.high, a.high, b));
}

fn add(given: Band, a: Band, b: mat4x4<f32>) -> Band {
    var sums = given;
    sums.e0 = add_eight(sums.e0, a.e0, b);
    if (EIGHTS > 1u) {
        sums.e1 = add_eight(sums.e1, a.e1, b);
        sums.e2 = add_eight(sums.e2, a.e2, b);
    }
    if (EIGHTS > 3u) {
        sums.e3 = add_eight(sums.e3, a.e3, b);
        sums.e4 = add_eight(sums.e4, a.e4, b);
        sums.e5 = add_eight(sums.e5, a.e5, b);
    }
    return sums;
}

fn a_band(at: Place, k: u32, keep: vec4<bool>) -> Band {
    var a: Band;
    a.e0 = a_eight(at, 0u, k, keep);
    if (EIGHTS > 1u) {
        a.e1 = a_eight(at, 8u, k, keep);
        a.e2 = a_eight(at, 16u, k, keep);
    }
    if (EIGHTS > 3u) {
        a.e3 = a_eight(at, 24u, k, keep);
        a.e4 = a_eight(at, 32u, k, keep);
        a.e5 = a_eight(at, 40u, k, keep);
    }
    return a;
}

// Sums of two bands side by side. Two files hold how a row of sums is started and finished: one quad at a time
// (linear/quads.wgsl) or both quads at once (linear/octets.wgsl).
struct FourPair {
    left: mat4x4<f32>,
    right: mat4x4<f32>,
}

struct EightPair {
    left: Eight,
    right: Eight,
}

struct BandPair {
    left: Band,
    right: Band,
}

fn start_four(i: u32, j: u32) -> FourPair {
    let r0 = start_row(i, j);
    let r1 = start_row(i + 1u, j);
    let r2 = start_row(i + 2u, j);
    let r3 = start_row(i + 3u, j);
    return FourPair(mat4x4<f32>(r0[0], r1[0], r2[0], r3[0]), mat4x4<f32>(r0[1], r1[1], r2[1], r3[1]));
}

fn start_eight(i: u32, j: u32) -> EightPair {
    let low = start_four(i, j);
    let high = start_four(i + 4u, j);
    return EightPair(Eight(low.left, high.left), Eight(low.right, high.right));
}

fn start(i: u32, j: u32) -> BandPair {
    let e0 = start_eight(i, j);
    var e1: EightPair;
    var e2: EightPair;
    var e3: EightPair;
    var e4: EightPair;
    var e5: EightPair;
    if (EIGHTS > 1u) {
        e1 = start_eight(i + 8u, j);
        e2 = start_eight(i + 16u, j);
    }
    if (EIGHTS > 3u) {
        e3 = start_eight(i + 24u, j);
        e4 = start_eight(i + 32u, j);
        e5 = start_eight(i + 40u, j);
    }
    let left = Band(e0.left, e1.left, e2.left, e3.left, e4.left, e5.left);
    return BandPair(left, Band(e0.right, e1.right, e2.right, e3.right, e4.right, e5.right));
}

// Outputs as they are stored: the sums, or what a skipped row has in their place.
fn output_bits(i: u32, sum: vec4<f32>, skipped: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(select(sum, skipped, SKIPS_OWNED && row_is_zero(i)));
}

fn finish_four(i: u32, j: u32, left: mat4x4<f32>, right: mat4x4<f32>) {
    finish_row(i, j, left[0], right[0]);
    finish_row(i + 1u, j, left[1], right[1]);
    finish_row(i + 2u, j, left[2], right[2]);
    finish_row(i + 3u, j, left[3], right[3]);
}

fn finish_eight(i: u32, j: u32, left: Eight, right: Eight) {
    finish_four(i, j, left.low, right.low);
    finish_four(i + 4u, j, left.high, right.high);
}

fn finish(i: u32, j: u32, left: Band, right: Band) {
    finish_eight(i, j, left.e0, right.e0);
    if (EIGHTS > 1u) {
        finish_eight(i + 8u, j, left.e1, right.e1);
        finish_eight(i + 16u, j, left.e2, right.e2);
    }
    if (EIGHTS > 3u) {
        finish_eight(i + 24u, j, left.e3, right.e3);
        finish_eight(i + 32u, j, left.e4, right.e4);
        finish_eight(i + 40u, j, left.e5, right.e5);
    }
}

// What a lane owns begins at row i and column j. The tile of its workgroup begins at `row` and `column`.
struct Place {
    row: u32,
    column: u32,
    i: u32,
    j: u32,
    lane: u32,
}

// Row and column of a tile, in tiles. Tiles are visited in runs of `run` tile columns, row by row within a run.
fn tile_place(tile: u32) -> vec2<u32> {
    let first = tile / (params.tile_rows * params.run) * params.run;
    let run = min(params.run, params.tile_columns - first);
    let rest = tile - first * params.tile_rows;
    return vec2<u32>(rest / run, first + rest % run);
}

fn place(tile: vec2<u32>, lane: u32) -> Place {
    let row = tile.x * (WORKGROUP / ACROSS * EIGHTS * 8u);
    let column = tile.y * (ACROSS * BANDS * 4u);
    // The bands of a lane lie side by side. The loads of a subgroup then touch many cache lines, which arrive together.
    // If instead neighbouring lanes loaded neighbouring bands, lanes would wait for two cache lines at a time (llvmpipe
    // loads one lane after another).
    return Place(row, column, row + lane / ACROSS * EIGHTS * 8u, column + lane % ACROSS * BANDS * 4u, lane);
}

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = sharing(place(tile_place(group.x + group.y * groups.x), lane));
    let i = at.i;
    let j = at.j;
    let steps = together(steps_of(at.row), lane);
    if (is_idle(steps)) {
        return;
    }
    let first = started(i, j);
    var s0 = first.left;
    var s1 = first.right;
    var s2: Band;
    var s3: Band;
    if (BANDS > 2u) {
        let second = start(i, j + 8u);
        s2 = second.left;
        s3 = second.right;
    }
    for (var k = 0u; k < steps; k += 4u) {
        bring(at, k);
        let keep = brought(k);
        let a = a_band(at, k, keep);
        s0 = add(s0, a, b_four(at, 0u, k, keep));
        if (BANDS > 1u) {
            s1 = add(s1, a, b_four(at, 4u, k, keep));
        }
        if (BANDS > 2u) {
            s2 = add(s2, a, b_four(at, 8u, k, keep));
            s3 = add(s3, a, b_four(at, 12u, k, keep));
        }
    }
    finish(i, j, ended(s0), s1);
    if (BANDS > 2u) {
        finish(i, j + 8u, s2, s3);
    }
}
