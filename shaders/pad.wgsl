// Writes 0 into the columns of a gradient past the classes.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn pad(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    if (row >= params.rows) {
        return;
    }
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        gradient_store(row, column, vec4<u32>(0u));
    }
}
