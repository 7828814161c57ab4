// The lanes that share a row: where its record is, and how they merge their states.

override WORKGROUP: u32 = 64u;
// Lanes that share a row; a power of two that divides WORKGROUP. An override, because a uniform made short rows take up
// to 12 % longer on lavapipe (docs/performance.md).
override LANES: u32 = 64u;

var<workgroup> lane_states: array<State, WORKGROUP>;

// The place of a row in the row table and among the records. Where the rows of a window are in order (row/order.wgsl),
// the rows of a dispatch are slots, and the table says whose they are.
fn place_of(row: u32) -> u32 {
    let slot = params.first_row + row;
    if (params.order > 0u) {
        return row_table[params.order + slot / 4u][slot % 4u];
    }
    return slot;
}

// The first word of a row's record.
fn record_of(row: u32) -> u32 {
    return place_of(row) * RECORD_WORDS;
}

// Merges the states of a row's lanes in a fixed tree; the result is valid in every lane.
fn reduce(mine: State, local: u32, lane: u32) -> State {
    lane_states[local] = mine;
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_states[local] = state_merge(lane_states[local], lane_states[local + reach]);
        }
    }
    workgroupBarrier();
    let all = lane_states[local - lane];
    workgroupBarrier();
    return all;
}
