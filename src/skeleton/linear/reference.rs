//! The f64 reference of a row loss on a linear layer: first the scores, then their loss.

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    reference::{Real, array, extents, floats, wrong_shape},
    skeleton::{operation::Operation, row::Head},
    spec::options::WeightLayout,
};

/// The layer with the gradients. The loss of its scores does not see its inputs.
const OWN: Head = Head { scores: "logits", hidden: "hidden", weight: "weight", bias: "bias" };

/// Computes every output in `wanted`. Gradients overwrite: `accumulate` has nothing to add to here.
pub(crate) fn run(
    loss: &dyn Operation,
    layers: (WeightLayout, &[Head]),
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, layers, inputs, wanted, arithmetic),
        Arithmetic::F32 => compute::<f32>(loss, layers, inputs, wanted, arithmetic),
    }
}

fn compute<T: Real>(
    loss: &dyn Operation,
    layers: (WeightLayout, &[Head]),
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    let (layout, heads) = layers;
    let name = loss.about().name;
    let layer = Layer::<T>::read(name, layout, &OWN, inputs)?;
    let of_layers = |name: &str| heads.iter().chain([&OWN]).any(|head| is_of(head, name));
    let mut scores: Arrays = inputs
        .iter()
        .filter(|(name, _)| !of_layers(name))
        .map(|(name, array)| {
            let name = if name == "class_weight" { "weight" } else { name.as_str() };
            (name.to_owned(), array.clone())
        })
        .collect();
    let shape = [layer.rows, layer.classes];
    scores.insert(OWN.scores.to_owned(), array(&shape, layer.logits()));
    for head in heads {
        let logits = Layer::<T>::read(name, layout, head, inputs)?.logits();
        scores.insert(head.scores.to_owned(), array(&shape, logits));
    }
    let (own, mut inner): (Vec<&str>, Vec<&str>) = wanted
        .iter()
        .partition(|name| name.strip_prefix("grad.").is_some_and(|name| is_of(&OWN, name)));
    if !own.is_empty() {
        inner.push("grad.logits");
    }
    let mut outputs = loss.reference(&scores, &inner, arithmetic)?;
    if let Some(gradient) = outputs.remove("grad.logits") {
        let gradient: Vec<T> = gradient.to_f64().into_iter().map(T::of).collect();
        // A row without a gradient must change no sum, even if its hidden state is NaN.
        let live: Vec<bool> =
            gradient.chunks(layer.classes).map(|row| row.iter().any(|g| !g.is_zero())).collect();
        for name in own {
            let output = match name {
                "grad.hidden" => {
                    array(&[layer.rows, layer.hidden], layer.hidden_gradient(&gradient, &live))
                }
                "grad.weight" => {
                    array(&layer.weight_shape(), layer.weight_gradient(&gradient, &live))
                }
                _ => array(&[layer.classes], layer.bias_gradient(&gradient, &live)),
            };
            outputs.insert(name.to_owned(), output);
        }
    }
    Ok(outputs)
}

/// Whether a name is an input of a layer.
fn is_of(head: &Head, name: &str) -> bool {
    [head.hidden, head.weight, head.bias].contains(&name)
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
    fn read(name: &str, layout: WeightLayout, head: &Head, inputs: &Arrays) -> Result<Self> {
        let (rows, hidden) = extents(name, inputs, head.hidden)?;
        let (classes, depth) = match (layout, extents(name, inputs, head.weight)?) {
            (WeightLayout::ClassesHidden, extents) => extents,
            (WeightLayout::HiddenClasses, (depth, classes)) => (classes, depth),
        };
        if let Some(weight) = inputs.get(head.weight).filter(|_| depth != hidden) {
            let expected = match layout {
                WeightLayout::ClassesHidden => format!("[classes, {hidden}]"),
                WeightLayout::HiddenClasses => format!("[{hidden}, classes]"),
            };
            return Err(wrong_shape(head.weight, weight, &(expected + " with this weight_layout")));
        }
        let mut layer = Self {
            rows,
            classes,
            hidden,
            states: floats(inputs, head.hidden, &[rows, hidden])?.unwrap_or_default(),
            weight: Vec::new(),
            layout,
            bias: floats(inputs, head.bias, &[classes])?,
        };
        layer.weight = floats(inputs, head.weight, &layer.weight_shape())?.unwrap_or_default();
        Ok(layer)
    }

    fn weight_shape(&self) -> [usize; 2] {
        match self.layout {
            WeightLayout::ClassesHidden => [self.classes, self.hidden],
            WeightLayout::HiddenClasses => [self.hidden, self.classes],
        }
    }

    /// The index in `weight` of the element for a class and a depth.
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

    /// G·W. The result of a row without a gradient is 0 whatever W contains.
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

    /// Gᵀ·hidden. A row without a gradient is skipped, because 0·NaN is NaN.
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

    /// The sum of G over the rows.
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
