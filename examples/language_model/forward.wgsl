// hidden = tanh(Σ_k embedding[context_k]·mixing_k + bias) + embedding[context_0], one lane per element.

@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> embedding: array<f32>;
// [context, depth, depth], then a bias [depth].
@group(0) @binding(3) var<storage, read> mixing: array<f32>;
@group(0) @binding(4) var<storage, read_write> activation: array<f32>;
@group(0) @binding(5) var<storage, read_write> hidden: array<f32>;

// The built-in tanh may be off by 1e-5, and may overflow.
fn hyperbolic_tangent(x: f32) -> f32 {
    let s = x * x;
    let series = x * (1.0 - s * (1.0 / 3.0 - s * (2.0 / 15.0 - s * (17.0 / 315.0))));
    let by_exp = 1.0 - 2.0 / (exp(2.0 * clamp(x, -12.0, 12.0)) + 1.0);
    return select(by_exp, series, abs(x) < 0.25);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = item(group, groups, lane);
    let row = at / step.depth;
    let column = at % step.depth;
    if (row >= step.rows) {
        return;
    }
    let square = step.depth * step.depth;
    var sum = mixing[step.context * square + column];
    for (var k = 0u; k < step.context; k += 1u) {
        let token = batch[row * step.context + k] * step.depth;
        let start = k * square + column;
        for (var d = 0u; d < step.depth; d += 1u) {
            sum += embedding[token + d] * mixing[start + d * step.depth];
        }
    }
    let value = hyperbolic_tangent(sum);
    activation[at] = value;
    hidden[at] = value + embedding[batch[row * step.context] * step.depth + column];
}
