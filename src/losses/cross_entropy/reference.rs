//! The f64 reference of softmax cross-entropy, as a textbook writes it (catalogue R1 to R6).

mod batch;
mod gradient;
mod shards;
mod softmax;
mod target;

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::Result,
    },
    losses::{CrossEntropy, cross_entropy::Denominator},
    reference::{Findings, Real, argmax, array, extents, no_output, scores, times},
    spec::{
        about::Signature as _,
        options::{Empty, Reduction},
    },
};
use batch::{Batch, Targets};
use softmax::{Softmax, rank, smoothed_sum};
use target::Fate;

const NAME: &str = "cross_entropy";

/// The value of `argmax` and `rank` in a row that has none.
const NO_CLASS: i64 = u32::MAX as i64;

/// Computes every output in `wanted`.
pub(crate) fn run(
    loss: &CrossEntropy,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<f32>(loss, inputs, wanted),
    }
}

fn compute<T: Real>(loss: &CrossEntropy, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let (rows, classes) = extents(NAME, inputs, "logits")?;
    let logits: Vec<T> = scores(inputs, "logits", [rows, classes])?;
    let targets = super::Targets::of_arrays(inputs);
    loss.check_targets(&|name| inputs.contains_key(name), targets)?;
    CrossEntropy::check_wanted(&|name| inputs.contains_key(name), targets, wanted)?;
    let weights = inputs.get("weight").map(|weight| weight.len() as u64);
    loss.check_shard(&|name| inputs.contains_key(name), wanted, classes as u64, weights)?;
    let mut batch = Batch::read(loss, inputs, logits, [rows, classes])?;
    batch.lower_targets(loss);
    let solved = Solved::new(loss, &batch);
    wanted.iter().map(|&name| Ok((name.to_owned(), solved.output(name)?))).collect()
}

/// The results of a row after the first pass. All of them are 0 unless the row is kept.
struct Row<T> {
    fate: Fate,
    loss: T,
    /// The row's term of the mean's denominator.
    share: T,
    lse: T,
    log_prob: T,
    entropy: T,
    max_prob: T,
    argmax: i64,
    rank: i64,
    correct: bool,
}

impl<T: Real> Row<T> {
    fn dropped(fate: Fate) -> Self {
        let zero = T::zero();
        // Numbers that describe logits without a softmax are NaN; those of rows that are not read are 0.
        let number = if matches!(fate, Fate::BadLogits(_)) { T::nan() } else { zero };
        Self {
            fate,
            loss: if fate == Fate::Ignored { zero } else { T::nan() },
            share: zero,
            lse: number,
            log_prob: number,
            entropy: number,
            max_prob: number,
            argmax: NO_CLASS,
            rank: NO_CLASS,
            correct: false,
        }
    }
}

/// Sums over the rows.
struct Totals<T> {
    sum: T,
    denominator: T,
    count: i64,
    correct: i64,
}

/// A call after its first pass over the rows.
struct Solved<'a, T> {
    loss: &'a CrossEntropy,
    batch: &'a Batch<T>,
    rows: Vec<Row<T>>,
    totals: Totals<T>,
    found: Findings,
}

impl<'a, T: Real> Solved<'a, T> {
    /// Makes the first pass over all rows.
    fn new(loss: &'a CrossEntropy, batch: &'a Batch<T>) -> Self {
        let mut solved = Self::empty(loss, batch);
        for index in 0..batch.rows {
            solved.push(match &batch.merged {
                Some(merged) => solved.close(index, &merged[index]),
                None if loss.shard.is_some() => solved.part(index),
                None => solved.forward(index),
            });
        }
        solved
    }

    /// A call before its first row.
    fn empty(loss: &'a CrossEntropy, batch: &'a Batch<T>) -> Self {
        let zero = T::zero();
        let totals = Totals { sum: zero, denominator: zero, count: 0, correct: 0 };
        let rows = Vec::with_capacity(batch.rows);
        Self { loss, batch, rows, totals, found: Findings::of_rows() }
    }

    fn push(&mut self, row: Row<T>) {
        self.totals.sum += row.loss;
        self.totals.denominator += row.share;
        self.totals.count += i64::from(matches!(row.fate, Fate::Kept(_) | Fate::BadLogits(_)));
        self.totals.correct += i64::from(row.correct);
        match row.fate {
            Fate::BadTarget(target) => self.found.bad_target(self.rows.len(), target),
            Fate::BadLogits(_) if row.loss.is_nan() || self.batch.pulls.any(self.rows.len()) => {
                self.found.bad_row();
            }
            // One shard of several does not know the loss.
            Fate::Kept(_) if self.loss.shard.is_some() && self.batch.merged.is_none() => {}
            Fate::Kept(_) if row.loss.is_nan() => self.found.bad_row(),
            Fate::Ignored | Fate::Kept(_) | Fate::BadLogits(_) => {}
        }
        self.rows.push(row);
    }

    /// The output of this name.
    fn output(&self, name: &str) -> Result<Array> {
        let Batch { rows, classes, .. } = *self.batch;
        Ok(match name {
            "loss" if self.loss.reduction == Reduction::None => self.each(|row| row.loss),
            "loss" => array(&[1], [self.reduced()]),
            "grad.logits" => array(&[rows, classes], self.gradient()),
            "grad.temperature" => array(&[1], [self.temperature_gradient()]),
            "grad.target_probs" => array(&[rows, classes], self.target_gradient()),
            "lse" => self.each(|row| row.lse),
            "log_prob" => self.each(|row| row.log_prob),
            "entropy" => self.each(|row| row.entropy),
            "max_prob" => self.each(|row| row.max_prob),
            "argmax" => self.each_int(|row| row.argmax),
            "rank" => self.each_int(|row| row.rank),
            "correct" => self.each_int(|row| i64::from(row.correct)),
            "statistics" if self.loss.shard.is_some() => {
                array(&[rows, 8], (0..rows).flat_map(|row| self.statistics(row)))
            }
            "sum" => array(&[1], [self.totals.sum]),
            "denominator" => array(&[1], [self.totals.denominator]),
            "count" => Array::int(&[1], vec![self.totals.count]),
            "correct_count" => Array::int(&[1], vec![self.totals.correct]),
            "perplexity" => array(&[1], [self.mean(self.totals.denominator).exp()]),
            "status" => self.found.words(),
            _ => return Err(no_output(self.loss.about(), name)),
        })
    }

    fn each(&self, value: impl Fn(&Row<T>) -> T) -> Array {
        array(&[self.rows.len()], self.rows.iter().map(value))
    }

    fn each_int(&self, value: impl Fn(&Row<T>) -> i64) -> Array {
        Array::int(&[self.rows.len() as u64], self.rows.iter().map(value).collect())
    }

    /// u = (cap·tanh(z/cap) + bias)/τ of a row. `-inf` masks a class even with a cap. A logit of +inf has no softmax,
    /// and the cap must not hide it.
    fn scores(&self, row: usize) -> Vec<T> {
        let tau = self.batch.temperature;
        let cap = self.loss.softcap.map(T::of);
        let score = |(class, &z): (usize, &T)| {
            let capped = match cap {
                Some(cap) if z.is_finite() => cap * (z / cap).tanh(),
                _ => z,
            };
            let bias = self.batch.logit_bias.as_ref().map_or(T::zero(), |bias| bias[class]);
            (capped + bias) / tau
        };
        self.logits(row).iter().enumerate().map(score).collect()
    }

    fn logits(&self, row: usize) -> &[T] {
        let classes = self.batch.classes;
        &self.batch.logits[row * classes..(row + 1) * classes]
    }

    fn softmax(&self, row: usize, u: &[T]) -> Softmax<T> {
        if let Some(merged) = self.batch.merged.as_ref().map(|merged| &merged[row]) {
            return Softmax { max: merged.max, sum: merged.sum, log_sum: merged.sum.ln() };
        }
        Softmax::of(u, self.batch.lse.as_ref().map(|lse| lse[row]))
    }

    /// The first pass over a row.
    fn forward(&self, index: usize) -> Row<T> {
        let u = self.scores(index);
        let fate = self.fate(index, &u);
        let target = match fate {
            Fate::Kept(target) => target,
            Fate::BadLogits(target) => {
                return self.without_softmax(index, target);
            }
            Fate::Ignored | Fate::BadTarget(_) => return Row::dropped(fate),
        };
        let softmax = self.softmax(index, &u);
        let argmax = argmax(&u);
        Row {
            fate,
            loss: self.row_loss(index, target, &u, &softmax),
            share: self.share(index, target),
            lse: softmax.lse(),
            log_prob: self.log_prob(index, target, &u, &softmax),
            entropy: softmax.entropy(&u),
            max_prob: softmax.prob(u[argmax]),
            argmax: argmax as i64,
            rank: target.map_or(NO_CLASS, |class| rank(&u, class)),
            correct: target == Some(argmax),
        }
    }

    /// A row whose logits have no softmax. If its weight is 0, its loss is 0 all the same.
    fn without_softmax(&self, index: usize, target: Option<usize>) -> Row<T> {
        let row = Row::dropped(Fate::BadLogits(target));
        let loss = if self.batch.row_weight(index).is_zero() { T::zero() } else { row.loss };
        Row { loss, share: self.share(index, target), ..row }
    }

    /// log p of the target, or Σ w·log p of several; 0 for a distribution.
    fn log_prob(&self, row: usize, target: Option<usize>, u: &[T], softmax: &Softmax<T>) -> T {
        match &self.batch.targets {
            Targets::Several(_) => {
                -smoothed_sum(&self.target_distribution(row, target), u, softmax)
            }
            _ => target.map_or(T::zero(), |class| -softmax.surprisal(u[class])),
        }
    }

    /// `row_weight·((1 − p_y)^γ·Σ w q (−log p) + λ·lse²)`.
    fn row_loss(&self, row: usize, target: Option<usize>, u: &[T], softmax: &Softmax<T>) -> T {
        let smoothed = smoothed_sum(&self.weighted_target(row, target), u, softmax);
        let mut loss = match self.focal(target, u, softmax) {
            // A class at -inf that has a share makes the loss +inf, whatever its factor is.
            Some((scale, _)) if !smoothed.is_infinite() => scale * smoothed,
            _ => smoothed,
        };
        if self.loss.z_loss != 0.0 {
            loss += T::of(self.loss.z_loss) * softmax.lse().powi(2);
        }
        times(self.batch.row_weight(row), loss)
    }

    /// `(1 − p_y)^γ`, and `γ·(1 − p_y)^(γ−1)·p_y` with its limit 0 at both ends; `None` if γ = 0.
    ///
    /// At `p_y = 1` the second factor may grow without bound, but what it is multiplied by vanishes faster.
    fn focal(&self, target: Option<usize>, u: &[T], softmax: &Softmax<T>) -> Option<(T, T)> {
        self.focal_at(target, softmax.surprisal(u[target?]))
    }

    /// The same as `focal`, from −log p of the target.
    fn focal_at(&self, target: Option<usize>, surprisal: T) -> Option<(T, T)> {
        target.filter(|_| self.loss.focal_gamma != 0.0)?;
        let gamma = T::of(self.loss.focal_gamma);
        let log_prob = -surprisal;
        // Rounding, or a given lse, can make p_y slightly larger than 1.
        let rest = (-log_prob.exp_m1()).max(T::zero());
        let prob = log_prob.exp();
        let pull = if prob.is_zero() || rest.is_zero() {
            T::zero()
        } else {
            gamma * rest.powf(gamma - T::one()) * prob
        };
        Some((rest.powf(gamma), pull))
    }

    /// The term of a kept row in the mean's denominator.
    fn share(&self, row: usize, target: Option<usize>) -> T {
        let class_weight =
            target.map_or(T::one(), |class| Batch::or_one(self.batch.weight.as_ref(), class));
        match self.loss.denominator {
            Denominator::Targets => class_weight,
            Denominator::Weights => self.batch.row_weight(row) * class_weight,
        }
    }

    /// What the sum is divided by: 1 where the reduction does not divide.
    fn divisor(&self) -> T {
        let own = match self.loss.reduction {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => self.totals.denominator,
            Reduction::Over(denominator) => T::of(denominator),
        };
        self.batch.denominator.unwrap_or(own)
    }

    fn reduced(&self) -> T {
        self.mean(self.divisor())
    }

    /// The sum divided by `denominator`; `empty` decides what a mean over nothing is.
    fn mean(&self, denominator: T) -> T {
        let sum = self.totals.sum;
        match self.loss.empty {
            _ if sum.is_nan() => sum,
            Empty::Nan if denominator.is_zero() => T::nan(),
            Empty::Zero if denominator.is_zero() => T::zero(),
            _ => sum / denominator,
        }
    }
}
