// One lane per row: puts up to four numbers that the call gives for each row into the row's record, where they stay until
// the row is closed.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn numbers(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.rows) {
        return;
    }
    let at = row * params.record_words + params.first;
    let numbers = vec4<u32>(number_0_at(row, 0u), number_1_at(row, 0u), number_2_at(row, 0u), number_3_at(row, 0u));
    for (var i = 0u; i < params.count; i += 1u) {
        records[at + i] = numbers[i];
    }
}
