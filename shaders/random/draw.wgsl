// Draws classes: sample after sample, the same integers on every device (src/targets/draw_samples.rs).

override WORKGROUP: u32 = 64u;

// How a random word becomes a class; the numbers of src/targets/draw_samples/class.rs.
override DISTRIBUTION: u32 = 0u;
const LOG_UNIFORM: u32 = 1u;
const ALIAS: u32 = 2u;

// 2^(2^-k) for k from 1 on, times 2^31.
const ROOTS = array<u32, 27>(
    0xb504f334u, 0x9837f052u, 0x8b95c1e4u, 0x85aac368u, 0x82cd8699u, 0x8164d1f4u, 0x80b1ed50u, 0x8058d7d3u, 0x802c6437u,
    0x8016302fu, 0x800b179du, 0x80058bafu, 0x8002c5d0u, 0x800162e6u, 0x8000b173u, 0x800058b9u, 0x80002c5du, 0x8000162eu,
    0x80000b17u, 0x8000058cu, 0x800002c6u, 0x80000163u, 0x800000b1u, 0x80000059u, 0x8000002cu, 0x80000016u, 0x8000000bu,
);

// (classes + 1)^u - 1, rounded down, for u = word/2^32. The power is that of 2, whose exponent has 27 bits behind the point.
fn log_uniform(word: u32) -> u32 {
    let exponent = multiply_high(word, params.log_classes);
    let bits = exponent << 5u;
    var roots = ROOTS;
    var power = 0x80000000u;
    for (var k = 0u; k < 27u; k++) {
        let longer = multiply_high(power, roots[k]) << 1u;
        power = select(power, longer, (bits & (0x80000000u >> k)) != 0u);
    }
    return min((power >> (31u - (exponent >> 27u))) - 1u, params.classes - 1u);
}

// A class by the alias method: a class of the first word, or the one that shares its bucket.
fn by_alias(words: vec2<u32>) -> u32 {
    let bucket = multiply_high(words.x, params.classes);
    return select(buckets_read(2u * bucket + 1u), bucket, words.y < buckets_read(2u * bucket));
}

fn class_of(words: vec2<u32>) -> u32 {
    if (DISTRIBUTION == ALIAS) {
        return by_alias(words);
    }
    if (DISTRIBUTION == LOG_UNIFORM) {
        return log_uniform(words.x);
    }
    return multiply_high(words.x, params.classes);
}

@compute @workgroup_size(WORKGROUP)
fn draw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = (group.x + group.y * groups.x) * WORKGROUP + lane;
    let first = 2u * pair;
    // NONE is the number of no row: what is drawn here is nobody's noise.
    let counter = vec4<u32>(pair, NONE, params.offset_low, params.offset_high);
    let words = philox(counter, vec2<u32>(params.seed_low, params.seed_high));
    if (first < params.count) {
        samples_write(first, class_of(words.xy));
    }
    if (first + 1u < params.count) {
        samples_write(first + 1u, class_of(words.zw));
    }
}
