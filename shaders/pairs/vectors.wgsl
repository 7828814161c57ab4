// One workgroup per vector: computes what the scores need of a query or key beside the products, one entry per vector.
//
// An entry: the inverse norm (1 without NORMALIZE, 0 for a vector of zeros, NaN for a vector that holds a NaN or an
// infinity), the label's two words and, at offset params.scale_at, the scale. Words of an entry are params.word_step
// apart; entries are params.entry_step apart.
//
// The scale is a power of two that a vector is multiplied by before any other use, including the norm and the inverse
// norm. The scale is 1 for vectors whose largest element is neither huge nor tiny, so it changes none of their bits.
// For other vectors, products or inverse norms would overflow or underflow.

override WORKGROUP: u32 = 64u;
override NORMALIZE: bool = false;
override HAS_LABELS: bool = false;

var<workgroup> lane_words: array<u32, WORKGROUP>;

// The largest |element| as bits, valid in every lane. NaN and infinities compare as larger than all numbers.
fn largest(row: u32, lane: u32) -> u32 {
    var mine = 0u;
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        let bits = live(column, vector_quad(row, column)) & vec4<u32>(~SIGN_BIT);
        mine = max(mine, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    lane_words[lane] = mine;
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_words[lane] = max(lane_words[lane], lane_words[lane + reach]);
        }
    }
    workgroupBarrier();
    let all = lane_words[0];
    workgroupBarrier();
    return all;
}

// The elements of a quad; 0 past the end of the vector.
fn live(column: u32, bits: vec4<u32>) -> vec4<u32> {
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    return select(vec4<u32>(0u), bits, columns < vec4<u32>(params.classes));
}

// Σ (factor·element)², valid in every lane.
fn squares(row: u32, lane: u32, factor: f32) -> f32 {
    var mine = 0.0;
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        let bits = live(column, vector_quad(row, column));
        let v = factor * select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
        mine += sum4(v * v);
    }
    lane_words[lane] = bitcast<u32>(mine);
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_words[lane] = bitcast<u32>(bitcast<f32>(lane_words[lane]) + bitcast<f32>(lane_words[lane + reach]));
        }
    }
    workgroupBarrier();
    return bitcast<f32>(lane_words[0]);
}

fn norm_of(row: u32, lane: u32) -> Norm {
    let top = largest(row, lane);
    return norm_from(top, squares(row, lane, square_factor(top)));
}

@compute @workgroup_size(WORKGROUP)
fn vectors(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = min(slot, params.rows - 1u);
    var norm = Norm(bitcast<u32>(1.0), 1.0);
    if (NORMALIZE) {
        norm = norm_of(row, lane);
    }
    if (lane == 0u && slot < params.rows) {
        let at = (params.first + row) * params.entry_step;
        table[at] = norm.inverse;
        if (NORMALIZE) {
            table[at + params.scale_at] = bitcast<u32>(norm.scale);
        }
        if (HAS_LABELS) {
            let words = labels_at(row);
            table[at + params.word_step] = words.x;
            table[at + 2u * params.word_step] = words.y;
        }
    }
}
