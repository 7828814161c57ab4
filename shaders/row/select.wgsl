// One workgroup per row: finds the column in place k of its row, for any k.
//
// The functor supplies
//   fn score_bits(row, item) -> vec4<u32>    the value that orders the columns; NONE leaves a column out
// Also needed: row/place.wgsl, which defines the order.
//
// That order compares up to seven bytes: four bytes of the score's key, inverted so that the best score comes first,
// then the bytes of the column. One walk over the row looks at the columns that share all bytes found so far, and
// counts each value of their next byte. From these counts follows that byte of the column in place k.

override SELECT_LANES: u32 = 64u;

var<workgroup> byte_counts: array<atomic<u32>, 256>;
var<workgroup> found: Search;

struct Search {
    // The bytes found so far.
    inverted_key: u32,
    column: u32,
    // The place of the wanted column among those that share these bytes, from 1 on.
    rest: u32,
}

// Counts a column under its byte `number`, if it shares all earlier bytes.
fn count_column(bits: u32, column: u32, search: Search, number: u32) {
    if (bits == NONE || column >= params.classes) {
        return;
    }
    let key = ~place_key(bits);
    if (number < 4u) {
        let shift = 24u - 8u * number;
        if ((((key ^ search.inverted_key) >> shift) >> 8u) == 0u) {
            atomicAdd(&byte_counts[(key >> shift) & 255u], 1u);
        }
        return;
    }
    let shift = 8u * (params.bytes - 1u - number);
    if (key == search.inverted_key && (((column ^ search.column) >> shift) >> 8u) == 0u) {
        atomicAdd(&byte_counts[(column >> shift) & 255u], 1u);
    }
}

fn count_columns(row: Row, search: Search, number: u32, lane: u32) {
    for (var column = lane * 4u; column < params.classes; column += SELECT_LANES * 4u) {
        let bits = score_bits(row, item(row, column, inside(column)));
        count_column(bits.x, column, search, number);
        count_column(bits.y, column + 1u, search, number);
        count_column(bits.z, column + 2u, search, number);
        count_column(bits.w, column + 3u, search, number);
    }
}

// Adds one byte to the search, from the counts of the walk.
fn with_byte(search: Search, number: u32) -> Search {
    var out = search;
    var value = 0u;
    for (; value < 255u; value += 1u) {
        let count = atomicLoad(&byte_counts[value]);
        if (out.rest <= count) {
            break;
        }
        out.rest -= count;
    }
    if (number < 4u) {
        out.inverted_key |= value << (24u - 8u * number);
    } else {
        out.column |= value << (8u * (params.bytes - 1u - number));
    }
    return out;
}

@compute @workgroup_size(SELECT_LANES)
fn select_place(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = open(min(slot, params.rows - 1u));
    let at = row.index * 3u;
    var search = Search(0u, 0u, params.k);
    if (params.first > 0u) {
        search = Search(~selected_read(at), selected_read(at + 1u), selected_read(at + 2u));
    }
    for (var number = params.first; number < params.end; number += 1u) {
        for (var value = lane; value < 256u; value += SELECT_LANES) {
            atomicStore(&byte_counts[value], 0u);
        }
        workgroupBarrier();
        count_columns(row, search, number, lane);
        workgroupBarrier();
        if (lane == 0u) {
            found = with_byte(search, number);
        }
        workgroupBarrier();
        search = found;
    }
    if (lane == 0u && slot < params.rows) {
        selected_write(at, ~search.inverted_key);
        selected_write(at + 1u, search.column);
        selected_write(at + 2u, search.rest);
    }
}
