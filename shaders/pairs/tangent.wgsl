// One workgroup per vector: takes a gradient through the normalisation u = r·v, r = 1/‖v‖: r·(∂ - u·⟨∂, u⟩). Where the
// gradient so far is not that of u, but was made from scores that include r, only its part along the vector has to be
// removed. The norm, the scores and the gradient so far belong to the vector times its scale (vectors.wgsl).

override WORKGROUP: u32 = 64u;
// Whether the gradient is added to what is there.
override ADDS: bool = false;
// Whether the gradient so far is that of u.
override OF_UNITS: bool = false;

var<workgroup> lane_sums: array<f32, WORKGROUP>;

// What is known of the vector.
struct Known {
    inverse: f32,
    scale: f32,
}

fn unit(row: u32, column: u32, known: Known) -> vec4<f32> {
    let bits = vector_quad(row, column);
    let inside = vec4<u32>(column, column + 1u, column + 2u, column + 3u) < vec4<u32>(params.classes);
    let vector = select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits) & inside);
    return known.inverse * (known.scale * vector);
}

fn along(row: u32, lane: u32, known: Known) -> f32 {
    var mine = 0.0;
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        let inside = vec4<u32>(column, column + 1u, column + 2u, column + 3u) < vec4<u32>(params.classes);
        let g = select(vec4<f32>(0.0), bitcast<vec4<f32>>(raw_quad(row, column)), inside);
        mine += sum4(g * unit(row, column, known));
    }
    lane_sums[lane] = mine;
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_sums[lane] += lane_sums[lane + reach];
        }
    }
    workgroupBarrier();
    return lane_sums[0];
}

@compute @workgroup_size(WORKGROUP)
fn tangent(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = min(slot, params.rows - 1u);
    let entry = (params.first + row) * params.entry_step;
    let bits = table[entry];
    // A vector that holds a NaN has a gradient that is NaN, or 0 where its factor was 0. Keep either as it is.
    let scale = bitcast<f32>(table[entry + params.scale_at]);
    let known = Known(select(0.0, bitcast<f32>(bits), finite_one(bits)), scale);
    let dot = along(row, lane, known);
    let bad = !finite_one(bitcast<u32>(dot));
    let length = select(1.0, known.inverse, OF_UNITS && finite_one(bits));
    if (slot >= params.rows) {
        return;
    }
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        var g = scale * (length * (bitcast<vec4<f32>>(raw_quad(row, column)) - dot * unit(row, column, known)));
        if (ADDS) {
            g += bitcast<vec4<f32>>(begun_quad(row, column));
        }
        gradient_store(row, column, select(bitcast<vec4<u32>>(g), vec4<u32>(NAN_BITS), vec4<bool>(bad)));
    }
}
