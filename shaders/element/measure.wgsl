// One workgroup per block of elements: counts the kept elements and sums the mask, before anything is divided by them.

@compute @workgroup_size(WORKGROUP)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let blocks = (params.classes + ELEMENTS - 1u) / ELEMENTS;
    let first = min(block, blocks) * ELEMENTS;
    let end = min(first + ELEMENTS, params.classes);
    var mine = tally_empty();
    var sums = vec4<f32>(0.0);
    for (var at = first + lane * 4u; at < end; at += WORKGROUP * 4u) {
        let p = place(at);
        let inside = vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end);
        let keep = kept(p, inside);
        let mask = select(vec4<u32>(0u), mask_take(p), keep);
        let whole = finite(mask);
        sums += select(vec4<f32>(0.0), bitcast<vec4<f32>>(mask), whole);
        if (!all(whole)) {
            let flags = (flags_of(mask.x) | flags_of(mask.y)) | (flags_of(mask.z) | flags_of(mask.w));
            mine.sum_flags |= flags << DENOMINATOR_FLAGS;
        }
        let ones = select(vec4<u32>(0u), vec4<u32>(1u), keep);
        mine.count_low += (ones.x + ones.y) + (ones.z + ones.w);
    }
    mine.denominator = sum4(sums);
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block < blocks) {
        tallies[params.first_tally + block] = all;
    }
}
