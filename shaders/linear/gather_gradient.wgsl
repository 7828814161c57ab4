// Adds up what all entries of a class add to its gradient, in their order; the lanes of the first entry do.

override TRANSPOSED: bool = false;

@compute @workgroup_size(WORKGROUP)
fn gather_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.depth);
    let count = params.entries;
    if (at.x >= count || chain_read(2u * at.x) == 0u) {
        return;
    }
    let label = class_of_entry(at.x);
    var sum = 0.0;
    var entry = at.x;
    for (var i = 0u; i < count && entry != NONE; i += 1u) {
        sum += bitcast<f32>(values_at(entry, at.y));
        entry = chain_read(2u * entry + 1u);
    }
    if (TRANSPOSED) {
        gradient_put(at.y, label, bitcast<u32>(sum));
    } else {
        gradient_put(label, at.y, bitcast<u32>(sum));
    }
}
