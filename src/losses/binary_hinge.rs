//! The hinge of one score: plain, squared or capped (catalogue E4).

use crate::{
    data::error::{Error, Result},
    reference::{Real, times},
    skeleton::element::{ElementLoss, declared, element_loss, reference::Point},
    spec::about::Domain,
};

element_loss! {
    /// The hinge of one score: weight·mask·min(max(0, margin − t·z)^p, ramp).
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`].
    /// - **Targets** t are ±1 or between them: 2q − 1 for a probability q. Other targets are accepted, unless
    ///   `check_targets` is set.
    /// - **Gradient**: −t·p·(margin − t·z)^(p − 1) where the hinge is open; 0 at its kink and where the ramp caps it.
    /// - **Edges**: at z = ±inf the loss has its limits, 0 or +inf (or the ramp); if also t = 0, the loss is margin^p.
    ///   A NaN logit or target gives NaN, which [`crate::Status`] counts.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Sources: Cortes and Vapnik 1995; ramp, Collobert et al. 2006.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, BinaryHinge, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[2], vec![0.5, 2.0])),
    ///     ("targets".to_owned(), Array::float(&[2], vec![1.0, -1.0])),
    /// ]);
    /// let outputs = cpu::run(&BinaryHinge::default(), &inputs, &["loss"])?;
    /// assert_eq!(outputs["loss"].to_f64(), [1.75]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    BinaryHinge = "binary_hinge", "loss/binary_hinge.wgsl";
    summary: "The hinge of one score, plain, squared or capped.",
    formula: "loss = weight·mask·min(max(0, margin − t·z)^p, ramp)",
    pytorch: "torch.relu(margin - t * z).pow(p).mean()";
    inputs BinaryHingeInputs {
        logits = "logits", 0.0: arg::elements("logits", "scores");
        targets = "targets", 0.0:
            arg::elements("targets", "−1 or 1, or between them").within(Domain::Sign);
    }
    outputs BinaryHingeOutputs { gradient = "grad.logits": "gradient of the scores"; }
    options {
        margin: f64 = 1.0, "1.0", &["0.5"], "what t·z should reach";
        p: f64 = 1.0, "1.0", &["2.0"], "1 (hinge) or 2 (squared hinge)";
        ramp: Option<f64> = None, "null", &["1.5"], "caps the loss; the gradient is 0 there";
        check_targets: bool = false, "false", &["true"], "targets outside [−1, 1] are bad: counted in the status";
    }
}

impl ElementLoss for BinaryHinge {
    declared!();

    fn check(&self) -> Result<()> {
        let bad = |option, value: f64, reason: &str| {
            Err(Error::option("binary_hinge", option, value, reason))
        };
        if !(self.margin as f32).is_finite() {
            return bad("margin", self.margin, "the margin is within f32");
        }
        if self.p != 1.0 && self.p != 2.0 {
            return bad("p", self.p, "p is 1 or 2");
        }
        match self.ramp {
            Some(ramp) if !(ramp > 0.0 && (ramp as f32).is_normal()) => {
                bad("ramp", ramp, "the cap is above 0 and within f32")
            }
            _ => Ok(()),
        }
    }

    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![
            ("SQUARED", (self.p == 2.0).into()),
            ("RAMP", self.ramp.is_some().into()),
            ("CHECKS_TARGETS", self.check_targets.into()),
        ]
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("margin", self.margin), ("ramp", self.ramp.unwrap_or(1.0))]
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z, t] = x else { return Point::nan() };
        if self.check_targets && (t.is_nan() || t.abs() > T::one()) {
            return Point::bad(t);
        }
        if z.is_nan() || !t.is_finite() {
            return Point::nan();
        }
        let open = (T::of(self.margin) - times(t, z)).max(T::zero());
        let (loss, slope) = if self.p == 2.0 {
            (open * open, -(times(t, open) + times(t, open)))
        } else {
            (open, if open.is_zero() { T::zero() } else { -t })
        };
        match self.ramp.map(T::of) {
            Some(ramp) if loss >= ramp => Point::new(ramp, T::zero()),
            _ => Point::new(loss, slope),
        }
    }
}
