// A workgroup a segment: the gradient from the row's record.

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + local / LANES;
    if (slot >= params.rows * params.segments) {
        return;
    }
    let first = (slot % params.segments) * params.segment;
    let row = reopen(slot / params.segments);
    emit_columns(row, closed_read(row), first, min(first + params.segment, params.classes), local % LANES);
}
