//! The one tolerance of this crate, and seeded inputs to try it on.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, StandardNormal};

use crate::{
    array::{Arithmetic, Array, Arrays, Data},
    conformance,
    error::Result,
    gpu::Gpu,
    loss::{About, Argument, Dim, Domain, Kind, Loss},
    tensor::Dtype,
};

/// How far an output is from the truth, and how far it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The largest |actual − truth|; infinite where a NaN or an infinity is not where it should be.
    pub max_abs_error: f64,
    /// The same over the largest |truth|.
    pub max_rel_error: f64,
    /// The element with the largest error.
    pub worst: usize,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether the output passes.
    pub passed: bool,
}

impl Comparison {
    /// Something that no tolerance covers, at this element.
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
/// max|actual − truth| ≤ k·max|naive − truth| + floor·max|truth|, over the finite elements, where k
/// is 2 (3 for gradients), naive is the textbook computation in f32, rounded to the storage type
/// `dtype`, and floor is (8 + log2 C)·2^-24 and half an ulp of a 16-bit storage type. NaN and
/// infinities must be where the truth, once stored, has them; integers must be equal.
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

/// [`compare`] with a truth from elsewhere: what naive f32 costs is measured between the crate's
/// own two computations, or a truth that disagrees with both would widen its own tolerance.
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

/// |a − b| of each pair, 0 where one of them is not finite.
fn distances<'a>(a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    a.iter().zip(b).map(|(a, b)| {
        let distance = (a - b).abs();
        if distance.is_finite() { distance } else { 0.0 }
    })
}

fn maximum(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|value| value.is_finite()).fold(0.0, f64::max)
}

/// NaN, +inf, -inf or finite, as a number.
fn class(value: f64) -> u8 {
    match value {
        _ if value.is_nan() => 0,
        f64::INFINITY => 1,
        f64::NEG_INFINITY => 2,
        _ => 3,
    }
}

/// Standard normal numbers; the same seed gives the same ones.
pub fn gaussian(seed: u64, count: usize) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| StandardNormal.sample(&mut random)).collect()
}

/// [`gaussian`] with about one number in fifty ×20: what trained logits look like.
pub fn outliers(seed: u64, count: usize) -> Vec<f64> {
    scaled_at_random(seed, count, 0.02, |value| value * 20.0)
}

/// [`gaussian`] in ascending order: each one is a new maximum for a streaming softmax.
pub fn ascending(seed: u64, count: usize) -> Vec<f64> {
    let mut values = gaussian(seed, count);
    values.sort_by(f64::total_cmp);
    values
}

/// [`gaussian`] with about a quarter -inf, as masked classes are.
pub fn masked(seed: u64, count: usize) -> Vec<f64> {
    scaled_at_random(seed, count, 0.25, |_| f64::NEG_INFINITY)
}

/// [`gaussian`] with a common offset: the loss must not notice it.
pub fn offset(seed: u64, count: usize, offset: f64) -> Vec<f64> {
    gaussian(seed, count).into_iter().map(|value| value + offset).collect()
}

/// Seeded numbers of a kind.
pub fn numbers(domain: Domain, seed: u64, count: usize) -> Vec<f64> {
    let from = |change: fn(f64) -> f64| gaussian(seed, count).into_iter().map(change).collect();
    match domain {
        Domain::Any => gaussian(seed, count),
        Domain::Probability => from(|x| 1.0 / (1.0 + (-2.0 * x).exp())),
        Domain::Positive => from(|x| 0.2 + x.abs()),
        Domain::Count => from(|x| (3.0 * x.max(0.0)).floor()),
        Domain::Sign => from(f64::signum),
        Domain::Mask => from(|x| f64::from(u8::from(x > -0.5))),
    }
}

/// Class indices, each as likely as the others.
pub fn targets(seed: u64, count: usize, classes: u64) -> Vec<i64> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..classes.max(1)) as i64).collect()
}

/// [`gaussian`] with a share of its numbers changed.
fn scaled_at_random(seed: u64, count: usize, share: f64, change: fn(f64) -> f64) -> Vec<f64> {
    // Another stream than the numbers' own, or the large ones would be the changed ones.
    let mut random = StdRng::seed_from_u64(!seed);
    let mut change_some = |value| {
        if random.random_bool(share) { change(value) } else { value }
    };
    gaussian(seed, count).into_iter().map(&mut change_some).collect()
}

/// One output of [`check`] against the reference.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The output.
    pub output: String,
    /// The storage type.
    pub dtype: Dtype,
    /// Rows, classes and depth.
    pub shape: [u64; 3],
    /// How it came out.
    pub comparison: Comparison,
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [rows, classes, hidden] = self.shape;
        let Comparison { max_abs_error, tolerance, passed, .. } = self.comparison;
        let verdict = if passed { "passed" } else { "FAILED" };
        write!(
            f,
            "{verdict} {:<12} {:<4} {rows}×{classes} (depth {hidden}): error {max_abs_error:.1e}, \
             tolerance {tolerance:.1e}",
            self.output, self.dtype
        )
    }
}

/// Runs any loss, built in or a user's own, against its f64 reference: the loss and every gradient
/// of a required input, in every storage type, at awkward shapes.
///
/// # Errors
///
/// Those of the call; an output that is off is not one, see [`Comparison::passed`].
pub fn check(loss: &dyn Loss, gpu: &Gpu) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    for (seed, shape) in
        [[1, 1, 1], [5, 7, 3], [33, 129, 20], [2, 50_257, 4]].into_iter().enumerate()
    {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            checked.extend(check_shape(loss, gpu, seed as u64, shape, dtype)?);
        }
    }
    Ok(checked)
}

fn check_shape(
    loss: &dyn Loss,
    gpu: &Gpu,
    seed: u64,
    shape: [u64; 3],
    dtype: Dtype,
) -> Result<Vec<Checked>> {
    let about = loss.about();
    let inputs = conformance::rounded(loss, &example_inputs(about, seed, shape), dtype);
    let gradients =
        about.outputs.iter().map(|output| output.name).filter(|name| {
            name.strip_prefix("grad.").is_some_and(|input| inputs.contains_key(input))
        });
    let wanted: Vec<&str> = std::iter::once("loss").chain(gradients).collect();
    let truth = loss.reference(&inputs, &wanted, Arithmetic::F64)?;
    let naive = loss.reference(&inputs, &wanted, Arithmetic::F32)?;
    let actual = gpu.run_arrays(loss, &inputs, dtype, &wanted)?.read_blocking()?;
    let compared = wanted.iter().filter_map(|&name| {
        let storage = if name == "loss" { Dtype::F32 } else { dtype };
        let [actual, truth, naive] = [actual.get(name)?, truth.get(name)?, naive.get(name)?];
        let comparison = compare(name, actual, truth, naive, storage, shape[1]);
        Some(Checked { output: name.to_owned(), dtype, shape, comparison })
    });
    Ok(compared.collect())
}

/// How many different values an input of integers has in an example: a label is one of few, so that
/// most have their like.
pub fn different(argument: &Argument, count: u64, classes: u64) -> u64 {
    if argument.kind == Kind::Label { count.div_ceil(3) } else { classes }
}

/// Seeded inputs for a loss: what it requires, and index targets where it takes them.
pub fn example_inputs(about: &About, seed: u64, [rows, classes, hidden]: [u64; 3]) -> Arrays {
    let extent = |dim: &Dim| match dim {
        Dim::Rows => rows,
        Dim::Classes | Dim::Fakes => classes,
        Dim::Hidden => hidden,
        _ => 1,
    };
    let used = about.inputs.iter().filter(|a| a.required || a.name == "targets").enumerate();
    used.map(|(index, argument)| {
        let shape: Vec<u64> =
            argument.shapes.first().map_or(&[][..], |s| s).iter().map(extent).collect();
        let count = shape.iter().product::<u64>() as usize;
        let seed = seed.wrapping_mul(31).wrapping_add(index as u64);
        let array = match argument.kind {
            Kind::Index | Kind::Label => {
                let different = different(argument, count as u64, classes);
                Array::int(&shape, targets(seed, count, different))
            }
            _ => Array::float(&shape, numbers(argument.domain, seed, count)),
        };
        (argument.name.to_owned(), array)
    })
    .collect()
}
