// Sums of the tile, two quads at a time. Requires that the number of columns is a multiple of eight and that every row
// starts at a multiple of eight. Pays off on drivers that split each load and each store into one per lane.

fn start_row(i: u32, j: u32) -> mat2x4<f32> {
    return initial_octet(initial_row(i), min(j, params.classes - 8u));
}

fn finish_row(i: u32, j: u32, left: vec4<f32>, right: vec4<f32>) {
    if (i < params.outputs && j < params.classes) {
        var whole = mat2x4<f32>(left, right);
        if (HAS_ADDEND) {
            whole = whole + addend_octet(0u, j);
        }
        var skipped: mat2x4<f32>;
        if (KEEPS_SKIPPED) {
            skipped = start_row(i, j);
        }
        output_store_octet(output_row(i), j, output_bits(i, whole[0], skipped[0]), output_bits(i, whole[1], skipped[1]));
    }
}
