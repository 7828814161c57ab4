// One lane per row: puts a number that the call gives for each row into the row's record, where it stays until the row
// is closed.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn numbers(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row < params.rows) {
        records[row * params.record_words + params.word] = number_at(row, 0u);
    }
}
