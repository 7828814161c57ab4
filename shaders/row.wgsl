// The row skeleton: lanes stream a row into a mergeable state, close it, and stream it again.
//
// A loss declares in Rust (`RowProgram`, src/skeleton/row/contract.rs) what its functor needs. Written in front of the functor
// are then
//   const STATE_WORDS, ROUNDS, OUT_…, FACTOR_…             what the skeleton counts with
//   struct Closed { loss, flags, by-products, factors }    what a row is closed with; by-products are u32 words
//   fn closed_blank(flags, loss, fill) -> Closed           a row without numbers: `fill` in by-products that are floats
//   fn closed_write(row, closed), closed_read(row)         to and from the row's record; the latter reads factors alone
//   struct Settled                                         what the first of two rounds leaves for the second
// and accessors of its streams: NAME_at, NAME_quad, NAME_store (floats), NAME_at (integers), NAME_read (words).
//
// The functor (loss/*.wgsl, or what several share: row/softmax.wgsl, loss/sums.wgsl) supplies
//   struct Item, fn item(row, column, inside) -> Item      one quad of columns as the loss sees it
//   struct State, fn state_empty, state_merge              what a stretch of columns leaves behind
//   fn state_take_quad(row, state, item) -> State          a quad more
//   fn state_take_tile(row, state, a, b, c, d) -> State    four quads more
//   struct Row, fn open(row) -> Row                        what is known of a row before its stream, its
//                                                          label among it (row/open.wgsl, if no more is needed)
//   fn reopen(row) -> Row                                  the same for the gradient
//   fn row_streams(row) -> bool                            whether the row has to be reduced at all
//   fn close(row, state) -> Closed                         its loss, by-products and gradient factors
//   fn emit(row, closed, item)                             the gradient of a quad, stored
// and only where its program says so
//   fn state_publish(row, state), state_gathered(words)      (shardable) to and from STATISTICS_WORDS public words
//   fn settle(row, state) -> Settled                       (two rounds) what the second round is to know; it finds it in
//                                                          row.settled, where row.round is 1, and so does `emit`
//   fn score_bits(row, item) -> vec4<u32>                  (select) what columns are ordered by: bits of floats, NONE for
//                                                          one that takes no part. `open` and what follows find the key
//                                                          (row/place.wgsl) of the selected column's score and the column
//                                                          at selected_read(row.index·3) and after it
//
// Without rounds there is no State of the functor's own, and `close` gets an empty one.
//
// Structs are filled by name: `var out: Closed; out.loss = …;` begins with zeros.
//
// A row is a sequence of segments of params.segment columns. One workgroup that walks them all and
// several workgroups that take one each merge the same states in the same order: the same bits. Nor does
// it change a bit where a walk is interrupted between two tiles of its lanes.

override WORKGROUP: u32 = 64u;
// Lanes that share a row; a power of two that divides WORKGROUP. A uniform in its place made short rows take up to
// 12 % longer on lavapipe (docs/performance.md).
override LANES: u32 = 64u;
// Rows are long enough for code of its own for whole tiles (`row_tiles_from` in src/plan/profile.rs).
override HAS_TILES: bool = true;
// The row's lse is given: the maximum and sum of a stream are not used.
override HAS_LSE: bool = false;
// The state is that of all shards, merged from their statistics.
override GATHERED: bool = false;
// The columns were streamed; otherwise the lse and the target are all there is.
override STREAMED: bool = true;

// The scores of a whole row are not in memory at once: they go by in blocks of columns.
override IN_BLOCKS: bool = false;

var<workgroup> lane_states: array<State, WORKGROUP>;

// Where a row's record begins.
fn record_of(row: u32) -> u32 {
    return (params.first_row + row) * RECORD_WORDS;
}

// The bits of the lse that was saved of a row, until it is closed.
fn saved_lse(row: u32) -> u32 {
    return records[record_of(row) + RECORD_SAVED_LSE];
}

// Which columns of a quad are the row's. Whole quads are told so by a constant, which costs nothing.
fn inside(column: u32) -> vec4<bool> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u) < vec4<u32>(params.classes);
}

// The score of a row's label or of a column beside it: what a loss may look at out of turn. Where the
// columns go by in blocks, `label_scores` keeps these in the row's record.
fn label_score(row: u32, label: u32, column: u32) -> u32 {
    if (IN_BLOCKS) {
        return records[record_of(row) + RECORD_LABEL_SCORES + min(column + 1u - label, 2u)];
    }
    return logits_at(row, column);
}

// Streams columns first..end of a row onto a state; lane takes every LANES-th quad, four quads to a tile, so that
// the running maximum is rescaled once in sixteen elements.
fn walk(row: Row, given: State, first: u32, end: u32, lane: u32) -> State {
    let step = LANES * 4u;
    let all4 = vec4<bool>(true);
    var state = given;
    var column = first + lane * 4u;
    if (HAS_TILES) {
        for (; column + 3u * step + 4u <= end; column += 4u * step) {
            state = state_take_tile(
                row,
                state,
                item(row, column, all4),
                item(row, column + step, all4),
                item(row, column + 2u * step, all4),
                item(row, column + 3u * step, all4),
            );
        }
    }
    for (; column < end; column += step) {
        state = state_take_quad(row, state, item(row, column, inside(column)));
    }
    return state;
}

// The states of the lanes of a row, merged in a fixed tree; valid in each of them.
fn reduce(mine: State, local: u32, lane: u32) -> State {
    lane_states[local] = mine;
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_states[local] = state_merge(lane_states[local], lane_states[local + reach]);
        }
    }
    workgroupBarrier();
    let all = lane_states[local - lane];
    workgroupBarrier();
    return all;
}

// The row in a round of its reduction.
fn row_in_round(row: Row, round: u32) -> Row {
    if (ROUNDS == 2u && round == 1u) {
        return row_settled(row, settled_read(row));
    }
    return row;
}

// The row as `emit` sees it.
fn row_to_emit(index: u32) -> Row {
    let row = reopen(index);
    if (ROUNDS == 2u) {
        return row_settled(row, settled_read(row));
    }
    return row;
}

// Ends a round with the state of the whole row.
fn end_round(row: Row, state: State, round: u32) {
    if (round + 1u < ROUNDS) {
        settled_write(row, settle(row, state));
    } else {
        closed_write(row, close(row, state));
    }
}

// The second stream.
fn emit_columns(row: Row, closed: Closed, first: u32, end: u32, lane: u32) {
    let step = LANES * 4u;
    var column = first + lane * 4u;
    let all4 = vec4<bool>(true);
    if (HAS_TILES) {
        for (; column + step + 4u <= end; column += 2u * step) {
            emit(row, closed, item(row, column, all4));
            emit(row, closed, item(row, column + step, all4));
        }
    }
    for (; column < end; column += step) {
        emit(row, closed, item(row, column, inside(column)));
    }
}
