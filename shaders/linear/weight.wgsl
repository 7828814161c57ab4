// A number of the vector of a class, in either layout of W.

// W lies by the hidden states' numbers, not by the classes.
override TRANSPOSED: bool = false;

fn weight_of(label: u32, i: u32) -> u32 {
    if (TRANSPOSED) {
        return weight_at(i, label);
    }
    return weight_at(label, i);
}
