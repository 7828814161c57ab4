// Runs on one lane: sums the losses of the parts of a composed loss, and merges their status.
//
// The results of a part begin params.slot words apart: its loss (with its weight and reduction applied), its Σ, its
// denominator, its monitored value and its status.

const RESULTS: u32 = 5u;

fn result_at(part: u32, nth: u32) -> u32 {
    return (part * RESULTS + nth) * params.slot;
}

@compute @workgroup_size(WORKGROUP)
fn compose(@builtin(local_invocation_index) lane: u32) {
    if (lane != 0u) {
        return;
    }
    var all = tally_empty();
    var floats = 0u;
    for (var part = 0u; part < params.parts; part += 1u) {
        let loss = results[result_at(part, 0u)];
        let sum = results[result_at(part, 1u)];
        let denominator = results[result_at(part, 2u)];
        parts_write(part, quotient(sum, divisor_of(denominator)));
        part_sum_write(part, sum);
        part_denominator_write(part, denominator);
        slopes_write(part, results[result_at(part, 3u)]);
        let status = result_at(part, 4u);
        floats |= results[status + 7u];
        all = tally_merge(all, Tally(
            select(0.0, bitcast<f32>(loss), finite_one(loss)),
            0.0,
            0u,
            0u,
            results[status + 1u],
            results[status + 2u],
            results[status + 3u],
            results[status + 4u],
            flags_of(loss),
            results[status + 5u],
            0u,
            results[status + 6u],
            0.0,
        ));
    }
    loss_write(0u, sum_bits(all.sum, all.sum_flags));
    status_publish(Found(all.bad_targets, all.first_bad_row, all.bad_value_low, all.bad_value_high, all.bad_rows, all.zero_vectors, floats));
}
