// Copies the vectors of the sampled classes. The vector of a sample that is no class is 0.

// W lies by the hidden states' numbers, not by the classes.
override TRANSPOSED: bool = false;

fn weight_of(label: u32, i: u32) -> u32 {
    if (TRANSPOSED) {
        return weight_at(i, label);
    }
    return weight_at(label, i);
}

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
