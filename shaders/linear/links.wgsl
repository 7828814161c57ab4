// One lane per sample and per row: whether it is the first entry of its class, and the next one of the same class.

@compute @workgroup_size(WORKGROUP)
fn links(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let entry = element_of(group, groups, local, 1u).x;
    let count = params.entries;
    if (entry >= count) {
        return;
    }
    let label = class_of_entry(entry);
    var next = NONE;
    var earlier = 0u;
    for (var i = 0u; i < count; i += 1u) {
        let same = class_of_entry(i) == label;
        earlier += select(0u, 1u, same && i < entry);
        next = select(next, min(next, i), same && i > entry);
    }
    chain_write(2u * entry, select(0u, 1u, earlier == 0u && label != NONE));
    chain_write(2u * entry + 1u, next);
}
