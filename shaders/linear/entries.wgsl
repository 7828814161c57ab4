// The entries of a sparse gradient: first the samples, then the rows, whose classes are their targets.

// The class of an entry: that of a sample, or the target of a row; NONE if it is none.
fn class_of_entry(entry: u32) -> u32 {
    if (entry < params.samples) {
        return class_of(entry);
    }
    return targets_read(entry - params.samples);
}
