//! The target of a row: its class, and w∘q, the weighted target distribution.

use super::{Solved, batch::Targets};
use crate::{
    losses::cross_entropy::Smoothing,
    reference::{Real, times},
    spec::shard::Shard,
};

/// What the target and the logits of a row decide.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// The target is ignored: the row counts for nothing.
    Ignored,
    /// The target, given here, is not a class: the loss is NaN, the gradient 0.
    BadTarget(i64),
    /// The logits have no softmax: loss and gradient are NaN.
    ///
    /// The row is counted like any other row: the denominator of a mean follows from the targets alone.
    BadLogits(Option<usize>),
    /// The row is kept. Contains the target's class, if there is one.
    Kept(Option<usize>),
}

impl<T: Real> Solved<'_, T> {
    /// The target's class among the classes of all shards, if the row has one; or the fate of the row, if the target
    /// already decides it.
    pub(super) fn target_fate(&self, row: usize) -> Result<Option<usize>, Fate> {
        let ignored = |target: &i64| self.loss.ignore_index.as_slice().contains(target);
        let target = match &self.batch.targets {
            Targets::Index(targets) => targets[row],
            Targets::Probs(_) => return Ok(None),
            Targets::Several(targets) => {
                let classes = 0..self.all_classes() as i64;
                let mut kept = targets[row].iter().map(|(y, _)| *y).filter(|y| !ignored(y));
                let bad = kept.clone().find(|target| !classes.contains(target));
                return match (bad, kept.next()) {
                    (Some(target), _) => Err(Fate::BadTarget(target)),
                    (None, None) => Err(Fate::Ignored),
                    (None, Some(_)) => Ok(None),
                };
            }
        };
        if ignored(&target) {
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

    /// The number of the shard's first class.
    pub(super) fn first(&self) -> usize {
        self.loss.shard.map_or(0, |Shard { first, .. }| first as usize)
    }

    /// The column of a class, if the class is in this shard.
    pub(super) fn own(&self, class: usize) -> Option<usize> {
        class.checked_sub(self.first()).filter(|&column| column < self.batch.classes)
    }

    pub(super) fn fate(&self, row: usize, u: &[T]) -> Fate {
        let target = match self.target_fate(row) {
            Ok(target) => target,
            Err(fate) => return fate,
        };
        let no_softmax = |&u: &T| u.is_nan() || u == T::infinity();
        // A row that is all -inf in one shard may have other classes in other shards.
        let none = self.loss.shard.is_none() && u.iter().all(|&u| u == T::neg_infinity());
        let saved = self.batch.lse.as_ref().is_some_and(|lse| !lse[row].is_finite());
        if u.iter().any(no_softmax) || none || saved {
            return Fate::BadLogits(target);
        }
        Fate::Kept(target)
    }

    /// q of a row, with label smoothing.
    pub(super) fn target_distribution(&self, row: usize, target: Option<usize>) -> Vec<T> {
        match (&self.batch.targets, target) {
            (Targets::Probs(probs), _) => {
                let classes = self.batch.classes;
                self.uniform(probs[row * classes..(row + 1) * classes].to_vec())
            }
            (Targets::Index(_), Some(target)) => self.smooth(target),
            (Targets::Index(_), None) => vec![T::zero(); self.batch.classes],
            (Targets::Several(targets), _) => {
                let mut q = vec![T::zero(); self.batch.classes];
                let ignored = self.loss.ignore_index.as_slice();
                for &(target, weight) in targets[row].iter().filter(|(y, _)| !ignored.contains(y)) {
                    let class = usize::try_from(target).ok().and_then(|class| self.own(class));
                    if let Some(q) = class.and_then(|class| q.get_mut(class)) {
                        *q += weight;
                    }
                }
                q
            }
        }
    }

    /// w∘q of a row, with label smoothing in q.
    pub(super) fn weighted_target(&self, row: usize, target: Option<usize>) -> Vec<T> {
        let mut q = self.target_distribution(row, target);
        if let Some(weight) = &self.batch.weight {
            for (q, &weight) in q.iter_mut().zip(&weight[self.first()..]) {
                // With an index target, the weights of classes without a share are not read.
                let nothing = q.is_zero() && !matches!(self.batch.targets, Targets::Probs(_));
                *q = if nothing { T::zero() } else { times(*q, weight) };
            }
        }
        q
    }

    /// The smoothed one-hot row of a class, for the columns of this shard.
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
