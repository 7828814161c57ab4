// The parameters that every kernel of the model shares. A batch is `rows` tokens to predict, each with the `context`
// tokens before it. The words of a batch are
//   contexts [rows · context]   the tokens before each row's target, the nearest first
//   tokens   [rows · context]   each token of the contexts once, `distinct` of them
//   starts   [rows · context+1] where each token's places start in `places`
//   places   [rows · context]   where each token occurs in `contexts`
struct Step {
    rows: u32,
    depth: u32,
    context: u32,
    distinct: u32,
    learning_rate: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> step: Step;

const WORKGROUP: u32 = 64u;

fn item(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + lane;
}
