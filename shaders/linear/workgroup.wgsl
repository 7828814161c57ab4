// Operands of the tile: the workgroup loads tiles of both into its memory. It loads each block of four by four once,
// and transposes and masks it on the way.

// Steps of k that are loaded at once.
const DEEP: u32 = 16u;
// Vectors in a tile. For a: rows, each over four k. For b: steps, each over four columns.
override A_TILE: u32 = WORKGROUP / ACROSS * EIGHTS * 8u * (DEEP / 4u);
override B_TILE: u32 = ACROSS * BANDS * DEEP;

var<workgroup> a_tile: array<vec4<f32>, A_TILE>;
var<workgroup> b_tile: array<vec4<f32>, B_TILE>;

fn sharing(at: Place) -> Place {
    return at;
}

fn together(steps: u32, lane: u32) -> u32 {
    return agreed(steps, lane);
}

fn started(i: u32, j: u32) -> BandPair {
    return start(i, j);
}

fn ended(sums: Band) -> Band {
    return sums;
}

// A block's place in a tile with `across` blocks along i or j: neighbouring lanes take blocks that are neighbours in
// memory.
fn block_place(block: u32, across: u32, walks: bool) -> vec2<u32> {
    let deep = DEEP / 4u;
    return select(vec2<u32>(block % across, block / across), vec2<u32>(block / deep, block % deep), walks);
}

fn bring_a(at: Place, k: u32, block: u32) {
    let across = A_TILE / DEEP;
    let place = block_place(block, across, A_WALKS);
    let i = at.row + place.x * 4u;
    let first = k + place.y * 4u;
    if (first >= params.depth) {
        return;
    }
    let lies = mat4x4<f32>(a_vector(i, first, 0u), a_vector(i, first, 1u), a_vector(i, first, 2u), a_vector(i, first, 3u));
    let rows = a_rows(lies, kept(first));
    let to = (place.y * across + place.x) * 4u;
    a_tile[to] = rows[0];
    a_tile[to + 1u] = rows[1];
    a_tile[to + 2u] = rows[2];
    a_tile[to + 3u] = rows[3];
}

// The vectors of a band lie side by side, so that neighbouring lanes read neighbouring memory.
fn b_slot(step: u32, quad: u32) -> u32 {
    return step * (ACROSS * BANDS) + quad % BANDS * ACROSS + quad / BANDS;
}

fn bring_b(at: Place, k: u32, block: u32) {
    let place = block_place(block, ACROSS * BANDS, B_WALKS);
    let step = place.y * 4u;
    if (k + step >= params.depth) {
        return;
    }
    let steps = b_steps(at.column + place.x * 4u, k + step, kept(k + step));
    b_tile[b_slot(step, place.x)] = steps[0];
    b_tile[b_slot(step + 1u, place.x)] = steps[1];
    b_tile[b_slot(step + 2u, place.x)] = steps[2];
    b_tile[b_slot(step + 3u, place.x)] = steps[3];
}

// Loads the next DEEP steps whenever the last ones are used up. All lanes reach the barriers, because k is the same for
// all.
fn bring(at: Place, k: u32) {
    if (k % DEEP == 0u) {
        workgroupBarrier();
        for (var block = at.lane; block < A_TILE / 4u; block += WORKGROUP) {
            bring_a(at, k, block);
        }
        for (var block = at.lane; block < B_TILE / 4u; block += WORKGROUP) {
            bring_b(at, k, block);
        }
        workgroupBarrier();
    }
}

// The operands in workgroup memory are masked already.
fn brought(k: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

fn a_four(row: u32, k: u32) -> mat4x4<f32> {
    let first = k % DEEP * (A_TILE / DEEP) + row;
    return mat4x4<f32>(a_tile[first], a_tile[first + 1u], a_tile[first + 2u], a_tile[first + 3u]);
}

fn a_eight(at: Place, row: u32, k: u32, keep: vec4<bool>) -> Eight {
    let own = at.i - at.row + row;
    return Eight(a_four(own, k), a_four(own + 4u, k));
}

fn b_four(at: Place, column: u32, k: u32, keep: vec4<bool>) -> mat4x4<f32> {
    let quad = (at.j - at.column + column) / 4u;
    let step = k % DEEP;
    return mat4x4<f32>(b_tile[b_slot(step, quad)], b_tile[b_slot(step + 1u, quad)], b_tile[b_slot(step + 2u, quad)], b_tile[b_slot(step + 3u, quad)]);
}
