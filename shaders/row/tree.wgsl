// One workgroup per row whose columns are the nodes of a tree: streams the siblings of each node on the path from the
// root to the row's leaf, closes the row, and writes the gradient of these columns.
//
// A row's label is its leaf. Nodes are known by their ranks (src/skeleton/row/rows/tree.rs): the nodes of a chain have
// ranks one after another, and a path crosses few chains. So each lane finds its own nodes of the path. Nodes with few
// siblings are taken by one lane each; for one with many siblings (params.wide of them),
// all lanes share the siblings.
//
// The functor supplies
//   struct State, fn state_empty, state_merge              the mergeable state of some of a node's siblings
//   fn state_take_quad(state, bits, inside) -> State       adds the scores of a quad of siblings
//   struct Path, fn path_take(path, state, bits) -> Path   adds a node, given the state of its siblings and its own score
//   fn path_merge(a, b) -> Path                            the sum of two parts of a path; all zeros are no node
//   fn close(row, path) -> Closed
//   fn slopes(row, state, bits, own) -> vec4<u32>          the gradient of a quad of siblings, as bits; `own` is the node

override IN_PLACE: bool = false;

// The words of a node in the table `places`.
const PLACE_WORDS: u32 = 7u;
const HEAD: u32 = 0u;
const ABOVE: u32 = 1u;
const DEPTH: u32 = 2u;
const SIBLINGS: u32 = 3u;
const COUNT: u32 = 4u;
const COLUMN: u32 = 5u;
const WIDE_NODE: u32 = 6u;
const ROOT: u32 = 0u;

var<workgroup> row_leaf: u32;
var<workgroup> lane_paths: array<Path, WORKGROUP>;

fn place(node: u32, word: u32) -> u32 {
    return places_read(node * PLACE_WORDS + word);
}

fn parent_of(node: u32) -> u32 {
    return select(node - 1u, place(node, ABOVE), place(node, HEAD) == node);
}

// The node at this depth on the path to a leaf.
fn node_at(leaf: u32, depth: u32) -> u32 {
    var head = place(leaf, HEAD);
    var first = place(head, DEPTH);
    // A path crosses at most 25 chains: above each one, at least twice as many nodes lie below.
    for (var chain = 0u; chain < 25u && first > depth; chain += 1u) {
        head = place(place(head, ABOVE), HEAD);
        first = place(head, DEPTH);
    }
    return head + (depth - first);
}

// The columns of the siblings i..i + 4 of a node. Past the last one, the last one is repeated.
fn columns_at(node: u32, i: u32) -> vec4<u32> {
    let first = place(node, SIBLINGS);
    let last = place(node, COUNT) - 1u;
    return vec4<u32>(
        siblings_read(first + i),
        siblings_read(first + min(i + 1u, last)),
        siblings_read(first + min(i + 2u, last)),
        siblings_read(first + min(i + 3u, last)),
    );
}

fn inside_at(node: u32, i: u32) -> vec4<bool> {
    return vec4<u32>(i, i + 1u, i + 2u, i + 3u) < vec4<u32>(place(node, COUNT));
}

fn scores_at(row: Row, columns: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        logits_at(row.index, columns.x),
        logits_at(row.index, columns.y),
        logits_at(row.index, columns.z),
        logits_at(row.index, columns.w),
    );
}

// The score of the node itself.
fn own_score(row: Row, node: u32) -> u32 {
    return logits_at(row.index, place(node, COLUMN));
}

// Hazard: load the bound of a loop before the loop. Symptom: on llvmpipe (Mesa 22.3), with lanes that loop a different
// number of times, all lanes but the first left loops early whose condition loads its bound.

// Streams a node's siblings, of which every `step`-th quad from quad `first` on is this lane's.
fn stream_siblings(row: Row, node: u32, first: u32, step: u32) -> State {
    let count = place(node, COUNT);
    var state = state_empty();
    for (var i = 4u * first; i < count; i += 4u * step) {
        state = state_take_quad(state, scores_at(row, columns_at(node, i)), inside_at(node, i));
    }
    return state;
}

// Writes the gradient of the same siblings.
fn emit_siblings(row: Row, node: u32, state: State, flags: u32, first: u32, step: u32) {
    let count = place(node, COUNT);
    let own = place(node, COLUMN);
    for (var i = 4u * first; i < count; i += 4u * step) {
        let columns = columns_at(node, i);
        let bits = gradient_bits(flags, slopes(row, state, scores_at(row, columns), columns == vec4<u32>(own)));
        let inside = inside_at(node, i);
        for (var k = 0u; k < 4u; k += 1u) {
            if (inside[k]) {
                gradient_put(row.index, columns[k], bits[k]);
            }
        }
    }
}

// Merges the parts of the path that the lanes have taken; the result is valid in every lane.
fn reduce_path(mine: Path, lane: u32) -> Path {
    lane_paths[lane] = mine;
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        workgroupBarrier();
        if (lane < reach) {
            lane_paths[lane] = path_merge(lane_paths[lane], lane_paths[lane + reach]);
        }
    }
    workgroupBarrier();
    return lane_paths[0];
}

// Nodes with few siblings: every LANES-th node of the path is this lane's.
fn take_narrow(row: Row, leaf: u32, flags: u32, lane: u32) -> Path {
    let length = place(leaf, DEPTH);
    var path: Path;
    for (var depth = lane + 1u; depth <= length; depth += LANES) {
        let node = node_at(leaf, depth);
        if (place(node, COUNT) < params.wide) {
            let state = stream_siblings(row, node, 0u, 1u);
            path = path_take(path, state, own_score(row, node));
            emit_siblings(row, node, state, flags, 0u, 1u);
        }
    }
    return path;
}

// Nodes with many siblings, one after another.
fn take_wide(row: Row, leaf: u32, flags: u32, lane: u32) -> Path {
    var path: Path;
    for (var node = place(leaf, WIDE_NODE); node != NONE; node = place(parent_of(node), WIDE_NODE)) {
        let state = reduce(stream_siblings(row, node, lane, LANES), lane, lane);
        path = path_take(path, state, own_score(row, node));
        if (IN_PLACE) {
            // Hazard: every lane reads the node's own score. Symptom without the barrier: a wrong loss. Cause: a fast
            // lane overwrites what a slow lane has not read yet, with its gradient.
            storageBarrier();
        }
        emit_siblings(row, node, state, flags, lane, LANES);
    }
    return path;
}

// Writes the flags' replacement over the gradient of the whole path.
fn replace_gradient(row: Row, leaf: u32, flags: u32, lane: u32) {
    let length = place(leaf, DEPTH);
    for (var depth = lane + 1u; depth <= length; depth += LANES) {
        let node = node_at(leaf, depth);
        if (place(node, COUNT) < params.wide) {
            emit_siblings(row, node, state_empty(), flags, 0u, 1u);
        }
    }
    for (var node = place(leaf, WIDE_NODE); node != NONE; node = place(parent_of(node), WIDE_NODE)) {
        emit_siblings(row, node, state_empty(), flags, lane, LANES);
    }
}

@compute @workgroup_size(WORKGROUP)
fn tree(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = group.x + group.y * groups.x;
    let row = open(min(slot, params.rows - 1u));
    if (lane == 0u) {
        // No path leads to the root: a row that is dropped has no columns.
        row_leaf = select(ROOT, row.label, slot < params.rows && !row_is_dropped(row));
    }
    let leaf = workgroupUniformLoad(&row_leaf);
    let flags = factor_flags(row.factor);
    let narrow = reduce_path(take_narrow(row, leaf, flags, lane), lane);
    let wide = take_wide(row, leaf, flags, lane);
    let closed = close(row, path_merge(narrow, wide));
    if (closed.flags != flags) {
        replace_gradient(row, leaf, closed.flags, lane);
    }
    if (slot < params.rows && lane == 0u) {
        closed_write(row, closed);
    }
}
