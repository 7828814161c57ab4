// One workgroup: a sum over rows as one element of the caller's.

@compute @workgroup_size(WORKGROUP)
fn scalar(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u) {
        value_store(0u, 0u, vec4<u32>(sum_bits(all.sum, all.sum_flags)));
    }
}
