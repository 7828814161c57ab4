// The tile: output[i, j] = initial[i, j] + Σ_k a(i, k)·b(j, k), for every product of a linear loss.
//
//   scores      a = hidden,  b = W,       k over the depth, initial = bias
//   ∂hidden     a = G,       b = W,       k over the classes
//   ∂W          a = G,       b = hidden,  k over the rows (or a = hidden, b = G where W is [D, V])
//   ∂bias       a = 1,       b = G,       k over the rows
//
// Operands are read four elements at a time along whichever index is contiguous, and turned in
// registers, so none is ever transposed in memory. A lane owns up to four bands of 8 or 24 rows and four
// columns: what it loads of a serves all of them. Each output is summed by its owner in the order of k,
// onto what was there: neither the tile's size nor cutting k into several dispatches changes a bit, and
// there are no atomics.

override WORKGROUP: u32 = 64u;
// The rows of a (of b) in memory run over i (over j), their columns over k; otherwise the other way round.
override A_WALKS: bool = true;
override B_WALKS: bool = true;
// Bands of a lane, and whether they have 24 rows.
override BANDS: u32 = 1u;
override TALL: bool = false;
// Not all four k of a step count: the depth is no multiple of four, or rows are skipped.
override MASKED: bool = false;
// Rows whose gradient is 0 are left out of a sum over rows: their hidden state may hold NaN.
override SKIPS_WALKED: bool = false;
// Outputs of such rows are 0 whatever W holds.
override SKIPS_OWNED: bool = false;

const STEPS: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

fn row_is_zero(row: u32) -> bool {
    return (records_read((params.first_row + row) * RECORD + RECORD_FLAGS) & ROW_ZERO) != 0u;
}

// Four consecutive numbers, the last one repeated where there are no more.
fn four(first: u32, count: u32) -> vec4<u32> {
    return min(vec4<u32>(first) + STEPS, vec4<u32>(count - 1u));
}

// The first of four columns, the last four of the row where there are no more.
fn quad_start(column: u32, count: u32) -> u32 {
    return min(column, (count - 1u) / 4u * 4u);
}

fn a_row(row: u32, column: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(a_quad(row, column));
}

fn b_row(row: u32, column: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(b_quad(row, column));
}

// Rows i to i + 3 of a, each a vector over k to k + 3.
fn a_block(i: u32, k: u32) -> mat4x4<f32> {
    let rows = four(select(k, i, A_WALKS), select(params.depth, params.outputs, A_WALKS));
    let column = select(quad_start(i, params.outputs), k, A_WALKS);
    let block = mat4x4<f32>(a_row(rows.x, column), a_row(rows.y, column), a_row(rows.z, column), a_row(rows.w, column));
    if (A_WALKS) {
        return block;
    }
    return transpose(block);
}

// Steps k to k + 3 of b, each a vector over j to j + 3.
fn b_block(j: u32, k: u32) -> mat4x4<f32> {
    let rows = four(select(k, j, B_WALKS), select(params.depth, params.classes, B_WALKS));
    let column = select(quad_start(j, params.classes), k, B_WALKS);
    let block = mat4x4<f32>(b_row(rows.x, column), b_row(rows.y, column), b_row(rows.z, column), b_row(rows.w, column));
    if (B_WALKS) {
        return transpose(block);
    }
    return block;
}

// Which of four steps count.
fn kept(k: u32) -> vec4<bool> {
    var keep = vec4<u32>(k) + STEPS < vec4<u32>(params.depth);
    if (SKIPS_WALKED) {
        let rows = four(k, params.depth);
        keep = keep & !vec4<bool>(row_is_zero(rows.x), row_is_zero(rows.y), row_is_zero(rows.z), row_is_zero(rows.w));
    }
    return keep;
}

fn masked_rows(a: mat4x4<f32>, keep: vec4<bool>) -> mat4x4<f32> {
    let nothing = vec4<f32>(0.0);
    return mat4x4<f32>(
        select(nothing, a[0], keep),
        select(nothing, a[1], keep),
        select(nothing, a[2], keep),
        select(nothing, a[3], keep),
    );
}

fn masked_steps(b: mat4x4<f32>, keep: vec4<bool>) -> mat4x4<f32> {
    let nothing = vec4<f32>(0.0);
    return mat4x4<f32>(
        select(nothing, b[0], keep.x),
        select(nothing, b[1], keep.y),
        select(nothing, b[2], keep.z),
        select(nothing, b[3], keep.w),
    );
}

// One row's sums, step by step: written out, so that the order of k is part of the source.
fn add_row(sum: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    return (((sum + a.x * b[0]) + a.y * b[1]) + a.z * b[2]) + a.w * b[3];
}

fn add(sums: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(add_row(sums[0], a[0], b), add_row(sums[1], a[1], b), add_row(sums[2], a[2], b), add_row(sums[3], a[3], b));
}

// Rows, four a matrix, written out: an array indexed in a loop ends up in memory on some drivers. As
// sums, vectors over four columns; as an operand, vectors over four k. The last four are of tall bands.
struct Band {
    r0: mat4x4<f32>,
    r1: mat4x4<f32>,
    r2: mat4x4<f32>,
    r3: mat4x4<f32>,
    r4: mat4x4<f32>,
    r5: mat4x4<f32>,
}

fn band_add(given: Band, a: Band, b: mat4x4<f32>) -> Band {
    var sums = given;
    sums.r0 = add(sums.r0, a.r0, b);
    sums.r1 = add(sums.r1, a.r1, b);
    if (TALL) {
        sums.r2 = add(sums.r2, a.r2, b);
        sums.r3 = add(sums.r3, a.r3, b);
        sums.r4 = add(sums.r4, a.r4, b);
        sums.r5 = add(sums.r5, a.r5, b);
    }
    return sums;
}

fn a_band(i: u32, k: u32, keep: vec4<bool>) -> Band {
    var a: Band;
    a.r0 = a_kept(i, k, keep);
    a.r1 = a_kept(i + 4u, k, keep);
    if (TALL) {
        a.r2 = a_kept(i + 8u, k, keep);
        a.r3 = a_kept(i + 12u, k, keep);
        a.r4 = a_kept(i + 16u, k, keep);
        a.r5 = a_kept(i + 20u, k, keep);
    }
    return a;
}

fn a_kept(i: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    let a = a_block(i, k);
    if (MASKED) {
        return masked_rows(a, keep);
    }
    return a;
}

fn b_kept(j: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    let b = b_block(j, k);
    if (MASKED) {
        return masked_steps(b, keep);
    }
    return b;
}

fn start_quad(i: u32, j: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(initial_quad(min(i, params.outputs - 1u), min(j, params.classes - 1u)));
}

fn start(i: u32, j: u32) -> mat4x4<f32> {
    return mat4x4<f32>(start_quad(i, j), start_quad(i + 1u, j), start_quad(i + 2u, j), start_quad(i + 3u, j));
}

fn finish_quad(i: u32, j: u32, sum: vec4<f32>) {
    if (i < params.outputs && j < params.classes) {
        let zero = SKIPS_OWNED && row_is_zero(i);
        output_store(i, j, select(bitcast<vec4<u32>>(sum), vec4<u32>(0u), zero));
    }
}

fn finish(i: u32, j: u32, sums: mat4x4<f32>) {
    finish_quad(i, j, sums[0]);
    finish_quad(i + 1u, j, sums[1]);
    finish_quad(i + 2u, j, sums[2]);
    finish_quad(i + 3u, j, sums[3]);
}

fn band_start(i: u32, j: u32) -> Band {
    var sums: Band;
    sums.r0 = start(i, j);
    sums.r1 = start(i + 4u, j);
    if (TALL) {
        sums.r2 = start(i + 8u, j);
        sums.r3 = start(i + 12u, j);
        sums.r4 = start(i + 16u, j);
        sums.r5 = start(i + 20u, j);
    }
    return sums;
}

fn band_finish(i: u32, j: u32, sums: Band) {
    finish(i, j, sums.r0);
    finish(i + 4u, j, sums.r1);
    if (TALL) {
        finish(i + 8u, j, sums.r2);
        finish(i + 12u, j, sums.r3);
        finish(i + 16u, j, sums.r4);
        finish(i + 20u, j, sums.r5);
    }
}

// Row and column of a tile. A run of columns of tiles is gone through row by row, before the next run.
fn tile_place(tile: u32) -> vec2<u32> {
    let first = tile / (params.tile_rows * params.run) * params.run;
    let run = min(params.run, params.tile_columns - first);
    let rest = tile - first * params.tile_rows;
    return vec2<u32>(rest / run, first + rest % run);
}

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = tile_place(group.x + group.y * groups.x);
    let next = WORKGROUP * 4u;
    let i = place.x * select(SHORT_ROWS, TALL_ROWS, TALL);
    let j = place.y * BANDS * next + lane * 4u;
    var s0 = band_start(i, j);
    var s1: Band;
    var s2: Band;
    var s3: Band;
    if (BANDS > 1u) {
        s1 = band_start(i, j + next);
    }
    if (BANDS > 2u) {
        s2 = band_start(i, j + 2u * next);
        s3 = band_start(i, j + 3u * next);
    }
    for (var k = 0u; k < params.depth; k += 4u) {
        let keep = kept(k);
        let a = a_band(i, k, keep);
        s0 = band_add(s0, a, b_kept(j, k, keep));
        if (BANDS > 1u) {
            s1 = band_add(s1, a, b_kept(j + next, k, keep));
        }
        if (BANDS > 2u) {
            s2 = band_add(s2, a, b_kept(j + 2u * next, k, keep));
            s3 = band_add(s3, a, b_kept(j + 3u * next, k, keep));
        }
    }
    band_finish(i, j, s0);
    if (BANDS > 1u) {
        band_finish(i, j + next, s1);
    }
    if (BANDS > 2u) {
        band_finish(i, j + 2u * next, s2);
        band_finish(i, j + 3u * next, s3);
    }
}
