//! Shards of the classes: the statistics of their rows, and rows merged from all shards.

use super::{Fate, NAME, NO_CLASS, Row, Solved, batch::Targets};
use crate::{
    data::{array::Arrays, error::Result},
    reference::{Real, extents, floats, times},
    spec::shard::{self, STATE_WORDS},
};

/// The merged state of a row over all shards.
pub(super) struct Merged<T> {
    pub(super) max: T,
    pub(super) sum: T,
    pub(super) moment: T,
    /// Σ w q, and Σ w q·(u − max).
    pub(super) coefficient: T,
    pub(super) term: T,
    pub(super) argmax: i64,
    /// The score of the target.
    pub(super) target: T,
    /// Whether a class at −inf has a share.
    pub(super) infinite: bool,
    pub(super) bad: bool,
}

impl<T: Real> Merged<T> {
    fn of<'a>(parts: impl Iterator<Item = &'a [T]> + Clone) -> Self {
        let live = |part: &&[T]| part[1] > T::zero();
        let maxima = parts.clone().filter(live).map(|part| part[0]);
        let max = maxima.fold(T::neg_infinity(), T::max);
        let zero = T::zero();
        let mut merged = Self {
            max,
            sum: zero,
            moment: zero,
            coefficient: zero,
            term: zero,
            argmax: NO_CLASS,
            target: T::neg_infinity(),
            infinite: false,
            bad: max == T::neg_infinity(),
        };
        for part in parts {
            let flags = word(part[7]);
            merged.bad |= flags & 2 != 0;
            merged.infinite |= flags & 4 != 0;
            merged.coefficient += part[3];
            if flags != 0 && !part[6].is_nan() && part[6] > T::of(f64::from(f32::MIN)) {
                merged.target = part[6];
            }
            if live(&part) {
                let factor = (part[0] - max).exp();
                merged.sum += factor * part[1];
                merged.moment += factor * (part[2] + part[1] * (part[0] - max));
                merged.term += part[4] + part[3] * (part[0] - max);
                if part[0] == max {
                    merged.argmax = merged.argmax.min(word(part[5]));
                }
            }
        }
        merged
    }

    /// Σ w q·(lse − u).
    pub(super) fn total(&self) -> T {
        if self.infinite { T::infinity() } else { self.coefficient * self.sum.ln() - self.term }
    }
}

/// The word whose bits are stored in a float.
fn word<T: Real>(value: T) -> i64 {
    i64::from((value.wide() as f32).to_bits())
}

/// The rows merged from the statistics of all shards, if these are given.
pub(super) fn read_merged<T: Real>(inputs: &Arrays, rows: usize) -> Result<Option<Vec<Merged<T>>>> {
    if !inputs.contains_key("statistics") {
        return Ok(None);
    }
    let (found, _) = extents(NAME, inputs, "statistics")?;
    let words = STATE_WORDS as usize;
    let statistics: Vec<T> = floats(inputs, "statistics", &[found, words])?.unwrap_or_default();
    let shards = shard::gathered(found as u64, rows as u64)? as usize;
    let part = |row: usize, shard: usize| {
        let at = (shard * rows + row) * words;
        &statistics[at..at + words]
    };
    let merged = |row: usize| Merged::of((0..shards).map(move |shard| part(row, shard)));
    Ok(Some((0..rows).map(merged).collect()))
}

impl<T: Real> Solved<'_, T> {
    /// The results of a row in one shard, beside its statistics.
    pub(super) fn part(&self, index: usize) -> Row<T> {
        let fate = self.fate(index, &self.scores(index));
        match fate {
            Fate::Kept(target) | Fate::BadLogits(target) => {
                Row { share: self.share(index, target), ..Row::dropped(fate) }
            }
            Fate::Ignored | Fate::BadTarget(_) => Row::dropped(fate),
        }
    }

    /// A row from the merged statistics of its shards.
    pub(super) fn close(&self, index: usize, merged: &Merged<T>) -> Row<T> {
        let fate = match self.target_fate(index) {
            Err(fate) => fate,
            Ok(target) if merged.bad => Fate::BadLogits(target),
            Ok(target) => Fate::Kept(target),
        };
        let target = match fate {
            Fate::Kept(target) => target,
            Fate::BadLogits(target) => {
                return self.without_softmax(index, target);
            }
            Fate::Ignored | Fate::BadTarget(_) => return Row::dropped(fate),
        };
        let log_sum = merged.sum.ln();
        let lse = merged.max + log_sum;
        let surprisal = log_sum + (merged.max - merged.target);
        let scale = self.focal_at(target, surprisal).map_or(T::one(), |(scale, _)| scale);
        let total = merged.total();
        let mut loss = if total.is_infinite() { total } else { scale * total };
        if self.loss.z_loss != 0.0 {
            loss += T::of(self.loss.z_loss) * lse.powi(2);
        }
        Row {
            fate,
            loss: times(self.batch.row_weight(index), loss),
            share: self.share(index, target),
            lse,
            log_prob: match self.batch.targets {
                Targets::Several(_) => -total,
                _ => -surprisal,
            },
            entropy: log_sum - merged.moment / merged.sum,
            max_prob: T::one() / merged.sum,
            argmax: merged.argmax,
            rank: NO_CLASS,
            correct: target.map(|class| class as i64) == Some(merged.argmax),
        }
    }

    /// max, Σ exp, Σ exp·(u − max), Σ w q, Σ w q·(u − max), argmax, the target's u, flags.
    pub(super) fn statistics(&self, row: usize) -> [T; 8] {
        let bits = |word: u32| T::of(f64::from(f32::from_bits(word)));
        let zero = T::zero();
        let Ok(target) = self.target_fate(row) else {
            return [
                T::of(f64::from(f32::MIN)),
                zero,
                zero,
                zero,
                zero,
                bits(u32::MAX),
                bits(u32::MAX),
                zero,
            ];
        };
        let u = self.scores(row);
        let bad = u.iter().any(|u| u.is_nan() || *u == T::infinity());
        let finite = |u: &&T| u.is_finite();
        let live = u.iter().filter(finite).count() > 0;
        let max = u.iter().filter(finite).fold(T::of(f64::from(f32::MIN)), |max, &u| max.max(u));
        let (mut sum, mut moment) = (zero, zero);
        for &u in u.iter().filter(finite) {
            sum += (u - max).exp();
            moment += (u - max).exp() * (u - max);
        }
        let (mut coefficient, mut term, mut infinite) = (zero, zero, false);
        for (&share, &u) in self.weighted_target(row, target).iter().zip(&u) {
            coefficient += share;
            term += if u.is_finite() { share * (u - max) } else { zero };
            infinite |= u == T::neg_infinity() && !share.is_zero();
        }
        let here = target.and_then(|class| self.own(class)).map(|class| u[class]);
        let first = self.loss.shard.map_or(0, |shard| shard.first as u32);
        let argmax = u.iter().position(|&u| u == max).map_or(u32::MAX, |at| first + at as u32);
        let flags = u32::from(live) | u32::from(bad) << 1 | u32::from(infinite) << 2;
        let lowest = T::of(f64::from(f32::MIN));
        let here = here.map_or_else(|| bits(u32::MAX), |u| u.max(lowest));
        [max, sum, moment, coefficient, term, bits(argmax), here, bits(flags)]
    }
}
