// Vectors that are columns: what vectors.wgsl computes, with one lane per four columns that walks down their rows. The
// first kernel leaves the bits of each column's largest |element| in the first word of its entry; the second one adds up
// squares in the second word, and puts the inverse norm and the scale in place of both. Each continues over stretches of
// rows, so that these change no bit.

override WORKGROUP: u32 = 64u;

fn column_of(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return ((group.x + group.y * groups.x) * WORKGROUP + local) * 4u;
}

@compute @workgroup_size(WORKGROUP)
fn column_tops(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = column_of(group, groups, local);
    if (column >= params.classes) {
        return;
    }
    var tops = vec4<u32>(0u);
    for (var row = 0u; row < params.rows; row += 1u) {
        tops = max(tops, vector_quad(row, column) & vec4<u32>(~SIGN_BIT));
    }
    for (var i = 0u; i < min(4u, params.classes - column); i += 1u) {
        let at = (column + i) * params.entry_step;
        let before = select(table[at], 0u, params.first == 0u);
        table[at] = max(before, tops[i]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn column_norms(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = column_of(group, groups, local);
    if (column >= params.classes) {
        return;
    }
    let count = min(4u, params.classes - column);
    var factors = vec4<f32>(0.0);
    var sums = vec4<f32>(0.0);
    for (var i = 0u; i < count; i += 1u) {
        let at = (column + i) * params.entry_step;
        factors[i] = square_factor(table[at]);
        sums[i] = bitcast<f32>(select(table[at + params.scale_at], 0u, params.first == 0u));
    }
    for (var row = 0u; row < params.rows; row += 1u) {
        let bits = vector_quad(row, column);
        let v = factors * select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
        sums += v * v;
    }
    let ends = params.first + params.rows == params.depth;
    for (var i = 0u; i < count; i += 1u) {
        let at = (column + i) * params.entry_step;
        let norm = norm_from(table[at], sums[i]);
        table[at] = select(table[at], norm.inverse, ends);
        table[at + params.scale_at] = bitcast<u32>(select(sums[i], norm.scale, ends));
    }
}
