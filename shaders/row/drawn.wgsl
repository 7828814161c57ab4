// One lane per sample: writes its class, NONE if it is none, and how often that class was drawn. Only the first sample of a
// class has this number, later ones have 0: so one lane writes what all of them have in common.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn drawn(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = (group.x + group.y * groups.x) * WORKGROUP + local;
    let count = params.rows;
    if (at >= count) {
        return;
    }
    let words = samples_at(at);
    var same = 0u;
    var earlier = 0u;
    for (var i = 0u; i < count; i += 1u) {
        let is_same = select(0u, 1u, all(samples_at(i) == words));
        same += is_same;
        earlier += select(0u, is_same, i < at);
    }
    let is_class = words.y == 0u && words.x < params.all_classes;
    sample_table_write(2u * at, select(NONE, words.x, is_class));
    sample_table_write(2u * at + 1u, select(0u, same, is_class && earlier == 0u));
}
