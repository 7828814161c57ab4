//! The negative log-likelihood of a Poisson distribution (catalogue E7).

use crate::{
    data::error::{Error, Result},
    reference::{Real, times},
    skeleton::element::{ElementLoss, declared, element_loss, reference::Point},
    spec::about::Domain,
};

element_loss! {
    /// The negative log-likelihood of a Poisson distribution, as `torch.nn.functional.poisson_nll_loss`: exp(x) − y·x,
    /// or x − y·log(x + eps) where the input is the rate itself, [+ y·log y − y + ½ log(2πy) for y > 1].
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`]; the first input is `rate`.
    /// - **Gradient**: exp(x) − y, or 1 − y/(x + eps).
    /// - **Edges**: an element with a negative count or a negative rate has no loss: the loss is NaN, its gradient 0,
    ///   and [`crate::Status`] counts it as a bad target (PyTorch does not check). Counts need not be whole numbers.
    ///   At a log-rate of −inf the loss has its limits, 0 or +inf; at +inf it is +inf. A NaN gives NaN, which the
    ///   status counts. From a log-rate of 88.7 on, exp(x) is +inf in f32.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, PoissonNll, cpu};
    /// let inputs = Arrays::from([
    ///     ("rate".to_owned(), Array::float(&[2], vec![0.0, 0.0])),
    ///     ("targets".to_owned(), Array::float(&[2], vec![0.0, 3.0])),
    /// ]);
    /// let outputs = cpu::run(&PoissonNll::default(), &inputs, &["grad.rate"])?;
    /// assert_eq!(outputs["grad.rate"].to_f64(), [0.5, -1.0]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    PoissonNll = "poisson_nll", "loss/poisson_nll.wgsl";
    summary: "Negative log-likelihood of a Poisson distribution, from its rate or log-rate.",
    formula: "loss = weight·mask·(exp(x) − y·x), or weight·mask·(x − y·log(x + eps)), [+ log y!]",
    pytorch: "torch.nn.functional.poisson_nll_loss";
    inputs PoissonNllInputs {
        rate = "rate", 0.0: arg::elements("rate", "log-rates, or rates").within(Domain::Positive);
        targets = "targets", 0.0: arg::elements("targets", "counts").within(Domain::Count);
    }
    outputs PoissonNllOutputs { gradient = "grad.rate": "gradient of the rates or log-rates"; }
    options {
        log_input: bool = true, "true", &["false"], "the input `rate` is the logarithm of the rate";
        full: bool = false, "false", &["true"], "adds Stirling's log y! where y > 1";
        eps: f64 = 1e-8, "1e-8", &["1e-3"], "added to a rate before its logarithm is taken, not below 0";
    }
}

impl ElementLoss for PoissonNll {
    declared!();

    fn check(&self) -> Result<()> {
        if self.eps >= 0.0 && (self.eps as f32).is_finite() {
            return Ok(());
        }
        Err(Error::option("poisson_nll", "eps", self.eps, "eps is within f32 and not below 0"))
    }

    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![("LOG_INPUT", self.log_input.into()), ("FULL", self.full.into())]
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("eps", self.eps)]
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[rate, y] = x else { return Point::nan() };
        let zero = T::zero();
        if y < zero || (!self.log_input && rate < zero) {
            return Point::bad(if y < zero { y } else { rate });
        }
        if rate.is_nan() || !y.is_finite() {
            return Point::nan();
        }
        let stirling = if self.full && y > T::one() {
            y * y.ln() - y + T::of(0.5) * (T::of(std::f64::consts::TAU) * y).ln()
        } else {
            zero
        };
        let (expected, log) =
            if self.log_input { (rate.exp(), rate) } else { (rate, (rate + T::of(self.eps)).ln()) };
        // For an infinite rate the loss is infinite: the rate grows faster than its logarithm.
        let loss = if expected.is_infinite() { expected } else { expected - times(y, log) };
        let slope = if self.log_input {
            expected - y
        } else if y.is_zero() {
            T::one()
        } else {
            T::one() - y / (rate + T::of(self.eps))
        };
        Point::new(loss + stirling, slope)
    }
}
