//! The free energy of a row of scores (catalogue R8).

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
    /// The free energy of a row of scores: F = −T·log Σ_c exp(z_c/T), times row_weight.
    ///
    /// With −z_c as the energy of state c, softmax(z/T) is the Boltzmann distribution at temperature T, and F = E − T·S:
    /// the mean energy E = −Σ p·z and the entropy S of that distribution, both of which are handed out. F is a score of
    /// how well a model knows an input (out-of-distribution detection), and a loss of energy-based models.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; row_weight `[rows]`; temperature
    ///   `[1]`; upstream `[1]`, or `[rows]` with [`Reduction::None`](crate::Reduction::None). There are no targets: a
    ///   row is left out by a row_weight of 0, together with `denominator` `"weights"`.
    /// - **Units**: those of the logits; the entropy in nats.
    /// - **Types**: logits, row_weight, temperature and the gradients in `f32`, `f16` or `bf16`; everything in between
    ///   in f32; the gradients are rounded to nearest even.
    /// - **Gradient**: ∂z = −f·p with f = row_weight·upstream/denominator.
    /// - **By-products**: `energy` and `entropy`, one number a row, without any weight.
    /// - **A learned temperature** is the input `temperature`, one float on the GPU, which overrides the option. Its
    ///   gradient `grad.temperature` is −Σ f·S over the rows, with the entropy S of a row. A number outside 2^-126 to
    ///   2^126 is no temperature: every row is then a bad row.
    /// - **Mean** divides by the number of rows, or by Σ row_weight of them.
    /// - **Edges**: a class at `-inf` adds nothing and has gradient 0. A NaN or +inf logit, or a row that is all
    ///   `-inf`, gives NaN for that row, which [`crate::Status`] counts. A row whose row_weight is 0 has loss and
    ///   gradient 0, whatever its logits are; its by-products are computed.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Sources: LeCun et al. 2006 (energy-based learning); Liu et al. 2020 (detection).
    ///
    /// ```
    /// use surprisal::{Array, Arrays, FreeEnergy, cpu};
    /// let logits = Array::float(&[1, 4], vec![3.0; 4]);
    /// let inputs = Arrays::from([("logits".to_owned(), logits)]);
    /// let loss = FreeEnergy::default().temperature(2.0);
    /// let outputs = cpu::run(&loss, &inputs, &["loss", "energy", "entropy"])?;
    /// let [free, energy, entropy] = ["loss", "energy", "entropy"].map(|name| outputs[name].to_f64()[0]);
    /// assert!((energy + 3.0).abs() < 1e-12 && (entropy - 4.0_f64.ln()).abs() < 1e-12);
    /// assert!((free - (energy - 2.0 * entropy)).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    FreeEnergy = "free_energy", without targets;
    summary: "The free energy of a row of scores, with its mean energy and its entropy.",
    formula: "loss = -row_weight·T·log Σ_c exp(z_c/T) = row_weight·(E - T·S); p = softmax(z/T), E = -Σ p·z, S = H(p)",
    pytorch: "(-T * torch.logsumexp(z / T, 1)).mean()";
    inputs FreeEnergyInputs {
        temperature = "temperature": arg::TEMPERATURE_IN;
    }
    outputs FreeEnergyOutputs {
        temperature_gradient = "grad.temperature": arg::TEMPERATURE_GRADIENT;
        energy = "energy": arg::MEAN_ENERGY;
        entropy = "entropy": arg::SOFTMAX_ENTROPY;
    };
    options {
        temperature: f64 = 1.0, "1.0", &["1.7"], "T > 0";
    }
}

impl RowFormula for FreeEnergy {
    const SCALARS: &'static [&'static str] = &["temperature"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        check_temperature("free_energy", self.temperature)
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let z = row.logits;
        let temperature = row.temperature(self.temperature);
        let Some(softmax) = Softmax::of(z, temperature) else { return Point::bad(z.len()) };
        // log p_c = z_c/T − lse(z/T) of every class c; here of the largest.
        let top = z.iter().copied().fold(T::neg_infinity(), T::max);
        let largest = z.iter().position(|&z| z == top).unwrap_or_default();
        let loss = temperature * softmax.log_of(largest) - top;
        let states = softmax.p.iter().zip(z).filter(|(p, _)| !p.is_zero());
        let energy = -total(states.map(|(&p, &z)| p * z));
        let entropy = softmax.entropy();
        Point::new(loss, softmax.p.iter().map(|&p| -p).collect())
            .with(vec![-entropy, energy, entropy])
    }
}

impl RowLoss for FreeEnergy {
    fn program(&self, call: &Call) -> RowProgram {
        let program = RowProgram {
            outputs: OUTPUTS,
            factors: FACTORS,
            ..RowProgram::entropy(shader!("loss/free_energy.wgsl"), Rounds::One)
        };
        self.ruled(program).tempered_by(call, self.temperature)
    }
}

static OUTPUTS: &[RowOutput] =
    &[TEMPERATURE_SLOPE, RowOutput::number("energy"), RowOutput::number("entropy")];

static FACTORS: &[Field] = &[Field::f32("top"), Field::f32("inverse_sum"), Field::f32("scale")];
