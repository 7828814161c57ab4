// The position of a walk over all elements, and which elements are kept.

struct Place {
    // The index of the first element in a tensor without gaps.
    at: u32,
    // The elements' rows and columns in a tensor that has gaps or is broadcast.
    row: vec4<u32>,
    column: vec4<u32>,
}

// Values of PLACES. FLAT: no tensor needs rows and columns. ROW: every quad lies inside one row. 2: quads may cross
// rows.
const PLACES_FLAT: u32 = 0u;
const PLACES_ROW: u32 = 1u;
override PLACES: u32 = 0u;
// Elements of one workgroup.
override ELEMENTS: u32 = 4096u;
// One target value stands for "unknown": elements with that target count for nothing.
override HAS_UNKNOWN: bool = false;

fn place(at: u32) -> Place {
    if (PLACES == PLACES_FLAT) {
        return Place(at, vec4<u32>(0u), vec4<u32>(0u));
    }
    if (PLACES == PLACES_ROW) {
        let index = at + params.first_column;
        let row = index / params.columns;
        let column = index - row * params.columns;
        return Place(at, vec4<u32>(row), vec4<u32>(column, column + 1u, column + 2u, column + 3u));
    }
    let flat = min(vec4<u32>(at, at + 1u, at + 2u, at + 3u), vec4<u32>(params.classes - 1u));
    let index = flat + vec4<u32>(params.first_column);
    let row = index / vec4<u32>(params.columns);
    return Place(at, row, index - row * params.columns);
}

fn row_of(at: u32) -> u32 {
    return params.first_row + pixel_of(at);
}

// The row and the column of an element of a walk along planes; also right without planes. Computed from plane numbers,
// because the number of an image's elements may not fit in a word.
fn pixel_of(at: u32) -> u32 {
    return plane_of(at) / params.columns * params.plane + in_plane(at) % params.plane;
}

fn channel_of(at: u32) -> u32 {
    return plane_of(at) % params.columns;
}

// An element's plane, counted from the first plane of the window's first image.
fn plane_of(at: u32) -> u32 {
    return params.first_column + in_plane(at) / params.plane;
}

// An element's offset from the beginning of the window's first plane.
fn in_plane(at: u32) -> u32 {
    return min(at, params.classes - 1u) + params.phase;
}

fn kept(p: Place, inside: vec4<bool>) -> vec4<bool> {
    var keep = inside & ((mask_take(p) & vec4<u32>(~SIGN_BIT)) != vec4<u32>(0u));
    if (HAS_UNKNOWN) {
        let bits = targets_take(p);
        let same = bits == vec4<u32>(params.unknown);
        let nans = is_nan4(bits) & is_nan4(vec4<u32>(params.unknown));
        keep = keep & !(same | nans);
    }
    return keep;
}
