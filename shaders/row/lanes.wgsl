// The lanes that share a row: where its record is, and how they merge their states.

override WORKGROUP: u32 = 64u;
// Lanes that share a row; a power of two that divides WORKGROUP. An override, because a uniform made short rows take up
// to 12 % longer on lavapipe (docs/performance.md).
override LANES: u32 = 64u;

var<workgroup> lane_states: array<State, WORKGROUP>;

// The first word of a row's record.
fn record_of(row: u32) -> u32 {
    return (params.first_row + row) * RECORD_WORDS;
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
