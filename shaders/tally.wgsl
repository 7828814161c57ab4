// Counts and sums over rows. Tallies are merged in a fixed order; infinities and NaN are kept as flags.

const SUM_NAN: u32 = 1u;
const SUM_POSITIVE: u32 = 2u;
const SUM_NEGATIVE: u32 = 4u;
const DENOMINATOR_FLAGS: u32 = 3u;

struct Tally {
    // The sum of the finite numbers; the flags record all others.
    sum: f32,
    denominator: f32,
    count_low: u32,
    count_high: u32,
    bad_targets: u32,
    first_bad_row: u32,
    // The two words of an integer target. For a float: its bits, and its column, which orders the bad elements of a
    // row.
    bad_value_low: u32,
    bad_value_high: u32,
    // Flags of the sum in the low bits; flags of the denominator, shifted left by DENOMINATOR_FLAGS.
    sum_flags: u32,
    bad_rows: u32,
    correct: u32,
    zero_vectors: u32,
    // Σ of the loss's monitored value.
    monitored: f32,
}

override WORKGROUP: u32 = 64u;

var<workgroup> lane_tallies: array<Tally, WORKGROUP>;

fn tally_empty() -> Tally {
    return Tally(0.0, 0.0, 0u, 0u, 0u, NONE, 0u, 0u, 0u, 0u, 0u, 0u, 0.0);
}

fn tally_merge(a: Tally, b: Tally) -> Tally {
    let low = a.count_low + b.count_low;
    let carry = select(0u, 1u, low < a.count_low);
    let same_row = a.first_bad_row == b.first_bad_row;
    let a_first = select(a.first_bad_row < b.first_bad_row, a.bad_value_high <= b.bad_value_high, same_row);
    return Tally(
        a.sum + b.sum,
        a.denominator + b.denominator,
        low,
        a.count_high + b.count_high + carry,
        a.bad_targets + b.bad_targets,
        min(a.first_bad_row, b.first_bad_row),
        select(b.bad_value_low, a.bad_value_low, a_first),
        select(b.bad_value_high, a.bad_value_high, a_first),
        a.sum_flags | b.sum_flags,
        a.bad_rows + b.bad_rows,
        a.correct + b.correct,
        a.zero_vectors + b.zero_vectors,
        a.monitored + b.monitored,
    );
}

// Merges the tallies of all lanes; the result is valid in every lane.
fn tally_reduce(mine: Tally, lane: u32) -> Tally {
    lane_tallies[lane] = mine;
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_tallies[lane] = tally_merge(lane_tallies[lane], lane_tallies[lane + reach]);
        }
    }
    workgroupBarrier();
    return lane_tallies[0];
}

// The flags that a value gives its sum; 0 for a finite value.
fn flags_of(bits: u32) -> u32 {
    if (finite_one(bits)) {
        return 0u;
    }
    if ((bits & ~SIGN_BIT) > INFINITY_BITS) {
        return SUM_NAN;
    }
    return select(SUM_POSITIVE, SUM_NEGATIVE, (bits & SIGN_BIT) != 0u);
}

// A tally of one share of the denominator, given by its bits.
fn tally_of_denominator(bits: u32) -> Tally {
    var tally = tally_empty();
    tally.denominator = select(0.0, bitcast<f32>(bits), finite_one(bits));
    tally.sum_flags = flags_of(bits) << DENOMINATOR_FLAGS;
    return tally;
}

fn denominator_bits(tally: Tally) -> u32 {
    return sum_bits(tally.denominator, tally.sum_flags >> DENOMINATOR_FLAGS);
}

// The value of a sum with flags, as bits.
fn sum_bits(sum: f32, flags: u32) -> u32 {
    let both = (flags & (SUM_POSITIVE | SUM_NEGATIVE)) == (SUM_POSITIVE | SUM_NEGATIVE);
    if ((flags & SUM_NAN) != 0u || both) {
        return NAN_BITS;
    }
    if ((flags & (SUM_POSITIVE | SUM_NEGATIVE)) != 0u) {
        return INFINITY_BITS | select(0u, SIGN_BIT, (flags & SUM_NEGATIVE) != 0u);
    }
    return bitcast<u32>(sum);
}
