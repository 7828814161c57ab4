//! Tests on the device whether cooperative matrices exist, are correct, and are faster.

use std::time::Instant;

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Layout, Named, Tensor},
        tolerance::compare,
    },
    device::{adapter::Kind, encode::Prepared, gpu::Gpu},
    losses::{CrossEntropy, LinearCrossEntropy, Similarity},
    plan::{
        cooperative::{Cooperative, Side},
        profile::Profile,
    },
    skeleton::{operation::Operation, request::Request},
    spec::options::{Reduction, WeightLayout},
};

/// The features that a device must have.
const FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// What the probe found about cooperative matrices on a device, by the type of their elements.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// The finding about f16 matrices.
    pub f16: Finding,
    /// The finding about f32 matrices.
    pub f32: Finding,
}

/// The finding about one kind of matrices.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// The matrices are used: they are correct and faster than the plain tile.
    Chosen {
        /// The extent of the matrices.
        side: Side,
        /// The time of the plain tile, divided by that of the matrices.
        speedup: f64,
    },
    /// The matrices are correct but not faster: the plain tile is used.
    Slower {
        /// The extent of the matrices.
        side: Side,
        /// The time of the plain tile, divided by that of the matrices.
        speedup: f64,
    },
    /// An output is outside the tolerance: the plain tile is used.
    Wrong {
        /// The extent of the matrices.
        side: Side,
        /// The output that is outside the tolerance.
        output: String,
        /// The largest error of the output; infinite if a NaN or an infinity was lost.
        error: f64,
        /// The largest error that passes.
        tolerance: f64,
    },
    /// The driver refused the kernel: the plain tile is used.
    Refused {
        /// The extent of the matrices.
        side: Side,
        /// The driver's reason.
        reason: String,
    },
    /// There are no such matrices.
    Missing(Missing),
}

/// Why there are no cooperative matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The device was opened without a feature that the adapter has.
    NotAskedFor(wgpu::Features),
    /// The adapter does not have the feature.
    Feature(wgpu::Features),
    /// The adapter has the feature, but no square matrices of these elements with f32 sums.
    Shape,
    /// A subgroup has more lanes than a workgroup may have.
    Lanes(u32),
}

impl Finding {
    /// The extent of the matrices, if they are used.
    pub fn chosen(&self) -> Option<Side> {
        match self {
            Self::Chosen { side, .. } => Some(*side),
            _ => None,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chosen { side, speedup } => {
                write!(f, "{side}, {speedup:.2} times as fast as the plain tile")
            }
            Self::Slower { side, speedup } => {
                write!(f, "no ({side} there, {speedup:.2} times as fast as the plain tile)")
            }
            Self::Wrong { side, output, error, tolerance } => {
                write!(f, "no ({side} there, `{output}` is off by {error:.1e} > {tolerance:.1e})")
            }
            Self::Refused { side, reason } => write!(f, "no ({side} there, refused: {reason})"),
            Self::Missing(missing) => write!(f, "no ({missing})"),
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |features: &wgpu::Features| {
            features.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(" and ")
        };
        match self {
            Self::NotAskedFor(features) => {
                write!(f, "the device was opened without {}", names(features))
            }
            Self::Feature(features) => write!(f, "needs {}", names(features)),
            Self::Shape => f.write_str("needs 8×8 or 16×16 of this type with f32 sums"),
            Self::Lanes(lanes) => write!(f, "subgroups of {lanes} lanes exceed a workgroup"),
        }
    }
}

/// The largest side that is offered for an element type, if one is.
fn offered(
    properties: &[wgpu::CooperativeMatrixProperties],
    element: wgpu::CooperativeScalarType,
) -> Option<Side> {
    [Side::Sixteen, Side::Eight].into_iter().find(|side| {
        properties.iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [side.extent(); 3]
                && p.ab_type == element
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
    })
}

/// Which of the needed features are missing, on the adapter or on the device.
fn missing(
    needed: wgpu::Features,
    device: wgpu::Features,
    adapter: wgpu::Features,
) -> Option<Missing> {
    let absent = needed - adapter;
    let unasked = needed - device;
    if !absent.is_empty() {
        return Some(Missing::Feature(absent));
    }
    (!unasked.is_empty()).then_some(Missing::NotAskedFor(unasked))
}

/// Decides from a comparison and, if it passed, from the times.
fn decide(
    side: Side,
    off: Option<(String, f64, f64)>,
    speedup: impl FnOnce() -> Result<f64>,
) -> Result<Finding> {
    if let Some((output, error, tolerance)) = off {
        return Ok(Finding::Wrong { side, output, error, tolerance });
    }
    let speedup = speedup()?;
    // A difference of less than 5 % may be noise. NaN is not faster either.
    let faster = speedup > 1.05;
    Ok(if faster { Finding::Chosen { side, speedup } } else { Finding::Slower { side, speedup } })
}

impl Gpu {
    /// The features to ask for beside [`Gpu::recommended_device`] where cooperative matrices are wanted; empty if the adapter has
    /// none.
    ///
    /// wgpu calls one of them experimental, so the caller opens the device and agrees to that.
    pub fn cooperative_features(adapter: &wgpu::Adapter) -> wgpu::Features {
        let has = adapter.features();
        if has.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            has & FEATURES
        } else {
            wgpu::Features::empty()
        }
    }

    /// The same device with large products of score tiles on cooperative matrices, if the device has matrices that are
    /// correct (within the usual tolerance, also at awkward shapes and with NaN) and faster than the plain tile. Also
    /// returns what was found. If the matrices are not used, nothing changes.
    ///
    /// This runs and times small products, which takes a few compilations and some milliseconds, and waits for them.
    /// Results on the matrices differ from those of the plain tile in their last bits; see
    /// [`crate::cooperative`].
    ///
    /// ```no_run
    /// # async fn open(adapter: wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
    /// use surprisal::Gpu;
    /// let (features, required_limits) = Gpu::recommended_device(&adapter);
    /// let descriptor = wgpu::DeviceDescriptor {
    ///     required_features: features | Gpu::cooperative_features(&adapter),
    ///     required_limits,
    ///     // SAFETY: we accept that wgpu's experimental features may have bugs that break Rust's rules.
    ///     experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
    ///     ..Default::default()
    /// };
    /// let (device, queue) = adapter.request_device(&descriptor).await?;
    /// let (gpu, found) = Gpu::from_wgpu(&device, &queue).with_cooperative_matrices(&adapter)?;
    /// println!("f16: {}; f32: {}", found.f16, found.f32);
    /// # drop(gpu);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A lost device. A kernel that the driver refuses is only a finding.
    pub fn with_cooperative_matrices(&self, adapter: &wgpu::Adapter) -> Result<(Self, Found)> {
        let (device, has) = (self.device().features(), adapter.features());
        let properties = adapter.cooperative_matrix_properties();
        let lanes = self.info().subgroup_max_size.max(8);
        let find = |dtype, needed, element| {
            if let Some(missing) = missing(needed, device, has) {
                return Ok(Finding::Missing(missing));
            }
            let Some(side) = offered(&properties, element) else {
                return Ok(Finding::Missing(Missing::Shape));
            };
            if lanes > self.profile().workgroup_size {
                return Ok(Finding::Missing(Missing::Lanes(lanes)));
            }
            self.probe(dtype, side, lanes, false)
        };
        let experimental = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let f16 = find(Dtype::F16, FEATURES, wgpu::CooperativeScalarType::F16)?;
        let f32 = find(Dtype::F32, experimental, wgpu::CooperativeScalarType::F32)?;
        let mut profile = self.profile().clone();
        let chosen = [f16.chosen(), f32.chosen()];
        if chosen != [None; 2] {
            let [f16, f32] = chosen;
            profile.cooperative = Cooperative { f16, f32, lanes, emulated: false };
        }
        Ok((self.with_profile(profile), Found { f16, f32 }))
    }

    /// Tests matrices of this element type on this device, or the plain WGSL that replaces them in tests.
    #[doc(hidden)]
    pub fn probe(&self, dtype: Dtype, side: Side, lanes: u32, emulated: bool) -> Result<Finding> {
        let of = |element| (dtype == element).then_some(side);
        let (f16, f32) = (of(Dtype::F16), of(Dtype::F32));
        let trial = self.with_profile(Profile {
            large_products: 0,
            cooperative: Cooperative { f16, f32, lanes, emulated },
            ..self.profile().clone()
        });
        let found =
            worst(&trial, dtype).and_then(|off| decide(side, off, || speedup(self, &trial, dtype)));
        match found {
            Err(lost @ Error::DeviceLost { .. }) => Err(lost),
            Err(error) => Ok(Finding::Refused { side, reason: error.chain() }),
            found => found,
        }
    }
}

/// Seeded numbers between -1 and 1 that the type holds exactly.
fn numbers(seed: u64, shape: &[u64], dtype: Dtype) -> Array {
    let count = shape.iter().product();
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    Array::float(shape, (0..count).map(|_| next()).collect()).rounded(dtype)
}

/// A float array with one element changed.
fn with(array: &Array, index: usize, value: f64) -> Array {
    let mut values = array.to_f64();
    values.iter_mut().skip(index).take(1).for_each(|element| *element = value);
    Array::float(&array.shape, values)
}

/// A loss, its inputs, and the outputs of a call whose products use the matrices.
type Trial = (Box<dyn Operation>, Arrays, &'static [&'static str]);

/// Products of every arrangement of their operands, at awkward shapes: one with a NaN and infinities in three rows,
/// one with a long sum, and the gradients of a linear layer with an ignored row of NaN.
fn trials(dtype: Dtype) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for (rows, columns, depth) in [(37, 83, 45), (33, 48, 2048)] {
        let mut queries = numbers(1, &[rows, depth], dtype);
        if depth < 64 {
            queries = with(&with(&queries, 7, f64::NAN), 50, f64::INFINITY);
            queries = with(&queries, 100, f64::NEG_INFINITY);
        }
        let inputs = [("queries", queries), ("keys", numbers(2, &[columns, depth], dtype))];
        let inputs = inputs.map(|(name, array)| (name.to_owned(), array)).into();
        trials.push((Box::new(Similarity::default()), inputs, &["scores"]));
    }
    let (rows, classes, depth) = (37, 83, 45);
    for layout in [WeightLayout::ClassesHidden, WeightLayout::HiddenClasses] {
        let shape = match layout {
            WeightLayout::ClassesHidden => [classes, depth],
            WeightLayout::HiddenClasses => [depth, classes],
        };
        let targets = (0..rows as i64).map(|row| if row == 5 { -100 } else { row * 2 % 83 });
        let hidden = with(&numbers(3, &[rows, depth], dtype), 5 * depth as usize + 3, f64::NAN);
        let inputs = [
            ("hidden", hidden),
            ("weight", numbers(4, &shape, dtype)),
            ("targets", Array::int(&[rows], targets.collect())),
        ];
        let inputs = inputs.map(|(name, array)| (name.to_owned(), array)).into();
        let loss = CrossEntropy::default().reduction(Reduction::Sum);
        let loss = LinearCrossEntropy::new(loss).weight_layout(layout);
        trials.push((Box::new(loss), inputs, &["loss", "grad.hidden", "grad.weight"]));
    }
    trials
}

/// The first output outside the tolerance: its name, its error and the tolerance.
fn worst(gpu: &Gpu, dtype: Dtype) -> Result<Option<(String, f64, f64)>> {
    for (loss, inputs, wanted) in trials(dtype) {
        let truth = loss.reference(&inputs, wanted, Arithmetic::F64)?;
        let naive = loss.reference(&inputs, wanted, Arithmetic::F32)?;
        let actual = gpu.run_arrays(&*loss, &inputs, dtype, wanted)?.outcome_blocking()?.0;
        for &name in wanted {
            let [Some(actual), Some(truth), Some(naive)] =
                [&actual, &truth, &naive].map(|arrays| arrays.get(name))
            else {
                continue;
            };
            let stored = if name.starts_with("grad.") { dtype } else { Dtype::F32 };
            let compared = compare(name, actual, truth, naive, stored, 83);
            if !compared.passed {
                let found = (name.to_owned(), compared.max_abs_error, compared.tolerance);
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// Rounds of timing. Each round runs each of both tiles once.
const ROUNDS: usize = 7;
/// Each timing takes at least this many milliseconds, so that the resolution of the clock does not matter.
const LEAST_MS: f64 = 2.0;

/// The time of the plain tile, divided by that of the trial: the medians of interleaved rounds.
fn speedup(plain: &Gpu, trial: &Gpu, dtype: Dtype) -> Result<f64> {
    let software = Kind::of(plain.info()) == Kind::Software;
    let [rows, columns, depth] = if software { [64, 256, 128] } else { [1024, 2048, 1024] };
    let upload = |name, seed, rows| {
        let array = numbers(seed, &[rows, depth], dtype);
        plain.upload(name, &array.to_bytes(dtype))
    };
    let (queries, keys) = (upload("queries", 1, rows)?, upload("keys", 2, columns)?);
    let scores = plain.own_output(&Layout::matrix(Dtype::F32, rows, columns))?;
    // The matrices compete with the tile of large products, which they would replace.
    let large =
        |gpu: &Gpu| gpu.with_profile(Profile { large_products: 0, ..gpu.profile().clone() });
    let (plain, trial) = (&large(plain), &large(trial));
    let of = |name: &str, tensor| Named::from([(name.to_owned(), tensor)]);
    let mut inputs = of("queries", Tensor::matrix(&queries, dtype, rows, depth));
    inputs.extend(of("keys", Tensor::matrix(&keys, dtype, columns, depth)));
    let outputs = of("scores", Tensor::matrix(&scores, Dtype::F32, rows, columns));
    let loss = Similarity::default();
    let request = Request::new(&loss, inputs, outputs);
    let calls = [(plain, plain.prepare(&request)?), (trial, trial.prepare(&request)?)];
    // The first run is not timed: drivers delay some of their work until then.
    for (gpu, call) in &calls {
        milliseconds(gpu, call, 1)?;
    }
    let once = milliseconds(calls[0].0, &calls[0].1, 1)?;
    let repeats = (LEAST_MS / once.max(1e-3)).ceil().clamp(1.0, 64.0) as usize;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        // The order alternates: plain, trial, trial, plain, …
        let which = usize::from(matches!(round % 4, 1 | 2));
        let (gpu, call) = &calls[which];
        times[which].push(milliseconds(gpu, call, repeats)?);
    }
    let [plain, trial] = times.map(median);
    Ok(plain / trial)
}

/// The time of one run of a call, measured over several runs in a row.
fn milliseconds(gpu: &Gpu, call: &Prepared, repeats: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..repeats {
        gpu.submit(call)?;
    }
    let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
    waited.map_err(Error::lost)?;
    Ok(start.elapsed().as_secs_f64() * 1e3 / repeats as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use wgpu::CooperativeScalarType::{F16, F32};

    use super::*;

    fn properties(
        [m_size, n_size, k_size]: [u32; 3],
        ab_type: wgpu::CooperativeScalarType,
        cr_type: wgpu::CooperativeScalarType,
    ) -> wgpu::CooperativeMatrixProperties {
        let saturating_accumulation = false;
        wgpu::CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation,
        }
    }

    #[test]
    fn wrong_matrices_are_not_chosen_and_not_even_timed() {
        let off = Some(("scores".to_owned(), 0.5, 1e-6));
        let found = decide(Side::Eight, off, || Err(Error::lost("timed")));
        assert!(matches!(&found, Ok(Finding::Wrong { error: 0.5, .. })), "{found:?}");
        assert_eq!(found.ok().and_then(|finding| finding.chosen()), None);
    }

    #[test]
    fn matrices_are_chosen_only_where_they_are_faster() {
        for (speedup, chosen) in
            [(3.0, true), (1.2, true), (1.0, false), (0.4, false), (f64::NAN, false)]
        {
            let found = decide(Side::Sixteen, None, || Ok(speedup));
            let side = found.ok().and_then(|finding| finding.chosen());
            assert_eq!(side, chosen.then_some(Side::Sixteen), "{speedup}");
        }
    }

    #[test]
    fn only_square_matrices_with_f32_sums_are_of_use() {
        let nvidia = [
            properties([16, 8, 16], F16, F32),
            properties([16, 16, 16], F16, F16),
            properties([16, 16, 16], F16, F32),
        ];
        assert_eq!([offered(&nvidia, F16), offered(&nvidia, F32)], [Some(Side::Sixteen), None]);
        let apple = [
            properties([8; 3], F32, F32),
            properties([8; 3], F16, F16),
            properties([8; 3], F16, F32),
        ];
        assert_eq!([offered(&apple, F16), offered(&apple, F32)], [Some(Side::Eight); 2]);
        assert_eq!(offered(&[properties([8; 3], F16, F16)], F16), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let (none, all) = (wgpu::Features::empty(), FEATURES);
        assert_eq!(missing(all, none, none), Some(Missing::Feature(all)));
        assert_eq!(missing(all, none, all), Some(Missing::NotAskedFor(all)));
        assert_eq!(missing(all, all, all), None);
        let half = wgpu::Features::SHADER_F16;
        let text = Finding::Missing(Missing::Feature(half)).to_string();
        assert_eq!(text, "no (needs SHADER_F16)");
    }
}
