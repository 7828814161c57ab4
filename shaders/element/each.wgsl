// Losses or gradients of each element, without sums, for calls that together need more buffers than a dispatch may bind.
// Nothing is scaled here: such losses are not reduced, or element/weigh.wgsl has computed what multiplies the gradients.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn each(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let blocks = (params.classes + ELEMENTS - 1u) / ELEMENTS;
    let first = min(block, blocks) * ELEMENTS;
    let end = min(first + ELEMENTS, params.classes);
    let one = bitcast<u32>(1.0);
    let unscaled = Scaling(one, one, one);
    var at = first + lane * 4u;
    for (; at < end; at += WORKGROUP * 4u) {
        let inside = vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end);
        visit(place(at), inside, unscaled);
    }
}
