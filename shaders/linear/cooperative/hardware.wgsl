// Cooperative matrices of the hardware. In naga, `coopLoadT` loads by rows and `coopLoad` by columns.

fn left_load(at: u32) -> Left {
    if (A_WALKS) {
        return coopLoadT<Left>(&a_staged[at], STRIDE);
    }
    return coopLoad<Left>(&a_staged[at], STRIDE);
}

// The rows of a right operand are steps. So it is loaded by columns where its columns are the rows in memory.
fn right_load(at: u32) -> Right {
    if (B_WALKS) {
        return coopLoad<Right>(&b_staged[at], STRIDE);
    }
    return coopLoadT<Right>(&b_staged[at], STRIDE);
}

fn sums_load(at: u32) -> Sums {
    return coopLoadT<Sums>(&sums_staged[at], SUMS_STRIDE);
}

fn sums_store(sums: Sums, at: u32) {
    coopStoreT(sums, &sums_staged[at], SUMS_STRIDE);
}

fn multiply_add(lane: u32, left: Left, right: Right, sums: Sums) -> Sums {
    return coopMultiplyAdd(left, right, sums);
}
