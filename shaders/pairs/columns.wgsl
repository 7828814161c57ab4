// One lane per four columns of a block: takes the rows of a chunk into the columns' states, in order. So neither the
// chunk's size nor the number of chunks changes a bit.

fn plane(index: u32, column: u32) -> u32 {
    return (index * params.stride + column) >> 2u;
}

fn filtered_by_column(it: Item) -> Item {
    if (FILTERS) {
        return filtered(it, bitcast<vec4<f32>>(column_states[plane(COLUMN_POSITIVE, it.column)]));
    }
    return it;
}

@compute @workgroup_size(WORKGROUP)
fn columns(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = params.first_column + ((group.x + group.y * groups.x) * WORKGROUP + local) * 4u;
    if (column >= params.end_column) {
        return;
    }
    var top = vec4<f32>(LOWEST);
    var sum = vec4<f32>(0.0);
    var moment = vec4<f32>(0.0);
    var reference = vec4<f32>(0.0);
    var flags = vec4<u32>(0u);
    if (params.origin > 0u) {
        top = bitcast<vec4<f32>>(column_states[plane(COLUMN_TOP, column)]);
        sum = bitcast<vec4<f32>>(column_states[plane(COLUMN_SUM, column)]);
        moment = bitcast<vec4<f32>>(column_states[plane(COLUMN_MOMENT, column)]);
        reference = bitcast<vec4<f32>>(column_states[plane(COLUMN_REFERENCE, column)]);
        flags = column_states[plane(COLUMN_FLAGS, column)];
    }
    for (var index = 0u; index < params.rows; index += 1u) {
        let it = filtered_by_column(item(reopen(index), column, inside(column)));
        let rises = it.s >= top;
        let next = max(top, it.s);
        // One of top and s is the maximum, so a single exponential serves both.
        let less = exp(2.0 * max(0.5 * min(top, it.s) - 0.5 * next, vec4<f32>(-0.5 * FLOOR)));
        let mine = select(vec4<f32>(0.0), select(less, vec4<f32>(1.0), rises), it.live);
        let kept = select(vec4<f32>(1.0), less, rises & it.live);
        let other = select(reference, it.x, rises & it.live);
        moment = kept * (moment + sum * (reference - other)) + mine * (it.x - other);
        sum = sum * kept + mine;
        reference = other;
        top = next;
        flags |= select(vec4<u32>(0u), vec4<u32>(STATE_LIVE), it.live) | select(vec4<u32>(0u), vec4<u32>(STATE_BAD), it.bad);
    }
    column_states[plane(COLUMN_TOP, column)] = bitcast<vec4<u32>>(top);
    column_states[plane(COLUMN_SUM, column)] = bitcast<vec4<u32>>(sum);
    column_states[plane(COLUMN_MOMENT, column)] = bitcast<vec4<u32>>(moment);
    column_states[plane(COLUMN_REFERENCE, column)] = bitcast<vec4<u32>>(reference);
    column_states[plane(COLUMN_FLAGS, column)] = flags;
}
