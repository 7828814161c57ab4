// The scores of i8 logits, z = scale · (i8 - zero point), with the scale and the zero point in the row's record.

// The bits of 2^120. A scale of a larger size, which could make scores past the largest f32, makes its row a bad one, as
// a NaN and an infinity do.
const MOST_SCALE: u32 = 0x7b800000u;

fn dequantized(row: u32, number_bits: vec4<u32>) -> vec4<u32> {
    let at = record_of(row) + RECORD_SCALE;
    let scale = records[at];
    let bad = (scale & ~SIGN_BIT) > MOST_SCALE;
    let steps = bitcast<vec4<f32>>(number_bits) - bitcast<f32>(records[at + 1u]);
    let bits = bitcast<vec4<u32>>(steps * bitcast<f32>(select(scale, 0u, bad)));
    // Where functors order scores by their bits, -0 would be below 0.
    let zero = (bits & vec4<u32>(~SIGN_BIT)) == vec4<u32>(0u);
    return select(select(bits, vec4<u32>(0u), zero), vec4<u32>(NAN_BITS), bad);
}
