// One workgroup per segment of a range of columns: computes the gradient from the row's record.

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + local / LANES;
    if (slot >= params.rows * params.column_segments) {
        return;
    }
    let first = params.first_column + (slot % params.column_segments) * params.segment;
    let row = row_to_emit(slot / params.column_segments);
    emit_columns(row, closed_read(row), first, min(first + params.segment, params.end_column), local % LANES);
}
