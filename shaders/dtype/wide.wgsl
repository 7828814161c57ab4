// f32 elements, two to a 64-bit word.

fn wide_one(word: u64, odd: u32) -> u32 {
    return u32(word >> (odd * 32u));
}

fn wide_quad(words: vec2<u64>) -> vec4<u32> {
    return vec4<u32>(u32(words.x), u32(words.x >> 32u), u32(words.y), u32(words.y >> 32u));
}

fn wide_words(bits: vec4<u32>) -> vec2<u64> {
    return vec2<u64>(u64(bits.x) | (u64(bits.y) << 32u), u64(bits.z) | (u64(bits.w) << 32u));
}
