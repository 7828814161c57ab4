// One workgroup: the denominator and, in the tally behind it, the factor of every gradient.

// Elements were counted: some are masked or unknown.
override COUNTED: bool = false;
// What a mean divides by does not depend on that count.
override KNOWN_DENOMINATOR: bool = false;

@compute @workgroup_size(WORKGROUP)
fn header(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    if (COUNTED) {
        for (var at = lane; at < params.tallies; at += WORKGROUP) {
            mine = tally_merge(mine, tallies[params.first + at]);
        }
    }
    var known = tally_reduce(mine, lane);
    if (lane != 0u) {
        return;
    }
    if (!COUNTED) {
        known.count_low = params.count_low;
        known.count_high = params.count_high;
    }
    if (KNOWN_DENOMINATOR) {
        known.denominator = params.denominator;
    }
    let divisor = divisor_of(known.denominator);
    known.sum = divisor;
    tallies[params.kept] = known;
    known.sum = bitcast<f32>(upstream_at(0u, 0u)) * inverse_of(divisor);
    tallies[params.kept + 1u] = known;
}
