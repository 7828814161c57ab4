// Runs as one workgroup: writes a sum over rows, or its mean over the kept rows, into one element of an output.

@compute @workgroup_size(WORKGROUP)
fn scalar(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u) {
        var value = sum_bits(all.sum, all.sum_flags);
        if (params.mean != 0u) {
            let kept = tallies[params.kept];
            value = quotient(value, bitcast<u32>(f32(kept.count_low) + 4294967296.0 * f32(kept.count_high)));
        }
        value_store(0u, 0u, vec4<u32>(value));
    }
}
