// Operands of the tile: the lanes of a subgroup all need the same rows of a, and load them for each other. A lane gets
// what it would have loaded itself, so no bit depends on subgroups.

// Neighbours that load for each other: 4 or 8, and at most the size of the smallest subgroup.
override SHARING: u32 = 4u;

// Replaces the lane's index by its index among the sharing lanes of its subgroup. A workgroup consists of whole
// subgroups, or has fewer lanes than one.
fn sharing(at: Place) -> Place {
    var numbered = at;
    numbered.lane = subgroupExclusiveAdd(1u) % SHARING;
    return numbered;
}

fn together(steps: u32, lane: u32) -> u32 {
    return steps;
}

// Loads the first element of each of the lane's rows, and only then the rows. Some drivers load one lane after another
// and one element after another; with whole quads they wait for the memory of one row after another. The first elements
// of all rows are few enough that the waits overlap. (lavapipe: 5 to 8 % of ∂W's time in small chunks.)
fn started(i: u32, j: u32) -> BandPair {
    let e0 = first_eight(i, j);
    var e1: mat2x4<f32>;
    var e2: mat2x4<f32>;
    var e3: mat2x4<f32>;
    var e4: mat2x4<f32>;
    var e5: mat2x4<f32>;
    if (EIGHTS > 1u) {
        e1 = first_eight(i + 8u, j);
        e2 = first_eight(i + 16u, j);
    }
    if (EIGHTS > 3u) {
        e3 = first_eight(i + 24u, j);
        e4 = first_eight(i + 32u, j);
        e5 = first_eight(i + 40u, j);
    }
    var sums = start(i, j);
    sums.left.e0 = beginning(sums.left.e0, e0);
    if (EIGHTS > 1u) {
        sums.left.e1 = beginning(sums.left.e1, e1);
        sums.left.e2 = beginning(sums.left.e2, e2);
    }
    if (EIGHTS > 3u) {
        sums.left.e3 = beginning(sums.left.e3, e3);
        sums.left.e4 = beginning(sums.left.e4, e4);
        sums.left.e5 = beginning(sums.left.e5, e5);
    }
    return sums;
}

fn first_element(i: u32, j: u32) -> f32 {
    return bitcast<f32>(initial_at(initial_row(i), min(j, params.classes - 1u)));
}

fn first_four(i: u32, j: u32) -> vec4<f32> {
    return vec4<f32>(first_element(i, j), first_element(i + 1u, j), first_element(i + 2u, j), first_element(i + 3u, j));
}

fn first_eight(i: u32, j: u32) -> mat2x4<f32> {
    return mat2x4<f32>(first_four(i, j), first_four(i + 4u, j));
}

fn beginning_four(given: mat4x4<f32>, first: vec4<f32>) -> mat4x4<f32> {
    var rows = given;
    rows[0].x = first.x;
    rows[1].x = first.y;
    rows[2].x = first.z;
    rows[3].x = first.w;
    return rows;
}

fn beginning(given: Eight, first: mat2x4<f32>) -> Eight {
    return Eight(beginning_four(given.low, first[0]), beginning_four(given.high, first[1]));
}

// A large W whose rows run over k comes from memory, not from a cache. For the reason above, one element of each of
// four rows is touched before whole quads are loaded. (lavapipe: 6 to 8 % of the time of these products.)
fn touches() -> bool {
    return !B_WALKS && !SKIPS_WALKED && EIGHTS > 3u;
}

var<private> touched: u32;

fn touch(j: u32, k: u32) -> u32 {
    return b_at(min(k, params.depth - 1u), quad_start(j, params.classes));
}

fn bring(at: Place, k: u32) {
    if (touches()) {
        let two = max(touch(at.j, k), touch(at.j, k + 1u));
        touched = max(touched, max(two, max(touch(at.j, k + 2u), touch(at.j, k + 3u))));
    }
}

// Always returns the sums unchanged. The branch, which is never taken, keeps a compiler from dropping the touches.
fn ended(sums: Band) -> Band {
    var given = sums;
    if (touches() && params.outputs == 0u) {
        given.e0.low[0].x = bitcast<f32>(touched);
    }
    return given;
}

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
