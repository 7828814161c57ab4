// The share of each column in the targets of a row that has several (row/several.wgsl).

// A row has fewer than 2^STEPS targets.
const STEPS: u32 = 10u;

// The weights with that of one more target, if it is in the quad.
fn with_target(weights: vec4<f32>, at: u32, i: u32, count: u32, label: u32) -> vec4<f32> {
    let word = at + 4u + 2u * min(i, count - 1u);
    let place = vec4<u32>(target_table_read(word) - label);
    let here = (place == vec4<u32>(0u, 1u, 2u, 3u)) & vec4<bool>(i < count);
    return select(weights, vec4<f32>(bitcast<f32>(target_table_read(word + 1u))), here);
}

// The weights of four columns, of which this label is the first.
fn target_quad(row: u32, label: u32) -> vec4<f32> {
    let at = row * params.target_words;
    let count = target_table_read(at + 3u);
    if (count == 0u) {
        return vec4<f32>(0.0);
    }
    // The first target that is not below the quad. Such loops count: see `quad_iterations` in
    // src/skeleton/row/rows/several.rs.
    var low = 0u;
    var high = count;
    for (var step = 0u; step < STEPS && low < high; step += 1u) {
        let middle = (low + high) / 2u;
        let is_below = target_table_read(at + 4u + 2u * middle) < label;
        low = select(low, middle + 1u, is_below);
        high = select(middle, high, is_below);
    }
    var weights = with_target(vec4<f32>(0.0), at, low, count, label);
    weights = with_target(weights, at, low + 1u, count, label);
    weights = with_target(weights, at, low + 2u, count, label);
    return with_target(weights, at, low + 3u, count, label);
}
