//! The f64 reference of Dice, as a textbook writes it: from three sums of each row.

mod softmax;

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::Result,
    },
    losses::{Dice, DiceActivation, dice::Per},
    reference::{Findings, Real, array, extents, factor, floats, no_output, row_factor, times},
    skeleton::element::reference::{sigmoid, softplus},
    spec::{
        about::Signature as _,
        options::{Empty, Reduction},
    },
};

const NAME: &str = "dice";

/// Computes every output in `wanted`.
pub(crate) fn run(
    loss: &Dice,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<f32>(loss, inputs, wanted),
    }
}

fn compute<T: Real>(loss: &Dice, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let (rows, columns) = extents(NAME, inputs, "logits")?;
    let logits: Vec<T> = floats(inputs, "logits", &[rows, columns])?.unwrap_or_default();
    if loss.activation == DiceActivation::Softmax {
        let scores = Scores { values: logits, rows, classes: columns };
        return softmax::compute(loss, inputs, &scores, wanted);
    }
    let targets: Vec<T> = floats(inputs, "targets", &[rows, columns])?.unwrap_or_default();
    // The elements of each coefficient.
    let groups: Vec<Vec<usize>> = match loss.per {
        Per::Row => (0..rows).map(|row| (row * columns..(row + 1) * columns).collect()).collect(),
        Per::Channel if rows == 0 => Vec::new(),
        Per::Channel => (0..columns)
            .map(|column| (0..rows).map(|row| row * columns + column).collect())
            .collect(),
        Per::Batch => (0..rows.min(1)).map(|_| (0..rows * columns).collect()).collect(),
    };
    let of = |values: &[T], group: &[usize]| -> Vec<T> {
        group.iter().filter_map(|&at| values.get(at).copied()).collect()
    };
    let mask: Vec<T> = mask(inputs, rows, columns)?;
    let ignored: Vec<T> =
        loss.ignore_index.as_slice().iter().map(|&i| T::of(f64::from(i as f32))).collect();
    let counts = |&at: &usize| !mask[at].is_zero() && !ignored.contains(&targets[at]);
    let solve = |group: &Vec<usize>| {
        // What is masked or ignored is not there: its elements are not read.
        let kept: Vec<usize> = group.iter().copied().filter(counts).collect();
        let (loss, slopes) =
            part(loss, &of(&logits, &kept), &of(&targets, &kept), &of(&mask, &kept));
        (loss, kept, slopes)
    };
    let solved: Vec<(T, Vec<usize>, Vec<T>)> = groups.iter().map(solve).collect();
    let parts = Parts::new(loss, inputs, solved.iter().map(|(loss, ..)| *loss))?;
    let gradient = || {
        let mut gradient = vec![T::zero(); rows * columns];
        for (factor, (_, kept, slopes)) in parts.factors().zip(&solved) {
            for (&at, &slope) in kept.iter().zip(slopes) {
                gradient[at] = if factor.is_zero() { T::zero() } else { factor * slope };
            }
        }
        gradient
    };
    let status = || {
        let mut found = Findings::of_rows();
        parts.losses.iter().filter(|loss| loss.is_nan()).for_each(|_| found.bad_row());
        found.words()
    };
    let output = |name: &str| {
        Ok(match name {
            "grad.logits" => array(&[rows, columns], gradient()),
            "status" => status(),
            _ => parts.output(name)?,
        })
    };
    wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
}

/// The logits of a softmax.
struct Scores<T> {
    values: Vec<T>,
    rows: usize,
    classes: usize,
}

/// The losses of all coefficients, and how they become one number.
struct Parts<'a, T> {
    loss: &'a Dice,
    weights: Vec<T>,
    upstream: Vec<T>,
    losses: Vec<T>,
    sum: T,
    divisor: T,
}

impl<'a, T: Real> Parts<'a, T> {
    /// From the losses before their weights.
    fn new(loss: &'a Dice, inputs: &Arrays, losses: impl Iterator<Item = T>) -> Result<Self> {
        let losses: Vec<T> = losses.collect();
        let each = |name: &str| -> Result<Vec<T>> {
            let given = inputs.get(name).map_or(0, Array::len);
            let values = floats(inputs, name, &[given])?.unwrap_or_default();
            let value = |part: usize| values.get(part).or_else(|| values.first()).copied();
            Ok((0..losses.len()).map(|part| value(part).unwrap_or(T::one())).collect())
        };
        let (weights, upstream) = (each("row_weight")?, each("upstream")?);
        // The loss of a coefficient with weight 0 is 0, even if an element is NaN.
        let weigh = |(&loss, &weight): (&T, &T)| {
            if weight.is_zero() { T::zero() } else { times(weight, loss) }
        };
        let losses: Vec<T> = losses.iter().zip(&weights).map(weigh).collect();
        let mut sum = T::zero();
        for &loss in &losses {
            sum += loss;
        }
        let own = match loss.parts_reduction() {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => T::of(losses.len() as f64),
            Reduction::Over(d) => T::of(d),
        };
        let given: Option<Vec<T>> = floats(inputs, "denominator", &[1])?;
        let divisor = given.and_then(|values| values.first().copied()).unwrap_or(own);
        Ok(Self { loss, weights, upstream, losses, sum, divisor })
    }

    /// What multiplies the slopes of each coefficient.
    fn factors(&self) -> impl Iterator<Item = T> {
        let above = self.weights.iter().zip(&self.upstream);
        above.map(|(&weight, &upstream)| row_factor(weight, upstream, self.divisor))
    }

    fn output(&self, name: &str) -> Result<Array> {
        let Self { loss, losses, sum, divisor, .. } = self;
        let (sum, divisor) = (*sum, *divisor);
        Ok(match name {
            "loss" if loss.parts_reduction() == Reduction::None => {
                array(&[losses.len()], losses.iter().copied())
            }
            "loss" if divisor.is_zero() && !sum.is_nan() => {
                array(&[1], [if loss.empty == Empty::Zero { T::zero() } else { T::nan() }])
            }
            "loss" => array(&[1], [sum / divisor]),
            "sum" => array(&[1], [sum]),
            "denominator" => array(&[1], [T::of(losses.len() as f64)]),
            "count" => Array::int(&[1], vec![losses.len() as i64]),
            _ => return Err(no_output(loss.about(), name)),
        })
    }
}

/// The mask of each element: 1 without one. A mask of one value a row is the same for all columns.
fn mask<T: Real>(inputs: &Arrays, rows: usize, columns: usize) -> Result<Vec<T>> {
    let own = match inputs.get("mask") {
        None => return Ok(vec![T::one(); rows * columns]),
        Some(mask) if mask.shape.last() == Some(&1) => 1,
        Some(_) => columns,
    };
    let values: Vec<T> = floats(inputs, "mask", &[rows, own])?.unwrap_or_default();
    Ok(values.iter().flat_map(|&value| vec![value; columns / own.max(1)]).collect())
}

/// sigmoid(z). Without smoothing it is 0 only at −∞: the quotient of two sums that would both underflow then stays
/// right.
fn probability<T: Real>(loss: &Dice, z: T) -> T {
    let never_zero = loss.smooth == 0.0 && z > T::neg_infinity();
    if never_zero { sigmoid(z).max(T::min_positive_value()) } else { sigmoid(z) }
}

/// The loss of one coefficient, and its gradient, from its elements whose mask `m` is not 0.
fn part<T: Real>(loss: &Dice, z: &[T], y: &[T], m: &[T]) -> (T, Vec<T>) {
    let finite = |values: &[T]| values.iter().all(|value| value.is_finite());
    if z.iter().any(|z| z.is_nan()) || !finite(y) || !finite(m) {
        return (T::nan(), vec![T::nan(); z.len()]);
    }
    let (one, two) = (T::one(), T::of(2.0));
    let (mut both, mut p_sum, mut t_sum) = (T::zero(), T::zero(), T::zero());
    let (mut bce, mut mask) = (T::zero(), T::zero());
    let elements = || z.iter().zip(y).zip(m).map(|((&z, &y), &m)| (z, y, m));
    for (z, y, m) in elements() {
        let (p, t) = (m * probability(loss, z), m * y);
        both += p * t;
        p_sum += p;
        t_sum += t;
        mask += m;
        if loss.bce > 0.0 {
            bce += m * (times(y, softplus(-z)) + times(one - y, softplus(z)));
        }
    }
    let smooth = T::of(loss.smooth);
    let whole = p_sum + t_sum + smooth;
    let empty = whole.is_zero();
    let share = factor(T::of(loss.bce), mask);
    let alike = if empty { one } else { (two * both + smooth) / whole };
    let slope = |(z, y, m): (T, T, T)| {
        let (p, q) = (probability(loss, z), sigmoid(-z));
        let dice = if empty { T::zero() } else { p * q * (alike - two * m * y) / whole };
        m * (dice + share * ((one - y) * p - y * q))
    };
    let slopes = elements().map(slope).collect();
    // One minus the quotient would lose all its digits to rounding beside a large smoothing.
    let apart = p_sum + t_sum - two * both;
    let dice = if empty { T::zero() } else { apart / whole };
    (dice + times(share, bce), slopes)
}
