//! The softmax of a row of scores.

use crate::reference::{Real, times};

/// softmax(u) of a row: p = exp(u − max)/sum.
///
/// A given lse is used as the maximum, with the sum 1. log p is never computed from max + log sum,
/// in which a large common offset would cost digits.
pub(super) struct Softmax<T> {
    pub(super) max: T,
    pub(super) sum: T,
    pub(super) log_sum: T,
}

impl<T: Real> Softmax<T> {
    pub(super) fn of(u: &[T], lse: Option<T>) -> Self {
        let (max, sum) = lse.map_or_else(|| Self::sums(u), |lse| (lse, T::one()));
        let log_sum = sum.ln();
        Self { max, sum, log_sum }
    }

    /// The maximum, and Σ exp(u − max).
    fn sums(u: &[T]) -> (T, T) {
        let max = u.iter().copied().fold(T::neg_infinity(), T::max);
        let mut sum = T::zero();
        for &u in u {
            sum += (u - max).exp();
        }
        (max, sum)
    }

    pub(super) fn lse(&self) -> T {
        self.max + self.log_sum
    }

    /// −log p.
    pub(super) fn surprisal(&self, u: T) -> T {
        self.log_sum + (self.max - u)
    }

    pub(super) fn prob(&self, u: T) -> T {
        (u - self.max).exp() / self.sum
    }

    /// −Σ p log p.
    pub(super) fn entropy(&self, u: &[T]) -> T {
        let mut sum = T::zero();
        for &u in u {
            sum += times(self.prob(u), self.surprisal(u));
        }
        sum
    }
}

/// Σ wq·(−log p).
pub(super) fn smoothed_sum<T: Real>(share: &[T], u: &[T], softmax: &Softmax<T>) -> T {
    let mut sum = T::zero();
    for (&share, &u) in share.iter().zip(u) {
        sum += times(share, softmax.surprisal(u));
    }
    sum
}

/// The number of classes that come before this one in a stable descending order.
pub(super) fn rank<T: Real>(u: &[T], target: usize) -> i64 {
    let before = |&(class, &score): &(usize, &T)| {
        score > u[target] || (score == u[target] && class < target)
    };
    u.iter().enumerate().filter(before).count() as i64
}
