// One lane per row: keeps the x of each column's positive pair, which is that of the row with the same number.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn positives(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    let column = params.origin + row;
    if (row < params.rows && column < params.classes) {
        column_states[COLUMN_POSITIVE * params.stride + column] = records[row * RECORD_WORDS + OUT_X];
    }
}
