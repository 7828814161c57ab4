// One workgroup per row: finds the row's largest scores, one after another. Each is the first that comes after the last
// one taken.
//
// The functor supplies
//   fn score_bits(row, item) -> vec4<u32>    the value that orders the columns; NONE leaves a column out
// Also needed: row/place.wgsl, which defines the order.

// START comes before all columns, NOWHERE after them.
const START: Place = Place(0xffffffffu, 0u);
const NOWHERE: Place = Place(0u, NONE);

var<workgroup> lane_places: array<Place, WORKGROUP>;

fn first_of(a: Place, b: Place) -> Place {
    if (before(b, a)) {
        return b;
    }
    return a;
}

// The candidate, if it comes after the last one taken and before the best so far; otherwise the best so far.
fn next(last: Place, best: Place, bits: u32, column: u32) -> Place {
    let place = Place(place_key(bits), column);
    if (bits != NONE && column < params.classes && before(last, place) && before(place, best)) {
        return place;
    }
    return best;
}

fn best_of(row: Row, last: Place, lane: u32) -> Place {
    var best = NOWHERE;
    for (var column = lane * 4u; column < params.classes; column += WORKGROUP * 4u) {
        let bits = score_bits(row, item(row, column, inside(column)));
        best = next(last, best, bits.x, column);
        best = next(last, best, bits.y, column + 1u);
        best = next(last, best, bits.z, column + 2u);
        best = next(last, best, bits.w, column + 3u);
    }
    lane_places[lane] = best;
    for (var reach = WORKGROUP / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_places[lane] = first_of(lane_places[lane], lane_places[lane + reach]);
        }
    }
    workgroupBarrier();
    let all = lane_places[0];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(WORKGROUP)
fn top(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = open(min(slot, params.rows - 1u));
    let at = row.index * params.k;
    var last = START;
    if (params.first > 0u) {
        last = Place(place_key(top_scores_read(at + params.first - 1u)), top_indices_read(at + params.first - 1u));
    }
    for (var rank = params.first; rank < params.end; rank += 1u) {
        last = best_of(row, last, lane);
        if (lane == 0u && slot < params.rows) {
            top_scores_write(at + rank, key_bits(last.key));
            top_indices_write(at + rank, last.column);
        }
    }
}
