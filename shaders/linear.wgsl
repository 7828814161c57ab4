// The tile: output[i, j] = initial[i, j] + Σ_k a(i, k)·b(j, k), for every product of a linear loss.
//
//   scores      a = hidden,  b = W,       k over the depth, initial = bias
//   ∂hidden     a = G,       b = W,       k over the classes
//   ∂W          a = G,       b = hidden,  k over the rows (or a = hidden, b = G where W is [D, V])
//   ∂bias       a = G,       b = 1,       k over the rows
//
// Element (i, k) of a lies at i·a_i + k·a_k and so on, so no operand is ever transposed in memory.
// A lane owns 8 × 4 outputs; a workgroup owns 8 rows of 4·WORKGROUP columns, so a is read uniformly.
// Each output is summed by its owner in the order of k, onto what was there: cutting k into several
// dispatches changes no bit, and there are no atomics.

override WORKGROUP: u32 = 64u;
// Rows whose gradient is 0 are left out of a sum over rows: their hidden state may hold NaN.
override SKIPS_WALKED: bool = false;
// Outputs of such rows are 0 whatever W holds.
override SKIPS_OWNED: bool = false;

const TILE_ROWS: u32 = 8u;

fn row_is_zero(row: u32) -> bool {
    return (records[(params.first_row + row) * RECORD + RECORD_FLAGS] & ROW_ZERO) != 0u;
}

fn a_load(i: u32, k: u32) -> f32 {
    return bitcast<f32>(a_at(0u, min(i, params.outputs - 1u) * params.a_i + k * params.a_k));
}

fn b_load(j: vec4<u32>, k: u32) -> vec4<f32> {
    let at = j * params.b_j + k * params.b_k;
    return bitcast<vec4<f32>>(vec4<u32>(b_at(0u, at.x), b_at(0u, at.y), b_at(0u, at.z), b_at(0u, at.w)));
}

fn finish_quad(i: u32, j: u32, sum: vec4<f32>) {
    if (i < params.outputs && j < params.classes) {
        let zero = SKIPS_OWNED && row_is_zero(i);
        output_store(i, j, select(bitcast<vec4<u32>>(sum), vec4<u32>(0u), zero));
    }
}

fn start_quad(i: u32, j: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(initial_quad(min(i, params.outputs - 1u), min(j, params.classes - 1u)));
}

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.x + group.y * groups.x;
    let i = (tile / params.tile_columns) * TILE_ROWS;
    let j = ((tile % params.tile_columns) * WORKGROUP + lane) * 4u;
    let columns = min(vec4<u32>(j, j + 1u, j + 2u, j + 3u), vec4<u32>(params.classes - 1u));
    var c0 = start_quad(i, j);
    var c1 = start_quad(i + 1u, j);
    var c2 = start_quad(i + 2u, j);
    var c3 = start_quad(i + 3u, j);
    var c4 = start_quad(i + 4u, j);
    var c5 = start_quad(i + 5u, j);
    var c6 = start_quad(i + 6u, j);
    var c7 = start_quad(i + 7u, j);
    for (var k = 0u; k < params.depth; k += 1u) {
        if (SKIPS_WALKED && row_is_zero(k)) {
            continue;
        }
        let b = b_load(columns, k);
        c0 += a_load(i, k) * b;
        c1 += a_load(i + 1u, k) * b;
        c2 += a_load(i + 2u, k) * b;
        c3 += a_load(i + 3u, k) * b;
        c4 += a_load(i + 4u, k) * b;
        c5 += a_load(i + 5u, k) * b;
        c6 += a_load(i + 6u, k) * b;
        c7 += a_load(i + 7u, k) * b;
    }
    finish_quad(i, j, c0);
    finish_quad(i + 1u, j, c1);
    finish_quad(i + 2u, j, c2);
    finish_quad(i + 3u, j, c3);
    finish_quad(i + 4u, j, c4);
    finish_quad(i + 5u, j, c5);
    finish_quad(i + 6u, j, c6);
    finish_quad(i + 7u, j, c7);
}
