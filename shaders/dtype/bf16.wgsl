// bfloat16, two to a u32 word.

fn bf16_encode(bits: u32) -> u32 {
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    let quiet = (bits >> 16u) | 0x40u;
    return select(rounded, quiet, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn bf16_one(word: u32, odd: u32) -> u32 {
    return select(word << 16u, word & 0xffff0000u, odd == 1u);
}

fn bf16_quad(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
}

fn bf16_words(bits: vec4<u32>) -> vec2<u32> {
    return vec2<u32>(
        bf16_encode(bits.x) | (bf16_encode(bits.y) << 16u),
        bf16_encode(bits.z) | (bf16_encode(bits.w) << 16u),
    );
}
