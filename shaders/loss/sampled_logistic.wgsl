// Negative sampling (loss/sums.wgsl): softplus(−s) of the last column, which is the target, and softplus(s) of the samples.
// The sums: Σ softplus over finite scores, and the number of targets at −inf.

const MINUS_INFINITY: u32 = INFINITY_BITS | SIGN_BIT;

struct Item {
    column: u32,
    // s, or −s of the target. 0 where the score is not finite.
    against: vec4<f32>,
    is_target: vec4<bool>,
    // The score is finite; it is −inf.
    live: vec4<bool>,
    dead: vec4<bool>,
    left_out: vec4<bool>,
    bad: bool,
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let bits = logits_quad(row.index, column);
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    var it: Item;
    it.column = column;
    it.is_target = columns == vec4<u32>(params.classes - 1u);
    it.live = finite(bits) & inside;
    it.dead = (bits == vec4<u32>(MINUS_INFINITY)) & inside;
    it.left_out = it.dead & !it.is_target;
    it.bad = any(inside & !it.live & !it.dead);
    let s = bitcast<vec4<f32>>(select(vec4<u32>(0u), bits, it.live));
    it.against = select(s, -s, it.is_target);
    return it;
}

fn quad_sums(row: Row, it: Item) -> vec4<f32> {
    let loss = select(vec4<f32>(0.0), logistic4(it.against).plus, it.live);
    let infinite = select(vec4<f32>(0.0), vec4<f32>(1.0), it.dead & it.is_target);
    return vec4<f32>(sum4(loss), sum4(infinite), 0.0, 0.0);
}

fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
    return sums.x;
}

fn quad_slopes(label: u32, it: Item, sums: vec4<f32>) -> vec4<f32> {
    let p = select(logistic4(it.against).p, vec4<f32>(1.0), it.dead);
    return select(p, -p, it.is_target);
}

fn finished(row: Row, closed: Closed) -> Closed {
    var out = closed;
    if (closed.sums.y > 0.0) {
        out.loss = times(bitcast<u32>(row.row_weight), INFINITY_BITS);
    }
    return out;
}
