//! A mix of cross-entropy and the squared error of the softmax (catalogue R12).

use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::{Real, times},
    skeleton::row::{
        Field, LabelScore, Rounds, RowLoss, RowOutput, RowProgram,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss,
    },
    spec::{about::Dim, call::Call},
};

row_loss! {
    /// A mix of cross-entropy and the squared error of the softmax: row_weight·(α·CE + (1 − α)·MSE).
    ///
    /// CE = −log p_y and MSE = (1/C)·Σ_c (p_c − e_c)², with p = softmax(z), C classes, and e the one-hot row of the
    /// target y. Cross-entropy pulls hardest where the softmax is sure and wrong; there the gradient of the squared
    /// error vanishes (it saturates), which spares wrong labels, but also stalls training. `saturation` shows by how
    /// much. α can be learned: give it as an input, and its gradient is `grad.alpha`.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
    ///   `i64`); alpha `[1]`; row_weight `[rows]`; upstream `[1]`, or `[rows]` with
    ///   [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: nats and squared probabilities, added.
    /// - **Types**: logits, alpha, row_weight and the gradients in `f32`, `f16` or `bf16`; everything in between in
    ///   f32; the gradients are rounded to nearest even.
    /// - **Gradient** with f = row_weight·upstream/denominator: ∂z = f·(α·(p − e) + (1 − α)·(2/C)·p∘[(p − e) −
    ///   ⟨p, p − e⟩]), and ∂α = Σ f·(CE − MSE) over the rows. Both terms of loss and gradient keep their relative
    ///   accuracy where the softmax is sure, right or wrong.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **By-product**: `saturation`, one number a row without any weight: ‖∂MSE/∂z‖/‖∂CE/∂z‖, and 0 where both are 0.
    /// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. A row
    ///   whose row_weight is 0 has loss and gradient 0, whatever its logits are; it is counted, and its by-product is
    ///   computed. A `-inf` logit has p = 0 and gradient 0. A target at `-inf` gives +inf, but with α = 0 the squared
    ///   error alone. A NaN or +inf logit, or a row that is all `-inf`, gives NaN for that row, which [`crate::Status`]
    ///   counts; an alpha that is not finite does so for every row. A target outside `0..classes` is never used as an
    ///   index: the loss of its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Sources: Hui and Belkin 2021 (squared error as a loss of classifiers); saturation, Golik, Doetsch and Ney 2013.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, CeMseMix, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 3.0_f64.ln()])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![0])),
    ///     ("alpha".to_owned(), Array::float(&[1], vec![0.25])),
    /// ]);
    /// let outputs = cpu::run(&CeMseMix::default(), &inputs, &["loss", "grad.alpha"])?;
    /// let (ce, mse) = (4.0_f64.ln(), 0.75 * 0.75); // p = (1/4, 3/4)
    /// assert!((outputs["loss"].to_f64()[0] - (0.25 * ce + 0.75 * mse)).abs() < 1e-12);
    /// assert!((outputs["grad.alpha"].to_f64()[0] - (ce - mse)).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    CeMseMix = "ce_mse_mix";
    summary: "A mix of cross-entropy and the squared error of the softmax; its share can be learned.",
    formula: "p = softmax(z); loss = row_weight·(α·(−log p_y) + (1 − α)·(1/C)·Σ_c (p_c − e_c)²)",
    pytorch: "α * F.cross_entropy(z, y) + (1 - α) * F.mse_loss(softmax(z), F.one_hot(y))";
    inputs CeMseMixInputs {
        targets = "targets": arg::LABELS;
        alpha = "alpha": arg::ALPHA_IN;
    }
    outputs CeMseMixOutputs {
        alpha_gradient = "grad.alpha": arg::ALPHA_GRADIENT;
        saturation = "saturation": arg::SATURATION;
    };
    options {
        alpha: f64 = 0.5, "0.5", &["0.0", "1.0"], "α in [0, 1], the share of cross-entropy";
    }
}

impl RowFormula for CeMseMix {
    const SCALARS: &'static [&'static str] = &["alpha"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.alpha) {
            return Ok(());
        }
        Err(Error::option("ce_mse_mix", "alpha", self.alpha, "α lies in [0, 1]"))
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let alpha = row.get("alpha").map_or(T::of(self.alpha), |alpha| alpha[0]);
        let (Some(softmax), Some(label), true) =
            (Softmax::of(row.logits, T::one()), row.target, alpha.is_finite())
        else {
            return Point::bad(classes);
        };
        let entropy = -softmax.log_of(label);
        let errors = errors(&softmax, label);
        let share = T::one() / T::of(classes as f64);
        let squares = share * total(errors.iter().map(|&error| error * error));
        let pulls: Vec<T> =
            pulls(&softmax, label).into_iter().map(|pull| T::of(2.0) * share * pull).collect();
        let mix = |(&error, &pull): (&T, &T)| alpha * error + (T::one() - alpha) * pull;
        let gradient = errors.iter().zip(&pulls).map(mix).collect();
        let norm = |values: &[T]| total(values.iter().map(|&value| value * value)).sqrt();
        let saturation =
            if norm(&errors).is_zero() { T::zero() } else { norm(&pulls) / norm(&errors) };
        Point::new(times(alpha, entropy) + (T::one() - alpha) * squares, gradient)
            .with(vec![entropy - squares, saturation])
    }
}

/// p − e, the gradient of cross-entropy.
fn errors<T: Real>(softmax: &Softmax<T>, label: usize) -> Vec<T> {
    let error = |(c, (&p, &others)): (usize, (&T, &T))| if c == label { -others } else { p };
    softmax.p.iter().zip(&softmax.others).enumerate().map(error).collect()
}

/// p∘[(p − e) − ⟨p, p − e⟩], the gradient of half the squared error's sum.
fn pulls<T: Real>(Softmax { p, others, .. }: &Softmax<T>, label: usize) -> Vec<T> {
    // ⟨p, p − e⟩ is Σ p² − p_y, and Σ p² is 1 − Σ p·(1 − p). The 1 goes into the larger of p_c and p_y, of which what it
    // lacks is known exactly.
    let spread = total(p.iter().zip(others).map(|(&p, &others)| p * others));
    let pull = |c: usize| {
        let (lower, upper) = if p[c] < p[label] { (c, label) } else { (label, c) };
        p[c] * (spread + p[lower] - others[upper])
    };
    let mut all: Vec<T> = (0..p.len()).map(pull).collect();
    // That of the target is −p_y·Σ (p − e)², in which nothing cancels.
    let rest = (0..p.len()).filter(|&c| c != label).map(|c| p[c] * p[c]);
    all[label] = -p[label] * (total(rest) + others[label] * others[label]);
    all
}

impl RowLoss for CeMseMix {
    fn program(&self, call: &Call) -> RowProgram {
        let saturation = call.wants("saturation");
        let rounds = if saturation { Rounds::Two } else { Rounds::One };
        let alpha = if call.has("alpha") { 1.0 } else { self.alpha };
        let share = 1.0 / call.dim(Dim::Classes).max(1) as f64;
        self.ruled(RowProgram {
            scalar: Some("alpha"),
            outputs: OUTPUTS,
            factors: FACTORS,
            settled: SETTLED,
            label_score: LabelScore::Closing,
            overrides: vec![("WANTS_SATURATION", saturation.into())],
            uniforms: vec![("alpha", alpha.into()), ("share", share.into())],
            ..RowProgram::softmax(shader!("loss/ce_mse_mix.wgsl"), rounds)
        })
        .tempered(1.0)
    }
}

static OUTPUTS: &[RowOutput] =
    &[RowOutput::slope("alpha_slope", "grad.alpha"), RowOutput::number("saturation")];

static SETTLED: &[Field] =
    &[Field::f32("top"), Field::f32("inverse_sum"), Field::f32("depth"), Field::f32("label_e")];

static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("depth"),
    Field::f32("label_e"),
    Field::f32("scale"),
    Field::f32("squared_scale"),
    Field::f32("label_slope"),
    Field::u32("label"),
];
