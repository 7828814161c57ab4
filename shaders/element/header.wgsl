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
        known.sum_flags = 0u;
    }
    let denominator = denominator_bits(known);
    let divisor = divisor_of(denominator);
    known.denominator = bitcast<f32>(denominator);
    known.sum = bitcast<f32>(divisor);
    tallies[params.kept] = known;
    known.sum = row_factor(bitcast<u32>(1.0), upstream_at(0u, 0u), divisor, inverse_of(divisor));
    tallies[params.kept + 1u] = known;
}
