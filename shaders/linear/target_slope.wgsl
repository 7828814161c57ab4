// What the score of a row's target hands down.

// The gradient of a target's score; 0 in a row that is not kept, whose hidden state is not used.
fn target_slope(row: u32) -> u32 {
    return select(scores_at(row, params.samples), 0u, target_of(row) == NONE);
}

// A slope times a number, which is not used where the slope is 0.
fn part_of(slope: u32, number: u32) -> u32 {
    return times(slope, select(number, 0u, is_zero(slope)));
}
