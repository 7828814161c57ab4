// IEEE binary16, two to a u32 word, converted with integers: needs no adapter feature and flushes no subnormals.

fn f16_decode(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 0x1fu;
    let mantissa = half & 0x3ffu;
    let normal = ((half & 0x7fffu) << 13u) + 0x38000000u;
    let subnormal = bitcast<u32>(f32(mantissa) * 5.9604644775390625e-8);
    let special = 0x7f800000u | (mantissa << 13u);
    return sign | select(select(normal, special, exponent == 31u), subnormal, exponent == 0u);
}

fn f16_encode(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let a = bits & 0x7fffffffu;
    // From 65520 on, values round to infinity.
    let special = 0x7c00u | select(0u, 0x0200u, a > 0x7f800000u);
    let shifted = a - 0x38000000u;
    let normal = (shifted + 0xfffu + ((shifted >> 13u) & 1u)) >> 13u;
    // Below 2^-14 the unit is 2^-24; the shift stays below 32 so that it is defined.
    let shift = clamp(126u - min(a >> 23u, 126u), 1u, 25u);
    let mantissa = (a & 0x7fffffu) | 0x800000u;
    let kept = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    let up = rest > middle || (rest == middle && (kept & 1u) == 1u);
    let subnormal = select(0u, kept + select(0u, 1u, up), a >= 0x33000000u);
    return sign | select(select(normal, subnormal, a < 0x38800000u), special, a >= 0x477ff000u);
}

fn f16_one(word: u32, odd: u32) -> u32 {
    return f16_decode((word >> (odd * 16u)) & 0xffffu);
}

fn f16_quad(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(f16_one(words.x, 0u), f16_one(words.x, 1u), f16_one(words.y, 0u), f16_one(words.y, 1u));
}

fn f16_words(bits: vec4<u32>) -> vec2<u32> {
    return vec2<u32>(
        f16_encode(bits.x) | (f16_encode(bits.y) << 16u),
        f16_encode(bits.z) | (f16_encode(bits.w) << 16u),
    );
}
