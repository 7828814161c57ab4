// Writes 0 into the gradient of rows whose columns are the nodes of a tree. In place, the columns of a row's path already
// hold their gradient, and stay as they are.

override IN_PLACE: bool = false;

// Whether a column's parent lies on the path to a leaf: the leaf is one of the nodes below it.
fn reaches(column: u32, leaf: u32) -> bool {
    let at = 2u * min(column, params.classes - 1u);
    return reach_read(at) <= leaf && leaf < reach_read(at + 1u);
}

// The leaf of a row whose path has a gradient.
fn leaf_of(row: u32) -> u32 {
    let has_none = (records[record_of(row) + RECORD_FLAGS] & ROW_ZERO) != 0u;
    return select(row_table[HEADER + params.first_row + row].x, NONE, has_none);
}

@compute @workgroup_size(WORKGROUP)
fn clear(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    if (slot >= params.rows * params.column_segments) {
        return;
    }
    let row = slot / params.column_segments;
    let first = (slot % params.column_segments) * params.segment;
    let end = min(first + params.segment, params.classes);
    var leaf = NONE;
    if (IN_PLACE) {
        leaf = leaf_of(row);
    }
    for (var column = first + 4u * lane; column < end; column += 4u * WORKGROUP) {
        var bits = vec4<u32>(0u);
        if (IN_PLACE) {
            let kept = vec4<bool>(
                reaches(column, leaf),
                reaches(column + 1u, leaf),
                reaches(column + 2u, leaf),
                reaches(column + 3u, leaf),
            );
            bits = select(bits, logits_quad(row, column), kept);
        }
        gradient_store(row, column, bits);
    }
}
