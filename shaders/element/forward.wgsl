// One workgroup per block of elements: losses, sums, and the gradients that the caller wants.

// Separate code for whole tiles of quads, as in shaders/row.wgsl.
override HAS_TILES: bool = true;

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let blocks = (params.classes + ELEMENTS - 1u) / ELEMENTS;
    let first = min(block, blocks) * ELEMENTS;
    let end = min(first + ELEMENTS, params.classes);
    let scaling = scaling_found();
    let step = WORKGROUP * 4u;
    let all4 = vec4<bool>(true);
    var at = first + lane * 4u;
    var all = Stretch(vec4<f32>(0.0), vec4<f32>(0.0), odd_empty());
    // Whole quads: four are added up first, and their sum is added to the total.
    if (HAS_TILES) {
        for (; at + 3u * step + 4u <= end; at += 4u * step) {
            var four = all;
            four.sums = vec4<f32>(0.0);
            if (PLACES == PLACES_FLAT || PLACES == PLACES_ROW) {
                // Written out: a loop's overhead is paid once per four quads.
                four = taken(four, at, all4, scaling);
                four = taken(four, at + step, all4, scaling);
                four = taken(four, at + 2u * step, all4, scaling);
                four = taken(four, at + 3u * step, all4, scaling);
            } else {
                // Element by element, the body is so large that a loop costs no time, and compiles in half the time.
                for (var quad = 0u; quad < 4u; quad += 1u) {
                    four = taken(four, at + quad * step, all4, scaling);
                }
            }
            four.sums += all.sums;
            all = four;
        }
    }
    for (; at < end; at += step) {
        all = taken(all, at, vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end), scaling);
    }
    let tally = tally_reduce(tally_of(all), lane);
    if (lane == 0u && block < blocks) {
        tallies[params.first_tally + block] = tally;
    }
}

// The sums and counts of a stretch of quads.
struct Stretch {
    sums: vec4<f32>,
    monitored: vec4<f32>,
    odd: Odd,
}

fn taken(given: Stretch, at: u32, inside: vec4<bool>, scaling: Scaling) -> Stretch {
    let visited = visit(place(at), inside, scaling);
    return Stretch(given.sums + finite_part(visited.loss), given.monitored + visited.monitored, counted(given.odd, at, visited));
}

// Counts losses that are not finite. Uses vectors and no branch: where lanes share one instruction, a branch would run
// for every quad anyway.
struct Odd {
    // The largest loss as i32 and as u32. Without NaN these are infinity and -infinity, where such losses occur.
    high: vec4<i32>,
    low: vec4<u32>,
    nans: vec4<u32>,
    bad: vec4<u32>,
    // The first bad element, and its value.
    first: vec4<u32>,
    value: vec4<u32>,
}

fn odd_empty() -> Odd {
    return Odd(vec4<i32>(0), vec4<u32>(0u), vec4<u32>(0u), vec4<u32>(0u), vec4<u32>(NONE), vec4<u32>(0u));
}

fn finite_part(bits: vec4<u32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), finite(bits));
}

fn counted(odd: Odd, at: u32, visited: Visited) -> Odd {
    let nans = is_nan4(visited.loss);
    let places = select(vec4<u32>(NONE), vec4<u32>(at, at + 1u, at + 2u, at + 3u), visited.bad);
    return Odd(
        max(odd.high, bitcast<vec4<i32>>(visited.loss)),
        max(odd.low, visited.loss),
        odd.nans + select(vec4<u32>(0u), vec4<u32>(1u), nans & !visited.bad),
        odd.bad + select(vec4<u32>(0u), vec4<u32>(1u), visited.bad),
        min(odd.first, places),
        select(odd.value, visited.value, places < odd.first),
    );
}

fn tally_of(stretch: Stretch) -> Tally {
    let odd = stretch.odd;
    var tally = tally_empty();
    tally.sum = sum4(stretch.sums);
    tally.monitored = sum4(stretch.monitored);
    for (var i = 0u; i < 4u; i += 1u) {
        tally.sum_flags |= select(0u, SUM_NAN, odd.nans[i] + odd.bad[i] > 0u)
            | select(0u, SUM_POSITIVE, odd.high[i] >= bitcast<i32>(INFINITY_BITS))
            | select(0u, SUM_NEGATIVE, odd.low[i] >= (INFINITY_BITS | SIGN_BIT));
        tally.bad_rows += odd.nans[i];
        tally.bad_targets += odd.bad[i];
    }
    let first = min(min(odd.first.x, odd.first.y), min(odd.first.z, odd.first.w));
    if (first != NONE) {
        tally.first_bad_row = row_of(first);
        tally.bad_value_high = channel_of(first);
        let values = select(vec4<u32>(0u), odd.value, odd.first == vec4<u32>(first));
        tally.bad_value_low = (values.x | values.y) | (values.z | values.w);
    }
    return tally;
}
