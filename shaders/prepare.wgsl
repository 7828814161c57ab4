// One lane per row: reads the caller's inputs for a row, in any type, and writes one entry of the row table for the
// kernels of the main pass. Also counts what a mean divides by.
//
// An entry: class, flags, bits of row_weight, bits of upstream. The table begins with a header (header.wgsl).

override HAS_TARGETS: bool = true;
// Rows have several targets, whose table (row/several.wgsl) begins with their flags.
override HAS_SEVERAL: bool = false;
// Labels are not the targets themselves, but what the table `labels` has for each; NONE for a target that is none.
override HAS_LABELS: bool = false;
override HAS_LSE: bool = false;

fn tally_of_bad(row: u32, target_words: vec2<u32>) -> Tally {
    var tally = tally_empty();
    tally.bad_targets = 1u;
    tally.first_bad_row = params.first_row + row;
    tally.bad_value_low = target_words.x;
    tally.bad_value_high = target_words.y;
    return tally;
}

// Whether a target has no label.
fn is_bad(target_words: vec2<u32>) -> bool {
    let outside = target_words.y != 0u || target_words.x >= params.all_classes;
    return outside || (HAS_LABELS && labels_read(target_words.x) == NONE);
}

// The label of a target that has one. A label in another shard comes before the first column (wrapped around) or after
// the last one.
fn label_of(target_words: vec2<u32>) -> u32 {
    if (HAS_LABELS) {
        return labels_read(target_words.x);
    }
    return target_words.x - params.first_class;
}

fn prepare_row(row: u32) -> Tally {
    var tally = tally_empty();
    var flags = 0u;
    var label = NONE;
    var class_weight = bitcast<u32>(1.0);
    if (HAS_TARGETS) {
        let target_words = targets_at(row);
        if (ignored(target_words.x, target_words.y)) {
            flags = IGNORED;
        } else if (is_bad(target_words)) {
            flags = BAD_TARGET;
            tally = tally_of_bad(row, target_words);
        } else {
            label = label_of(target_words);
            class_weight = weight_at(0u, target_words.x);
        }
    }
    if (HAS_SEVERAL) {
        let at = row * params.target_words;
        flags = target_table_read(at);
        if (flags == BAD_TARGET) {
            tally = tally_of_bad(row, vec2<u32>(target_table_read(at + 1u), target_table_read(at + 2u)));
        }
    }
    let row_weight = row_weight_at(row, 0u);
    if (flags == 0u) {
        // The denominator counts rows, or adds up their weights.
        tally = tally_of_denominator(times(class_weight, select(bitcast<u32>(1.0), row_weight, params.weighted_rows != 0u)));
        tally.count_low = 1u;
    }
    if (HAS_LSE) {
        records[row * params.record_words + params.saved_lse] = lse_at(row, 0u);
    }
    row_table[HEADER + row] = vec4<u32>(label, flags, row_weight, upstream_at(row, 0u));
    return tally;
}

@compute @workgroup_size(WORKGROUP)
fn prepare(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let end = min((block + 1u) * BLOCK, params.rows);
    var mine = tally_empty();
    for (var row = block * BLOCK + lane; row < end; row += WORKGROUP) {
        mine = tally_merge(mine, prepare_row(row));
    }
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block * BLOCK < params.rows) {
        tallies[params.first_tally + block] = all;
    }
}
