//! The tolerance of this crate, and seeded inputs to test with.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, StandardNormal};

pub use crate::data::tolerance::{Comparison, compare, compare_by};
use crate::{
    data::{
        array::{Arithmetic, Array, Arrays, Data},
        error::Result,
        tensor::Dtype,
    },
    device::{gpu::Gpu, run::stored_dtype},
    skeleton::operation::Operation,
    spec::{
        about::{About, Argument, Dim, Domain, Kind},
        check,
    },
};

/// Standard normal numbers; the same seed gives the same numbers.
pub fn gaussian(seed: u64, count: usize) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| StandardNormal.sample(&mut random)).collect()
}

/// [`gaussian`] with about one number in fifty multiplied by 20, like trained logits.
pub fn outliers(seed: u64, count: usize) -> Vec<f64> {
    scaled_at_random(seed, count, 0.02, |value| value * 20.0)
}

/// [`gaussian`] in ascending order: each number is a new maximum for a streaming softmax.
pub fn ascending(seed: u64, count: usize) -> Vec<f64> {
    let mut values = gaussian(seed, count);
    values.sort_by(f64::total_cmp);
    values
}

/// [`gaussian`] with about a quarter of the numbers -inf, like masked classes.
pub fn masked(seed: u64, count: usize) -> Vec<f64> {
    scaled_at_random(seed, count, 0.25, |_| f64::NEG_INFINITY)
}

/// [`gaussian`] with a common offset, which must not change the loss.
pub fn offset(seed: u64, count: usize, offset: f64) -> Vec<f64> {
    gaussian(seed, count).into_iter().map(|value| value + offset).collect()
}

/// Seeded numbers of a domain.
pub fn numbers(domain: Domain, seed: u64, count: usize) -> Vec<f64> {
    let from = |change: fn(f64) -> f64| gaussian(seed, count).into_iter().map(change).collect();
    match domain {
        Domain::Any | Domain::Leaf => gaussian(seed, count),
        Domain::Probability => from(|x| 1.0 / (1.0 + (-2.0 * x).exp())),
        Domain::Positive => from(|x| 0.2 + x.abs()),
        Domain::Count => from(|x| (3.0 * x.max(0.0)).floor()),
        Domain::Sign => from(f64::signum),
        Domain::Tree => {
            // The nodes after the middle have no children. Of all nodes, half are children of the first few.
            let node = |(entry, x): (usize, f64)| match entry as f64 {
                entry if x > 0.0 => (2.0 * x).floor().min(entry),
                entry => (entry * -x.fract()).floor(),
            };
            let middle = |node: f64| node.min((count / 2) as f64);
            gaussian(seed, count).into_iter().enumerate().map(node).map(middle).collect()
        }
        Domain::Mask => from(|x| f64::from(u8::from(x > -0.5))),
    }
}

/// Class indices, all equally likely.
pub fn targets(seed: u64, count: usize, classes: u64) -> Vec<i64> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..classes.max(1)) as i64).collect()
}

/// [`gaussian`] with a change to a random share of its numbers.
fn scaled_at_random(seed: u64, count: usize, share: f64, change: fn(f64) -> f64) -> Vec<f64> {
    // A seed of its own: with that of the numbers, mostly the large numbers would be changed.
    let mut random = StdRng::seed_from_u64(!seed);
    let mut change_some = |value| {
        if random.random_bool(share) { change(value) } else { value }
    };
    gaussian(seed, count).into_iter().map(&mut change_some).collect()
}

/// The inputs after rounding to their storage types.
pub fn rounded(loss: &dyn Operation, inputs: &Arrays, dtype: Dtype) -> Arrays {
    let round = |(name, array): (&String, &Array)| {
        (name.clone(), array.rounded(stored_dtype(loss, name, dtype)))
    };
    inputs.iter().map(round).collect()
}

/// The type that an output is stored as, where the float inputs of a call are stored as `dtype`.
pub fn stored_output(loss: &dyn Operation, inputs: &Arrays, output: &str, dtype: Dtype) -> Dtype {
    let Some(Some(input)) = loss.about().output(output).map(Argument::like) else {
        return Dtype::F32;
    };
    match (loss.about().input(input), inputs.get(input).map(|array| &array.data)) {
        (Some(Argument { kind: Kind::Logits, .. }), Some(Data::Int(_))) => Dtype::F32,
        (argument, _) => argument.map_or(dtype, |argument| argument.stored(dtype)),
    }
}

/// How many classes the inputs have: the tolerance's C.
pub fn classes(loss: &dyn Operation, inputs: &Arrays) -> u64 {
    let columns = loss.about().columns();
    let dims = check::dims(loss, inputs).unwrap_or_default();
    columns.and_then(|columns| dims.get(&columns).copied()).unwrap_or(1)
}

/// An output of [`check`], compared with the reference.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The output.
    pub output: String,
    /// The storage type.
    pub dtype: Dtype,
    /// Rows, classes and depth.
    pub shape: [u64; 3],
    /// The result of the comparison.
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

/// Compares any loss, built in or your own, with its f64 reference: the loss and every gradient of
/// a required input, in every storage type, at awkward shapes.
///
/// # Errors
///
/// Those of the call. An output outside the tolerance is not an error: see [`Comparison::passed`].
#[cfg(not(target_arch = "wasm32"))]
pub fn check(loss: &dyn Operation, gpu: &Gpu) -> Result<Vec<Checked>> {
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

#[cfg(not(target_arch = "wasm32"))]
fn check_shape(
    loss: &dyn Operation,
    gpu: &Gpu,
    seed: u64,
    shape: [u64; 3],
    dtype: Dtype,
) -> Result<Vec<Checked>> {
    let about = loss.about();
    let inputs = rounded(loss, &example_inputs(about, seed, shape), dtype);
    let gradients =
        about.outputs.iter().map(|output| output.name).filter(|name| {
            name.strip_prefix("grad.").is_some_and(|input| inputs.contains_key(input))
        });
    let wanted: Vec<&str> = std::iter::once("loss").chain(gradients).collect();
    let truth = loss.reference(&inputs, &wanted, Arithmetic::F64)?;
    let naive = loss.reference(&inputs, &wanted, Arithmetic::F32)?;
    let actual = gpu.run_arrays(loss, &inputs, dtype, &wanted)?.read_blocking()?;
    let compared = wanted.iter().filter_map(|&name| {
        let storage = stored_output(loss, &inputs, name, dtype);
        let [actual, truth, naive] = [actual.get(name)?, truth.get(name)?, naive.get(name)?];
        let comparison = compare(name, actual, truth, naive, storage, shape[1]);
        Some(Checked { output: name.to_owned(), dtype, shape, comparison })
    });
    Ok(compared.collect())
}

/// The number of different values of an input of integers in an example. Labels have few values, so
/// that most labels occur several times.
pub fn different(argument: &Argument, count: u64, classes: u64) -> u64 {
    if argument.kind == Kind::Label { count.div_ceil(3) } else { classes }
}

/// Seeded integers of a domain: the links of a tree, its leaves, or so many values.
pub fn indices(domain: Domain, seed: u64, count: usize, different: u64) -> Vec<i64> {
    match domain {
        Domain::Tree => numbers(domain, seed, count).into_iter().map(|node| node as i64).collect(),
        Domain::Leaf => {
            let inner = different / 2;
            let leaves = targets(seed, count, different - inner);
            leaves.into_iter().map(|leaf| leaf + inner as i64 + 1).collect()
        }
        _ => targets(seed, count, different),
    }
}

/// Seeded inputs for a loss: its required inputs, and index targets if it takes them.
pub fn example_inputs(about: &About, seed: u64, [rows, classes, hidden]: [u64; 3]) -> Arrays {
    let extent = |dim: &Dim| match dim {
        Dim::Rows => rows,
        Dim::Classes | Dim::Fakes => classes,
        Dim::Hidden | Dim::TeacherHidden => hidden,
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
                Array::int(&shape, indices(argument.domain, seed, count, different))
            }
            _ => Array::float(&shape, numbers(argument.domain, seed, count)),
        };
        (argument.name.to_owned(), array)
    })
    .collect()
}
