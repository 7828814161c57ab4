//! Softmax over a target and sampled classes, and negative sampling (catalogue R16).

use crate::{
    data::{
        array::{Array, Arrays},
        error::Result,
    },
    plan::kernel::shader,
    reference::{Findings, Real},
    skeleton::row::{
        Columns, DROPPED, Field, LabelScore, OPEN, Rounds, RowLoss, RowProgram,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind},
        call::Call,
    },
};

use super::separable::{SUMS_FACTORS, SUMS_STATE};

/// What a target and the samples beside it have for a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Form {
    /// −log of the target's softmax over itself and the samples (sampled softmax).
    #[default]
    Softmax,
    /// softplus(−s) of the target, and softplus(s) of each sample (negative sampling).
    Logistic,
}

row_loss! {
    /// The softmax of a target over itself and some sampled classes, or the same as binary decisions (negative sampling).
    ///
    /// With s_c = z_c − log_expected_count_c, and j over the samples that are not the row's target y, a row's loss is
    ///
    /// - `form` `"softmax"`: row_weight·(log(exp(s_y) + Σ_j exp(s_j)) − s_y);
    /// - `form` `"logistic"`: row_weight·(softplus(−s_y) + Σ_j softplus(s_j)).
    ///
    /// - **Samples**: `samples` `[k]` (`i32`, `u32`, `i64`) are classes that all rows share. A class that is drawn twice
    ///   counts twice. A sample that is the row's target is left out of that row (an accidental hit).
    ///   `log_expected_count` `[classes]` is the logarithm of how often a draw of k samples is expected to hold each
    ///   class; 0 if it is not given. With it, the gradient is on average nearly that of the softmax over all classes.
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
    ///   `i64`); row_weight `[rows]`; upstream `[1]`, or `[rows]` with [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: nats.
    /// - **Types**: logits, log_expected_count, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in
    ///   between in f32; the gradient is rounded to nearest even.
    /// - **Gradient** with f = row_weight·upstream/denominator. `"softmax"`: f·(p_c·n_c − e_c), where p is the softmax, n_c
    ///   the number of times that c was drawn and e_c is 1 for the target. `"logistic"`: −f·σ(−s_y) at the target and
    ///   f·n_c·σ(s_c) at the samples. Exactly 0 elsewhere.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **Cost**: k + 1 logits of each row are read, no others; what these hold, be it NaN, does not matter. The scores are
    ///   copied to scratch, k + 1 words a row. The gradient is filled with zeros beside that. A call takes at
    ///   most 32,768 samples.
    /// - **Edges**: a sample outside `0..classes` is never used as an index: it is left out of every row, and the status
    ///   counts sample i as a bad target of row `rows + i`. Ignored rows add nothing and have a gradient of exactly 0, even
    ///   where their logits are NaN. The same holds for rows whose row_weight is 0, but these are counted. A sample at
    ///   `-inf` adds nothing; a target at `-inf` gives +inf, and the usual gradient. Where a score that is read is NaN or
    ///   +inf, or with `"softmax"` all of them are `-inf`, the row's loss and the gradient of what it reads are NaN, and
    ///   [`crate::Status`] counts the row. A bad target is never used as an index: the loss of its row is NaN, the gradient
    ///   0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
    ///
    /// Sources: Jean, Cho, Memisevic and Bengio 2015 (sampled softmax); Mikolov et al. 2013 (negative sampling).
    ///
    /// ```
    /// use surprisal::{Array, Arrays, SampledSoftmax, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 4], vec![0.0, 9.0, 0.0, 0.0])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![0])),
    ///     ("samples".to_owned(), Array::int(&[4], vec![2, 0, 2, 3])),
    /// ]);
    /// let outputs = cpu::run(&SampledSoftmax::default(), &inputs, &["loss", "grad.logits"])?;
    /// // The target and three samples; class 2 counts twice, the sample 0 is the target.
    /// assert!((outputs["loss"].to_f64()[0] - 4.0_f64.ln()).abs() < 1e-12);
    /// assert_eq!(outputs["grad.logits"].to_f64(), [-0.75, 0.0, 0.5, 0.25]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    SampledSoftmax = "sampled_softmax";
    summary: "The softmax of a target over itself and sampled classes, or the same as binary decisions.",
    formula: "s = z - log_expected_count; loss = row_weight·(log(exp(s_y) + Σ_j exp(s_j)) - s_y), \
              or row_weight·(softplus(-s_y) + Σ_j softplus(s_j)), over the samples j that are not y",
    pytorch: "none; F.cross_entropy over the target's and the samples' logits, hits masked with -inf";
    inputs SampledSoftmaxInputs {
        targets = "targets": arg::LABELS;
        samples = "samples": SAMPLES;
        log_expected_count = "log_expected_count": LOG_EXPECTED_COUNT;
    }
    outputs SampledSoftmaxOutputs;
    options {
        form: Form = Form::Softmax, "\"softmax\"", &["\"logistic\""], "\"softmax\" or \"logistic\"";
    }
}

pub(super) const SAMPLES: Argument = Argument::required(
    "samples",
    Kind::Index,
    &[&[Dim::Samples]],
    "classes that all rows share; a class that is drawn twice counts twice",
)
.within(Domain::Any);
pub(super) const LOG_EXPECTED_COUNT: Argument = Argument::optional(
    "log_expected_count",
    Kind::Float,
    &[&[Dim::Classes]],
    "subtracted from every score: the logarithm of how often a class is expected among the samples",
);

impl RowFormula for SampledSoftmax {
    const OF_CLASSES: &'static [&'static str] = &["log_expected_count"];
    const SHARED: &'static [&'static str] = &["samples"];

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn inspect(&self, inputs: &Arrays, [rows, classes]: [usize; 2], found: &mut Findings) {
        let samples = inputs.get("samples").map(Array::to_i64).unwrap_or_default();
        for (at, &sample) in samples.iter().enumerate() {
            if usize::try_from(sample).is_ok_and(|class| class < classes) {
                continue;
            }
            found.bad_target(rows + at, sample);
        }
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let Some(label) = row.target else { return Point::bad(classes) };
        let samples = row.get("samples").unwrap_or_default();
        let samples = samples.iter().filter_map(num_traits::ToPrimitive::to_usize);
        // The target, and behind it the samples that count.
        let mut columns = vec![label];
        columns.extend(samples.filter(|&class| class < classes && class != label));
        let score = |&class: &usize| match row.get("log_expected_count") {
            Some(counts) => row.logits[class] - counts[class],
            None => row.logits[class],
        };
        let scores: Vec<T> = columns.iter().map(score).collect();
        let (loss, slopes) = match self.form {
            Form::Softmax => match Softmax::of(&scores, T::one()) {
                Some(softmax) => {
                    let mut slopes = softmax.p.clone();
                    slopes[0] = -softmax.others[0];
                    (-softmax.log_of(0), slopes)
                }
                None => return Point::bad(classes).of_columns(columns),
            },
            Form::Logistic => {
                if scores.iter().any(|&s| s.is_nan() || s == T::infinity()) {
                    return Point::bad(classes).of_columns(columns);
                }
                decisions(&scores)
            }
        };
        let mut gradient = vec![T::zero(); classes];
        for (&class, slope) in columns.iter().zip(slopes) {
            gradient[class] += slope;
        }
        Point::new(loss, gradient).of_columns(columns)
    }
}

/// Σ softplus(∓s), the first score with a minus, and its derivatives.
fn decisions<T: Real>(scores: &[T]) -> (T, Vec<T>) {
    let against = |(at, &s): (usize, &T)| if at == 0 { -s } else { s };
    let against: Vec<T> = scores.iter().enumerate().map(against).collect();
    let softplus = |&x: &T| x.max(T::zero()) + (-x.abs()).exp().ln_1p();
    let sigmoid = |x: T| {
        let e = (-x.abs()).exp();
        (if x < T::zero() { e } else { T::one() }) / (T::one() + e)
    };
    let slope = |(at, &x): (usize, &T)| if at == 0 { -sigmoid(x) } else { sigmoid(x) };
    let slopes = against.iter().enumerate().map(slope).collect();
    (total(against.iter().map(softplus)), slopes)
}

impl RowLoss for SampledSoftmax {
    fn linear_about(&self) -> Option<&'static About> {
        Some(&super::linear_sampled_softmax::ABOUT)
    }

    fn program(&self, _: &Call) -> RowProgram {
        let program = match self.form {
            Form::Softmax => RowProgram {
                factors: FACTORS,
                ..RowProgram::softmax(shader!("loss/sampled_softmax.wgsl"), Rounds::One)
            }
            .tempered(1.0),
            Form::Logistic => RowProgram {
                sources: vec![
                    OPEN,
                    DROPPED,
                    shader!("loss/sums.wgsl"),
                    shader!("loss/sampled_logistic.wgsl"),
                ],
                state: SUMS_STATE,
                factors: SUMS_FACTORS,
                ..RowProgram::default()
            },
        };
        let label_score = LabelScore::Closing;
        self.ruled(RowProgram { columns: Columns::Sampled, label_score, ..program })
    }
}

static FACTORS: &[Field] = &[Field::f32("top"), Field::f32("scale"), Field::f32("label_slope")];
