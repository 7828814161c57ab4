// One workgroup: the scalars. The completion word moves last.

// Bad targets are counted by their floats, not by their indices.
override FLOAT_TARGETS: bool = false;

@compute @workgroup_size(WORKGROUP)
fn finish(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    if (lane != 0u) {
        return;
    }
    let kept = tallies[params.kept];
    let divisor = kept.sum;
    let sum = sum_bits(all.sum, all.sum_flags);
    loss_write(0u, quotient(sum, divisor));
    sum_write(0u, sum);
    denominator_write(0u, bitcast<u32>(kept.denominator));
    count_write(0u, kept.count_low);
    count_write(1u, kept.count_high);
    correct_count_write(0u, all.correct);
    let mean = quotient(sum, kept.denominator);
    let growth = bits_or(exp_far4(vec4<f32>(clamp(bitcast<f32>(mean), -87.0, 88.722839))).x, mean, finite_one(mean));
    perplexity_write(0u, select(growth, INFINITY_BITS, finite_one(mean) && bitcast<f32>(mean) > 88.722839));
    watched_write(0u, mean_watched(all, kept));
    let bad = tally_merge(kept, all);
    status_write(1u, bad.bad_targets);
    status_write(2u, bad.first_bad_row);
    status_write(3u, bad.bad_value_low);
    status_write(4u, select(bad.bad_value_high, 0u, FLOAT_TARGETS));
    status_write(5u, all.bad_rows);
    status_write(7u, select(0u, 1u, FLOAT_TARGETS));
    status_write(6u, kept.zero_vectors);
    status_write(0u, status_read(0u) + 1u);
}

// The mean of what was watched over the elements kept, as bits; as unknown as the sum is.
fn mean_watched(all: Tally, kept: Tally) -> u32 {
    let count = f32(kept.count_low) + 4294967296.0 * f32(kept.count_high);
    return quotient(select(bitcast<u32>(all.watched), NAN_BITS, (all.sum_flags & SUM_NAN) != 0u), count);
}
