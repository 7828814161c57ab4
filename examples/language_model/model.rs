//! What the GPU and the CPU share of the model: its shape, its initial parameters, and a batch.
//!
//! `hidden = tanh(Σ_k embedding[context_k]·mixing_k + bias) + embedding[context_0]`, and
//! `logits = hidden·Wᵀ + b` over every class of the vocabulary: a small model after Bengio et al.
//! (2003) with a residual, trained by `AdaGrad`. W starts at 0 and b at the log-frequencies, so the
//! loss starts at the unigram's.

use std::{collections::BTreeMap, error::Error};

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal};

use crate::data::{CLASSES, Sample, Split};

/// The optimiser's ε, which hides the gradients of classes that hardly occur in the batch.
pub const EPSILON: f32 = 1e-4;
/// Steps over which the learning rate rises to its full value.
const WARM_UP: u32 = 10;
/// The target of a row that counts for nothing.
const IGNORED: i32 = -100;

/// Extents of the model and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Tokens of a batch.
    pub rows: usize,
    /// Length of a hidden state.
    pub depth: usize,
    /// How many tokens the model looks back.
    pub context: usize,
}

impl Shape {
    /// Elements of the embedding, and of the classifier.
    pub fn table(&self) -> usize {
        CLASSES as usize * self.depth
    }

    /// Elements of the mixing matrices and their bias.
    pub fn mixing(&self) -> usize {
        self.context * self.depth * self.depth + self.depth
    }
}

/// The initial parameters of a run; the classifier starts at 0.
pub struct Parameters {
    /// `[classes, depth]`.
    pub embedding: Vec<f32>,
    /// `[context, depth, depth]`, and a bias `[depth]`.
    pub mixing: Vec<f32>,
    /// The classifier's bias `[classes]`.
    pub bias: Vec<f32>,
}

impl Parameters {
    /// Random parameters, with a bias that makes the unigram the first prediction.
    pub fn new(shape: Shape, seed: u64, log_unigram: &[f32]) -> Result<Self, Box<dyn Error>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut normal = |count: usize, deviation: f32| -> Result<Vec<f32>, Box<dyn Error>> {
            Ok(Normal::new(0.0, deviation)?.sample_iter(&mut rng).take(count).collect())
        };
        let embedding = normal(shape.table(), 0.1)?;
        let mut mixing =
            normal(shape.mixing(), 1.0 / ((shape.depth * shape.context) as f32).sqrt())?;
        mixing[shape.mixing() - shape.depth..].fill(0.0);
        Ok(Self { embedding, mixing, bias: log_unigram.to_vec() })
    }
}

/// The learning rate of a step, counted from 0.
pub fn learning_rate(step: u32, full: f32) -> f32 {
    full * ((step + 1) as f32 / WARM_UP as f32).min(1.0)
}

/// The tokens of one step.
pub struct Batch {
    /// `[rows, context]`, the nearest token first.
    pub contexts: Vec<u32>,
    /// `[rows]`.
    pub targets: Vec<i32>,
}

impl Batch {
    /// A batch of these samples, filled up with rows that count for nothing.
    pub fn new(split: &Split, samples: &[Sample], shape: Shape) -> Self {
        let mut contexts: Vec<u32> = samples.iter().flat_map(|&s| split.context(s)).collect();
        contexts.resize(shape.rows * shape.context, 0);
        let mut targets: Vec<i32> = samples.iter().map(|&s| split.target(s) as i32).collect();
        targets.resize(shape.rows, IGNORED);
        Self { contexts, targets }
    }

    /// The places of each token in the contexts.
    pub fn places(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut places = BTreeMap::<u32, Vec<u32>>::new();
        for (place, &token) in self.contexts.iter().enumerate() {
            places.entry(token).or_default().push(place as u32);
        }
        places
    }
}
