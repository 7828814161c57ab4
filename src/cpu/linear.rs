//! Cross-entropy of a linear layer as a textbook writes it: the logits, then their loss.

use super::{
    Real, array,
    cross_entropy::{Batch, Solved},
    extents, floats, wrong_shape,
};
use crate::{
    array::{Arithmetic, Arrays},
    error::Result,
    loss::{LinearCrossEntropy, WeightLayout},
};

const NAME: &str = "linear_cross_entropy";

/// Computes every output in `wanted`. Gradients are plain ones: `accumulate` has nothing to add to.
pub(crate) fn run(
    loss: &LinearCrossEntropy,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<f32>(loss, inputs, wanted),
    }
}

fn compute<T: Real>(loss: &LinearCrossEntropy, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let layer = Layer::<T>::read(loss, inputs)?;
    let extents = [layer.rows, layer.classes];
    let options = &loss.cross_entropy;
    let batch = Batch::read(options, inputs, "class_weight", layer.logits(), extents)?;
    let solved = Solved::new(options, &batch);
    let live: Vec<bool> = (0..layer.rows).map(|row| solved.is_live(row)).collect();
    let wants_gradient = wanted.iter().any(|name| name.starts_with("grad."));
    let gradient = if wants_gradient { solved.gradient() } else { Vec::new() };
    let output = |name: &str| {
        Ok(match name {
            "grad.hidden" => {
                array(&[layer.rows, layer.hidden], layer.hidden_gradient(&gradient, &live))
            }
            "grad.weight" => array(&layer.weight_shape(), layer.weight_gradient(&gradient, &live)),
            "grad.bias" => array(&[layer.classes], layer.bias_gradient(&gradient, &live)),
            _ => solved.output(name)?,
        })
    };
    wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
}

/// The linear layer: logits = states·Wᵀ + bias.
struct Layer<T> {
    rows: usize,
    classes: usize,
    hidden: usize,
    states: Vec<T>,
    weight: Vec<T>,
    layout: WeightLayout,
    bias: Option<Vec<T>>,
}

impl<T: Real> Layer<T> {
    fn read(loss: &LinearCrossEntropy, inputs: &Arrays) -> Result<Self> {
        let (rows, hidden) = extents(NAME, inputs, "hidden")?;
        let layout = loss.weight_layout;
        let (classes, depth) = match (layout, extents(NAME, inputs, "weight")?) {
            (WeightLayout::ClassesHidden, extents) => extents,
            (WeightLayout::HiddenClasses, (depth, classes)) => (classes, depth),
        };
        if let Some(weight) = inputs.get("weight").filter(|_| depth != hidden) {
            return Err(wrong_shape("weight", weight, &format!("hidden = {hidden} in {layout:?}")));
        }
        let mut layer = Self {
            rows,
            classes,
            hidden,
            states: floats(inputs, "hidden", &[rows, hidden])?.unwrap_or_default(),
            weight: Vec::new(),
            layout,
            bias: floats(inputs, "bias", &[classes])?,
        };
        layer.weight = floats(inputs, "weight", &layer.weight_shape())?.unwrap_or_default();
        Ok(layer)
    }

    fn weight_shape(&self) -> [usize; 2] {
        match self.layout {
            WeightLayout::ClassesHidden => [self.classes, self.hidden],
            WeightLayout::HiddenClasses => [self.hidden, self.classes],
        }
    }

    /// Where in `weight` the element of a class and a depth lies.
    fn at(&self, class: usize, depth: usize) -> usize {
        match self.layout {
            WeightLayout::ClassesHidden => class * self.hidden + depth,
            WeightLayout::HiddenClasses => depth * self.classes + class,
        }
    }

    fn logits(&self) -> Vec<T> {
        let mut logits = Vec::with_capacity(self.rows * self.classes);
        for row in 0..self.rows {
            for class in 0..self.classes {
                let mut logit = T::zero();
                for depth in 0..self.hidden {
                    let state = self.states[row * self.hidden + depth];
                    logit += state * self.weight[self.at(class, depth)];
                }
                logits.push(self.bias.as_ref().map_or(logit, |bias| logit + bias[class]));
            }
        }
        logits
    }

    /// G·W. A row without a gradient is 0 whatever W holds.
    fn hidden_gradient(&self, gradient: &[T], live: &[bool]) -> Vec<T> {
        let mut result = vec![T::zero(); self.rows * self.hidden];
        for row in (0..self.rows).filter(|&row| live[row]) {
            for class in 0..self.classes {
                let slope = gradient[row * self.classes + class];
                for depth in 0..self.hidden {
                    result[row * self.hidden + depth] += slope * self.weight[self.at(class, depth)];
                }
            }
        }
        result
    }

    /// Gᵀ·hidden. A row without a gradient adds nothing even if its state is NaN (0·NaN is NaN).
    fn weight_gradient(&self, gradient: &[T], live: &[bool]) -> Vec<T> {
        let mut result = vec![T::zero(); self.classes * self.hidden];
        for row in (0..self.rows).filter(|&row| live[row]) {
            for class in 0..self.classes {
                let slope = gradient[row * self.classes + class];
                for depth in 0..self.hidden {
                    result[self.at(class, depth)] += slope * self.states[row * self.hidden + depth];
                }
            }
        }
        result
    }

    /// Σ of G over the rows.
    fn bias_gradient(&self, gradient: &[T], live: &[bool]) -> Vec<T> {
        let mut result = vec![T::zero(); self.classes];
        for row in (0..self.rows).filter(|&row| live[row]) {
            for (class, sum) in result.iter_mut().enumerate() {
                *sum += gradient[row * self.classes + class];
            }
        }
        result
    }
}
