// A lane a row: closes rows whose lse was saved, without a stream.

@compute @workgroup_size(WORKGROUP)
fn saved(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot < params.rows) {
        let row = open(slot);
        closed_write(row, close(row, state_empty()));
    }
}
