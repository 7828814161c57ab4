// The tile on cooperative matrices: computes what `product` of linear.wgsl computes, from the same operands.
//
// A workgroup owns TILE × TILE outputs, the sums of two by two matrices. It copies TILE steps of both operands to
// workgroup memory in their storage order, with 0 past the edges. The matrices are loaded from there by rows or by
// columns, so nothing is transposed. Sums start from the initial values and also pass through workgroup memory on their
// way out, because a matrix's elements cannot be accessed directly.
//
// Sums are f32. Operands are f16 where both are stored as f16 (a product of two is exact in f32), and f32 otherwise: a
// bf16 or f32 gradient would lose digits in f16. The hardware decides in which order it adds and whether it rounds as
// f32 does, so the result's bits differ from those of the plain tile.
//
// A workgroup should be one subgroup. Where it holds several, each computes and stores the same values: wasteful, but
// correct.
//
// `Left`, `Right`, `Sums` and `Element` are defined in a file for one element type and side, such as
// linear/cooperative/f16_8.wgsl, and the functions on them in linear/cooperative/hardware.wgsl. For tests,
// linear/cooperative/emulated.wgsl defines both.

override SIDE: u32 = 16u;
override TILE: u32 = 2u * SIDE;
// Rows of matrices start at multiples of 16 bytes, as Vulkan demands, and do not all start in the same memory bank.
override STRIDE: u32 = TILE + 8u;
override SUMS_STRIDE: u32 = TILE + 4u;
override STAGED: u32 = TILE * STRIDE;
override SUMS_STAGED: u32 = TILE * SUMS_STRIDE;

var<workgroup> a_staged: array<Element, STAGED>;
var<workgroup> b_staged: array<Element, STAGED>;
var<workgroup> sums_staged: array<f32, SUMS_STAGED>;

fn inside(loaded: vec4<f32>, column: u32, columns: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), loaded, vec4<u32>(column) + STEPS < vec4<u32>(columns));
}

// Four elements of a as they lie in memory. A sum over rows walks down the rows of both operands; rows that count for
// nothing are 0 in both, whatever they hold.
fn a_piece(row: u32, column: u32) -> vec4<f32> {
    let rows = select(params.depth, params.outputs, A_WALKS);
    let columns = select(params.outputs, params.depth, A_WALKS);
    if (row >= rows || column >= columns || (SKIPS_WALKED && !A_WALKS && row_is_zero(row))) {
        return vec4<f32>(0.0);
    }
    return inside(a_loaded(row, column), column, columns);
}

fn b_piece(row: u32, column: u32) -> vec4<f32> {
    let rows = select(params.depth, params.classes, B_WALKS);
    let columns = select(params.classes, params.depth, B_WALKS);
    if (row >= rows || column >= columns || (SKIPS_WALKED && !B_WALKS && row_is_zero(row))) {
        return vec4<f32>(0.0);
    }
    return inside(b_loaded(row, column), column, columns);
}

// Copies steps k to k + TILE - 1 of both operands to workgroup memory.
fn stage(lane: u32, i: u32, j: u32, k: u32) {
    for (var quad = lane; quad < TILE * TILE / 4u; quad += WORKGROUP) {
        let row = quad * 4u / TILE;
        let column = quad * 4u % TILE;
        let at = row * STRIDE + column;
        let a = a_piece(select(k, i, A_WALKS) + row, select(i, k, A_WALKS) + column);
        a_staged[at] = Element(a.x);
        a_staged[at + 1u] = Element(a.y);
        a_staged[at + 2u] = Element(a.z);
        a_staged[at + 3u] = Element(a.w);
        let b = b_piece(select(k, j, B_WALKS) + row, select(j, k, B_WALKS) + column);
        b_staged[at] = Element(b.x);
        b_staged[at + 1u] = Element(b.y);
        b_staged[at + 2u] = Element(b.z);
        b_staged[at + 3u] = Element(b.w);
    }
}

fn stage_start(lane: u32, i: u32, j: u32) {
    for (var quad = lane; quad < TILE * TILE / 4u; quad += WORKGROUP) {
        let row = quad * 4u / TILE;
        let column = quad * 4u % TILE;
        let at = row * SUMS_STRIDE + column;
        let sums = start_quad(i + row, j + column);
        sums_staged[at] = sums.x;
        sums_staged[at + 1u] = sums.y;
        sums_staged[at + 2u] = sums.z;
        sums_staged[at + 3u] = sums.w;
    }
}

fn finish_staged(lane: u32, i: u32, j: u32) {
    for (var quad = lane; quad < TILE * TILE / 4u; quad += WORKGROUP) {
        let row = quad * 4u / TILE;
        let column = quad * 4u % TILE;
        let at = row * SUMS_STRIDE + column;
        let sums = vec4<f32>(sums_staged[at], sums_staged[at + 1u], sums_staged[at + 2u], sums_staged[at + 3u]);
        finish_quad(i + row, j + column, sums);
    }
}

// Where the matrix of an operand starts in workgroup memory, given its first owned index (row of a, column of b) and
// step.
fn staged_at(walks: bool, owned: u32, step: u32) -> u32 {
    return select(step, owned, walks) * STRIDE + select(owned, step, walks);
}

@compute @workgroup_size(WORKGROUP)
fn product_cooperative(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = tile_place(group.x + group.y * groups.x) * TILE;
    let steps = agreed(steps_of(place.x), lane);
    if (is_idle(steps)) {
        return;
    }
    stage_start(lane, place.x, place.y);
    workgroupBarrier();
    let below = SIDE * SUMS_STRIDE;
    var s00 = sums_load(0u);
    var s01 = sums_load(SIDE);
    var s10 = sums_load(below);
    var s11 = sums_load(below + SIDE);
    for (var k = 0u; k < steps; k += TILE) {
        stage(lane, place.x, place.y, k);
        workgroupBarrier();
        for (var step = 0u; step < TILE; step += SIDE) {
            let a0 = left_load(staged_at(A_WALKS, 0u, step));
            let a1 = left_load(staged_at(A_WALKS, SIDE, step));
            let b0 = right_load(staged_at(B_WALKS, 0u, step));
            let b1 = right_load(staged_at(B_WALKS, SIDE, step));
            s00 = multiply_add(lane, a0, b0, s00);
            s01 = multiply_add(lane, a0, b1, s01);
            s10 = multiply_add(lane, a1, b0, s10);
            s11 = multiply_add(lane, a1, b1, s11);
        }
        workgroupBarrier();
    }
    sums_store(s00, 0u);
    sums_store(s01, SIDE);
    sums_store(s10, below);
    sums_store(s11, below + SIDE);
    workgroupBarrier();
    finish_staged(lane, place.x, place.y);
}
