//! Binary cross-entropy on logits, with focal modulation (catalogue E1 to E3).

use crate::{
    data::error::{Error, Result},
    reference::{Real, is_temperature, times},
    skeleton::element::{
        ElementLoss, declared, element_loss,
        reference::{Point, sigmoid, softplus},
    },
    spec::about::Domain,
};

element_loss! {
    /// Binary cross-entropy on logits, as `torch.nn.functional.binary_cross_entropy_with_logits`, with focal
    /// modulation and further options.
    ///
    /// u = (z + logit_bias)/τ, y' = y·(1 − ε) + ε/2, P = sigmoid(u), and the loss of an element is weight·mask·a·(1 −
    /// p_t)^γ·(pos_weight·y'·softplus(−u) + (1 − y')·softplus(u)), in nats, with 1 − p_t = P·(1 − y') + (1 − P)·y' and
    /// a = α·y' + (1 − α)·(1 − y') (1 where α < 0).
    ///
    /// - **Shapes**: logits of any rank, whose last axis is the columns and all axes before it the rows, with any row
    ///   stride and element offset; targets have the same shape. weight, pos_weight, logit_bias, temperature and mask
    ///   broadcast to that shape from the last axis on, as in PyTorch: `[columns]`, `[…, 1]` (per row), `[1]` and so
    ///   on. upstream is `[1]`, or one value an element with [`Reduction::None`](crate::Reduction::None).
    /// - **Types**: everything in `f32`, `f16` or `bf16`, computed in f32; gradients are rounded to nearest even.
    /// - **Slope**: the mean of |∂loss/∂z| over the elements kept, before weights, mask and reduction. A slope near 0
    ///   shows that gradients vanish.
    /// - **Gradient** (γ = 0): ∂z = f·((1 − y')·P − pos_weight·y'·(1 − P))/τ with f =
    ///   weight·mask·upstream/denominator. ∂τ = −Σ ∂z·u over the elements that share a temperature.
    /// - **A learned temperature** is the input `temperature`: `[1]`, one number a column (a temperature for each
    ///   label), or any other shape that broadcasts. It overrides the option. It lies between 2⁻¹²⁶ and 2¹²⁶; an element
    ///   with another one has the loss NaN and the gradient NaN, and the status counts it.
    /// - **Mean** divides by the number of elements, as PyTorch does, or by Σ mask over the elements that are kept;
    ///   [`Reduction::Multilabel`](crate::Reduction::Multilabel) divides by the number of rows.
    /// - **Edges**: an element that is masked, or whose target is `unknown_target`, adds nothing and has a gradient of
    ///   exactly 0, even where its logit is NaN. At z = ±inf the loss has its limits, 0 or +inf, and the gradient is
    ///   finite. A NaN logit or target gives NaN for that element, which [`crate::Status`] counts. Targets outside [0,
    ///   1] are accepted as in PyTorch, unless `check_targets` is set: then their loss is NaN, their gradient 0, and
    ///   the status counts them.
    /// - **Accuracy**: small losses keep their relative accuracy, down to 1e-30.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Sources: focal, Lin et al. 2017 (as torchvision's `sigmoid_focal_loss`).
    ///
    /// ```
    /// use surprisal::{Array, Arrays, BceWithLogits, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[2], vec![0.0, 2.0])),
    ///     ("targets".to_owned(), Array::float(&[2], vec![1.0, 0.0])),
    /// ]);
    /// let outputs = cpu::run(&BceWithLogits::default(), &inputs, &["loss"])?;
    /// assert!((outputs["loss"].to_f64()[0] - 1.410_037_595_9).abs() < 1e-9);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    BceWithLogits = "bce_with_logits", "loss/bce_with_logits.wgsl";
    summary: "Binary cross-entropy on logits, each element by itself.",
    formula: "u = (z + logit_bias)/τ; y' = y·(1−ε) + ε/2; \
              loss = weight·mask·a·(1−p_t)^γ·(pos_weight·y'·softplus(−u) + (1−y')·softplus(u))",
    pytorch: "torch.nn.functional.binary_cross_entropy_with_logits";
    inputs BceWithLogitsInputs {
        logits = "logits", 0.0: arg::elements("logits", "logits");
        temperature = "temperature", 1.0: arg::broadcast("temperature", "τ on the GPU; overrides the option")
            .within(Domain::Positive);
        targets = "targets", 0.0:
            arg::optional_elements("targets", "what the probability should be, where `target` does not say")
                .within(Domain::Probability);
        pos_weight = "pos_weight", 1.0:
            arg::broadcast("pos_weight", "multiplies the positives' part").within(Domain::Positive);
        logit_bias = "logit_bias", 0.0: arg::broadcast("logit_bias", "added to the logits");
    }
    outputs BceWithLogitsOutputs {
        gradient = "grad.logits": "gradient of the logits";
        temperature_gradient = "grad.temperature": "gradient of the input `temperature`";
    }
    monitors slope = "slope": "mean of |∂loss/∂z| before weights: 0 where gradients have vanished";
    options {
        target: Option<f64> = None, "null", &["0.9"], "the target of every element, instead of `targets`";
        label_smoothing: f64 = 0.0, "0.0", &["0.1"], "ε in [0, 1]: y·(1 − ε) + ε/2";
        temperature: f64 = 1.0, "1.0", &["1.7"], "τ > 0";
        focal_gamma: f64 = 0.0, "0.0", &["0.5", "2.0"], "γ ≥ 0: focal modulation (1 − p_t)^γ";
        focal_alpha: f64 = -1.0, "-1.0", &["0.25"], "α in [0, 1] weighs positives by α, negatives by 1 − α; off below 0";
        check_targets: bool = false, "false", &["true"], "targets outside [0, 1] are bad: counted in the status";
    }
}

impl BceWithLogits {
    fn is_focal(&self) -> bool {
        self.focal_gamma > 0.0 || self.focal_alpha >= 0.0
    }

    /// The weights α of positives and 1 − α of negatives.
    fn alphas(&self) -> (f64, f64) {
        if self.focal_alpha < 0.0 { (1.0, 1.0) } else { (self.focal_alpha, 1.0 - self.focal_alpha) }
    }
}

impl ElementLoss for BceWithLogits {
    declared!();

    fn check(&self) -> Result<()> {
        let bad = |option, value: f64, reason: &str| {
            Err(Error::option("bce_with_logits", option, value, reason))
        };
        if let Some(target) = self.target
            && !((target as f32).is_finite() && self.unknown_target.is_none())
        {
            return bad("target", target, "a target for all is finite, and none is unknown then");
        }
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return bad("label_smoothing", self.label_smoothing, "ε lies in [0, 1]");
        }
        let inverse = (1.0 / self.temperature) as f32;
        if !(self.temperature > 0.0 && (self.temperature as f32).is_normal() && inverse.is_normal())
        {
            return bad("temperature", self.temperature, "τ is above 0 and within f32");
        }
        if !((self.focal_gamma as f32).is_finite() && self.focal_gamma >= 0.0) {
            return bad("focal_gamma", self.focal_gamma, "γ is within f32 and not below 0");
        }
        if self.focal_alpha.is_nan() || self.focal_alpha > 1.0 {
            return bad(
                "focal_alpha",
                self.focal_alpha,
                "α lies in [0, 1], or below 0 where it is off",
            );
        }
        Ok(())
    }

    fn overrides(&self, given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![
            ("FOCAL", self.is_focal().into()),
            ("CHECKS_TARGETS", self.check_targets.into()),
            ("ONE_TARGET", self.target.is_some().into()),
            ("SHIFTED", given("logit_bias").into()),
            ("LEARNED", given("temperature").into()),
            ("SCALED", (self.temperature != 1.0 || given("temperature")).into()),
            ("SMOOTHED", (self.label_smoothing != 0.0).into()),
        ]
    }

    fn agrees(&self, given: &dyn Fn(&str) -> bool) -> Result<()> {
        let (operation, argument) = ("bce_with_logits".into(), "targets".into());
        let reason = "one of the two says what the probabilities should be".into();
        match (self.target, given("targets")) {
            (Some(_), true) => {
                Err(Error::Conflict { operation, argument, other: "target".into(), reason })
            }
            (None, false) => Err(Error::MissingInput { operation, argument, reason }),
            _ => Ok(()),
        }
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        let (positive, negative) = self.alphas();
        vec![
            ("kept_share", 1.0 - self.label_smoothing),
            ("half_share", 0.5 * self.label_smoothing),
            ("inverse_temperature", 1.0 / self.temperature),
            ("focal_gamma", self.focal_gamma),
            ("alpha_positive", positive),
            ("alpha_negative", negative),
            ("one_target", self.target.unwrap_or(0.0)),
        ]
    }

    fn overridden(&self, given: &dyn Fn(&str) -> bool) -> Option<Self> {
        given("temperature").then(|| self.clone().temperature(1.0))
    }

    fn monitor(&self) -> Option<&'static str> {
        Some("slope")
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z, temperature, target, pos_weight, bias] = x else { return Point::nan() };
        let target = self.target.map_or(target, T::of);
        let (zero, one) = (T::zero(), T::one());
        if self.check_targets && !(target >= zero && target <= one) {
            return Point::bad(target);
        }
        let tau = T::of(self.temperature) * temperature;
        let u = (z + bias) / tau;
        if u.is_nan() || !target.is_finite() || !is_temperature(tau) {
            return Point::nan();
        }
        let epsilon = T::of(self.label_smoothing);
        let y = target * (one - epsilon) + epsilon / T::of(2.0);
        let (p, q) = (sigmoid(u), sigmoid(-u));
        let loss = times(pos_weight * y, softplus(-u)) + times(one - y, softplus(u));
        let slope = (one - y) * p - pos_weight * y * q;
        if !self.is_focal() {
            return point(loss, slope / tau, u);
        }
        let (positive, negative) = self.alphas();
        let alpha = T::of(positive) * y + T::of(negative) * (one - y);
        let gamma = T::of(self.focal_gamma);
        let rest = p * (one - y) + q * y;
        let modulation = rest.powf(gamma);
        // d(1 − p_t)/du = (1 − 2y)·P·(1 − P). Where 1 − p_t is 0, so is the loss that this derivative is multiplied
        // by.
        let pull = if rest.is_zero() {
            zero
        } else {
            gamma * rest.powf(gamma - one) * (one - y - y) * p * q
        };
        let slope = slope * modulation + times(loss, pull);
        let slope = alpha * slope / tau;
        point(alpha * times(loss, modulation), slope, u)
    }
}

/// A loss with its slopes: that of the logit, and that of the temperature, which is −∂z·u.
fn point<T: Real>(loss: T, slope: T, u: T) -> Point<T> {
    Point::of_two(loss, [slope, -times(slope, u)]).monitoring(slope.abs())
}
