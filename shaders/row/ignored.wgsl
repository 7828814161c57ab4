// Whether a target is one of the ignored indices.

fn ignored(low: u32, high: u32) -> bool {
    let count = params.ignored;
    return (count > 0u && low == params.ignore_0_low && high == params.ignore_0_high)
        || (count > 1u && low == params.ignore_1_low && high == params.ignore_1_high)
        || (count > 2u && low == params.ignore_2_low && high == params.ignore_2_high)
        || (count > 3u && low == params.ignore_3_low && high == params.ignore_3_high);
}
