// Copies one word of each record into an output vector.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (row < params.rows) {
        values_write(row, records[row * params.record_words + params.word]);
    }
}
