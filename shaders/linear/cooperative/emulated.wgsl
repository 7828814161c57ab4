// Cooperative matrices without the hardware, for tests. A matrix is the offset where it starts in workgroup memory;
// sums stay there, and each lane adds to the sums that it owns.

alias Element = f32;
alias Left = u32;
alias Right = u32;
alias Sums = u32;

fn left_load(at: u32) -> Left {
    return at;
}

fn right_load(at: u32) -> Right {
    return at;
}

fn sums_load(at: u32) -> Sums {
    return at;
}

fn sums_store(sums: Sums, at: u32) {}

fn a_staged_at(left: Left, row: u32, step: u32) -> f32 {
    return a_staged[left + staged_at(A_WALKS, row, step)];
}

fn b_staged_at(right: Right, column: u32, step: u32) -> f32 {
    return b_staged[right + staged_at(B_WALKS, column, step)];
}

fn four_steps(left: Left, right: Right, row: u32, column: u32, step: u32, given: f32) -> f32 {
    var sum = given + a_staged_at(left, row, step) * b_staged_at(right, column, step);
    sum += a_staged_at(left, row, step + 1u) * b_staged_at(right, column, step + 1u);
    sum += a_staged_at(left, row, step + 2u) * b_staged_at(right, column, step + 2u);
    return sum + a_staged_at(left, row, step + 3u) * b_staged_at(right, column, step + 3u);
}

// Written out, because some drivers end every loop of an invocation after 65,535 iterations of all loops together.
fn multiply_add(lane: u32, left: Left, right: Right, sums: Sums) -> Sums {
    for (var element = lane; element < SIDE * SIDE; element += WORKGROUP) {
        let row = element / SIDE;
        let column = element % SIDE;
        let at = sums + row * SUMS_STRIDE + column;
        var sum = four_steps(left, right, row, column, 0u, sums_staged[at]);
        sum = four_steps(left, right, row, column, 4u, sum);
        if (SIDE > 8u) {
            sum = four_steps(left, right, row, column, 8u, sum);
            sum = four_steps(left, right, row, column, 12u, sum);
        }
        sums_staged[at] = sum;
    }
    return sums;
}
