// Runs as one workgroup: writes a sum over rows, or its mean over the kept rows, into one element of an output. A sum
// begins with what `begun` holds; without it, with 0.

@compute @workgroup_size(WORKGROUP)
fn scalar(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u) {
        let begun = begun_at(0u, 0u);
        let sum = all.sum + select(0.0, bitcast<f32>(begun), finite_one(begun));
        var value = sum_bits(sum, all.sum_flags | flags_of(begun));
        if (params.mean != 0u) {
            let kept = tallies[params.kept];
            value = quotient(value, bitcast<u32>(f32(kept.count_low) + 4294967296.0 * f32(kept.count_high)));
        }
        value_store(0u, 0u, vec4<u32>(value));
    }
}
