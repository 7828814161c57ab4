// A workgroup a block of elements: losses, sums, and the gradients that are asked for.

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group.x + group.y * groups.x;
    let blocks = (params.classes + ELEMENTS - 1u) / ELEMENTS;
    let first = min(block, blocks) * ELEMENTS;
    let end = min(first + ELEMENTS, params.classes);
    let factor = tallies[params.kept + 1u].sum;
    var mine = tally_empty();
    var sums = vec4<f32>(0.0);
    var at = first + lane * 4u;
    for (; at + 4u <= end; at += WORKGROUP * 4u) {
        sums += counted(&mine, at, visit(place(at), vec4<bool>(true), factor));
    }
    if (at < end) {
        let inside = vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end);
        sums += counted(&mine, at, visit(place(at), inside, factor));
    }
    mine.sum = sum4(sums);
    let all = tally_reduce(mine, lane);
    if (lane == 0u && block < blocks) {
        tallies[params.first_tally + block] = all;
    }
}

// The finite losses of a quad; the others go into the tally.
fn counted(mine: ptr<function, Tally>, at: u32, visited: Visited) -> vec4<f32> {
    let fine = finite(visited.loss);
    if (!all(fine)) {
        for (var i = 0u; i < 4u; i += 1u) {
            count_odd(mine, at + i, visited.loss[i], visited.bad[i], visited.value[i]);
        }
    }
    return select(vec4<f32>(0.0), bitcast<vec4<f32>>(visited.loss), fine);
}

fn count_odd(mine: ptr<function, Tally>, at: u32, loss: u32, bad: bool, value: u32) {
    if (finite_one(loss)) {
        return;
    }
    if ((loss & ~SIGN_BIT) == INFINITY_BITS) {
        (*mine).sum_flags |= select(SUM_POSITIVE, SUM_NEGATIVE, (loss & SIGN_BIT) != 0u);
        return;
    }
    (*mine).sum_flags |= SUM_NAN;
    if (!bad) {
        (*mine).bad_rows += 1u;
        return;
    }
    if ((*mine).bad_targets == 0u) {
        (*mine).first_bad_row = row_of(at);
        (*mine).bad_value_low = value;
    }
    (*mine).bad_targets += 1u;
}
