// ∂embedding and its AdaGrad update in one kernel. A lane owns one element of a token's row, and sums over the places
// where the token occurs. Rows of other tokens have a gradient of 0, which AdaGrad leaves unchanged.

@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> mixing: array<f32>;
@group(0) @binding(3) var<storage, read> activation: array<f32>;
@group(0) @binding(4) var<storage, read> hidden_gradient: array<f32>;
@group(0) @binding(5) var<storage, read_write> embedding: array<f32>;
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = item(group, groups, lane);
    let index = at / step.depth;
    let column = at % step.depth;
    if (index >= step.distinct) {
        return;
    }
    let size = step.rows * step.context;
    let token = batch[size + index];
    let end = batch[2u * size + index + 1u];
    var sum = 0.0;
    for (var n = batch[2u * size + index]; n < end; n += 1u) {
        let place = batch[3u * size + 1u + n];
        let row = place / step.context * step.depth;
        let k = place % step.context;
        let start = (k * step.depth + column) * step.depth;
        for (var e = 0u; e < step.depth; e += 1u) {
            let value = activation[row + e];
            sum += mixing[start + e] * hidden_gradient[row + e] * (1.0 - value * value);
        }
        if (k == 0u) {
            sum += hidden_gradient[row + column];
        }
    }
    let to = token * step.depth + column;
    let square = squares[to] + sum * sum;
    squares[to] = square;
    embedding[to] -= step.learning_rate * sum / (sqrt(square) + step.epsilon);
}
