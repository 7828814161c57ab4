// One lane per row: reads the targets of the row and writes its table, in which the classes ascend. A class that occurs
// twice has the sum of its weights. An ignored target is left out.
//
// A row of the table: flags; the first bad target as two words; the number of classes; then class and weight of each.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn several(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.rows) {
        return;
    }
    let at = row * params.target_words;
    var flags = IGNORED;
    var bad = vec2<u32>(0u);
    var count = 0u;
    for (var i = 0u; i < params.classes; i += 1u) {
        let target_words = targets_in(row, i);
        if (ignored(target_words.x, target_words.y)) {
            continue;
        }
        if (target_words.y != 0u || target_words.x >= params.all_classes) {
            bad = select(target_words, bad, flags == BAD_TARGET);
            flags = BAD_TARGET;
            continue;
        }
        flags = select(0u, BAD_TARGET, flags == BAD_TARGET);
        count = inserted(at + 4u, count, target_words.x, target_weight_at(row, i));
    }
    target_table[at] = flags;
    target_table[at + 1u] = bad.x;
    target_table[at + 2u] = bad.y;
    target_table[at + 3u] = count;
}

// Puts a class into its place among those before it, and returns how many there are now.
fn inserted(at: u32, count: u32, label: u32, weight: u32) -> u32 {
    var place = count;
    for (; place > 0u && target_table[at + 2u * (place - 1u)] >= label; place -= 1u) {}
    if (place < count && target_table[at + 2u * place] == label) {
        let sum = plus(target_table[at + 2u * place + 1u], weight);
        target_table[at + 2u * place + 1u] = sum;
        return count;
    }
    for (var moved = count; moved > place; moved -= 1u) {
        target_table[at + 2u * moved] = target_table[at + 2u * moved - 2u];
        target_table[at + 2u * moved + 1u] = target_table[at + 2u * moved - 1u];
    }
    target_table[at + 2u * place] = label;
    target_table[at + 2u * place + 1u] = weight;
    return count + 1u;
}
