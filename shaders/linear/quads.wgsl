// Sums of the tile, a quad at a time.

fn start_quad(i: u32, j: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(initial_quad(initial_row(i), min(j, params.classes - 1u)));
}

// A row of two bands; only the left one where the lane has one band.
fn start_row(i: u32, j: u32) -> mat2x4<f32> {
    var row: mat2x4<f32>;
    row[0] = start_quad(i, j);
    if (BANDS > 1u) {
        row[1] = start_quad(i, j + 4u);
    }
    return row;
}

fn finish_quad(i: u32, j: u32, sum: vec4<f32>) {
    if (i < params.outputs && j < params.classes) {
        var whole = sum;
        if (HAS_ADDEND) {
            whole = sum + bitcast<vec4<f32>>(addend_quad(0u, j));
        }
        var skipped = vec4<f32>(0.0);
        if (KEEPS_SKIPPED) {
            skipped = start_quad(i, j);
        }
        output_store(output_row(i), j, output_bits(i, whole, skipped));
    }
}

fn finish_row(i: u32, j: u32, left: vec4<f32>, right: vec4<f32>) {
    finish_quad(i, j, left);
    if (BANDS > 1u) {
        finish_quad(i, j + 4u, right);
    }
}
