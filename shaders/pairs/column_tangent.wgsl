// What tangent.wgsl computes for vectors that are columns, given ⟨∂, u⟩ of each (column_dots.wgsl): one lane per four
// columns walks down their rows.

override WORKGROUP: u32 = 64u;
// Whether the gradient is added to what is there.
override ADDS: bool = false;

@compute @workgroup_size(WORKGROUP)
fn column_tangent(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = ((group.x + group.y * groups.x) * WORKGROUP + local) * 4u;
    if (column >= params.classes) {
        return;
    }
    // A vector that holds a NaN keeps its gradient, as in tangent.wgsl.
    var lengths = vec4<f32>(1.0);
    var inverses = vec4<f32>(0.0);
    var scales = vec4<f32>(1.0);
    var dots = vec4<f32>(0.0);
    for (var i = 0u; i < min(4u, params.classes - column); i += 1u) {
        let at = (column + i) * params.entry_step;
        let known = finite_one(table[at]);
        inverses[i] = bitcast<f32>(select(0u, table[at], known));
        lengths[i] = select(1.0, inverses[i], known);
        scales[i] = bitcast<f32>(table[at + params.scale_at]);
        dots[i] = bitcast<f32>(table[at + 2u * params.scale_at]);
    }
    let bad = !finite(bitcast<vec4<u32>>(dots));
    for (var row = 0u; row < params.rows; row += 1u) {
        let bits = vector_quad(row, column);
        let vector = select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
        let unit = inverses * (scales * vector);
        var g = scales * (lengths * (bitcast<vec4<f32>>(raw_quad(row, column)) - dots * unit));
        if (ADDS) {
            g += bitcast<vec4<f32>>(begun_quad(row, column));
        }
        gradient_store(row, column, select(bitcast<vec4<u32>>(g), vec4<u32>(NAN_BITS), bad));
    }
}
