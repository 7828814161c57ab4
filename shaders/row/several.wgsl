// One workgroup per row: reads the targets of the row and writes its table, in which the labels ascend. A label that
// occurs twice has the sum of its weights. An ignored target is left out.
//
// A row of the table: flags; the first bad target as two words; the number of labels; then label and weight of each.

override WORKGROUP: u32 = 64u;

// The most targets of a row (src/skeleton/row/rows/several.rs).
const MOST: u32 = 512u;
// In place of a label: the target is outside the classes.
const OUTSIDE: u32 = 0xfffffffeu;

// The label of each target, NONE where it is ignored, and the same without labels that occurred before.
var<workgroup> labels: array<u32, MOST>;
var<workgroup> firsts: array<u32, MOST>;

fn label_of(target_words: vec2<u32>) -> u32 {
    let outside = target_words.y != 0u || target_words.x >= params.all_classes;
    let label = select(target_words.x, OUTSIDE, outside);
    return select(label, NONE, ignored(target_words.x, target_words.y));
}

fn occurred_before(i: u32) -> bool {
    var found = false;
    for (var j = 0u; j < i; j += 1u) {
        found = found || labels[j] == labels[i];
    }
    return found;
}

// Writes a label with the weights of all its targets, behind the labels that are smaller.
fn write_label(row: u32, at: u32, i: u32) {
    let label = firsts[i];
    var place = 0u;
    var weight = target_weight_at(row, i);
    for (var j = 0u; j < params.classes; j += 1u) {
        place += select(0u, 1u, firsts[j] < label);
        if (j > i && labels[j] == label) {
            weight = plus(weight, target_weight_at(row, j));
        }
    }
    target_table_write(at + 4u + 2u * place, label);
    target_table_write(at + 5u + 2u * place, weight);
}

// What is known of the row as a whole.
fn write_head(row: u32, at: u32) {
    var kept = false;
    var bad = NONE;
    var count = 0u;
    for (var i = 0u; i < params.classes; i += 1u) {
        kept = kept || labels[i] != NONE;
        bad = select(bad, i, bad == NONE && labels[i] == OUTSIDE);
        count += select(0u, 1u, firsts[i] < OUTSIDE);
    }
    let words = targets_in(row, select(bad, 0u, bad == NONE));
    target_table_write(at, select(select(IGNORED, 0u, kept), BAD_TARGET, bad != NONE));
    target_table_write(at + 1u, words.x);
    target_table_write(at + 2u, words.y);
    target_table_write(at + 3u, count);
}

@compute @workgroup_size(WORKGROUP)
fn several(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    let at = row * params.target_words;
    for (var i = lane; i < params.classes; i += WORKGROUP) {
        labels[i] = label_of(targets_in(row, i));
    }
    workgroupBarrier();
    for (var i = lane; i < params.classes; i += WORKGROUP) {
        firsts[i] = select(labels[i], NONE, occurred_before(i));
    }
    workgroupBarrier();
    for (var i = lane; i < params.classes; i += WORKGROUP) {
        if (firsts[i] < OUTSIDE) {
            write_label(row, at, i);
        }
    }
    if (lane == 0u) {
        write_head(row, at);
    }
}
