// One workgroup: orders the rows of a window by whether they are ignored. Behind the entries of the row table it writes
// the number of rows that are not, and then the rows: first those, then the ignored ones, each in their own order. The
// place of a row in this order is its slot.

override WORKGROUP: u32 = 64u;

var<workgroup> lane_counts: array<u32, WORKGROUP>;

fn is_ignored(row: u32) -> bool {
    return (row_table[(HEADER + row) * 4u + 1u] & IGNORED) != 0u;
}

@compute @workgroup_size(WORKGROUP)
fn order(@builtin(local_invocation_index) lane: u32) {
    let each = (params.rows + WORKGROUP - 1u) / WORKGROUP;
    let first = min(lane * each, params.rows);
    let end = min(first + each, params.rows);
    var count = 0u;
    for (var row = first; row < end; row += 1u) {
        count += select(1u, 0u, is_ignored(row));
    }
    lane_counts[lane] = count;
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var other = 0u; other < WORKGROUP; other += 1u) {
        before += select(0u, lane_counts[other], other < lane);
        all += lane_counts[other];
    }
    let slots = params.order * 4u;
    var next = vec2<u32>(before, all + first - before);
    for (var row = first; row < end; row += 1u) {
        let skips = is_ignored(row);
        row_table[slots + select(next.x, next.y, skips)] = row;
        next += select(vec2<u32>(1u, 0u), vec2<u32>(0u, 1u), skips);
    }
    if (lane == 0u) {
        row_table[slots - 4u] = all;
    }
}
