// Philox 4x32-10, a counter-based generator: four words of random bits for each key and counter, the same on every
// device (Salmon et al. 2011; src/reference/philox.rs).

// The upper word of the 64-bit product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let first = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let second = (a & 0xffffu) * (b >> 16u) + (first & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (first >> 16u) + (second >> 16u);
}

fn philox(given_counter: vec4<u32>, given_key: vec2<u32>) -> vec4<u32> {
    var counter = given_counter;
    var key = given_key;
    for (var round = 0u; round < 10u; round++) {
        let high_0 = multiply_high(0xd2511f53u, counter.x);
        let high_1 = multiply_high(0xcd9e8d57u, counter.z);
        counter = vec4<u32>(
            high_1 ^ counter.y ^ key.x,
            0xcd9e8d57u * counter.z,
            high_0 ^ counter.w ^ key.y,
            0xd2511f53u * counter.x,
        );
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}
