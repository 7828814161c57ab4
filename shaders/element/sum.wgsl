// Sums terms along one axis: terms [outer, length, inner] become sums [outer, parts, inner]. Each sum has up to `most`
// terms and is computed by one lane. A dispatch computes the parts from `first_part` on and binds the terms of these
// parts only.

// Where the last step stores a sum.
struct Place {
    at: u32,
    row: vec4<u32>,
    column: vec4<u32>,
}

fn term(first: u32, k: u32, count: u32) -> u32 {
    return select(0u, terms_read(first + min(k, count - 1u) * params.inner), k < count);
}

@compute @workgroup_size(WORKGROUP)
fn sum_terms(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (at >= params.sums) {
        return;
    }
    let part = params.first_part + at / params.inner;
    let piece = part % params.parts;
    let before = part / params.parts * params.length + piece * params.most - params.first_part * params.most;
    let first = before * params.inner + at % params.inner;
    let count = min(params.most, params.length - piece * params.most);
    var sums = vec4<f32>(0.0);
    var flags = 0u;
    for (var k = 0u; k < count; k += 4u) {
        let bits = vec4<u32>(term(first, k, count), term(first, k + 1u, count), term(first, k + 2u, count), term(first, k + 3u, count));
        // Keep infinities and NaN as flags: no sum computes with them.
        sums += select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
        flags |= (flags_of(bits.x) | flags_of(bits.y)) | (flags_of(bits.z) | flags_of(bits.w));
    }
    let bits = sum_bits(sum4(sums), flags);
    sums_write(at, bits);
    let number = params.first_sum + at;
    let row = number / (params.classes * params.pixels) * params.pixels + number % params.pixels;
    let column = number / params.pixels % params.classes;
    let only_first = vec4<bool>(true, false, false, false);
    gradient_give(Place(0u, vec4<u32>(row), vec4<u32>(column)), only_first, vec4<u32>(bits));
}
