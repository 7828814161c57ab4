// Scores of a softmax as finite numbers. -inf and columns past the row become DEAD. NaN and +inf are detected by their
// bits before anything is computed.

// DEAD is the u of a column that is -inf or past the row. It lies below LEAST, the least u of any other column.
const DEAD: f32 = LOWEST;
const LEAST: f32 = -3.40282326356e38;

// A quad of scores; a bad score was NaN or +inf.
struct Score {
    u: vec4<f32>,
    bad: vec4<bool>,
}

fn live(u: vec4<f32>) -> vec4<bool> {
    return u != vec4<f32>(DEAD);
}

// Clamps as integers, so that NaN and infinity never enter arithmetic.
fn clamped(bits: vec4<u32>) -> vec4<u32> {
    let below_infinity = bitcast<vec4<u32>>(min(bitcast<vec4<i32>>(bits), vec4<i32>(0x7f7fffff)));
    return min(below_infinity, vec4<u32>(0xff7fffffu));
}

// exp of a result of below4, and exactly 0 at its floor, where dead columns are. The built-in exp need not return 0
// there.
fn exponential(shift: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp(shift), shift > vec4<f32>(-FLOOR));
}

// exp(shift) for shift <= 0, with relative accuracy far below 0: all terms of a sum may be that small.
fn exp_below4(shift: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), exp_far4(shift), shift > vec4<f32>(-FLOOR));
}

// A quad of scores times a factor (an inverse temperature). Columns outside the row are dead.
fn score_of(bits: vec4<u32>, factor: f32, inside: vec4<bool>) -> Score {
    let minus = vec4<u32>(INFINITY_BITS | SIGN_BIT);
    let z = clamped(bits);
    let dead = (bits == minus) | !inside;
    // A product past the largest f32 is clamped to it.
    let u = bitcast<vec4<f32>>(clamped(bitcast<vec4<u32>>(bitcast<vec4<f32>>(z) * factor)));
    var score: Score;
    score.u = select(max(u, vec4<f32>(LEAST)), vec4<f32>(DEAD), dead);
    score.bad = (z != bits) & (bits != minus) & inside;
    return score;
}
