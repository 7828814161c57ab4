// The row skeleton: lanes stream a row into a mergeable state, close the row, and stream it again for the gradient.
//
// A loss declares in Rust (`RowProgram`, src/skeleton/row/contract.rs) what its functor needs. From this declaration
// the following WGSL is written in front of the functor:
//   const STATE_WORDS, ROUNDS, OUT_…, FACTOR_…, NUMBER_…   sizes and offsets in words
//   const HAS_BY_PRODUCTS                                  rows of weight 0 are streamed too, for their by-products
//   struct Closed { loss, flags, by-products, factors }    the result of closing a row; by-products are u32 words
//   fn closed_blank(flags, loss, fill) -> Closed           a row without numbers: `fill` in float by-products
//   fn closed_write(row, closed), closed_read(row)         store to and load from the row's record; a load reads only
//                                                          flags and factors
//   struct Settled                                         what the first of two rounds leaves for the second
// The scores are `logits`, whatever the input is called (`RowProgram::scores`).
// It also writes the accessors of the functor's streams: NAME_at, NAME_quad, NAME_store (floats), NAME_at (integers),
// NAME_read (words). `scalar_bits` gives the program's scalar.
//
// The functor (loss/*.wgsl, or a file that several functors share: row/softmax.wgsl, loss/sums.wgsl) supplies
//   struct Item, fn item(row, column, inside) -> Item      one quad of columns as the loss sees it
//   struct State, fn state_empty, state_merge              the mergeable state of a stretch of columns
//   fn state_take_quad(row, state, item) -> State          adds a quad
//   fn state_take_tile(row, state, a, b, c, d) -> State    adds four quads
//   struct Row, fn open(row) -> Row                        what is known of a row before it is streamed, including its
//                                                          label (row/open.wgsl, unless the functor needs more)
//   fn reopen(row) -> Row                                  the same for the gradient
//   fn row_streams(row) -> bool                            whether the row has to be reduced at all
//   fn close(row, state) -> Closed                         its loss, by-products and gradient factors
//   fn emit(row, closed, item)                             computes and stores the gradient of a quad
// and, only where its program says so,
//   fn state_publish(row, state), state_gathered(words)    (shardable) to and from STATISTICS_WORDS public words
//   fn settle(row, state) -> Settled                       (two rounds) what the second round needs. That round, where
//                                                          row.round is 1, and `emit` read it as row.settled
//   fn score_bits(row, item) -> vec4<u32>                  (select) the value that orders columns: bits of floats, or
//                                                          NONE for a column that takes no part. `open` and later
//                                                          functions find the selected column at
//                                                          selected_read(row.index·3): the key of its score
//                                                          (row/place.wgsl), followed by its column
//
// A program without rounds has no State of its own, and `close` gets an empty one.
//
// Structs are filled by name (`var out: Closed; out.loss = …;`): their fields start as zeros.
//
// A row is a sequence of segments of params.segment columns. One workgroup that walks all segments, and several
// workgroups that take one segment each, merge the same states in the same order, so the results have the same bits.
// Interrupting a walk between two tiles of all lanes does not change a bit either.

// Rows are long enough for separate code for whole tiles (`row_tiles_from` in src/plan/profile.rs).
override HAS_TILES: bool = true;
// The row's lse is given: the maximum and the sum of a stream are not used.
override HAS_LSE: bool = false;
// The state is merged from the statistics of all shards.
override GATHERED: bool = false;
// The columns were streamed; otherwise only the lse and the target are known.
override STREAMED: bool = true;

// The scores of a whole row are never in memory at once: they come in blocks of columns.
override IN_BLOCKS: bool = false;

// The bits of the program's scalar; 1 if the call does not give it.
fn scalar_bits() -> u32 {
    return row_table[3].x;
}

// The bits of the row's saved lse. They stay in the record until the row is closed.
fn saved_lse(row: u32) -> u32 {
    return records[record_of(row) + RECORD_SAVED_LSE];
}

// The bits of a number that the call gives for the row, by its NUMBER_… constant. As the saved lse, it stays in the
// record until the row is closed.
fn row_number(row: u32, word: u32) -> u32 {
    return records[record_of(row) + word];
}

// Which columns of a quad belong to the row. Code for whole quads passes a constant instead, which costs nothing.
fn inside(column: u32) -> vec4<bool> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u) < vec4<u32>(params.classes);
}

// The score of a row's label or of a column beside it, for use outside the stream. Where the columns come in blocks,
// the kernel `label_scores` keeps these scores in the row's record.
fn label_score(row: u32, label: u32, column: u32) -> u32 {
    if (IN_BLOCKS) {
        return records[record_of(row) + RECORD_LABEL_SCORES + min(column + 1u - label, 2u)];
    }
    return logits_at(row, column);
}

// Streams columns first..end of a row into a state. Each lane takes every LANES-th quad, and four quads form a tile, so
// that the running maximum is rescaled once per sixteen elements.
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

// The row as a round of its reduction sees it.
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

// The second stream: the gradient. Where rows are in order, the products leave out rows whose gradient is 0, so it need
// not be written.
fn emit_columns(row: Row, closed: Closed, first: u32, last: u32, lane: u32) {
    let end = select(last, first, params.order > 0u && (closed.flags & ROW_ZERO) != 0u);
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
