// Operands of the tile: each lane loads its own.

fn sharing(at: Place) -> Place {
    return at;
}

fn together(steps: u32, lane: u32) -> u32 {
    return steps;
}

fn started(i: u32, j: u32) -> BandPair {
    return start(i, j);
}

fn ended(sums: Band) -> Band {
    return sums;
}

fn bring(at: Place, k: u32) {}

fn brought(k: u32) -> vec4<bool> {
    return kept(k);
}

fn a_four(i: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    return a_rows(mat4x4<f32>(a_vector(i, k, 0u), a_vector(i, k, 1u), a_vector(i, k, 2u), a_vector(i, k, 3u)), keep);
}

// Eight rows of a, each over four k, starting at this row of the lane.
fn a_eight(at: Place, row: u32, k: u32, keep: vec4<bool>) -> Eight {
    let i = at.i + row;
    return Eight(a_four(i, k, keep), a_four(i + 4u, k, keep));
}

// Four steps of b, each over four columns, starting at this column of the lane.
fn b_four(at: Place, column: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    return b_steps(at.j + column, k, keep);
}
