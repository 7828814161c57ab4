//! Squared error that becomes linear far from the target (catalogue E5b).

use crate::{
    data::error::{Error, Result},
    reference::Real,
    skeleton::element::{ElementLoss, declared, element_loss, reference::Point},
};

element_loss! {
    /// Huber's loss, as `torch.nn.functional.huber_loss`: weight·mask·h(z − y), where h(d) is ½d² up to |d| = delta and
    /// delta·(|d| − ½·delta) beyond. Outliers pull with the force delta, however far away they are. As in PyTorch, the
    /// loss with delta = 1 is `smooth_l1_loss`, and in general it is delta times `smooth_l1_loss` with beta = delta.
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`].
    /// - **Units**: `delta` has the unit of scores and targets, the loss the square of it.
    /// - **Gradient** with f = weight·mask·upstream/denominator: f·(z − y), with z − y clamped to ±delta.
    /// - **Mean**: over the elements, or what the mask keeps of them.
    /// - **Edges**: at z = ±inf the loss is +inf and the gradient ±delta. A NaN logit, or a target that is not finite,
    ///   gives NaN, which [`crate::Status`] counts.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Source: Huber 1964.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Huber, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[2], vec![0.5, 5.0])),
    ///     ("targets".to_owned(), Array::float(&[2], vec![1.0, 2.0])),
    /// ]);
    /// let outputs = cpu::run(&Huber::default(), &inputs, &["loss", "grad.logits"])?;
    /// assert_eq!(outputs["loss"].to_f64(), [(0.125 + 2.5) / 2.0]);
    /// assert_eq!(outputs["grad.logits"].to_f64(), [-0.25, 0.5]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Huber = "huber", "loss/huber.wgsl";
    summary: "Squared error near the target, absolute error far from it.",
    formula: "d = z − y; loss = weight·mask·(½d² where |d| ≤ delta, else delta·(|d| − ½·delta))",
    pytorch: "torch.nn.functional.huber_loss";
    inputs HuberInputs {
        logits = "logits", 0.0: arg::elements("logits", "scores");
        targets = "targets", 0.0: arg::elements("targets", "what they should be");
    }
    outputs HuberOutputs { gradient = "grad.logits": "gradient of the scores"; }
    options {
        delta: f64 = 1.0, "1.0", &["0.3"], "the distance at which the loss becomes linear, above 0";
    }
}

impl ElementLoss for Huber {
    declared!();

    fn check(&self) -> Result<()> {
        if self.delta > 0.0 && (self.delta as f32).is_normal() {
            return Ok(());
        }
        Err(Error::option("huber", "delta", self.delta, "delta is above 0 and within f32"))
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("delta", self.delta)]
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z, y] = x else { return Point::nan() };
        if z.is_nan() || !y.is_finite() {
            return Point::nan();
        }
        let (half, delta) = (T::of(0.5), T::of(self.delta));
        let apart = z - y;
        if apart.abs() <= delta {
            Point::new(half * apart * apart, apart)
        } else {
            Point::new(delta * (apart.abs() - half * delta), delta * apart.signum())
        }
    }
}
