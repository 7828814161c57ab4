// Packed i8, four to a word with the first one lowest, decoded to the bits of floats.

// The number in this place (0 to 3) of a word.
fn i8_one(word: u32, place: u32) -> u32 {
    let highest = bitcast<i32>(word << (24u - 8u * place));
    return bitcast<u32>(f32(highest >> 24u));
}

fn i8_quad(word: u32) -> vec4<u32> {
    let highest = bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u));
    return bitcast<vec4<u32>>(vec4<f32>(highest >> vec4<u32>(24u)));
}
