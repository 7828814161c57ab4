// Copies the logits of the columns, less the expected counts of their classes.

@compute @workgroup_size(WORKGROUP)
fn sampled_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = element_of(group, groups, local, params.samples + 1u);
    if (at.x >= params.rows) {
        return;
    }
    let label = class_at(at.x, at.y);
    var bits = MINUS_INFINITY;
    if (label != NONE) {
        bits = plus(logits_at(at.x, label), log_expected_count_at(0u, label) ^ SIGN_BIT);
    }
    scores_put(at.x, at.y, bits);
}
