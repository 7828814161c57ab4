//! The same model in f64 on the CPU, with which the GPU's losses are compared.

use surprisal::{Array, Arrays, Result, cpu};

use crate::{
    data::CLASSES,
    model::{Batch, EPSILON, Parameters, Shape},
};

/// A parameter and `AdaGrad`'s sums of squares.
struct Parameter {
    values: Vec<f64>,
    squares: Vec<f64>,
}

impl Parameter {
    fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        Self { squares: vec![0.0; values.len()], values }
    }

    fn widened(values: &[f32]) -> Self {
        Self::new(values.iter().map(|&value| f64::from(value)))
    }

    /// `AdaGrad` on the elements from `start` on.
    fn update(&mut self, start: usize, gradient: &[f64], learning_rate: f64) {
        let places = self.values[start..].iter_mut().zip(&mut self.squares[start..]);
        for ((value, square), g) in places.zip(gradient) {
            *square += g * g;
            *value -= learning_rate * g / (square.sqrt() + f64::from(EPSILON));
        }
    }
}

/// The model on the CPU.
pub struct Reference {
    shape: Shape,
    embedding: Parameter,
    mixing: Parameter,
    weight: Parameter,
    bias: Parameter,
}

impl Reference {
    /// The model with these parameters.
    pub fn new(shape: Shape, first: &Parameters) -> Self {
        Self {
            shape,
            embedding: Parameter::widened(&first.embedding),
            mixing: Parameter::widened(&first.mixing),
            weight: Parameter::new(vec![0.0; shape.table()]),
            bias: Parameter::widened(&first.bias),
        }
    }

    /// Where the embedding of the `k`-th token of row `row` starts.
    fn token(&self, batch: &Batch, row: usize, k: usize) -> usize {
        batch.contexts[row * self.shape.context + k] as usize * self.shape.depth
    }

    /// `tanh(Σ_k embedding·mixing + bias)`, `[rows, depth]`.
    fn activation(&self, batch: &Batch) -> Vec<f64> {
        let Shape { rows, depth, context } = self.shape;
        let mut sums = Vec::with_capacity(rows * depth);
        for row in 0..rows {
            let mut sum = self.mixing.values[context * depth * depth..].to_vec();
            for k in 0..context {
                let token = self.token(batch, row, k);
                for d in 0..depth {
                    let from = (k * depth + d) * depth;
                    let factor = self.embedding.values[token + d];
                    for (sum, m) in sum.iter_mut().zip(&self.mixing.values[from..from + depth]) {
                        *sum += factor * m;
                    }
                }
            }
            sums.extend(sum.into_iter().map(f64::tanh));
        }
        sums
    }

    /// One training step; returns the loss before it.
    pub fn step(
        &mut self,
        loss: &dyn surprisal::Operation,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<f64> {
        let Shape { rows, depth, context } = self.shape;
        let activation = self.activation(batch);
        let hidden = (0..rows * depth).map(|at| {
            let token = self.token(batch, at / depth, 0);
            activation[at] + self.embedding.values[token + at % depth]
        });
        let targets = batch.targets.iter().map(|&target| i64::from(target)).collect();
        let (rows_, depth_, classes) = (rows as u64, depth as u64, u64::from(CLASSES));
        let inputs = Arrays::from([
            ("hidden".to_owned(), Array::float(&[rows_, depth_], hidden.collect())),
            ("weight".to_owned(), Array::float(&[classes, depth_], self.weight.values.clone())),
            ("bias".to_owned(), Array::float(&[classes], self.bias.values.clone())),
            ("targets".to_owned(), Array::int(&[rows_], targets)),
        ]);
        let wanted = ["loss", "grad.hidden", "grad.weight", "grad.bias"];
        let outputs = cpu::run(loss, &inputs, &wanted)?;
        let [value, hidden_gradient, weight_gradient, bias_gradient] =
            wanted.map(|name| outputs[name].to_f64());

        let slopes = hidden_gradient.iter().zip(&activation).map(|(g, a)| g * (1.0 - a * a));
        let slopes: Vec<f64> = slopes.collect();
        let mut mixing_gradient = vec![0.0; self.shape.mixing()];
        for row in 0..rows {
            let slope = &slopes[row * depth..(row + 1) * depth];
            for k in 0..context {
                let token = self.token(batch, row, k);
                for at in 0..depth * depth {
                    mixing_gradient[k * depth * depth + at] +=
                        slope[at % depth] * self.embedding.values[token + at / depth];
                }
            }
            for (sum, slope) in mixing_gradient[context * depth * depth..].iter_mut().zip(slope) {
                *sum += slope;
            }
        }
        for (token, places) in batch.places() {
            let mut gradient = vec![0.0; depth];
            for place in places {
                let (row, k) = (place as usize / context, place as usize % context);
                for (d, sum) in gradient.iter_mut().enumerate() {
                    let mixing = &self.mixing.values[(k * depth + d) * depth..];
                    let slopes = &slopes[row * depth..(row + 1) * depth];
                    *sum += mixing.iter().zip(slopes).map(|(m, s)| m * s).sum::<f64>();
                    if k == 0 {
                        *sum += hidden_gradient[row * depth + d];
                    }
                }
            }
            self.embedding.update(token as usize * depth, &gradient, learning_rate);
        }
        self.mixing.update(0, &mixing_gradient, learning_rate);
        self.weight.update(0, &weight_gradient, learning_rate);
        self.bias.update(0, &bias_gradient, learning_rate);
        Ok(value.first().copied().unwrap_or(f64::NAN))
    }
}
