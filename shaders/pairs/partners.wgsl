// One lane per row: counts the other vectors with the row's label. Accumulates over stretches of columns.

override WORKGROUP: u32 = 64u;

fn name_of(row: u32) -> vec2<u32> {
    let at = row * params.entry_step;
    return vec2<u32>(table[at + params.word_step], table[at + 2u * params.word_step]);
}

@compute @workgroup_size(WORKGROUP)
fn partners(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.classes) {
        return;
    }
    let name = name_of(row);
    var count = 0u;
    if (params.first > 0u) {
        count = counts[row];
    }
    for (var column = params.first; column < params.end; column += 1u) {
        count += select(0u, 1u, all(name_of(column) == name) && column != row);
    }
    counts[row] = count;
}
