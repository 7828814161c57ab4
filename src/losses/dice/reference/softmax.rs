//! The reference of Dice over the classes of a softmax: every probability is stored, and the gradient is the product of
//! the slopes with the softmax's derivatives.

use super::{Parts, Scores, mask};
use crate::{
    data::{
        array::{Array, Arrays},
        error::{Error, Result},
    },
    losses::{Dice, DiceClassWeight, dice::Per},
    reference::{Findings, Real, array, factor, fits, times},
};

/// A pixel.
enum Pixel<T> {
    /// It counts for nothing: ignored or masked.
    Left,
    /// Its target is no class.
    BadTarget,
    /// Its scores have no softmax.
    BadScores,
    /// Its target, and the softmax.
    Kept { label: usize, p: Vec<T>, cross_entropy: T },
}

/// The pixels of a call, and what each of them weighs.
struct Image<'a, T> {
    loss: &'a Dice,
    classes: usize,
    targets: Vec<i64>,
    mask: Vec<T>,
    pixels: Vec<Pixel<T>>,
}

/// The sums of a class: Σ m·p·t, Σ m·p and Σ t.
struct Sums<T> {
    both: T,
    p: T,
    t: T,
}

/// What the gradient needs of a class: its loss, and the derivatives with respect to m·p, and to m·p where the class is
/// met.
struct Class<T> {
    loss: T,
    slope: T,
    met: T,
}

/// Computes every output in `wanted`.
pub(super) fn compute<T: Real>(
    loss: &Dice,
    inputs: &Arrays,
    scores: &Scores<T>,
    wanted: &[&str],
) -> Result<Arrays> {
    let &Scores { rows, classes, .. } = scores;
    let image = Image::new(loss, inputs, scores)?;
    let sums: Vec<Sums<T>> = (0..classes).map(|class| image.sums(class)).collect();
    let joint = loss.per == Per::Batch;
    let solved: Vec<Class<T>> = match joint {
        _ if rows == 0 => Vec::new(),
        true => image.joint(&sums),
        false => sums.iter().map(|sums| image.coefficient(sums)).collect(),
    };
    let count = if joint { 1 } else { classes };
    let parts = Parts::new(loss, inputs, solved.iter().take(count).map(|class| class.loss))?;
    let output = |name: &str| {
        Ok(match name {
            "grad.logits" => {
                let factors: Vec<T> = parts.factors().collect();
                array(&[rows, classes], image.gradient(&solved, &factors))
            }
            "status" => image.status(),
            _ => parts.output(name)?,
        })
    };
    wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
}

impl<'a, T: Real> Image<'a, T> {
    fn new(loss: &'a Dice, inputs: &Arrays, scores: &Scores<T>) -> Result<Self> {
        let targets = targets(inputs, scores.rows)?;
        // The mask has one value a pixel.
        let mask: Vec<T> = mask(inputs, scores.rows, 1)?;
        let pixel = |row: usize| pixel(loss, scores, row, targets[row], mask[row]);
        let pixels = (0..scores.rows).map(pixel).collect();
        Ok(Self { loss, classes: scores.classes, targets, mask, pixels })
    }

    /// The pixels that count: row, target, softmax, mask, cross-entropy.
    fn kept(&self) -> impl Iterator<Item = (usize, usize, &[T], T, T)> {
        let pixels = self.pixels.iter().zip(&self.mask).enumerate();
        pixels.filter_map(|(row, (pixel, &m))| match pixel {
            Pixel::Kept { label, p, cross_entropy } => {
                Some((row, *label, p.as_slice(), m, *cross_entropy))
            }
            _ => None,
        })
    }

    /// What a mean over the pixels divides by.
    fn weight(&self) -> T {
        self.kept().fold(T::zero(), |sum, (_, _, _, m, _)| sum + m)
    }

    fn cross_entropy(&self) -> T {
        let sum = self.kept().fold(T::zero(), |sum, (_, _, _, m, own)| sum + times(m, own));
        let weight = self.weight();
        if weight.is_zero() { T::zero() } else { sum / weight }
    }

    fn sums(&self, class: usize) -> Sums<T> {
        let mut sums = Sums { both: T::zero(), p: T::zero(), t: T::zero() };
        for (_, label, p, m, _) in self.kept() {
            let t = if label == class { m } else { T::zero() };
            sums.both += m * p[class] * t;
            sums.p += m * p[class];
            sums.t += t;
        }
        sums
    }

    fn coefficient(&self, &Sums { both, p, t }: &Sums<T>) -> Class<T> {
        let is_bad = |pixel: &Pixel<T>| matches!(pixel, Pixel::BadTarget | Pixel::BadScores);
        if self.pixels.iter().any(is_bad) {
            return Class { loss: T::nan(), slope: T::nan(), met: T::nan() };
        }
        let (two, smooth) = (T::of(2.0), T::of(self.loss.smooth));
        let whole = p + t + smooth;
        let more = times(T::of(self.loss.cross_entropy_weight), self.cross_entropy());
        if whole.is_zero() {
            return Class { loss: more, slope: T::zero(), met: T::zero() };
        }
        Class {
            loss: (p + t - two * both) / whole + more,
            slope: (two * both + smooth) / whole / whole,
            met: -two / whole,
        }
    }

    /// One coefficient, as the slopes of each class in it.
    fn joint(&self, sums: &[Sums<T>]) -> Vec<Class<T>> {
        let own = |sums: &Sums<T>| match self.loss.class_weight {
            DiceClassWeight::Uniform => Some(T::one()),
            DiceClassWeight::InverseSquare if sums.t.is_zero() => None,
            DiceClassWeight::InverseSquare => Some(sums.t.max(T::of(1.0 / 1024.0)).powi(-2)),
        };
        let largest = sums.iter().filter_map(own).fold(T::zero(), T::max);
        let weights: Vec<T> = sums.iter().map(|sums| own(sums).unwrap_or(largest)).collect();
        let mut all = Sums { both: T::zero(), p: T::zero(), t: T::zero() };
        for (sums, &weight) in sums.iter().zip(&weights) {
            all.both += weight * sums.both;
            all.p += weight * sums.p;
            all.t += weight * sums.t;
        }
        let Class { loss, slope, met } = self.coefficient(&all);
        let of = |weight: &T| Class { loss, slope: *weight * slope, met: *weight * met };
        weights.iter().map(of).collect()
    }

    fn gradient(&self, solved: &[Class<T>], factors: &[T]) -> Vec<T> {
        let classes = self.classes;
        let mut gradient = vec![T::zero(); self.pixels.len() * classes];
        if factors.iter().all(T::is_zero) {
            return gradient;
        }
        for (pixel, own) in self.pixels.iter().zip(gradient.chunks_mut(classes.max(1))) {
            if matches!(pixel, Pixel::BadScores) {
                own.fill(T::nan());
            }
        }
        let all = factors.iter().fold(T::zero(), |sum, &factor| sum + factor);
        let share = T::of(self.loss.cross_entropy_weight) * all;
        let weight = self.weight();
        for (row, label, p, m, _) in self.kept() {
            let of = |c: usize, value: T| if c == label { value } else { T::zero() };
            let slope = |c: usize| {
                let own = solved[c].slope + of(c, m * solved[c].met);
                // One coefficient over all classes has one factor.
                let factor = factors[c.min(factors.len() - 1)];
                if factor.is_zero() { T::zero() } else { m * (factor * own) }
            };
            let slopes: Vec<T> = (0..classes).map(slope).collect();
            let inner = (0..classes).fold(T::zero(), |sum, c| sum + times(p[c], slopes[c]));
            let pull = times(share, factor(m, weight));
            for (c, g) in gradient[row * classes..(row + 1) * classes].iter_mut().enumerate() {
                *g = times(p[c], slopes[c] - inner) + pull * (p[c] - of(c, T::one()));
            }
        }
        gradient
    }

    fn status(&self) -> Array {
        let mut found = Findings::of_rows();
        for (row, pixel) in self.pixels.iter().enumerate() {
            match pixel {
                Pixel::BadTarget => found.bad_target(row, self.targets[row]),
                Pixel::BadScores => found.bad_row(),
                Pixel::Left | Pixel::Kept { .. } => {}
            }
        }
        found.words()
    }
}

/// The class indices.
fn targets(inputs: &Arrays, rows: usize) -> Result<Vec<i64>> {
    let targets = inputs.get("targets").ok_or_else(|| Error::MissingInput {
        operation: super::NAME.into(),
        argument: "targets".into(),
        reason: "it is always needed".into(),
    })?;
    fits("targets", targets, &[rows])?;
    Ok(Array::to_i64(targets))
}

fn pixel<T: Real>(loss: &Dice, scores: &Scores<T>, row: usize, target: i64, mask: T) -> Pixel<T> {
    if loss.ignore_index.as_slice().contains(&target) {
        return Pixel::Left;
    }
    let Some(label) = usize::try_from(target).ok().filter(|&label| label < scores.classes) else {
        return Pixel::BadTarget;
    };
    if mask.is_zero() {
        return Pixel::Left;
    }
    let z = &scores.values[row * scores.classes..(row + 1) * scores.classes];
    let top = z.iter().copied().fold(T::neg_infinity(), T::max);
    if z.iter().any(|z| z.is_nan()) || !top.is_finite() || mask.is_nan() {
        return Pixel::BadScores;
    }
    let sum = z.iter().fold(T::zero(), |sum, &z| sum + (z - top).exp());
    // Without smoothing, a probability is 0 only at −∞: the quotient of two sums that would both underflow stays right.
    let never_zero = |z: T| loss.smooth == 0.0 && z > T::neg_infinity();
    let probability = |&z: &T| {
        let p = (z - top).exp() / sum;
        if never_zero(z) { p.max(T::min_positive_value()) } else { p }
    };
    let cross_entropy = sum.ln() + (top - z[label]);
    Pixel::Kept { label, p: z.iter().map(probability).collect(), cross_entropy }
}
