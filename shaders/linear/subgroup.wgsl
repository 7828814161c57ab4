// Operands of the tile: lanes of a subgroup load the rows of a, which all of them need, for each other.
// What a lane gets is what it would have loaded, so no bit depends on subgroups.

// Neighbours that load for each other: 4 or 8, no more than the smallest subgroup has.
override SHARING: u32 = 4u;

// The lane becomes its number among the lanes of its subgroup: workgroups are whole subgroups, or fewer
// lanes than one.
fn sharing(at: Place) -> Place {
    var numbered = at;
    numbered.lane = subgroupExclusiveAdd(1u) % SHARING;
    return numbered;
}

fn bring(at: Place, k: u32) {}

fn brought(k: u32) -> vec4<bool> {
    return kept(k);
}

fn lower(vector: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(vector, 0u), subgroupBroadcast(vector, 1u), subgroupBroadcast(vector, 2u), subgroupBroadcast(vector, 3u));
}

fn upper(vector: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(vector, 4u), subgroupBroadcast(vector, 5u), subgroupBroadcast(vector, 6u), subgroupBroadcast(vector, 7u));
}

fn a_eight(at: Place, row: u32, k: u32, keep: vec4<bool>) -> Eight {
    let i = at.i + row;
    let vector = a_vector(i + at.lane / 4u * 4u, k, at.lane % 4u);
    let low = a_rows(lower(vector), keep);
    if (SHARING == 8u) {
        return Eight(low, a_rows(upper(vector), keep));
    }
    return Eight(low, a_rows(lower(a_vector(i + 4u, k, at.lane)), keep));
}

fn b_four(at: Place, column: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    return b_steps(at.j + column, k, keep);
}
