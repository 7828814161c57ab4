//! The entropy of a softmax (catalogue R8).

use crate::{
    data::error::Result,
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Field, Rounds, RowLoss, RowOutput, RowProgram, TEMPERATURE_SLOPE,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss,
    },
    spec::{call::Call, options::check_temperature},
};

row_loss! {
    /// The entropy of a softmax: row_weight·H(softmax(z/T)).
    ///
    /// With a negative upstream gradient it keeps predictions from becoming sure too soon (the entropy bonus of policy
    /// gradients); added, it makes them sure (entropy minimisation on rows without labels). In a policy loss,
    /// [`crate::CrossEntropy`] does both in one call: it hands out `entropy` and takes `upstream.entropy`.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; row_weight `[rows]`; temperature
    ///   `[1]`; upstream `[1]`, or `[rows]` with [`Reduction::None`](crate::Reduction::None). There are no targets: a
    ///   row is left out by a row_weight of 0, together with `denominator` `"weights"`.
    /// - **Units**: nats, from 0 to log(classes) a row.
    /// - **Types**: logits, row_weight, temperature and the gradients in `f32`, `f16` or `bf16`; everything in between
    ///   in f32; the gradients are rounded to nearest even.
    /// - **Gradient**: ∂z = −f/T·p∘(log p + H) with f = row_weight·upstream/denominator. Loss and gradient keep their
    ///   relative accuracy where one class has nearly all of the probability.
    /// - **A learned temperature** is the input `temperature`, one float on the GPU, which overrides the option. Its
    ///   gradient `grad.temperature` is Σ f·Var(z)/T³, with the variance of z under p. A number outside 2^-126 to 2^126
    ///   is no temperature: every row is then a bad row.
    /// - **Mean** divides by the number of rows, or by Σ row_weight of them.
    /// - **Edges**: a class at `-inf` adds nothing and has gradient 0. A NaN or +inf logit, or a row that is all
    ///   `-inf`, gives NaN for that row, which [`crate::Status`] counts. A row whose row_weight is 0 has loss and
    ///   gradient 0, whatever its logits are.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Sources: Shannon 1948; as a bonus, Williams and Peng 1991; minimised, Grandvalet and Bengio 2004.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Entropy, cpu};
    /// let logits = Array::float(&[1, 4], vec![0.0; 4]);
    /// let outputs = cpu::run(&Entropy::default(), &Arrays::from([("logits".to_owned(), logits)]), &["loss"])?;
    /// assert!((outputs["loss"].to_f64()[0] - 4.0_f64.ln()).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Entropy = "entropy", without targets;
    summary: "The entropy of a softmax.",
    formula: "p = softmax(z/T); loss = -row_weight·Σ_c p_c·log p_c",
    pytorch: "torch.distributions.Categorical(logits=z / T).entropy().mean()";
    inputs EntropyInputs {
        temperature = "temperature": arg::TEMPERATURE_IN;
    }
    outputs EntropyOutputs {
        temperature_gradient = "grad.temperature": arg::TEMPERATURE_GRADIENT;
    };
    options {
        temperature: f64 = 1.0, "1.0", &["1.7"], "T > 0, which divides the logits";
    }
}

impl RowFormula for Entropy {
    const SCALARS: &'static [&'static str] = &["temperature"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        check_temperature("entropy", self.temperature)
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let temperature = row.temperature(self.temperature);
        let Some(softmax) = Softmax::of(row.logits, temperature) else {
            return Point::bad(row.logits.len());
        };
        let entropy = softmax.entropy();
        let off = |(c, &p): (usize, &T)| {
            if p.is_zero() { p } else { softmax.log_of(c) + entropy }
        };
        let off: Vec<T> = softmax.p.iter().enumerate().map(off).collect();
        let terms = || softmax.p.iter().zip(&off);
        let variance = total(terms().map(|(&p, &off)| p * off * off));
        let gradient = terms().map(|(&p, &off)| -p * off / temperature).collect();
        Point::new(entropy, gradient).with(vec![variance / temperature])
    }
}

impl RowLoss for Entropy {
    fn program(&self, call: &Call) -> RowProgram {
        let rounds = if call.wants("grad.temperature") { Rounds::Two } else { Rounds::One };
        let program = RowProgram {
            outputs: OUTPUTS,
            factors: FACTORS,
            ..RowProgram::entropy(shader!("loss/entropy.wgsl"), rounds)
        };
        self.ruled(program).tempered_by(call, self.temperature)
    }
}

static OUTPUTS: &[RowOutput] = &[TEMPERATURE_SLOPE];

static FACTORS: &[Field] =
    &[Field::f32("top"), Field::f32("inverse_sum"), Field::f32("depth"), Field::f32("scale")];
