// One lane per row: keeps the scores of the row's label and of the columns beside it, if they are in this block.

@compute @workgroup_size(WORKGROUP)
fn label_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (slot >= params.rows) {
        return;
    }
    let row = open(slot);
    for (var i = 0u; i < 3u; i += 1u) {
        let column = row.label + i - 1u;
        if (column >= params.first_column && column < params.end_column) {
            records[record_of(slot) + RECORD_LABEL_SCORES + i] = logits_at(slot, column);
        }
    }
}
