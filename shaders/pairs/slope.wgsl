// One workgroup per row that is closed, where its streamed state does not give the slope (it was not streamed, or it has
// several positives): computes the row's share of the scale's gradient, which is Σ over the keys of x times the gradient
// of the score. Accumulates over stretches of keys. slope_share is the part of that gradient that belongs to the row.

var<workgroup> lane_sums: array<f32, WORKGROUP>;
var<workgroup> lane_bad: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn scale_slope(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = row_to_emit(min(slot, params.rows - 1u));
    let closed = closed_read(row);
    var mine = 0.0;
    var bad = false;
    for (var column = params.first + lane * 4u; column < params.end; column += WORKGROUP * 4u) {
        let it = item(row, column, inside(column));
        let s = slope(row, closed, it);
        mine += params.slope_share * sum4(select(vec4<f32>(0.0), s.g * it.x, inside(column)));
        bad = bad || any(s.bad & inside(column));
    }
    lane_sums[lane] = mine;
    lane_bad[lane] = select(0u, 1u, bad);
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_sums[lane] += lane_sums[lane + reach];
            lane_bad[lane] |= lane_bad[lane + reach];
        }
    }
    if (lane == 0u && slot < params.rows) {
        let at = record_of(row.index) + OUT_SCALE;
        let before = select(records[at], 0u, params.first == 0u);
        let sum = bitcast<f32>(select(0u, before, finite_one(before))) + lane_sums[0];
        records[at] = select(bitcast<u32>(sum), NAN_BITS, lane_bad[0] != 0u || !finite_one(before));
    }
}
