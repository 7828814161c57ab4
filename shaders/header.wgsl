// Runs as one workgroup: writes the denominator, once for all rows, into the header of the row table. Its entries:
// (denominator, divisor, 1/divisor, sum of the class weights), (count, bad targets, first bad row),
// (value of the first bad target), (the program's scalar).

override SUMS_CLASS_WEIGHTS: bool = false;

@compute @workgroup_size(WORKGROUP)
fn header(@builtin(local_invocation_index) lane: u32) {
    var mine = tally_empty();
    for (var at = lane; at < params.tallies; at += WORKGROUP) {
        mine = tally_merge(mine, tallies[params.first + at]);
    }
    let all = tally_reduce(mine, lane);
    var class_weights = f32(params.classes);
    if (SUMS_CLASS_WEIGHTS) {
        var weights = tally_empty();
        for (var label = lane; label < params.classes; label += WORKGROUP) {
            let weight = weight_at(0u, label);
            weights.sum += select(0.0, bitcast<f32>(weight), finite_one(weight));
            weights.sum_flags |= flags_of(weight);
        }
        workgroupBarrier();
        let reduced = tally_reduce(weights, lane);
        class_weights = bitcast<f32>(sum_bits(reduced.sum, reduced.sum_flags));
    }
    if (lane == 0u) {
        let denominator = denominator_bits(all);
        let divisor = divisor_of(denominator);
        row_table[0] = vec4<u32>(denominator, divisor, inverse_of(divisor), bitcast<u32>(class_weights));
        row_table[1] = vec4<u32>(all.count_low, all.count_high, all.bad_targets, all.first_bad_row);
        row_table[2] = vec4<u32>(all.bad_value_low, all.bad_value_high, 0u, 0u);
        row_table[3] = vec4<u32>(scalar_at(0u, 0u), 0u, 0u, 0u);
        // For finish.wgsl, which has no binding left for the table.
        var kept = all;
        kept.denominator = bitcast<f32>(denominator);
        kept.sum = bitcast<f32>(divisor);
        tallies[params.kept] = kept;
    }
}
