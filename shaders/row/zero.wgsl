// Fills a gradient with zeros; one lane per quad.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn zero(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    let row = slot / params.quads;
    if (row < params.rows) {
        gradient_store(row, 4u * (slot % params.quads), vec4<u32>(0u));
    }
}
