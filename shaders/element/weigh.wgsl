// What multiplies the gradient of each element, in the order of the walk, for gradients that cannot bind weight, mask and
// upstream gradient beside everything else.

@compute @workgroup_size(WORKGROUP)
fn weigh(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let blocks = (params.classes + ELEMENTS - 1u) / ELEMENTS;
    let first = min(block, blocks) * ELEMENTS;
    let end = min(first + ELEMENTS, params.classes);
    let scaling = scaling_found();
    for (var at = first + lane * 4u; at < end; at += WORKGROUP * 4u) {
        let p = place(at);
        let inside = vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end);
        let weight = times4(weight_take(p), mask_take(p));
        shares_give(p, inside, share_of(p, weight, kept(p, inside), scaling));
    }
}
