//! The loss of a GAN's discriminator (catalogue E10).

use std::collections::BTreeMap;

use super::BceWithLogits;
use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, profile::Profile},
    skeleton::{
        composed::{self, Composed, Part, PartInput, TensorSlice},
        operation::{Operation, Options},
        request::request,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Empty, Reduction},
    },
};

/// The loss of a discriminator on its scores of real and of fake samples, in one call: the mean of BCE(real,
/// real_label) plus the mean of BCE(fake, fake_label), in nats.
///
/// BCE(z, y) = y·softplus(−z) + (1 − y)·softplus(z). With the labels 1 and 0 the loss is softplus(−D(x)) +
/// softplus(D(G)).
///
/// - **Shapes**: real `[n]` or `[n, 1]`, fake `[m]` or `[m, 1]` (scores of patches are flattened); real_targets and
///   fake_targets have the same shapes and replace the labels, for soft or noisy labels ([`crate::targets::flipped`]);
///   upstream `[1]`. One-sided smoothing is `real_label` = 0.9.
/// - **Types**: `f32`, `f16`, `bf16`, computed in f32.
/// - **Gradient**: f·(P − y) with P = sigmoid(z), f = upstream/n for the real scores and upstream/m for the fake
///   scores.
/// - **Reduction**: each side is reduced separately, and the two results are added. `none` is refused.
/// - **Slopes** `[2]`: the mean of |∂loss/∂z| over the real and over the fake scores, from 0 to 1. Near 0 the
///   discriminator is sure of everything, and a generator that saturates learns nothing.
/// - **Parts** `[2]`: the losses of the real and of the fake scores; part_sum and part_denominator combine
///   micro-batches exactly.
/// - **Edges**: as [`BceWithLogits`], also for labels outside [0, 1]. A side without samples is a mean over nothing.
///   With `empty` = `nan` it is NaN, and so is the sum of both sides, as in PyTorch. With `zero` it is 0, and the loss
///   is that of the other side. The other side's part, slope and gradient are the same in both cases.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
///
/// Sources: Goodfellow et al. 2014; one-sided smoothing, Salimans et al. 2016.
///
/// ```
/// use surprisal::{Array, Arrays, GanDiscriminator, cpu};
/// let inputs = Arrays::from([
///     ("real".to_owned(), Array::float(&[2], vec![0.0, 0.0])),
///     ("fake".to_owned(), Array::float(&[1], vec![0.0])),
/// ]);
/// let loss = GanDiscriminator::default().real_label(0.9);
/// let outputs = cpu::run(&loss, &inputs, &["loss", "slopes"])?;
/// assert!((outputs["loss"].to_f64()[0] - 4f64.ln()).abs() < 1e-12);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct GanDiscriminator {
    /// How the losses of each side become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// The target of real samples.
    pub real_label: f64,
    /// The target of fake samples.
    pub fake_label: f64,
}

impl Default for GanDiscriminator {
    fn default() -> Self {
        Self { reduction: Reduction::Mean, empty: Empty::Nan, real_label: 1.0, fake_label: 0.0 }
    }
}

impl GanDiscriminator {
    setters! { reduction: Reduction, empty: Empty, real_label: f64, fake_label: f64 }

    /// The part of one side: its scores, and their targets or the label.
    fn side(&self, [scores, targets]: [&'static str; 2], label: f64, has_targets: bool) -> Part {
        let inputs = [("logits", scores), ("targets", targets), ("upstream", "upstream")];
        let loss = BceWithLogits::default()
            .reduction(self.reduction)
            .empty(self.empty)
            .target((!has_targets).then_some(label));
        Part {
            loss: Box::new(loss),
            inputs: inputs
                .map(|(part, whole)| PartInput { part, whole, slice: TensorSlice::All })
                .into(),
            slope: Some("slope"),
        }
    }
}

tensors! {
    /// The inputs of [`GanDiscriminator`].
    GanDiscriminatorInputs {
        /// Scores of real samples `[n]` or `[n, 1]`.
        real = "real",
        /// Scores of fake samples `[m]` or `[m, 1]`.
        fake = "fake",
        /// Labels of the real samples, instead of `real_label`.
        real_targets = "real_targets",
        /// Labels of the fake samples, instead of `fake_label`.
        fake_targets = "fake_targets",
        /// The upstream gradient (a loss scale), `[1]`.
        upstream = "upstream",
    }
}

tensors! {
    /// The outputs of [`GanDiscriminator`]. Only those that are given are computed.
    GanDiscriminatorOutputs {
        /// The loss `[1]`.
        loss = "loss",
        /// The gradient of the real samples' scores.
        real_gradient = "grad.real",
        /// The gradient of the fake samples' scores.
        fake_gradient = "grad.fake",
        /// The losses of both sides `[2]`.
        parts = "parts",
        /// The sum of the losses of each side `[2]`.
        part_sum = "part_sum",
        /// What the mean of each side divides by `[2]`.
        part_denominator = "part_denominator",
        /// The mean |∂loss/∂z| of each side `[2]`.
        slopes = "slopes",
        /// The status words.
        status = "status",
    }
}

request!(GanDiscriminator: GanDiscriminatorInputs, GanDiscriminatorOutputs);

const REAL: &[&[Dim]] = &[&[Dim::Rows], &[Dim::Rows, Dim::One]];
const FAKE: &[&[Dim]] = &[&[Dim::Fakes], &[Dim::Fakes, Dim::One]];

pub(super) static ABOUT: About = About {
    name: "gan_discriminator",
    summary: "A GAN discriminator's loss on its scores of real and of fake samples.",
    formula: "loss = mean BCE(real, real_label) + mean BCE(fake, fake_label)",
    pytorch: "binary_cross_entropy_with_logits(real, ones) + binary_cross_entropy_with_logits(fake, zeros)",
    inputs: &[
        Argument::required("real", Kind::Float, REAL, "scores of real samples"),
        Argument::required("fake", Kind::Float, FAKE, "scores of fake samples"),
        Argument::optional("real_targets", Kind::Float, REAL, "labels instead of `real_label`")
            .within(Domain::Probability),
        Argument::optional("fake_targets", Kind::Float, FAKE, "labels instead of `fake_label`")
            .within(Domain::Probability),
        composed::UPSTREAM,
    ],
    outputs: &[
        composed::LOSS,
        Argument::optional("grad.real", Kind::Float, REAL, "gradient of the real scores")
            .over("real"),
        Argument::optional("grad.fake", Kind::Float, FAKE, "gradient of the fake scores")
            .over("fake"),
        composed::PARTS,
        composed::PART_SUM,
        composed::PART_DENOMINATOR,
        composed::SLOPES,
        arg::STATUS,
    ],
    options: &[
        composed::REDUCTION,
        arg::EMPTY,
        OptionAbout {
            name: "real_label",
            default: "1.0",
            samples: &["0.9"],
            about: "the label of real samples; 0.9 is one-sided smoothing",
        },
        OptionAbout {
            name: "fake_label",
            default: "0.0",
            samples: &["0.1"],
            about: "the label of fake samples",
        },
    ],
};

impl Signature for GanDiscriminator {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        vec![(Dim::Parts, 2)]
    }

    fn validate(&self) -> Result<()> {
        composed::check_composed("gan_discriminator", self.reduction)?;
        for (name, label) in [("real_label", self.real_label), ("fake_label", self.fake_label)] {
            if !(label as f32).is_finite() {
                return Err(Error::option("gan_discriminator", name, label, "a label is finite"));
            }
        }
        Ok(())
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        composed::accepts(self, call)
    }
}

impl Operation for GanDiscriminator {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        composed::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        composed::reference(self, inputs, wanted, arithmetic)
    }
}

impl Composed for GanDiscriminator {
    fn parts(&self, _: &BTreeMap<Dim, u64>, given: &dyn Fn(&str) -> bool) -> Result<Vec<Part>> {
        Ok(vec![
            self.side(["real", "real_targets"], self.real_label, given("real_targets")),
            self.side(["fake", "fake_targets"], self.fake_label, given("fake_targets")),
        ])
    }

    fn reduced(&self) -> (Reduction, Empty) {
        (self.reduction, self.empty)
    }
}
