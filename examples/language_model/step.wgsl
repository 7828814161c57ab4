// What every kernel of the model knows of the step. A batch is `rows` tokens to predict, each after
// `context` others; its words are
//   contexts [rows · context]   the tokens before each row's target, the nearest first
//   tokens   [rows · context]   each token of the contexts once, `distinct` of them
//   starts   [rows · context+1] where in `places` a token's places start
//   places   [rows · context]   where in `contexts` each token stands
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
