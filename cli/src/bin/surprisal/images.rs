//! Arrays with their class axis in axis 1, as in PyTorch's losses of images: `[N, C, d…]`.

use std::collections::BTreeMap;

use surprisal::{
    Array, Arrays, Data, Operation,
    loss::{Argument, Dim, Spread},
};

/// The shapes of the inputs whose class axis was moved to the end.
pub struct Images {
    shapes: BTreeMap<String, Vec<u64>>,
    /// The shape of the first input after the move.
    scores: Vec<u64>,
}

impl Images {
    /// Moves the class axis of a call's inputs to the end. Tensors that are broadcast first get the axes that they
    /// lack. Vectors over classes, and targets `[N, d…]`, stay as they are.
    pub fn transposed(loss: &dyn Operation, inputs: &mut Arrays) -> Self {
        let first = loss.about().inputs.first().and_then(|first| inputs.get(first.name));
        let rank = first.map_or(0, |array| array.shape.len());
        let mut shapes = BTreeMap::new();
        for argument in loss.about().inputs {
            if let Some(array) = inputs.get_mut(argument.name)
                && rank > 2
                && has_class_axis(argument, array, rank)
            {
                shapes.insert(argument.name.to_owned(), array.shape.clone());
                let missing = rank.saturating_sub(array.shape.len());
                array.shape.splice(0..0, std::iter::repeat_n(1, missing));
                *array = moved(array, 1, rank - 1);
            }
        }
        let first = loss.about().inputs.first().and_then(|first| inputs.get(first.name));
        Self { shapes, scores: first.map(|array| array.shape.clone()).unwrap_or_default() }
    }

    /// Moves the class axis of outputs that have one back to axis 1.
    pub fn restore(&self, loss: &dyn Operation, outputs: &mut Arrays) {
        for (name, array) in outputs.iter_mut() {
            let input = name.strip_prefix("grad.").and_then(|input| self.shapes.get(input));
            let argument = loss.about().outputs.iter().find(|output| output.name == *name);
            let each = argument.is_some_and(|output| output.spread == Spread::Elements);
            let rank = array.shape.len();
            if rank > 2 && (input.is_some() || (each && array.shape == self.scores)) {
                *array = moved(array, rank - 1, 1);
            }
            if let Some(shape) = input {
                array.shape.clone_from(shape);
            }
        }
    }
}

/// Whether an array of this argument has a class axis.
fn has_class_axis(argument: &Argument, array: &Array, rank: usize) -> bool {
    match argument.spread {
        Spread::Named => {
            let rows_of_classes = [Dim::Rows, Dim::Classes];
            array.shape.len() == rank && argument.shapes.contains(&rows_of_classes.as_slice())
        }
        Spread::Elements => array.shape.len() == rank,
        _ => array.shape.len() <= rank,
    }
}

/// The array with one axis moved to another position.
fn moved(array: &Array, from: usize, to: usize) -> Array {
    let mut axes: Vec<usize> = (0..array.shape.len()).collect();
    let axis = axes.remove(from);
    axes.insert(to, axis);
    let mut strides = vec![1; array.shape.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * array.shape[axis] as usize;
    }
    let shape: Vec<u64> = axes.iter().map(|&axis| array.shape[axis]).collect();
    let place = |at: usize| {
        let mut rest = at;
        let mut place = 0;
        for &axis in axes.iter().rev() {
            let extent = array.shape[axis] as usize;
            place += rest % extent * strides[axis];
            rest /= extent;
        }
        place
    };
    let places = (0..array.len()).map(place);
    let data = match &array.data {
        Data::Float(values) => Data::Float(places.map(|place| values[place]).collect()),
        Data::Int(values) => Data::Int(places.map(|place| values[place]).collect()),
    };
    Array { shape, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_axis_goes_to_the_end_and_back() {
        let images = Array::int(&[2, 3, 2, 2], (0..24).collect());
        let last = moved(&images, 1, 3);
        assert_eq!(last.shape, [2, 2, 2, 3]);
        assert_eq!(last.to_i64()[..6], [0, 4, 8, 1, 5, 9]);
        assert_eq!(moved(&last, 3, 1), images);
    }
}
