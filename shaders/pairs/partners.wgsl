// A lane a row: how many other vectors have its label. Adds up over stretches of columns.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn partners(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.classes) {
        return;
    }
    let low = table[params.stride + row];
    let high = table[2u * params.stride + row];
    var count = 0u;
    if (params.first > 0u) {
        count = counts[row];
    }
    for (var column = params.first; column < params.end; column += 1u) {
        let same = table[params.stride + column] == low && table[2u * params.stride + column] == high;
        count += select(0u, 1u, same && column != row);
    }
    counts[row] = count;
}
