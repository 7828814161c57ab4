// The status words of a call (src/data/status.rs): written anew, or added to what earlier calls left in them.

// What a call found.
struct Found {
    bad_targets: u32,
    // The first bad target: its row, and its value as two words.
    row: u32,
    value_low: u32,
    value_high: u32,
    bad_rows: u32,
    zero_vectors: u32,
    // The targets are floats.
    floats: u32,
}

// The completion word is written last.
fn status_publish(found: Found) {
    if (params.accumulates_status == 0u) {
        status_write(1u, found.bad_targets);
        status_first(found);
        status_write(5u, found.bad_rows);
        status_write(6u, found.zero_vectors);
        status_write(0u, 1u);
        return;
    }
    let before = status_read(1u);
    status_write(1u, before + found.bad_targets);
    // Keep the first bad target of all calls.
    if (before == 0u) {
        status_first(found);
    }
    status_write(5u, status_read(5u) + found.bad_rows);
    status_write(6u, status_read(6u) + found.zero_vectors);
    status_write(0u, status_read(0u) + 1u);
}

fn status_first(found: Found) {
    status_write(2u, found.row);
    status_write(3u, found.value_low);
    status_write(4u, found.value_high);
    status_write(7u, found.floats);
}
