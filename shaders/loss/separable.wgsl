// A user's loss of a row that depends on four sums over its columns (sums.wgsl). The user's module supplies
//   fn term(label, column, z) -> vec4<f32>         what a column adds to the sums
//   fn row_loss(label, sums) -> f32                the loss of a row
//   fn slope(label, column, z, sums) -> f32        its derivative with respect to z

struct Item {
    column: u32,
    z: vec4<f32>,
    inside: vec4<bool>,
    left_out: vec4<bool>,
    bad: bool,
}

fn item(row: Row, column: u32, inside: vec4<bool>) -> Item {
    let bits = logits_quad(row.index, column);
    let good = finite(bits);
    var it: Item;
    it.column = column;
    it.z = select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), good & inside);
    it.inside = inside;
    it.bad = any(!good & inside);
    return it;
}

fn quad_sums(row: Row, it: Item) -> vec4<f32> {
    var sums = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        sums += select(vec4<f32>(0.0), term(row.label, it.column + i, it.z[i]), it.inside[i]);
    }
    return sums;
}

fn quad_slopes(label: u32, it: Item, sums: vec4<f32>) -> vec4<f32> {
    var slopes = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        slopes[i] = slope(label, it.column + i, it.z[i], sums);
    }
    return slopes;
}

fn finished(row: Row, closed: Closed) -> Closed {
    return closed;
}
