//! The distributions of classes, in integers: from random words to a class. The kernels have the same in
//! `shaders/random/draw.wgsl`.

use crate::{
    data::error::{Error, Result},
    reference::philox::words,
};

/// 2^(2^−k) for k from 1 on, times 2^31.
const ROOTS: [u32; 27] = [
    0xb504_f334,
    0x9837_f052,
    0x8b95_c1e4,
    0x85aa_c368,
    0x82cd_8699,
    0x8164_d1f4,
    0x80b1_ed50,
    0x8058_d7d3,
    0x802c_6437,
    0x8016_302f,
    0x800b_179d,
    0x8005_8baf,
    0x8002_c5d0,
    0x8001_62e6,
    0x8000_b173,
    0x8000_58b9,
    0x8000_2c5d,
    0x8000_162e,
    0x8000_0b17,
    0x8000_058c,
    0x8000_02c6,
    0x8000_0163,
    0x8000_00b1,
    0x8000_0059,
    0x8000_002c,
    0x8000_0016,
    0x8000_000b,
];

/// The upper word of a product.
fn multiply_high(a: u32, b: u32) -> u32 {
    words(u64::from(a) * u64::from(b))[1]
}

/// Any of so many classes, all alike.
pub(super) fn uniform(word: u32, classes: u32) -> u32 {
    multiply_high(word, classes)
}

/// log2(classes + 1), with 27 bits behind the point.
pub(super) fn log_classes(classes: u32) -> u32 {
    ((f64::from(classes) + 1.0).log2() * 27f64.exp2()).round() as u32
}

/// (classes + 1)^u − 1, rounded down, for u = word/2^32.
pub(super) fn log_uniform(word: u32, classes: u32) -> u32 {
    let exponent = multiply_high(word, log_classes(classes));
    let mut power = 1_u32 << 31;
    for (k, root) in ROOTS.into_iter().enumerate() {
        if (exponent << 5) & (1 << (31 - k)) != 0 {
            power = multiply_high(power, root) << 1;
        }
    }
    ((power >> (31 - (exponent >> 27))) - 1).min(classes - 1)
}

/// The table of the alias method (Walker 1977, built as Vose 1991 does): a bucket for each class, which it shares with at
/// most one other class.
pub(super) struct Buckets {
    /// Of each bucket: the second words below which it stands for its own class, and the other class.
    pub words: Vec<u32>,
    /// The probability of each class.
    pub probs: Vec<f64>,
}

impl Buckets {
    /// The buckets of classes with these weights.
    pub fn new(weights: &[f64]) -> Result<Self> {
        let usable = |weight: f64| weight.is_finite() && weight >= 0.0;
        if let Some(element) = weights.iter().position(|&weight| !usable(weight)) {
            return Err(refused(element, weights, "a finite number, 0 or more"));
        }
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Err(refused(0, weights, "that not all weights are 0"));
        }
        // Relative to the largest, so that no sum overflows.
        let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
        let probs: Vec<f64> = weights.iter().map(|weight| weight / largest / sum).collect();
        Ok(Self { words: buckets(&probs), probs })
    }

    /// The class of two random words.
    pub fn class(&self, [first, second]: [u32; 2]) -> u32 {
        let bucket = multiply_high(first, self.probs.len() as u32);
        match self.words.get(2 * bucket as usize..) {
            Some(&[below, other, ..]) if second >= below => other,
            _ => bucket,
        }
    }
}

fn refused(element: usize, weights: &[f64], expected: &str) -> Error {
    Error::InputValue {
        argument: "weights".into(),
        element: element as u64,
        found: weights.get(element).map(f64::to_string).unwrap_or_default().into(),
        expected: expected.into(),
    }
}

fn buckets(probs: &[f64]) -> Vec<u32> {
    let count = probs.len();
    // What is left of each class, in buckets.
    let mut left: Vec<f64> = probs.iter().map(|p| p * count as f64).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..count).partition(|&class| left[class] < 1.0);
    let mut words: Vec<u32> = (0..count as u32).flat_map(|class| [u32::MAX, class]).collect();
    while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
        words[2 * poor] = (left[poor] * 32f64.exp2()).round() as u32;
        words[2 * poor + 1] = rich as u32;
        left[rich] -= 1.0 - left[poor];
        if left[rich] < 1.0 { small.push(rich) } else { large.push(rich) }
    }
    // Rounding leaves some buckets nearly full: they are their own class's alone.
    words
}

#[cfg(test)]
mod tests {
    use super::{ROOTS, log_uniform};

    #[test]
    fn roots_are_roots_of_two() {
        for (root, k) in ROOTS.into_iter().zip(1..) {
            assert_eq!(f64::from(root), ((-f64::from(k)).exp2().exp2() * 31f64.exp2()).round());
        }
    }

    /// Each class has its share of all words: log(1 + 1/(class + 1))/log(classes + 1).
    #[test]
    fn classes_have_their_shares_of_the_words() {
        let classes = 256_000_u32;
        // The first word of a class, by bisection.
        let first = |class: u32| {
            let (mut below, mut from) = (0_u64, 1_u64 << 32);
            while below < from {
                let middle = u64::midpoint(below, from);
                if log_uniform(middle as u32, classes) < class {
                    below = middle + 1;
                } else {
                    from = middle;
                }
            }
            from as f64
        };
        assert_eq!(log_uniform(0, classes), 0);
        assert_eq!(log_uniform(u32::MAX, classes), classes - 1);
        for class in [0, 1, 2, 30, 999, 50_000, 250_000] {
            let share = (first(class + 1) - first(class)) / 32f64.exp2();
            let expected =
                (1.0 / (f64::from(class) + 1.0)).ln_1p() / (f64::from(classes) + 1.0).ln();
            assert!((share / expected - 1.0).abs() < 2e-3, "{class}: {share} {expected}");
        }
    }
}
