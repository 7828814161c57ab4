// AdaGrad on a dense parameter: squares += g², parameter −= η·g/(√squares + ε).

@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parameter: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> squares: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = item(group, groups, lane);
    if (at >= arrayLength(&parameter)) {
        return;
    }
    let g = gradient[at];
    let square = squares[at] + g * g;
    squares[at] = square;
    parameter[at] -= step.learning_rate * g / (sqrt(square) + step.epsilon);
}
