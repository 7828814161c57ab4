// Copies the vectors of the sampled classes. The vector of a sample that is no class is 0.

@compute @workgroup_size(WORKGROUP)
fn gather_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.depth);
    if (at.x >= params.samples) {
        return;
    }
    let label = class_of(at.x);
    var bits = 0u;
    if (label != NONE) {
        bits = weight_of(label, at.y);
    }
    gathered_put(at.x, at.y, bits);
}
