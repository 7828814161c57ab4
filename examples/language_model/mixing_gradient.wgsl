// ∂mixing, one lane per element. A lane sums over the rows in order: no atomics, and the same bits in every run.

@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> embedding: array<f32>;
@group(0) @binding(3) var<storage, read> activation: array<f32>;
@group(0) @binding(4) var<storage, read> hidden_gradient: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = item(group, groups, lane);
    let square = step.depth * step.depth;
    let k = at / square;
    let d = at % square / step.depth;
    let column = at % step.depth;
    let is_bias = k == step.context;
    if (k > step.context || (is_bias && d > 0u)) {
        return;
    }
    var sum = 0.0;
    for (var row = 0u; row < step.rows; row += 1u) {
        let place = row * step.depth + column;
        let slope = hidden_gradient[place] * (1.0 - activation[place] * activation[place]);
        if (is_bias) {
            sum += slope;
        } else {
            sum += slope * embedding[batch[row * step.context + k] * step.depth + d];
        }
    }
    gradient[at] = sum;
}
