//! Softmax cross-entropy as a textbook writes it (catalogue R1 to R6).

use super::{Real, array, extents, fits, floats, times};
use crate::{
    array::{Arithmetic, Array, Arrays},
    error::{Error, Result},
    loss::{
        CrossEntropy, Empty, Reduction, Shard,
        cross_entropy::{Denominator, Smoothing},
        shard,
    },
    row::STATE_WORDS,
};

const NAME: &str = "cross_entropy";

/// What `argmax` and `rank` are of a row that has none.
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

/// What is known of a row over all shards.
struct Merged<T> {
    max: T,
    sum: T,
    moment: T,
    /// Σ w q, and Σ w q·(u − max).
    coefficient: T,
    term: T,
    argmax: i64,
    /// The target's score.
    target: T,
    /// A class at −inf should have a share.
    infinite: bool,
    bad: bool,
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
    fn total(&self) -> T {
        if self.infinite { T::infinity() } else { self.coefficient * self.sum.ln() - self.term }
    }
}

/// A word that stands in a float.
fn word<T: Real>(value: T) -> i64 {
    i64::from((value.wide() as f32).to_bits())
}

fn compute<T: Real>(loss: &CrossEntropy, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let (rows, classes) = extents(NAME, inputs, "logits")?;
    let logits: Vec<T> = floats(inputs, "logits", &[rows, classes])?.unwrap_or_default();
    loss.check_targets(inputs.contains_key("targets"), inputs.contains_key("target_probs"))?;
    CrossEntropy::check_wanted(inputs.contains_key("target_probs"), wanted)?;
    let weights = inputs.get("weight").map(|weight| weight.len() as u64);
    loss.check_shard(&|name| inputs.contains_key(name), wanted, classes as u64, weights)?;
    let batch = Batch::read(loss, inputs, logits, [rows, classes])?;
    let solved = Solved::new(loss, &batch);
    wanted.iter().map(|&name| Ok((name.to_owned(), solved.output(name)?))).collect()
}

/// What the rows should be.
enum Targets<T> {
    Index(Vec<i64>),
    Probs(Vec<T>),
}

/// The numbers of one call, all in one type.
pub(super) struct Batch<T> {
    rows: usize,
    classes: usize,
    logits: Vec<T>,
    targets: Targets<T>,
    weight: Option<Vec<T>>,
    logit_bias: Option<Vec<T>>,
    row_weight: Option<Vec<T>>,
    upstream: Option<Vec<T>>,
    denominator: Option<T>,
    lse: Option<Vec<T>>,
    /// The rows as all shards together know them.
    merged: Option<Vec<Merged<T>>>,
}

impl<T: Real> Batch<T> {
    /// Reads every input but the logits; class weights go by another name in the linear layer.
    pub(super) fn read(
        loss: &CrossEntropy,
        inputs: &Arrays,
        logits: Vec<T>,
        [rows, classes]: [usize; 2],
    ) -> Result<Self> {
        let targets = read_targets(inputs, [rows, classes])?;
        let per_row = loss.reduction == Reduction::None
            && matches!(inputs.get("upstream"), Some(up) if up.len() != 1);
        let upstream = floats(inputs, "upstream", &[if per_row { rows } else { 1 }])?;
        let denominator = floats(inputs, "denominator", &[1])?;
        if denominator.is_some() && loss.reduction == Reduction::None {
            return Err(conflict("denominator", "reduction", "`none` divides by nothing"));
        }
        Ok(Self {
            rows,
            classes,
            logits,
            targets,
            weight: floats(inputs, "weight", &[loss.all_classes(classes as u64) as usize])?,
            logit_bias: floats(inputs, "logit_bias", &[classes])?,
            row_weight: floats(inputs, "row_weight", &[rows])?,
            upstream,
            denominator: denominator.and_then(|values| values.first().copied()),
            lse: floats(inputs, "lse", &[rows])?,
            merged: read_merged(inputs, rows)?,
        })
    }

    /// One element of a tensor that may be left out, and is 1 then.
    fn or_one(values: Option<&Vec<T>>, index: usize) -> T {
        values.map_or(T::one(), |values| values[index])
    }

    fn row_weight(&self, row: usize) -> T {
        Self::or_one(self.row_weight.as_ref(), row)
    }

    fn upstream(&self, row: usize) -> T {
        match &self.upstream {
            Some(values) if values.len() == 1 => values[0],
            values => Self::or_one(values.as_ref(), row),
        }
    }
}

fn read_targets<T: Real>(inputs: &Arrays, [rows, classes]: [usize; 2]) -> Result<Targets<T>> {
    if let Some(indices) = inputs.get("targets") {
        fits("targets", indices, &[rows])?;
        return Ok(Targets::Index(indices.to_i64()));
    }
    let probs = floats(inputs, "target_probs", &[rows, classes])?;
    Ok(Targets::Probs(probs.unwrap_or_default()))
}

/// The rows as all shards together know them, where their statistics are given.
fn read_merged<T: Real>(inputs: &Arrays, rows: usize) -> Result<Option<Vec<Merged<T>>>> {
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

fn conflict(argument: &str, other: &str, reason: &str) -> Error {
    Error::Conflict {
        loss: NAME.to_owned(),
        argument: argument.to_owned(),
        other: other.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What becomes of a row.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Its target is to be ignored: it does not exist.
    Ignored,
    /// Its target is no class: the loss is NaN, the gradient 0.
    BadTarget,
    /// Its logits have no softmax: loss and gradient are NaN.
    ///
    /// It is counted like any other row: what a mean divides by is known from the targets alone.
    BadLogits(Option<usize>),
    /// It counts. The target's class, if there is one.
    Kept(Option<usize>),
}

/// softmax(u) of a row: p = exp(u − max)/sum.
///
/// A given lse is a maximum with the sum 1. log p never goes through max + log sum, where a large
/// common offset would swallow the digits.
struct Softmax<T> {
    max: T,
    sum: T,
    log_sum: T,
}

impl<T: Real> Softmax<T> {
    fn of(u: &[T], lse: Option<T>) -> Self {
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

    fn lse(&self) -> T {
        self.max + self.log_sum
    }

    /// −log p.
    fn surprisal(&self, u: T) -> T {
        self.log_sum + (self.max - u)
    }

    fn prob(&self, u: T) -> T {
        (u - self.max).exp() / self.sum
    }

    /// −Σ p log p.
    fn entropy(&self, u: &[T]) -> T {
        let mut sum = T::zero();
        for &u in u {
            sum += times(self.prob(u), self.surprisal(u));
        }
        sum
    }
}

/// What is known of a row after the first pass. All 0 unless it is kept.
struct Row<T> {
    fate: Fate,
    loss: T,
    /// What it adds to the mean's denominator.
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
        // Numbers that describe logits without a softmax are NaN; those of rows not looked at are 0.
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

/// The factors of a row's gradient: ∂u = slope·p − scale·w∘q − pull·onehot(y).
struct Factors<T> {
    scale: T,
    pull: T,
    slope: T,
}

/// Σ over the rows.
struct Totals<T> {
    sum: T,
    denominator: T,
    count: i64,
    correct: i64,
}

/// A call after its first pass over the rows.
pub(super) struct Solved<'a, T> {
    loss: &'a CrossEntropy,
    batch: &'a Batch<T>,
    rows: Vec<Row<T>>,
    totals: Totals<T>,
}

impl<'a, T: Real> Solved<'a, T> {
    /// Makes the first pass.
    pub(super) fn new(loss: &'a CrossEntropy, batch: &'a Batch<T>) -> Self {
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

    /// A call of which no row has been seen yet.
    fn empty(loss: &'a CrossEntropy, batch: &'a Batch<T>) -> Self {
        let zero = T::zero();
        let totals = Totals { sum: zero, denominator: zero, count: 0, correct: 0 };
        Self { loss, batch, rows: Vec::with_capacity(batch.rows), totals }
    }

    fn push(&mut self, row: Row<T>) {
        self.totals.sum += row.loss;
        self.totals.denominator += row.share;
        self.totals.count += i64::from(matches!(row.fate, Fate::Kept(_) | Fate::BadLogits(_)));
        self.totals.correct += i64::from(row.correct);
        self.rows.push(row);
    }

    /// What is known of a row in one shard, beside its statistics.
    fn part(&self, index: usize) -> Row<T> {
        match self.target_fate(index) {
            Err(fate) => Row::dropped(fate),
            Ok(target) => {
                Row { share: self.share(index, target), ..Row::dropped(Fate::Kept(target)) }
            }
        }
    }

    /// A row from the merged statistics of its shards.
    fn close(&self, index: usize, merged: &Merged<T>) -> Row<T> {
        let fate = match self.target_fate(index) {
            Err(fate) => fate,
            Ok(target) if merged.bad => Fate::BadLogits(target),
            Ok(target) => Fate::Kept(target),
        };
        let target = match fate {
            Fate::Kept(target) => target,
            Fate::BadLogits(target) => {
                return Row { share: self.share(index, target), ..Row::dropped(fate) };
            }
            Fate::Ignored | Fate::BadTarget => return Row::dropped(fate),
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
            log_prob: -surprisal,
            entropy: log_sum - merged.moment / merged.sum,
            max_prob: T::one() / merged.sum,
            argmax: merged.argmax,
            rank: NO_CLASS,
            correct: target.map(|class| class as i64) == Some(merged.argmax),
        }
    }

    /// max, Σ exp, Σ exp·(u − max), Σ w q, Σ w q·(u − max), argmax, the target's u, flags.
    fn statistics(&self, row: usize) -> [T; 8] {
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

    /// The gradient of the logits, row by row.
    pub(super) fn gradient(&self) -> Vec<T> {
        (0..self.batch.rows).flat_map(|row| self.backward(row)).collect()
    }

    /// One output, by its name.
    pub(super) fn output(&self, name: &str) -> Result<Array> {
        let Batch { rows, classes, .. } = *self.batch;
        Ok(match name {
            "loss" if self.loss.reduction == Reduction::None => self.each(|row| row.loss),
            "loss" => array(&[1], [self.reduced()]),
            "grad.logits" => array(&[rows, classes], self.gradient()),
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
            _ => return Err(no_output(name)),
        })
    }

    fn each(&self, value: impl Fn(&Row<T>) -> T) -> Array {
        array(&[self.rows.len()], self.rows.iter().map(value))
    }

    fn each_int(&self, value: impl Fn(&Row<T>) -> i64) -> Array {
        Array::int(&[self.rows.len() as u64], self.rows.iter().map(value).collect())
    }

    /// u = (cap·tanh(z/cap) + bias)/τ of a row. `-inf` masks a class, with a cap too; a logit that
    /// is +inf is none, and the cap must not hide that.
    fn scores(&self, row: usize) -> Vec<T> {
        let tau = T::of(self.loss.temperature);
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

    /// The target's class, over all shards, if the row has one; or what becomes of the row without a
    /// look at it.
    fn target_fate(&self, row: usize) -> Result<Option<usize>, Fate> {
        let Targets::Index(targets) = &self.batch.targets else { return Ok(None) };
        let target = targets[row];
        if self.loss.ignore_index.as_slice().contains(&target) {
            return Err(Fate::Ignored);
        }
        match usize::try_from(target) {
            Ok(class) if class < self.all_classes() => Ok(Some(class)),
            _ => Err(Fate::BadTarget),
        }
    }

    fn all_classes(&self) -> usize {
        self.loss.all_classes(self.batch.classes as u64) as usize
    }

    /// The first class here.
    fn first(&self) -> usize {
        self.loss.shard.map_or(0, |Shard { first, .. }| first as usize)
    }

    /// Which column a class is, if it is one of them.
    fn own(&self, class: usize) -> Option<usize> {
        class.checked_sub(self.first()).filter(|&column| column < self.batch.classes)
    }

    fn fate(&self, row: usize, u: &[T]) -> Fate {
        let target = match self.target_fate(row) {
            Ok(target) => target,
            Err(fate) => return fate,
        };
        let no_softmax = |&u: &T| u.is_nan() || u == T::infinity();
        // The other classes of a shard that is all -inf lie elsewhere.
        let none = self.loss.shard.is_none() && u.iter().all(|&u| u == T::neg_infinity());
        if u.iter().any(no_softmax) || none {
            return Fate::BadLogits(target);
        }
        Fate::Kept(target)
    }

    /// w∘q of a row, the label smoothing in q.
    fn weighted_target(&self, row: usize, target: Option<usize>) -> Vec<T> {
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
                *q = times(*q, weight);
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
                return Row { share: self.share(index, target), ..Row::dropped(fate) };
            }
            Fate::Ignored | Fate::BadTarget => return Row::dropped(fate),
        };
        let softmax = self.softmax(index, &u);
        let argmax = argmax(&u);
        Row {
            fate,
            loss: self.row_loss(index, target, &u, &softmax),
            share: self.share(index, target),
            lse: softmax.lse(),
            log_prob: target.map_or(T::zero(), |class| -softmax.surprisal(u[class])),
            entropy: softmax.entropy(&u),
            max_prob: softmax.prob(u[argmax]),
            argmax: argmax as i64,
            rank: target.map_or(NO_CLASS, |class| rank(&u, class)),
            correct: target == Some(argmax),
        }
    }

    /// `row_weight·((1 − p_y)^γ·Σ w q (−log p) + λ·lse²)`.
    fn row_loss(&self, row: usize, target: Option<usize>, u: &[T], softmax: &Softmax<T>) -> T {
        let smoothed = smoothed_sum(&self.weighted_target(row, target), u, softmax);
        let mut loss = match self.focal(target, u, softmax) {
            // A class at -inf that should have a share makes the loss +inf, whatever scales it.
            Some((scale, _)) if !smoothed.is_infinite() => scale * smoothed,
            _ => smoothed,
        };
        if self.loss.z_loss != 0.0 {
            loss += T::of(self.loss.z_loss) * softmax.lse().powi(2);
        }
        times(self.batch.row_weight(row), loss)
    }

    /// `(1 − p_y)^γ`, and `γ·(1 − p_y)^(γ−1)·p_y` with its limit 0 at both ends; none if γ = 0.
    ///
    /// At `p_y = 1` the second one may grow without bound, but what it multiplies vanishes faster.
    fn focal(&self, target: Option<usize>, u: &[T], softmax: &Softmax<T>) -> Option<(T, T)> {
        self.focal_at(target, softmax.surprisal(u[target?]))
    }

    /// The same from the target's −log p.
    fn focal_at(&self, target: Option<usize>, surprisal: T) -> Option<(T, T)> {
        target.filter(|_| self.loss.focal_gamma != 0.0)?;
        let gamma = T::of(self.loss.focal_gamma);
        let log_prob = -surprisal;
        // Rounding, or a given lse, can put p_y a little above 1.
        let rest = (-log_prob.exp_m1()).max(T::zero());
        let prob = log_prob.exp();
        let pull = if prob.is_zero() || rest.is_zero() {
            T::zero()
        } else {
            gamma * rest.powf(gamma - T::one()) * prob
        };
        Some((rest.powf(gamma), pull))
    }

    /// What a kept row adds to the mean's denominator.
    fn share(&self, row: usize, target: Option<usize>) -> T {
        let class_weight =
            target.map_or(T::one(), |class| Batch::or_one(self.batch.weight.as_ref(), class));
        match self.loss.denominator {
            Denominator::Targets => class_weight,
            Denominator::Weights => self.batch.row_weight(row) * class_weight,
        }
    }

    /// What the sum is divided by: 1 where it is not.
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

    /// The sum divided by this; nothing over nothing is what the caller says it is.
    fn mean(&self, denominator: T) -> T {
        let sum = self.totals.sum;
        match self.loss.empty {
            _ if sum.is_nan() => sum,
            Empty::Nan if denominator.is_zero() => T::nan(),
            Empty::Zero if denominator.is_zero() => T::zero(),
            _ => sum / denominator,
        }
    }

    /// `f = row_weight·upstream/denominator`, 0 for a row that has no gradient.
    fn factor(&self, row: usize) -> T {
        let divisor = self.divisor();
        let dropped = matches!(self.rows[row].fate, Fate::Ignored | Fate::BadTarget);
        if dropped || divisor.is_zero() {
            return T::zero();
        }
        times(self.batch.row_weight(row), self.batch.upstream(row)) / divisor
    }

    /// ∂z of a row: the second pass.
    fn backward(&self, row: usize) -> Vec<T> {
        let classes = self.batch.classes;
        let factor = self.factor(row);
        let target = match self.rows[row].fate {
            Fate::Kept(target) if !factor.is_zero() => target,
            Fate::BadLogits(_) if !factor.is_zero() => return vec![T::nan(); classes],
            _ => return vec![T::zero(); classes],
        };
        let u = self.scores(row);
        let softmax = self.softmax(row, &u);
        let share = self.weighted_target(row, target);
        let Factors { scale, pull, slope } = self.factors(row, target, &u, &softmax, &share);
        let logits = self.logits(row);
        let partial = |class: usize| {
            let mut partial = slope * softmax.prob(u[class]) - scale * share[class];
            if target == Some(class + self.first()) {
                partial = partial - pull;
            }
            factor * partial * self.chain(logits[class])
        };
        (0..classes).map(partial).collect()
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
            // A shard holds a part of the target distribution.
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
                // +inf by a class at -inf: the gradient keeps its finite part.
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
        slope / T::of(self.loss.temperature)
    }

    /// ∂q = −f·(1 − ε)·w∘log p.
    fn target_gradient(&self) -> Vec<T> {
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
            let weight = Batch::or_one(self.batch.weight.as_ref(), class);
            times(factor * weight, softmax.surprisal(u))
        };
        u.iter().enumerate().map(partial).collect()
    }
}

/// Σ wq·(−log p).
fn smoothed_sum<T: Real>(share: &[T], u: &[T], softmax: &Softmax<T>) -> T {
    let mut sum = T::zero();
    for (&share, &u) in share.iter().zip(u) {
        sum += times(share, softmax.surprisal(u));
    }
    sum
}

/// The class with the largest score, the lowest one on a tie.
fn argmax<T: Real>(u: &[T]) -> usize {
    (1..u.len()).fold(0, |best, class| if u[class] > u[best] { class } else { best })
}

/// How many classes come before this one in a stable descending order.
fn rank<T: Real>(u: &[T], target: usize) -> i64 {
    let before = |&(class, &score): &(usize, &T)| {
        score > u[target] || (score == u[target] && class < target)
    };
    u.iter().enumerate().filter(before).count() as i64
}

fn no_output(name: &str) -> Error {
    Error::UnknownName {
        loss: NAME.to_owned(),
        kind: "output",
        name: name.to_owned(),
        known: "all but statistics and status, which only a GPU has".to_owned(),
    }
}
