//! The f64 reference of a row loss on a linear layer: first the scores, then their loss.

use super::OWN;
use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::Result,
    },
    reference::{Findings, Real, Vectors, array, dot, extents, floats, wrong_shape},
    skeleton::{operation::Operation, row::Head},
    spec::options::WeightLayout,
};

/// What the options and the loss say of the layers.
#[derive(Clone, Copy)]
pub(crate) struct Kind<'a> {
    pub layout: WeightLayout,
    pub normalize: bool,
    /// The other layers.
    pub heads: &'a [Head],
}

/// Computes every output in `wanted`. Gradients overwrite: `accumulate` has nothing to add to here.
pub(crate) fn run(
    loss: &dyn Operation,
    kind: Kind,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, kind, inputs, wanted, arithmetic),
        Arithmetic::F32 => compute::<f32>(loss, kind, inputs, wanted, arithmetic),
    }
}

fn compute<T: Real>(
    loss: &dyn Operation,
    kind: Kind,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    let name = loss.about().name;
    let layer = Layer::<T>::read(name, kind, &OWN, inputs)?;
    let of_layers = |name: &str| kind.heads.iter().chain([&OWN]).any(|head| is_of(head, name));
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
    let mut zeros = Findings::of_rows();
    layer.count_zeros(&mut zeros);
    for head in kind.heads {
        let other = Layer::<T>::read(name, kind, head, inputs)?;
        other.count_zeros(&mut zeros);
        scores.insert(head.scores.to_owned(), array(&shape, other.logits()));
    }
    let (own, mut inner): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|name| {
        name.strip_prefix("grad.").is_some_and(|of| is_of(&OWN, of) || is_sparse(name))
    });
    if !own.is_empty() {
        inner.push("grad.logits");
    }
    let mut outputs = loss.reference(&scores, &inner, arithmetic)?;
    if let Some(gradient) = outputs.remove("grad.logits") {
        let gradient: Vec<T> = gradient.to_f64().into_iter().map(T::of).collect();
        // A row without a gradient must change no sum, even if its hidden state is NaN.
        let live: Vec<bool> =
            gradient.chunks(layer.classes).map(|row| row.iter().any(|g| !g.is_zero())).collect();
        let targets = inputs.get("targets").map(Array::to_i64).unwrap_or_default();
        for name in own {
            let output = match name {
                "grad.hidden" => {
                    let units = layer.hidden_gradient(&gradient, &live);
                    array(&[layer.rows, layer.hidden], layer.states.backward_all(&units))
                }
                "grad.weight" => {
                    let units = layer.weight_gradient(&gradient, &live);
                    let shape = weight_shape(kind.layout, layer.classes, layer.hidden);
                    array(&shape, layer.laid_out(&layer.weight.backward_all(&units)))
                }
                SPARSE_SAMPLES => {
                    let samples = inputs.get("samples").map(Array::to_i64).unwrap_or_default();
                    let values = layer.sampled_gradient(&gradient, &live, &samples, &targets);
                    array(&[samples.len(), layer.hidden], values)
                }
                SPARSE_TARGETS => {
                    let values = layer.target_gradient(&gradient, &live, &targets);
                    array(&[layer.rows, layer.hidden], values)
                }
                _ => array(&[layer.classes], layer.bias_gradient(&gradient, &live)),
            };
            outputs.insert(name.to_owned(), output);
        }
    }
    if let Some(status) = outputs.get_mut("status") {
        zeros.add(status);
        *status = zeros.words();
    }
    Ok(outputs)
}

/// The values of the weight's sparse gradient: of the samples, and of the rows' targets.
const SPARSE_SAMPLES: &str = "grad.sampled_weight";
const SPARSE_TARGETS: &str = "grad.target_weight";

fn is_sparse(name: &str) -> bool {
    [SPARSE_SAMPLES, SPARSE_TARGETS].contains(&name)
}

/// Whether a name is an input of a layer.
fn is_of(head: &Head, name: &str) -> bool {
    [head.hidden, head.weight, head.bias].contains(&name)
}

/// The linear layer: logits = states·Wᵀ + bias, of unit vectors where they are normalised.
struct Layer<T> {
    rows: usize,
    classes: usize,
    hidden: usize,
    states: Vectors<T>,
    /// The vectors of the classes.
    weight: Vectors<T>,
    layout: WeightLayout,
    bias: Option<Vec<T>>,
}

impl<T: Real> Layer<T> {
    fn read(name: &str, kind: Kind, head: &Head, inputs: &Arrays) -> Result<Self> {
        let Kind { layout, normalize, .. } = kind;
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
        let states = floats(inputs, head.hidden, &[rows, hidden])?.unwrap_or_default();
        let shape = weight_shape(layout, classes, hidden);
        let lies: Vec<T> = floats(inputs, head.weight, &shape)?.unwrap_or_default();
        let weight = match layout {
            WeightLayout::ClassesHidden => lies,
            WeightLayout::HiddenClasses => transposed(&lies, shape),
        };
        Ok(Self {
            rows,
            classes,
            hidden,
            states: Vectors::new(states, [rows, hidden], normalize),
            weight: Vectors::new(weight, [classes, hidden], normalize),
            layout,
            bias: floats(inputs, head.bias, &[classes])?,
        })
    }

    fn count_zeros(&self, found: &mut Findings) {
        self.states.count_zeros(found);
        self.weight.count_zeros(found);
    }

    /// A tensor of the classes' vectors as the weight lies in memory.
    fn laid_out(&self, vectors: &[T]) -> Vec<T> {
        match self.layout {
            WeightLayout::ClassesHidden => vectors.to_vec(),
            WeightLayout::HiddenClasses => transposed(vectors, [self.classes, self.hidden]),
        }
    }

    fn logits(&self) -> Vec<T> {
        let weight: Vec<Vec<T>> = (0..self.classes).map(|class| self.weight.unit(class)).collect();
        let mut logits = Vec::with_capacity(self.rows * self.classes);
        for row in 0..self.rows {
            let state = self.states.unit(row);
            for (class, vector) in weight.iter().enumerate() {
                let logit = dot(&state, vector);
                logits.push(self.bias.as_ref().map_or(logit, |bias| logit + bias[class]));
            }
        }
        logits
    }

    /// G·W. The result of a row without a gradient is 0 whatever W contains.
    fn hidden_gradient(&self, gradient: &[T], live: &[bool]) -> Vec<T> {
        let weight: Vec<Vec<T>> = (0..self.classes).map(|class| self.weight.unit(class)).collect();
        let mut result = vec![T::zero(); self.rows * self.hidden];
        for row in (0..self.rows).filter(|&row| live[row]) {
            let into = &mut result[row * self.hidden..(row + 1) * self.hidden];
            for (class, vector) in weight.iter().enumerate() {
                add_scaled(into, gradient[row * self.classes + class], vector);
            }
        }
        result
    }

    /// Gᵀ·hidden, a vector for each class. A row without a gradient is skipped, because 0·NaN is NaN.
    fn weight_gradient(&self, gradient: &[T], live: &[bool]) -> Vec<T> {
        let mut result = vec![T::zero(); self.classes * self.hidden];
        for row in (0..self.rows).filter(|&row| live[row]) {
            let state = self.states.unit(row);
            for (class, into) in result.chunks_mut(self.hidden.max(1)).enumerate() {
                add_scaled(into, gradient[row * self.classes + class], &state);
            }
        }
        result
    }

    /// A vector for each sample: its share of Gᵀ·hidden, without the rows whose target it is. A class that is drawn several
    /// times has as many equal shares.
    fn sampled_gradient(
        &self,
        gradient: &[T],
        live: &[bool],
        samples: &[i64],
        targets: &[i64],
    ) -> Vec<T> {
        let mut result = vec![T::zero(); samples.len() * self.hidden];
        for (sample, into) in samples.iter().zip(result.chunks_mut(self.hidden.max(1))) {
            let class = usize::try_from(*sample).ok().filter(|&class| class < self.classes);
            let Some(class) = class else { continue };
            let drawn = samples.iter().filter(|other| *other == sample).count();
            for row in (0..self.rows).filter(|&row| live[row] && targets[row] != *sample) {
                let share = gradient[row * self.classes + class] / T::of(drawn as f64);
                add_scaled(into, share, &self.states.unit(row));
            }
        }
        result
    }

    /// A vector for each row: G at its target times its hidden state.
    fn target_gradient(&self, gradient: &[T], live: &[bool], targets: &[i64]) -> Vec<T> {
        let mut result = vec![T::zero(); self.rows * self.hidden];
        for row in (0..self.rows).filter(|&row| live[row]) {
            let class = usize::try_from(targets[row]).unwrap_or_default();
            let into = &mut result[row * self.hidden..(row + 1) * self.hidden];
            add_scaled(into, gradient[row * self.classes + class], &self.states.unit(row));
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

fn weight_shape(layout: WeightLayout, classes: usize, hidden: usize) -> [usize; 2] {
    match layout {
        WeightLayout::ClassesHidden => [classes, hidden],
        WeightLayout::HiddenClasses => [hidden, classes],
    }
}

fn add_scaled<T: Real>(into: &mut [T], factor: T, vector: &[T]) {
    for (into, &v) in into.iter_mut().zip(vector) {
        *into += factor * v;
    }
}

fn transposed<T: Real>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    let at = |index: usize| values[index % rows * columns + index / rows];
    (0..rows * columns).map(at).collect()
}
