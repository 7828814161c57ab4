// The share of each column in the targets of a row that has several (row/several.wgsl).

// The most targets of a row are fewer than 2^STEPS.
const STEPS: u32 = 11u;

// The weights of four classes.
fn target_quad(row: u32, label: u32) -> vec4<f32> {
    let at = row * params.target_words;
    let count = target_table_read(at + 3u);
    // The first target that is not below the quad.
    var low = 0u;
    var high = count;
    for (var step = 0u; step < STEPS && low < high; step += 1u) {
        let middle = (low + high) / 2u;
        let is_below = target_table_read(at + 4u + 2u * middle) < label;
        low = select(low, middle + 1u, is_below);
        high = select(middle, high, is_below);
    }
    var weights = vec4<f32>(0.0);
    for (var i = low; i < min(low + 4u, count); i += 1u) {
        let place = vec4<u32>(target_table_read(at + 4u + 2u * i) - label);
        let weight = bitcast<f32>(target_table_read(at + 5u + 2u * i));
        weights = select(weights, vec4<f32>(weight), place == vec4<u32>(0u, 1u, 2u, 3u));
    }
    return weights;
}
