// One lane per row: closes rows without a reducing stream, from a saved lse or from their largest columns.

@compute @workgroup_size(WORKGROUP)
fn close_unstreamed(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot < params.rows) {
        let row = open(slot);
        closed_write(row, close(row, state_empty()));
    }
}
