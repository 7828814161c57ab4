//! The second pass: ∂z and ∂q.

use super::{
    Fate, Row, Solved,
    batch::{Batch, Targets},
    shards::Merged,
    softmax::{Softmax, smoothed_sum},
};
use crate::reference::{Real, row_factor, times};

/// The factors of a row's gradient: ∂u = slope·p − scale·w∘q − pull·onehot(y).
struct Factors<T> {
    scale: T,
    pull: T,
    slope: T,
}

impl<T: Real> Solved<'_, T> {
    /// The gradient of the logits, row by row.
    pub(super) fn gradient(&self) -> Vec<T> {
        (0..self.batch.rows).flat_map(|row| self.backward(row)).collect()
    }

    /// `f = row_weight·upstream/denominator`; 0 for a row without a gradient.
    fn factor(&self, row: usize) -> T {
        let divisor = self.divisor();
        let dropped = matches!(self.rows[row].fate, Fate::Ignored | Fate::BadTarget(_));
        if dropped || !self.batch.pulls.loss_takes_part {
            return T::zero();
        }
        row_factor(self.batch.row_weight(row), self.batch.upstream(row), divisor)
    }

    /// ∂z of a row, which is the second pass.
    fn backward(&self, row: usize) -> Vec<T> {
        let classes = self.batch.classes;
        let factor = self.factor(row);
        let moves = !factor.is_zero() || self.batch.pulls.any(row);
        let target = match self.rows[row].fate {
            Fate::Kept(target) if moves => target,
            Fate::BadLogits(_) if moves => return vec![T::nan(); classes],
            _ => return vec![T::zero(); classes],
        };
        let u = self.scores(row);
        let mut partials = vec![T::zero(); classes];
        if !factor.is_zero() {
            let of_loss = self.score_partials(row, target, &u);
            partials = of_loss.into_iter().map(|partial| factor * partial).collect();
        }
        if self.batch.pulls.any(row) {
            let pulled = self.byproduct_partials(row, target, &u);
            partials.iter_mut().zip(pulled).for_each(|(partial, pulled)| *partial += pulled);
        }
        let logits = self.logits(row).iter();
        logits.zip(partials).map(|(z, partial)| partial * self.chain(*z)).collect()
    }

    /// ∂u of Σ pull·by-product: e − p of log_prob, −p·(log p + H) of the entropy, p of the lse.
    fn byproduct_partials(&self, row: usize, target: Option<usize>, u: &[T]) -> Vec<T> {
        let softmax = self.softmax(row, u);
        let saved = self.batch.pulls.saved_entropy.as_ref().map(|entropy| entropy[row]);
        let entropy = saved.unwrap_or(self.rows[row].entropy);
        let [log_prob, of_entropy, lse] = self.batch.pulls.of(row);
        let (q, total) = self.log_prob_shares(row, target);
        let partial = |class: usize| {
            let p = softmax.prob(u[class]);
            let of_p = times(p, entropy - softmax.surprisal(u[class]));
            log_prob * (q[class] - total * p) - of_entropy * of_p + lse * p
        };
        (0..u.len()).map(partial).collect()
    }

    /// The weight of each column's log p in log_prob, and the sum of the weights of all classes.
    fn log_prob_shares(&self, row: usize, target: Option<usize>) -> (Vec<T>, T) {
        if let Targets::Several(targets) = &self.batch.targets {
            let ignored = self.loss.ignore_index.as_slice();
            let kept = targets[row].iter().filter(|(target, _)| !ignored.contains(target));
            let total = kept.fold(T::zero(), |sum, &(_, weight)| sum + weight);
            return (self.target_distribution(row, target), total);
        }
        let here = |class| target == Some(class + self.first());
        let onehot = |class| if here(class) { T::one() } else { T::zero() };
        ((0..self.batch.classes).map(onehot).collect(), T::one())
    }

    /// ∂u of a row without its factor: slope·p − scale·w∘q − pull·onehot(y).
    fn score_partials(&self, row: usize, target: Option<usize>, u: &[T]) -> Vec<T> {
        let softmax = self.softmax(row, u);
        let share = self.weighted_target(row, target);
        let Factors { scale, pull, slope } = self.factors(row, target, u, &softmax, &share);
        let partial = |class: usize| {
            let partial = slope * softmax.prob(u[class]) - scale * share[class];
            let here = target == Some(class + self.first());
            if here { partial - pull } else { partial }
        };
        (0..u.len()).map(partial).collect()
    }

    fn factors(
        &self,
        row: usize,
        target: Option<usize>,
        u: &[T],
        softmax: &Softmax<T>,
        share: &[T],
    ) -> Factors<T> {
        let mut total = T::zero();
        for &share in share {
            total += share;
        }
        let merged = self.batch.merged.as_ref().map(|merged| &merged[row]);
        if let Some(merged) = merged {
            // A shard has only a part of the target distribution.
            total = merged.coefficient;
        }
        let focal = match merged {
            Some(merged) => self.focal_at(target, softmax.surprisal(merged.target)),
            None => self.focal(target, u, softmax),
        };
        let (scale, pull) = match focal {
            None => (T::one(), T::zero()),
            Some((scale, pull)) => {
                let smoothed =
                    merged.map_or_else(|| smoothed_sum(share, u, softmax), Merged::total);
                // A class at -inf made the loss +inf; the gradient keeps its finite part.
                let finite = !smoothed.is_infinite();
                (scale, if finite { times(smoothed, pull) } else { T::zero() })
            }
        };
        let mut slope = scale * total + pull;
        if self.loss.z_loss != 0.0 {
            slope += T::of(2.0) * T::of(self.loss.z_loss) * softmax.lse();
        }
        Factors { scale, pull, slope }
    }

    /// ∂u/∂z = (1 − tanh²(z/cap))/τ.
    fn chain(&self, z: T) -> T {
        let slope = self
            .loss
            .softcap
            .map(T::of)
            .map_or(T::one(), |cap| T::one() - (z / cap).tanh().powi(2));
        slope / self.batch.temperature
    }

    /// ∂τ = −Σ ∂u·u/τ.
    pub(super) fn temperature_gradient(&self) -> T {
        let mut sum = T::zero();
        for row in 0..self.batch.rows {
            sum += self.temperature_backward(row);
        }
        sum
    }

    fn temperature_backward(&self, row: usize) -> T {
        let factor = self.factor(row);
        let moves = !factor.is_zero() || self.batch.pulls.any(row);
        let target = match self.rows[row].fate {
            Fate::Kept(target) if moves => target,
            Fate::BadLogits(_) if moves => return T::nan(),
            _ => return T::zero(),
        };
        let mut moment = self.byproduct_moment(row);
        if !factor.is_zero() {
            let of_loss = match &self.batch.merged {
                Some(merged) => self.merged_moment(row, target, &merged[row]),
                None => self.moment(row, target),
            };
            moment += times(factor, of_loss);
        }
        -moment / self.batch.temperature
    }

    /// Σ ∂u·u of Σ pull·by-product without the entropy, with the mean score lse − H.
    fn byproduct_moment(&self, row: usize) -> T {
        let [log_prob, _, of_lse] = self.batch.pulls.of(row);
        let Row { lse, entropy, log_prob: log_p, .. } = self.rows[row];
        let target = match self.rows[row].fate {
            Fate::Kept(target) => target,
            _ => None,
        };
        let (_, total) = self.log_prob_shares(row, target);
        times(log_prob, log_p + total * entropy) + times(of_lse, lse - entropy)
    }

    /// Σ ∂u·u without the row's factor; +inf where a share lies at -inf.
    fn moment(&self, row: usize, target: Option<usize>) -> T {
        let u = self.scores(row);
        let softmax = self.softmax(row, &u);
        if smoothed_sum(&self.weighted_target(row, target), &u, &softmax).is_infinite() {
            return T::infinity();
        }
        let mut moment = T::zero();
        for (partial, u) in self.score_partials(row, target, &u).into_iter().zip(u) {
            moment += times(partial, u);
        }
        moment
    }

    /// The same from the statistics of all shards, with u = lse − surprisal.
    fn merged_moment(&self, row: usize, target: Option<usize>, merged: &Merged<T>) -> T {
        let total = merged.total();
        if total.is_infinite() {
            return total;
        }
        let log_sum = merged.sum.ln();
        let surprisal = log_sum + (merged.max - merged.target);
        let (scale, pull) = self.focal_at(target, surprisal).unwrap_or((T::one(), T::zero()));
        let pull = times(total, pull);
        let z_slope = T::of(2.0 * self.loss.z_loss) * (merged.max + log_sum);
        let Row { lse, entropy, .. } = self.rows[row];
        z_slope * (lse - entropy) - (scale * merged.coefficient + pull) * entropy
            + scale * total
            + times(pull, surprisal)
    }

    /// ∂q = −f·(1 − ε)·w∘log p.
    pub(super) fn target_gradient(&self) -> Vec<T> {
        (0..self.batch.rows).flat_map(|row| self.target_backward(row)).collect()
    }

    fn target_backward(&self, row: usize) -> Vec<T> {
        let factor = self.factor(row) * (T::one() - T::of(self.loss.label_smoothing));
        if factor.is_zero() {
            return vec![T::zero(); self.batch.classes];
        }
        if matches!(self.rows[row].fate, Fate::BadLogits(_)) {
            return vec![T::nan(); self.batch.classes];
        }
        let u = self.scores(row);
        let softmax = self.softmax(row, &u);
        let partial = |(class, &u): (usize, &T)| {
            let weight = Batch::or_one(self.batch.weight.as_ref(), self.first() + class);
            times(factor * weight, softmax.surprisal(u))
        };
        u.iter().enumerate().map(partial).collect()
    }
}
