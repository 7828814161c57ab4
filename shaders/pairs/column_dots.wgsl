// One lane per four columns, each a vector: the part of a gradient along the unit vector, ⟨∂, u⟩. It continues over
// stretches of rows, in the entry's third word.

override WORKGROUP: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn column_dots(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = ((group.x + group.y * groups.x) * WORKGROUP + local) * 4u;
    if (column >= params.classes) {
        return;
    }
    let count = min(4u, params.classes - column);
    var inverses = vec4<f32>(0.0);
    var scales = vec4<f32>(0.0);
    var dots = vec4<f32>(0.0);
    for (var i = 0u; i < count; i += 1u) {
        let at = (column + i) * params.entry_step;
        inverses[i] = bitcast<f32>(select(0u, table[at], finite_one(table[at])));
        scales[i] = bitcast<f32>(table[at + params.scale_at]);
        dots[i] = bitcast<f32>(select(table[at + 2u * params.scale_at], 0u, params.first == 0u));
    }
    for (var row = 0u; row < params.rows; row += 1u) {
        let bits = vector_quad(row, column);
        let vector = select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
        dots += bitcast<vec4<f32>>(raw_quad(row, column)) * (inverses * (scales * vector));
    }
    for (var i = 0u; i < count; i += 1u) {
        table[(column + i) * params.entry_step + 2u * params.scale_at] = bitcast<u32>(dots[i]);
    }
}
