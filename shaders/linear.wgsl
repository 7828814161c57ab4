// The tile: output[i, j] = initial[i, j] + Σ_k a(i, k)·b(j, k), for every product of a linear loss.
//
//   scores      a = hidden,  b = W,       k over the depth, initial = bias
//   ∂hidden     a = G,       b = W,       k over the classes
//   ∂W          a = G,       b = hidden,  k over the rows (or a = hidden, b = G where W is [D, V])
//   ∂bias       a = G,       b = 1,       k over the rows
//
// Element (i, k) of a lies at i·a_i + k·a_k and so on, so no operand is ever transposed in memory.
// A lane owns TILE_ROWS × 4 outputs; a workgroup owns TILE_ROWS rows of 4·WORKGROUP columns, so a is
// read uniformly. Each output is summed by its owner in the order of k, onto what was there: cutting k into several
// dispatches changes no bit, and there are no atomics.

override WORKGROUP: u32 = 64u;
// Rows whose gradient is 0 are left out of a sum over rows: their hidden state may hold NaN.
override SKIPS_WALKED: bool = false;
// Outputs of such rows are 0 whatever W holds.
override SKIPS_OWNED: bool = false;

fn row_is_zero(row: u32) -> bool {
    return (records_read((params.first_row + row) * RECORD + RECORD_FLAGS) & ROW_ZERO) != 0u;
}

// Rows i to i + 3 of a.
fn a_load(i: u32, k: u32) -> vec4<f32> {
    let last = params.outputs - 1u;
    let at = min(vec4<u32>(i, i + 1u, i + 2u, i + 3u), vec4<u32>(last)) * params.a_i + k * params.a_k;
    return bitcast<vec4<f32>>(vec4<u32>(a_at(0u, at.x), a_at(0u, at.y), a_at(0u, at.z), a_at(0u, at.w)));
}

fn b_load(j: vec4<u32>, k: u32) -> vec4<f32> {
    let at = j * params.b_j + k * params.b_k;
    return bitcast<vec4<f32>>(vec4<u32>(b_at(0u, at.x), b_at(0u, at.y), b_at(0u, at.z), b_at(0u, at.w)));
}

fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(a.x * b, a.y * b, a.z * b, a.w * b);
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

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.x + group.y * groups.x;
    let i = (tile / params.tile_columns) * TILE_ROWS;
    let j = ((tile % params.tile_columns) * WORKGROUP + lane) * 4u;
    let columns = min(vec4<u32>(j, j + 1u, j + 2u, j + 3u), vec4<u32>(params.classes - 1u));
    // TILE_ROWS rows, four a matrix, written out: an array indexed in a loop ends up in memory on some
    // drivers.
    var c0 = start(i + 0u, j);
    var c1 = start(i + 4u, j);
    var c2 = start(i + 8u, j);
    var c3 = start(i + 12u, j);
    var c4 = start(i + 16u, j);
    var c5 = start(i + 20u, j);
    for (var k = 0u; k < params.depth; k += 1u) {
        if (SKIPS_WALKED && row_is_zero(k)) {
            continue;
        }
        let b = b_load(columns, k);
        c0 += outer(a_load(i + 0u, k), b);
        c1 += outer(a_load(i + 4u, k), b);
        c2 += outer(a_load(i + 8u, k), b);
        c3 += outer(a_load(i + 12u, k), b);
        c4 += outer(a_load(i + 16u, k), b);
        c5 += outer(a_load(i + 20u, k), b);
    }
    finish(i + 0u, j, c0);
    finish(i + 4u, j, c1);
    finish(i + 8u, j, c2);
    finish(i + 12u, j, c3);
    finish(i + 16u, j, c4);
    finish(i + 20u, j, c5);
}
