//! Classes that are drawn at random, for losses that look at few classes (catalogue R16).

mod class;

use class::Buckets;

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Named},
    },
    plan::{
        Plan, Planner, Step,
        kernel::{Source, shader},
        profile::Profile,
    },
    reference::{
        Real, array, floats, no_output,
        philox::{philox, words},
    },
    skeleton::{
        operation::{Operation, Options},
        request::Request,
        sums::Totals,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
    },
};

/// How likely each class is to be drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Distribution {
    /// All classes alike.
    #[default]
    Uniform,
    /// q_c = log((c + 2)/(c + 1))/log(classes + 1): close to how often words occur, if class 0 is the most frequent one.
    LogUniform,
    /// In proportion to the input `weights`, by the alias method: two table reads a sample for any distribution.
    Alias,
}

/// Classes drawn at random, with replacement, and how often each class is expected among them: what sampled softmax losses
/// take as `samples` and `log_expected_count`.
///
/// Sample j is a function of `seed`, `offset` and j alone, the same integer on every device and on the CPU. Give each step
/// of a training loop its own `offset`.
///
/// - **Shapes**: samples `[count]` (`u32`); log_expected_count `[classes]` (`f32`), log(count·q_c); weights `[classes]`, a
///   host input (`Request::host`), for [`Distribution::Alias`] alone.
/// - **Random words**: Philox 4x32-10, whose key are the two words of `seed`, the low one first; the counter are j/2,
///   2^32 − 1 and the two words of `offset`. Even samples take the first two of its four words, odd ones the other two.
/// - **Exactness**: a class is found with integers alone. Its share of all words differs from q_c by at most one part in
///   500 for a quarter of a million classes, and by at most `classes`/2^32 of its own for uniform and weighted classes.
/// - **Edges**: a class of weight 0 is never drawn; its expected count is 0, whose logarithm is -inf.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value. Weights are
///   finite and not negative, and not all are 0.
///
/// Sources: Salmon et al. 2011 (Philox); Walker 1977 and Vose 1991 (the alias method).
///
/// ```
/// use surprisal::{Arrays, cpu, targets::{Distribution, DrawSamples}};
/// let draw = DrawSamples::default()
///     .classes(50_000)
///     .count(64)
///     .distribution(Distribution::LogUniform)
///     .seed(1);
/// let outputs = cpu::run(&draw, &Arrays::new(), &["samples", "log_expected_count"])?;
/// assert!(outputs["samples"].to_i64().iter().all(|class| (0..50_000).contains(class)));
/// let expected: f64 = outputs["log_expected_count"].to_f64().iter().map(|log| log.exp()).sum();
/// assert!((expected - 64.0).abs() < 1e-9);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct DrawSamples {
    /// The number of classes.
    pub classes: u32,
    /// The number of samples.
    pub count: u32,
    /// How likely each class is.
    pub distribution: Distribution,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The number of the draw, such as that of a training step: each one has samples of its own.
    pub offset: u64,
}

impl Default for DrawSamples {
    fn default() -> Self {
        let distribution = Distribution::Uniform;
        Self { classes: 1, count: 1, distribution, seed: 0, offset: 0 }
    }
}

impl DrawSamples {
    setters! {
        classes: u32, count: u32, distribution: Distribution, seed: u64, offset: u64,
    }
}

tensors! {
    /// The outputs of [`DrawSamples`].
    DrawSamplesOutputs {
        /// The classes that were drawn, `[count]`.
        samples = "samples",
        /// log(count·q) of each class, `[classes]`.
        log_expected_count = "log_expected_count",
    }
}

impl DrawSamples {
    /// A call with these tensors, for [`Gpu::encode`](crate::Gpu::encode), [`Gpu::prepare`](crate::Gpu::prepare) and
    /// [`Gpu::run`](crate::Gpu::run). The weights of [`Distribution::Alias`] are a host input, [`Request::host`].
    pub fn request<'a>(&'a self, outputs: DrawSamplesOutputs<'a>) -> Request<'a> {
        Request::new(self, Named::new(), outputs.into())
    }
}

pub(super) static ABOUT: About = About {
    name: "draw_samples",
    summary: "Classes drawn at random, and how often each is expected: the samples of sampled softmax losses.",
    formula: "q_c = 1/classes, log((c + 2)/(c + 1))/log(classes + 1), or weights_c/Σ weights",
    pytorch: "torch.multinomial(weights, count, replacement=True)",
    inputs: &[Argument::optional(
        "weights",
        Kind::Float,
        &[&[Dim::Classes]],
        "the weight of each class, for \"alias\"",
    )
    .within(Domain::Positive)
    .from_host()],
    outputs: &[
        Argument::optional("samples", Kind::U32, &[&[Dim::Samples]], "the classes that were drawn"),
        Argument::optional(
            "log_expected_count",
            Kind::F32,
            &[&[Dim::Classes]],
            "log(count·q) of each class",
        ),
    ],
    options: &[
        OptionAbout {
            name: "classes",
            default: "1",
            samples: &["1000"],
            about: "the number of classes, from 1 to 2^24",
        },
        OptionAbout {
            name: "count",
            default: "1",
            samples: &["17"],
            about: "the number of samples, at least 1",
        },
        OptionAbout {
            name: "distribution",
            default: "\"uniform\"",
            samples: &["\"log_uniform\"", "\"alias\""],
            about: "\"uniform\", \"log_uniform\", or \"alias\": in proportion to `weights`",
        },
        arg::SEED,
        arg::OFFSET,
    ],
};

/// The most classes of a loss.
const MOST_CLASSES: u32 = 1 << 24;

impl Signature for DrawSamples {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        vec![(Dim::Classes, self.classes.into()), (Dim::Samples, self.count.into())]
    }

    fn validate(&self) -> Result<()> {
        if !(1..=MOST_CLASSES).contains(&self.classes) {
            return Err(Error::option(ABOUT.name, "classes", self.classes, "from 1 to 2^24"));
        }
        if !(1..=1 << 30).contains(&self.count) {
            return Err(Error::option(ABOUT.name, "count", self.count, "from 1 to 2^30"));
        }
        Ok(())
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        self.buckets(&call.host).map(|_| ())
    }
}

impl Operation for DrawSamples {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        let mut planner = Planner::new(ABOUT.name, call, profile);
        let buckets = self.buckets(&call.host)?;
        self.draw(&mut planner, call, buckets.as_ref())?;
        self.expect(&mut planner, call, buckets.as_ref())?;
        Ok(planner.finish())
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        let buckets = self.buckets(inputs)?;
        let output = |&name: &&str| {
            Ok((
                name.to_owned(),
                match (name, arithmetic) {
                    ("samples", _) => self.samples(buckets.as_ref()),
                    ("log_expected_count", Arithmetic::F64) => {
                        self.expected::<f64>(buckets.as_ref())
                    }
                    ("log_expected_count", Arithmetic::F32) => {
                        self.expected::<f32>(buckets.as_ref())
                    }
                    _ => return Err(no_output(&ABOUT, name)),
                },
            ))
        };
        wanted.iter().map(output).collect()
    }
}

fn conflict(reason: &str) -> Error {
    Error::Conflict {
        operation: ABOUT.name.into(),
        argument: "weights".into(),
        other: "distribution".into(),
        reason: reason.into(),
    }
}

impl DrawSamples {
    /// The buckets of the call's weights, if the distribution has any.
    fn buckets(&self, host: &Arrays) -> Result<Option<Buckets>> {
        let weights = floats::<f64>(host, "weights", &[self.classes as usize])?;
        match (weights, self.distribution) {
            (None, Distribution::Alias) => Err(conflict("\"alias\" draws by them: give them")),
            // The plan holds weights in f32.
            (Some(weights), Distribution::Alias) => {
                let stored: Vec<f64> = weights.into_iter().map(|w| f64::from(w as f32)).collect();
                Buckets::new(&stored).map(Some)
            }
            (Some(_), _) => Err(conflict("only \"alias\" draws by them")),
            (None, _) => Ok(None),
        }
    }

    fn samples(&self, buckets: Option<&Buckets>) -> Array {
        let [low, high] = words(self.offset);
        let sample = |number: u32| {
            let [a, b, c, d] = philox([number / 2, u32::MAX, low, high], words(self.seed));
            let drawn = if number.is_multiple_of(2) { [a, b] } else { [c, d] };
            i64::from(match (self.distribution, buckets) {
                (Distribution::LogUniform, _) => class::log_uniform(drawn[0], self.classes),
                (Distribution::Alias, Some(buckets)) => buckets.class(drawn),
                _ => class::uniform(drawn[0], self.classes),
            })
        };
        Array::int(&[self.count.into()], (0..self.count).map(sample).collect())
    }

    fn expected<T: Real>(&self, buckets: Option<&Buckets>) -> Array {
        let log_count = T::of(self.count.into()).ln();
        let log_classes = T::of(f64::from(self.classes) + 1.0).ln();
        let log_share = |class: u32| match (self.distribution, buckets) {
            (Distribution::LogUniform, _) => {
                (T::one() / T::of(f64::from(class) + 1.0)).ln_1p().ln() - log_classes.ln()
            }
            (Distribution::Alias, Some(buckets)) => {
                T::of(buckets.probs.get(class as usize).copied().unwrap_or_default()).ln()
            }
            _ => -T::of(self.classes.into()).ln(),
        };
        array(&[self.classes as usize], (0..self.classes).map(|class| log_count + log_share(class)))
    }

    /// Begins a dispatch of one lane an item.
    fn step<'p, 'a>(
        &self,
        planner: &'p mut Planner<'a>,
        entry: &'static str,
        sources: &[Source],
    ) -> Step<'p, 'a> {
        let totals = Totals { skeleton: "random", loss: ABOUT.name, dtype: Dtype::F32 };
        totals
            .around(planner, entry, sources)
            .overriding("DISTRIBUTION", self.distribution as u32)
            .uniform("classes", self.classes)
    }

    fn draw(
        &self,
        planner: &mut Planner<'_>,
        call: &Call,
        buckets: Option<&Buckets>,
    ) -> Result<()> {
        let Some(samples) = call.output("samples") else { return Ok(()) };
        let lanes = u64::from(planner.profile.tally_lanes());
        let table = buckets.map(|buckets| planner.constant(&buckets.words));
        let ([seed_low, seed_high], [offset_low, offset_high]) =
            (words(self.seed), words(self.offset));
        self.step(planner, "draw", &[shader!("random/philox.wgsl"), shader!("random/draw.wgsl")])
            .uniform("count", self.count)
            .uniform("log_classes", class::log_classes(self.classes))
            .uniform("seed_low", seed_low)
            .uniform("seed_high", seed_high)
            .uniform("offset_low", offset_low)
            .uniform("offset_high", offset_high)
            .words("buckets", table)
            .words("samples", Some(samples))
            .groups(u64::from(self.count).div_ceil(2).div_ceil(lanes))
    }

    fn expect(
        &self,
        planner: &mut Planner<'_>,
        call: &Call,
        buckets: Option<&Buckets>,
    ) -> Result<()> {
        let Some(output) = call.output("log_expected_count") else { return Ok(()) };
        let lanes = u64::from(planner.profile.tally_lanes());
        let count = f64::from(self.count);
        let log_count = |p: &f64| ((count * p).ln() as f32).to_bits();
        let table = buckets.map(|buckets| {
            let logs: Vec<u32> = buckets.probs.iter().map(log_count).collect();
            planner.constant(&logs)
        });
        let log_scale = match self.distribution {
            Distribution::LogUniform => count.ln() - (f64::from(self.classes) + 1.0).ln().ln(),
            _ => count.ln() - f64::from(self.classes).ln(),
        };
        self.step(planner, "expected_count", &[shader!("random/expected_count.wgsl")])
            .uniform("log_scale", log_scale)
            .words("expected", table)
            .words("log_expected_count", Some(output))
            .groups(u64::from(self.classes).div_ceil(lanes))
    }
}
