//! The negative log-likelihood of given log-probabilities (catalogue R14).

use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::{Real, times},
    skeleton::row::{
        Broadcast, Counted, DROPPED, Field, LabelScore, OPEN, Rounds, RowLoss, RowProgram,
        RowStream,
        reference::{Point, Row, RowFormula},
        row_loss,
    },
    spec::call::Call,
};

row_loss! {
    /// The negative log-likelihood of given log-probabilities: −row_weight·w_y·x_y, as `F.nll_loss`.
    ///
    /// x are log-probabilities that something else has made (a mixture, a marginal, a log-softmax that is needed anyway);
    /// y is the target. With `probabilities` x are probabilities, and the loss is −row_weight·w_y·log(max(x_y, eps)).
    /// From logits, [`crate::CrossEntropy`] is exact, faster, and needs no eps.
    ///
    /// - **Shapes**: log_probs `[rows, classes]` with any row stride and element offset, also where they are
    ///   probabilities; targets `[rows]` (`i32`, `u32`, `i64`); weight `[classes]`; row_weight `[rows]`; upstream `[1]`,
    ///   or `[rows]` with [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: nats.
    /// - **Types**: log_probs, weight, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in between in
    ///   f32; the gradient is rounded to nearest even.
    /// - **Gradient** with f = row_weight·upstream/denominator: −f·w_y at the target, 0 elsewhere. With
    ///   `probabilities` −f·w_y/x_y, and 0 where x_y is below eps.
    /// - **The bias of eps**: a probability below eps counts as eps. So the loss is at most −log eps, its mean is too
    ///   low, and the rows that are most wrong pull nothing. A larger eps stops more of them.
    /// - **Mean** divides by Σ w_y of the rows kept (PyTorch), or by Σ row_weight·w_y.
    /// - **Edges**: only the target's number of a row is read. Ignored rows add nothing and have a gradient of exactly
    ///   0; the same holds for rows whose row_weight is 0, but these are counted. A log-probability of `-inf` gives
    ///   +inf, and the usual gradient. Where the target's number is NaN or +inf, or the weight of its class is not
    ///   finite, a row is NaN, which [`crate::Status`] counts. A target outside `0..classes` is never used as an index: the loss of
    ///   its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Nll, cpu};
    /// let inputs = Arrays::from([
    ///     ("log_probs".to_owned(), Array::float(&[2, 2], vec![0.25, 0.75, 1.0, 0.0])),
    ///     ("targets".to_owned(), Array::int(&[2], vec![1, 1])),
    /// ]);
    /// let loss = Nll::default().probabilities(true).eps(1e-3).reduction(surprisal::Reduction::None);
    /// let outputs = cpu::run(&loss, &inputs, &["loss", "grad.log_probs"])?;
    /// let [first, second] = outputs["loss"].to_f64()[..] else { panic!() };
    /// assert!((first + 0.75_f64.ln()).abs() < 1e-12 && (second + 1e-3_f64.ln()).abs() < 1e-6);
    /// assert_eq!(outputs["grad.log_probs"].to_f64(), [0.0, -1.0 / 0.75, 0.0, 0.0]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Nll = "nll", of log_probs = "log_probs", "grad.log_probs", LOG_PROBS, LOG_PROBS_GRADIENT,
    scaled by {}, ignoring ignore_index;
    summary: "The negative log-likelihood of given log-probabilities, or of probabilities with a floor.",
    formula: "loss = -row_weight·w_y·x_y, or -row_weight·w_y·log(max(x_y, eps))",
    pytorch: "torch.nn.functional.nll_loss";
    inputs NllInputs {
        targets = "targets": arg::LABELS;
        weight = "weight": arg::CLASS_WEIGHT;
    }
    outputs NllOutputs;
    options {
        probabilities: bool = false, "false", &["true"], "x are probabilities, not their logarithms";
        eps: f64 = 1e-7, "1e-7", &["0.01"], "the floor of probabilities, in (0, 1), rounded to f32";
    }
}

impl RowFormula for Nll {
    const SCORES: &'static str = "log_probs";
    const OF_CLASSES: &'static [&'static str] = &["weight"];

    fn check(&self) -> Result<()> {
        if self.eps > 0.0 && self.eps < 1.0 && (self.eps as f32).is_normal() {
            return Ok(());
        }
        Err(Error::option("nll", "eps", self.eps, "eps lies in (0, 1), and is a normal f32"))
    }

    fn counted<T: Real>(&self, row: &Row<'_, T>) -> T {
        weight(row)
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let Some(label) = row.target else { return Point::bad(classes) };
        let (x, weight) = (row.logits[label], weight(row));
        if x.is_nan() || x == T::infinity() || !weight.is_finite() {
            return Point::bad(classes);
        }
        // The GPU has eps in f32.
        let eps = T::of(f64::from(self.eps as f32));
        let (loss, slope) = match self.probabilities {
            true if x < eps => (-eps.ln(), T::zero()),
            true => (-x.ln(), -x.recip()),
            false => (-x, -T::one()),
        };
        let mut gradient = vec![T::zero(); classes];
        gradient[label] = weight * slope;
        Point::new(times(weight, loss), gradient)
    }
}

/// The weight of a row's class.
fn weight<T: Real>(row: &Row<'_, T>) -> T {
    match (row.get("weight"), row.target) {
        (Some(weight), Some(label)) => weight[label],
        _ => T::one(),
    }
}

impl RowLoss for Nll {
    fn program(&self, _: &Call) -> RowProgram {
        self.ruled(RowProgram {
            sources: vec![OPEN, DROPPED, shader!("loss/nll.wgsl")],
            streams: vec![RowStream::read("weight", Broadcast::Columns).or(1.0)],
            counted: Counted { class_weights: Some("weight"), ..Counted::default() },
            rounds: Rounds::None,
            factors: FACTORS,
            label_score: LabelScore::Closing,
            overrides: vec![("PROBABILITIES", self.probabilities.into())],
            uniforms: vec![("eps", self.eps.into())],
            ..RowProgram::default()
        })
    }
}

static FACTORS: &[Field] = &[Field::u32("label"), Field::f32("label_slope")];
