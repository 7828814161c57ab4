// One lane per row, and per column of the same pair where this shard has that column: closes the column's softmax, and
// replaces the pair's loss by the mean of both directions.

override WORKGROUP: u32 = 64u;

// The source of a column's softmax: the row of the same vector, the column's state, or a saved lse.
override SOURCE: u32 = 0u;
const FROM_ROW: u32 = 0u;
const FROM_STATE: u32 = 1u;
const FROM_LSE: u32 = 2u;

const STATE_LIVE: u32 = 1u;
const STATE_BAD: u32 = 2u;
const STATE_COLUMN_BAD: u32 = 4u;

struct Softmax {
    top: f32,
    inverse_sum: f32,
    bad: bool,
}

fn state_word(word: u32, column: u32) -> u32 {
    return column_states[word * params.stride + column];
}

fn from_row(at: u32) -> Softmax {
    let bad = (records[at + RECORD_FLAGS] & ROW_NAN) != 0u;
    return Softmax(bitcast<f32>(records[at + FACTOR_TOP]), bitcast<f32>(records[at + FACTOR_INVERSE_SUM]), bad);
}

fn from_lse(column: u32) -> Softmax {
    let given = saved_lse_read(column);
    let bad = !finite_one(given);
    return Softmax(select(bitcast<f32>(given), 0.0, bad), 1.0, bad);
}

// Also updates the pair: its loss, its share of the scale's gradient, and its statistics.
fn from_state(row: u32, at: u32, column: u32) -> Softmax {
    let bad = (state_word(COLUMN_FLAGS, column) & (STATE_LIVE | STATE_BAD)) != STATE_LIVE;
    let top = bitcast<f32>(state_word(COLUMN_TOP, column));
    let sum = select(bitcast<f32>(state_word(COLUMN_SUM, column)), 1.0, bad);
    let inverse_sum = 1.0 / sum;
    let back = log(sum) + (top - bitcast<f32>(records[at + OUT_S]));
    let either = bad || (records[at + RECORD_FLAGS] & ROW_NAN) != 0u;
    let loss = 0.5 * (bitcast<f32>(records[at + RECORD_LOSS]) + back);
    records[at + RECORD_LOSS] = select(bitcast<u32>(loss), NAN_BITS, either);
    let factor = bitcast<f32>(records[at + FACTOR_FACTOR]);
    let moment = bitcast<f32>(state_word(COLUMN_MOMENT, column));
    let reference = bitcast<f32>(state_word(COLUMN_REFERENCE, column));
    let mean = moment * inverse_sum + (reference - (bitcast<f32>(records[at + OUT_X]) - params.target_margin));
    let forth = records[at + OUT_SCALE];
    let slope = times(bitcast<u32>(factor), bitcast<u32>(mean));
    let scale = plus(forth, slope);
    let no_number = is_nan(scale) || either;
    records[at + OUT_SCALE] = select(scale, select(NAN_BITS, 0u, is_nothing(factor)), no_number);
    let published = (params.origin + row) * STATISTICS_WORDS;
    statistics_write(published + 5u, select(bitcast<u32>(back), 0u, bad));
    statistics_write(published + 7u, statistics_read(published + 7u) | select(0u, STATE_COLUMN_BAD, bad));
    column_lse_write(column, select(bitcast<u32>(top + log(sum)), NAN_BITS, bad));
    return Softmax(top, inverse_sum, bad);
}

fn join_column(row: u32, at: u32, column: u32) {
    let factor = bitcast<f32>(records[at + FACTOR_FACTOR]);
    var softmax: Softmax;
    if (SOURCE == FROM_STATE) {
        softmax = from_state(row, at, column);
    } else if (SOURCE == FROM_LSE) {
        softmax = from_lse(column);
    } else {
        softmax = from_row(at);
    }
    records[at + RECORD_FLAGS] |= select(0u, ROW_NAN, softmax.bad);
    column_states[COLUMN_TOP * params.stride + column] = bitcast<u32>(softmax.top);
    column_states[COLUMN_SUM * params.stride + column] = bitcast<u32>(softmax.inverse_sum);
    let bad = softmax.bad && !is_nothing(factor);
    column_states[COLUMN_FACTOR * params.stride + column] = select(bitcast<u32>(factor), NAN_BITS, bad);
}

@compute @workgroup_size(WORKGROUP)
fn join(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (group.x + group.y * groups.x) * WORKGROUP + local;
    if (row >= params.rows) {
        return;
    }
    let at = row * RECORD_WORDS;
    let column = params.origin + row - params.first_class;
    if (column < params.classes) {
        join_column(row, at, column);
    }
    // Remove ROW_ZERO, so that the products skip no row: a row that counts for nothing may still be another query's
    // key.
    records[at + RECORD_FLAGS] &= ~ROW_ZERO;
}
