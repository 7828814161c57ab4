// A lane a row and its column: closes the column's softmax (its own, or that of the row where queries
// and keys are the same vectors), and lets the pair's loss be the mean of both.

override WORKGROUP: u32 = 64u;
// Columns have states of their own.
override OWN: bool = false;

const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;

@compute @workgroup_size(WORKGROUP)
fn join(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.rows) {
        return;
    }
    let at = row * RECORD;
    let column = params.origin + row;
    let row_bad = (records[at + RECORD_FLAGS] & ROW_NAN) != 0u;
    let factor = bitcast<f32>(records[at + 10u]);
    var bad = row_bad;
    var top = bitcast<f32>(records[at + 8u]);
    var inverse_sum = bitcast<f32>(records[at + 9u]);
    if (OWN) {
        let flags = column_states[COLUMN_FLAGS * params.stride + column];
        bad = (flags & (STATE_LIVE | STATE_BAD)) != STATE_LIVE;
        top = bitcast<f32>(column_states[COLUMN_TOP * params.stride + column]);
        let sum = select(bitcast<f32>(column_states[COLUMN_SUM * params.stride + column]), 1.0, bad);
        inverse_sum = 1.0 / sum;
        let either = bad || row_bad;
        let loss = 0.5 * (bitcast<f32>(records[at]) + (log(sum) + (top - bitcast<f32>(records[at + 4u]))));
        records[at] = select(bitcast<u32>(loss), NAN_BITS, either);
        let moment = bitcast<f32>(column_states[COLUMN_MOMENT * params.stride + column]);
        let reference = bitcast<f32>(column_states[COLUMN_REFERENCE * params.stride + column]);
        let slope = factor * (moment * inverse_sum + (reference - bitcast<f32>(records[at + 5u])));
        let scale = bitcast<f32>(records[at + RECORD_SCALE]) + slope;
        records[at + RECORD_SCALE] = select(bitcast<u32>(scale), select(NAN_BITS, 0u, factor == 0.0), either);
        records[at + RECORD_FLAGS] |= select(0u, ROW_NAN, bad);
    }
    // No row is left out of the products: it may count for nothing and still be somebody's key.
    records[at + RECORD_FLAGS] &= ~ROW_ZERO;
    column_states[COLUMN_TOP * params.stride + column] = bitcast<u32>(top);
    column_states[COLUMN_SUM * params.stride + column] = bitcast<u32>(inverse_sum);
    column_states[COLUMN_FACTOR * params.stride + column] = select(bitcast<u32>(factor), NAN_BITS, bad && factor != 0.0);
}
