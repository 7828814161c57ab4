// Runs as one workgroup: writes the scalar outputs, then the status.

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
    let divisor = bitcast<u32>(kept.sum);
    let denominator = bitcast<u32>(kept.denominator);
    let sum = sum_bits(all.sum, all.sum_flags);
    loss_write(0u, quotient(sum, divisor));
    sum_write(0u, sum);
    denominator_write(0u, denominator);
    count_write(0u, kept.count_low);
    count_write(1u, kept.count_high);
    correct_count_write(0u, all.correct);
    let mean = quotient(sum, denominator);
    let growth = bits_or(exp_far4(vec4<f32>(clamp(bitcast<f32>(mean), -87.0, 88.722839))).x, mean, finite_one(mean));
    perplexity_write(0u, select(growth, INFINITY_BITS, finite_one(mean) && bitcast<f32>(mean) > 88.722839));
    monitored_write(0u, mean_monitored(all, kept));
    let bad = tally_merge(kept, all);
    // For a float target, the high word is the column of the bad element, which is not part of the value.
    let high = select(bad.bad_value_high, 0u, params.float_targets != 0u);
    status_publish(Found(bad.bad_targets, bad.first_bad_row, bad.bad_value_low, high, all.bad_rows, kept.zero_vectors, params.float_targets));
}

// The mean of the monitored value over the kept elements, as bits; NaN where one of the losses is NaN.
fn mean_monitored(all: Tally, kept: Tally) -> u32 {
    let count = f32(kept.count_low) + 4294967296.0 * f32(kept.count_high);
    return quotient(select(bitcast<u32>(all.monitored), NAN_BITS, (all.sum_flags & SUM_NAN) != 0u), bitcast<u32>(count));
}
