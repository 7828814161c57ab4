//! What a row should be: its target's class, and w∘q, the weighted target distribution.

use super::{Solved, batch::Targets};
use crate::{
    losses::cross_entropy::Smoothing,
    reference::{Real, times},
    spec::shard::Shard,
};

/// What becomes of a row.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// Its target is to be ignored: it does not exist.
    Ignored,
    /// Its target, this one, is no class: the loss is NaN, the gradient 0.
    BadTarget(i64),
    /// Its logits have no softmax: loss and gradient are NaN.
    ///
    /// It is counted like any other row: what a mean divides by is known from the targets alone.
    BadLogits(Option<usize>),
    /// It counts. The target's class, if there is one.
    Kept(Option<usize>),
}

impl<T: Real> Solved<'_, T> {
    /// The target's class, over all shards, if the row has one; or what becomes of the row without a
    /// look at it.
    pub(super) fn target_fate(&self, row: usize) -> Result<Option<usize>, Fate> {
        let Targets::Index(targets) = &self.batch.targets else { return Ok(None) };
        let target = targets[row];
        if self.loss.ignore_index.as_slice().contains(&target) {
            return Err(Fate::Ignored);
        }
        match usize::try_from(target) {
            Ok(class) if class < self.all_classes() => Ok(Some(class)),
            _ => Err(Fate::BadTarget(target)),
        }
    }

    pub(super) fn all_classes(&self) -> usize {
        self.loss.all_classes(self.batch.classes as u64) as usize
    }

    /// The first class here.
    pub(super) fn first(&self) -> usize {
        self.loss.shard.map_or(0, |Shard { first, .. }| first as usize)
    }

    /// Which column a class is, if it is one of them.
    pub(super) fn own(&self, class: usize) -> Option<usize> {
        class.checked_sub(self.first()).filter(|&column| column < self.batch.classes)
    }

    pub(super) fn fate(&self, row: usize, u: &[T]) -> Fate {
        let target = match self.target_fate(row) {
            Ok(target) => target,
            Err(fate) => return fate,
        };
        let no_softmax = |&u: &T| u.is_nan() || u == T::infinity();
        // The other classes of a shard that is all -inf lie elsewhere.
        let none = self.loss.shard.is_none() && u.iter().all(|&u| u == T::neg_infinity());
        let saved = self.batch.lse.as_ref().is_some_and(|lse| !lse[row].is_finite());
        if u.iter().any(no_softmax) || none || saved {
            return Fate::BadLogits(target);
        }
        Fate::Kept(target)
    }

    /// w∘q of a row, the label smoothing in q.
    pub(super) fn weighted_target(&self, row: usize, target: Option<usize>) -> Vec<T> {
        let mut q = match (&self.batch.targets, target) {
            (Targets::Probs(probs), _) => {
                let classes = self.batch.classes;
                self.uniform(probs[row * classes..(row + 1) * classes].to_vec())
            }
            (Targets::Index(_), Some(target)) => self.smooth(target),
            (Targets::Index(_), None) => vec![T::zero(); self.batch.classes],
        };
        if let Some(weight) = &self.batch.weight {
            for (q, &weight) in q.iter_mut().zip(&weight[self.first()..]) {
                // An index takes no notice of the weights of other classes.
                let nothing = q.is_zero() && matches!(self.batch.targets, Targets::Index(_));
                *q = if nothing { T::zero() } else { times(*q, weight) };
            }
        }
        q
    }

    /// The smoothed one-hot row of a class, at the columns that are here.
    fn smooth(&self, target: usize) -> Vec<T> {
        let first = self.first();
        self.smooth_all(target)[first..first + self.batch.classes].to_vec()
    }

    fn smooth_all(&self, target: usize) -> Vec<T> {
        let classes = self.all_classes();
        let mut q = vec![T::zero(); classes];
        q[target] = T::one();
        if self.loss.smoothing == Smoothing::Uniform {
            return self.uniform(q);
        }
        let neighbours: Vec<usize> = [target.checked_sub(1), Some(target + 1)]
            .into_iter()
            .flatten()
            .filter(|&class| class < classes)
            .collect();
        let epsilon = T::of(self.loss.label_smoothing);
        for &class in &neighbours {
            q[target] = T::one() - epsilon;
            q[class] = epsilon / T::of(neighbours.len() as f64);
        }
        q
    }

    /// (1 − ε)·q + ε/C.
    fn uniform(&self, mut q: Vec<T>) -> Vec<T> {
        if self.loss.label_smoothing != 0.0 {
            let epsilon = T::of(self.loss.label_smoothing);
            let share = epsilon / T::of(self.all_classes() as f64);
            for q in &mut q {
                *q = (T::one() - epsilon) * *q + share;
            }
        }
        q
    }
}
