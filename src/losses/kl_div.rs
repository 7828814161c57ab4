//! The Kullback–Leibler divergence of a softmax and a target distribution (catalogue R8).

use crate::{
    data::error::Result,
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Broadcast, Field, Rounds, RowLoss, RowOutput, RowProgram, RowStream, TEMPERATURE_SLOPE,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss,
    },
    spec::{call::Call, options::check_temperature},
};

/// The order of the two distributions of a divergence. q is the target distribution, p the softmax.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Direction {
    /// KL(q‖p), as `F.kl_div`: the softmax is pulled to cover everything that the target covers.
    #[default]
    Forward,
    /// KL(p‖q): the softmax is pulled to where the target is large.
    Reverse,
}

row_loss! {
    /// The Kullback–Leibler divergence of softmax(z/T) and a target distribution: row_weight·KL(q‖p), or
    /// row_weight·KL(p‖q).
    ///
    /// KL(q‖p) = Σ_c q_c·log(q_c/p_c) is the cross-entropy without the entropy of the targets, which no model can
    /// remove: it is 0 where the softmax is the target distribution. T does not multiply the loss; multiply it by T²
    /// for gradients that keep their size as T grows (as [`crate::Distillation`] does, whose targets are logits).
    ///
    /// - **Shapes**: logits and target_probs `[rows, classes]`, each with its own row stride and element offset;
    ///   row_weight `[rows]`; temperature `[1]`; upstream `[1]`, or `[rows]` with
    ///   [`Reduction::None`](crate::Reduction::None). There are no index targets: a row is left out by a row_weight of
    ///   0, together with `denominator` `"weights"`.
    /// - **Units**: nats.
    /// - **Types**: logits, target_probs, row_weight, temperature and the gradients in `f32`, `f16` or `bf16`;
    ///   everything in between in f32; the gradients are rounded to nearest even.
    /// - **Gradient** with f = row_weight·upstream/denominator: ∂z = f/T·(p·Σq − q) for KL(q‖p), and f/T·p∘(log(p/q) −
    ///   KL(p‖q)) for KL(p‖q). target_probs are used without normalisation and have no gradient.
    /// - **A learned temperature** is the input `temperature`, one float on the GPU, which overrides the option. Its
    ///   gradient `grad.temperature` is Σ f/T²·Σ_c q_c·(z_c − ⟨p, z⟩) for KL(q‖p), and
    ///   −Σ f/T²·Σ_c p_c·log(p_c/q_c)·(z_c − ⟨p, z⟩) for KL(p‖q), over the rows. A number outside 2^-126 to 2^126 is no
    ///   temperature: every row is then a bad row.
    /// - **Mean** divides by the number of rows (PyTorch's `batchmean`), or by Σ row_weight of them.
    /// - **Edges**: a class with q = 0 adds nothing to KL(q‖p), also where its logit is `-inf`. Where q is above 0 and
    ///   the logit is `-inf`, KL(q‖p) is +inf, its gradient finite, and that of the temperature -inf. A `-inf` logit
    ///   adds nothing to KL(p‖q). Where q is 0 and the logit is not `-inf`, KL(p‖q) is +inf, its gradient 0, and
    ///   [`crate::Status`] counts the row. A NaN or +inf logit, a row that is all `-inf`, or a target probability that
    ///   is negative or not finite gives NaN for that row, which the status counts. A row whose row_weight is 0 has
    ///   loss and gradient 0, whatever it holds. A positive q below 2^-126 is taken for 2^-126.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Source: Kullback and Leibler 1951.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, KlDiv, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 0.0])),
    ///     ("target_probs".to_owned(), Array::float(&[1, 2], vec![0.25, 0.75])),
    /// ]);
    /// let outputs = cpu::run(&KlDiv::default(), &inputs, &["loss"])?;
    /// let expected = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln(); // p = (1/2, 1/2)
    /// assert!((outputs["loss"].to_f64()[0] - expected).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    KlDiv = "kl_div", without targets;
    summary: "The Kullback-Leibler divergence of a softmax and a target distribution, either way.",
    formula: "p = softmax(z/T); loss = row_weight·Σ_c q_c·log(q_c/p_c), or row_weight·Σ_c p_c·log(p_c/q_c)",
    pytorch: "F.kl_div(F.log_softmax(z / T, 1), q, reduction=\"batchmean\")";
    inputs KlDivInputs {
        target_probs = "target_probs": arg::DISTRIBUTIONS;
        temperature = "temperature": arg::TEMPERATURE_IN;
    }
    outputs KlDivOutputs {
        temperature_gradient = "grad.temperature": arg::TEMPERATURE_GRADIENT;
    };
    options {
        direction: Direction = Direction::Forward, "\"forward\"", &["\"reverse\""],
            "KL(q‖p) (\"forward\") or KL(p‖q) (\"reverse\")";
        temperature: f64 = 1.0, "1.0", &["1.7"], "T > 0, which divides the logits";
    }
}

impl RowFormula for KlDiv {
    const BESIDE: &'static [&'static str] = &["target_probs"];
    const SCALARS: &'static [&'static str] = &["temperature"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        check_temperature("kl_div", self.temperature)
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let q = row.get("target_probs").unwrap_or_default();
        let temperature = row.temperature(self.temperature);
        let Some(Softmax { p, log_p, .. }) = Softmax::of(row.logits, temperature) else {
            return Point::bad(classes);
        };
        if !q.iter().all(|q| q.is_finite() && *q >= T::zero()) {
            return Point::bad(classes);
        }
        let there = |c: usize| row.logits[c] > T::neg_infinity();
        // log p and its mean: how it differs from its mean is how z/T does.
        let mean = total((0..classes).filter(|&c| there(c)).map(|c| p[c] * log_p[c]));
        let slope = |pull: &dyn Fn(usize) -> T| {
            let terms = (0..classes).filter(|&c| !pull(c).is_zero());
            total(terms.map(|c| pull(c) * (log_p[c] - mean))) / temperature
        };
        if self.direction == Direction::Forward {
            let term = |c: usize| if q[c].is_zero() { q[c] } else { q[c] * (q[c].ln() - log_p[c]) };
            let sum = total(q.iter().copied());
            let gradient = p.iter().zip(q).map(|(&p, &q)| (sum * p - q) / temperature);
            return Point::new(total((0..classes).map(term)), gradient.collect())
                .with(vec![slope(&|c| q[c])]);
        }
        if (0..classes).any(|c| there(c) && q[c].is_zero()) {
            return Point::infinite(classes);
        }
        let excess = |c: usize| if there(c) { log_p[c] - q[c].ln() } else { T::zero() };
        let loss = total((0..classes).map(|c| p[c] * excess(c)));
        Point::new(loss, (0..classes).map(|c| p[c] * (excess(c) - loss) / temperature).collect())
            .with(vec![slope(&|c| -p[c] * excess(c))])
    }
}

impl RowLoss for KlDiv {
    fn program(&self, call: &Call) -> RowProgram {
        self.ruled(RowProgram {
            streams: vec![RowStream::read("target_probs", Broadcast::Elements)],
            outputs: OUTPUTS,
            factors: FACTORS,
            settled: SETTLED,
            overrides: vec![
                ("REVERSE", (self.direction == Direction::Reverse).into()),
                ("WANTS_SLOPE", call.wants("grad.temperature").into()),
            ],
            ..RowProgram::divergence(shader!("loss/kl_div.wgsl"), Rounds::Two)
        })
        .tempered_by(call, self.temperature)
    }
}

static OUTPUTS: &[RowOutput] = &[TEMPERATURE_SLOPE];

static SETTLED: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("log_sum"),
    Field::f32("mean_exponent"),
];

static FACTORS: &[Field] = &[Field::f32("scale"), Field::f32("mean")];
