// The order of a row's columns, in integers: NaN first, then scores from high to low; among equal scores the lower
// column first.

struct Place {
    key: u32,
    column: u32,
}

const NAN_KEY: u32 = 0xfffffffeu;

fn place_key(bits: u32) -> u32 {
    let ordered = select(bits | SIGN_BIT, ~bits, (bits & SIGN_BIT) != 0u);
    // -0 is 0.
    let zero = select(ordered, SIGN_BIT, (bits & ~SIGN_BIT) == 0u);
    return select(zero, NAN_KEY, (bits & ~SIGN_BIT) > INFINITY_BITS);
}

fn key_bits(key: u32) -> u32 {
    let bits = select(~key, key & ~SIGN_BIT, (key & SIGN_BIT) != 0u);
    return select(bits, NAN_BITS, key == NAN_KEY);
}

fn before(a: Place, b: Place) -> bool {
    return a.key > b.key || (a.key == b.key && a.column < b.column);
}
