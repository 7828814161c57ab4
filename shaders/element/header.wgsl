// Runs as one workgroup. It writes one tally with the denominator, and with the divisor in the place of the sum. The next
// tally holds what every gradient is multiplied by: the upstream gradient in the place of the sum, and 1/divisor in that
// of the denominator.
//
// Where no element is masked or unknown (params.counted is 0), there are no tallies, because the host knows the count.
// The host also knows a mean's denominator where the denominator does not depend on the count
// (params.known_denominator).

@compute @workgroup_size(WORKGROUP)
fn header(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    var known = tally_reduce(mine, lane);
    if (lane != 0u) {
        return;
    }
    if (params.counted == 0u) {
        known.count_low = params.count_low;
        known.count_high = params.count_high;
    }
    if (params.known_denominator != 0u) {
        known.denominator = params.denominator;
        known.sum_flags = 0u;
    }
    let denominator = denominator_bits(known);
    let divisor = divisor_of(denominator);
    known.denominator = bitcast<f32>(denominator);
    known.sum = bitcast<f32>(divisor);
    tallies[params.kept] = known;
    known.sum = bitcast<f32>(upstream_at(0u, 0u));
    known.denominator = bitcast<f32>(inverse_of(divisor));
    tallies[params.kept + 1u] = known;
}
