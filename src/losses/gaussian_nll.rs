//! The negative log-likelihood of a normal distribution (catalogue E6).

use crate::{
    data::error::{Error, Result},
    reference::{Real, times},
    skeleton::element::{ElementLoss, declared, element_loss, reference::Point},
    spec::about::Domain,
};

element_loss! {
    /// The negative log-likelihood of a normal distribution, as `torch.nn.functional.gaussian_nll_loss`: ½(log v + (y
    /// − μ)²/v) [+ ½ log 2π], v = max(σ², eps).
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`]. The first input is the mean, and the
    ///   targets have its shape. The variance has the same shape or broadcasts to it: `[…, 1]` and `[rows]` are one a
    ///   row, `[columns]` one a column, `[1]` one for all. A vector that could be one a row or one a column is
    ///   refused; write `[rows, 1]` or `[1, columns]` instead.
    /// - **Gradient**: (μ − y)/v and ½(1/v − (y − μ)²/v²). As in PyTorch, the gradient passes through the floor, so
    ///   that a variance below eps is still pushed up. The gradient of a variance that broadcasts is summed to the
    ///   variance's shape, always in the same order; this takes four bytes of scratch an element.
    /// - With `log_variance` the second input is s = log σ², and its gradient is ½(1 − (y − μ)²/v).
    /// - **Edges**: an element with a negative variance has no loss: the loss is NaN, its gradients are 0, and
    ///   [`crate::Status`] counts it as a bad target (PyTorch raises). An input that is not finite gives NaN, which
    ///   the status counts as well.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Source: Nix and Weigend 1994.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, GaussianNll, cpu};
    /// let inputs = Arrays::from([
    ///     ("mean".to_owned(), Array::float(&[1], vec![1.0])),
    ///     ("variance".to_owned(), Array::float(&[1], vec![1.0])),
    ///     ("targets".to_owned(), Array::float(&[1], vec![3.0])),
    /// ]);
    /// let outputs = cpu::run(&GaussianNll::default(), &inputs, &["loss", "grad.mean"])?;
    /// assert_eq!((outputs["loss"].to_f64()[0], outputs["grad.mean"].to_f64()[0]), (2.0, -2.0));
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    GaussianNll = "gaussian_nll", "loss/gaussian_nll.wgsl";
    summary: "Negative log-likelihood of a normal distribution with a variance an element.",
    formula: "v = max(σ², eps); loss = weight·mask·½(log v + (y − μ)²/v [+ log 2π])",
    pytorch: "torch.nn.functional.gaussian_nll_loss";
    inputs GaussianNllInputs {
        mean = "mean", 0.0: arg::elements("mean", "means");
        variance = "variance", 1.0:
            arg::variances("variance", "variances, or their logarithms").within(Domain::Positive);
        targets = "targets", 0.0: arg::elements("targets", "what was observed");
    }
    outputs GaussianNllOutputs {
        mean_gradient = "grad.mean": "gradient of the means";
        variance_gradient = "grad.variance": "gradient of the variances, or of their logarithms";
    }
    options {
        full: bool = false, "false", &["true"], "adds ½ log 2π";
        eps: f64 = 1e-6, "1e-6", &["1e-3"], "the least variance, above 0";
        log_variance: bool = false, "false", &["true"], "the input `variance` is log σ²";
    }
}

impl GaussianNll {
    fn constant(&self) -> f64 {
        if self.full { 0.5 * std::f64::consts::TAU.ln() } else { 0.0 }
    }
}

impl ElementLoss for GaussianNll {
    declared!();

    fn check(&self) -> Result<()> {
        if self.eps > 0.0 && (self.eps as f32).is_normal() {
            return Ok(());
        }
        Err(Error::option("gaussian_nll", "eps", self.eps, "the floor is above 0 and within f32"))
    }

    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![("LOG_VARIANCE", self.log_variance.into())]
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("least", self.eps), ("log_least", self.eps.ln()), ("constant", self.constant())]
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[mean, variance, target] = x else { return Point::nan() };
        if !self.log_variance && variance < T::zero() {
            return Point::bad(variance);
        }
        if !(mean.is_finite() && variance.is_finite() && target.is_finite()) {
            return Point::nan();
        }
        let (half, eps) = (T::of(0.5), T::of(self.eps));
        let apart = mean - target;
        let log = if self.log_variance { variance.max(eps.ln()) } else { variance.max(eps).ln() };
        let precision = if self.log_variance { (-log).exp() } else { T::one() / variance.max(eps) };
        let squared = times(apart * apart, precision);
        let by_log = half * (T::one() - squared);
        let by_variance = if self.log_variance { by_log } else { by_log * precision };
        let loss = half * (log + squared) + T::of(self.constant());
        Point::of_two(loss, [apart * precision, by_variance])
    }
}
