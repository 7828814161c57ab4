// Copies the hidden states of a stretch of slots (row/order.wgsl) next to each other, up to the last one that counts.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn gather(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = (params.classes + 3u) / 4u;
    let quad = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let index = quad / quads;
    let slot = params.first_row + index;
    if (index < params.rows && slot < order_read(0u)) {
        let column = quad % quads * 4u;
        slots_store(index, column, hidden_quad(order_read(4u + slot), column));
    }
}
