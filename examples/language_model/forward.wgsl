// hidden = tanh(Σ_k embedding[context_k]·mixing_k + bias) + embedding[context_0], a lane an element.

@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> embedding: array<f32>;
// [context, depth, depth], then a bias [depth].
@group(0) @binding(3) var<storage, read> mixing: array<f32>;
@group(0) @binding(4) var<storage, read_write> activation: array<f32>;
@group(0) @binding(5) var<storage, read_write> hidden: array<f32>;

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
    // Some drivers' tanh overflows.
    let value = tanh(clamp(sum, -12.0, 12.0));
    activation[at] = value;
    hidden[at] = value + embedding[batch[row * step.context] * step.depth + column];
}
