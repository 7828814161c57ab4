//! The tolerance of this crate, the only one.

use crate::data::{
    array::{Array, Data},
    tensor::Dtype,
};

/// The error of an output, and the largest error that is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The largest |actual − truth|; infinite if a NaN or an infinity is not where it should be.
    pub max_abs_error: f64,
    /// `max_abs_error`, divided by the largest |truth|.
    pub max_rel_error: f64,
    /// The element with the largest error.
    pub worst: usize,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether the output passes.
    pub passed: bool,
}

impl Comparison {
    /// A failure that no tolerance covers, at this element.
    fn failed(worst: usize) -> Self {
        Self {
            max_abs_error: f64::INFINITY,
            max_rel_error: f64::INFINITY,
            worst,
            tolerance: 0.0,
            passed: false,
        }
    }

    fn new(errors: &[f64], largest: f64, tolerance: f64) -> Self {
        let (worst, max_abs_error) = errors
            .iter()
            .copied()
            .enumerate()
            .fold((0, 0.0), |worst, error| if error.1 > worst.1 { error } else { worst });
        let max_rel_error = if max_abs_error == 0.0 { 0.0 } else { max_abs_error / largest };
        let passed = max_abs_error <= tolerance;
        Self { max_abs_error, max_rel_error, worst, tolerance, passed }
    }
}

/// Compares an output with the f64 reference.
///
/// The test is max|actual − truth| ≤ k·max|naive − truth| + floor·max|truth| over the finite
/// elements. k is 2 (3 for gradients). naive is the textbook computation in f32, rounded to the
/// storage type `dtype`. floor is (8 + log2 C)·2^-24, plus half an ulp of a 16-bit storage type.
/// NaN and infinities must be where the stored truth has them; integers must be equal.
pub fn compare(
    output: &str,
    actual: &Array,
    truth: &Array,
    naive: &Array,
    dtype: Dtype,
    classes: u64,
) -> Comparison {
    compare_by(output, actual, truth, [naive, truth], dtype, classes)
}

/// [`compare`] with a truth from elsewhere. The error of naive f32 is measured between the crate's
/// own two computations: a wrong truth that disagrees with both would otherwise widen its own
/// tolerance.
pub fn compare_by(
    output: &str,
    actual: &Array,
    truth: &Array,
    [naive, reference]: [&Array; 2],
    dtype: Dtype,
    classes: u64,
) -> Comparison {
    if [actual, naive, reference].iter().any(|array| array.len() != truth.len()) {
        return Comparison::failed(actual.len().min(truth.len()));
    }
    match (&actual.data, &truth.data) {
        (Data::Float(actual), Data::Float(truth)) => {
            let stored = Array::float(&[], truth.clone()).rounded(dtype).to_f64();
            let wrong = |(&actual, &stored): (&f64, &f64)| class(actual) != class(stored);
            if let Some(index) = actual.iter().zip(&stored).position(wrong) {
                return Comparison::failed(index);
            }
            let naive = naive.rounded(dtype).to_f64();
            let lost = maximum(distances(&naive, &reference.to_f64()));
            compare_finite(output, [actual, truth], lost, dtype, classes)
        }
        (Data::Int(actual), Data::Int(truth)) => {
            let error = |(&actual, &truth): (&i64, &i64)| actual.abs_diff(truth) as f64;
            let errors: Vec<f64> = actual.iter().zip(truth).map(error).collect();
            let largest = truth.iter().map(|value| value.unsigned_abs()).max().unwrap_or(0);
            Comparison::new(&errors, largest as f64, 0.0)
        }
        _ => Comparison::failed(0),
    }
}

fn compare_finite(
    output: &str,
    [actual, truth]: [&[f64]; 2],
    lost: f64,
    dtype: Dtype,
    classes: u64,
) -> Comparison {
    let errors: Vec<f64> = distances(actual, truth).collect();
    let largest = maximum(truth.iter().map(|value| value.abs()));
    let k = if output.starts_with("grad.") { 3.0 } else { 2.0 };
    let tolerance = k * lost + floor(dtype, classes) * largest;
    Comparison::new(&errors, largest, tolerance)
}

/// The relative error that is always allowed.
fn floor(dtype: Dtype, classes: u64) -> f64 {
    let sums = (8.0 + (classes.max(1) as f64).log2()) * Dtype::F32.half_ulp();
    match dtype {
        Dtype::F16 | Dtype::Bf16 => sums + dtype.half_ulp(),
        _ => sums,
    }
}

/// |a − b| of each pair; 0 if a or b is not finite.
fn distances<'a>(a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    a.iter().zip(b).map(|(a, b)| {
        let distance = (a - b).abs();
        if distance.is_finite() { distance } else { 0.0 }
    })
}

fn maximum(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// The class of a number: NaN, +inf, -inf or finite.
fn class(value: f64) -> u8 {
    match value {
        _ if value.is_nan() => 0,
        f64::INFINITY => 1,
        f64::NEG_INFINITY => 2,
        _ => 3,
    }
}
