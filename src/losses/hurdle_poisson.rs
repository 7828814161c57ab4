//! Counts with a hurdle: whether a count is above 0, and how large it is (catalogue E8).

use crate::{
    reference::{Real, times},
    skeleton::element::{
        ElementLoss, declared, element_loss,
        reference::{Point, sigmoid, softplus},
    },
    spec::about::Domain,
};

element_loss! {
    /// Counts with a hurdle: a logit for whether the count is above 0, and a zero-truncated Poisson distribution for
    /// how large it is.
    ///
    /// With λ = exp(η), the loss of an element is BCE(z, 1\[k > 0\]) + 1\[k > 0\]·(λ − k·η + log(1 − exp(−λ)) + log
    /// k!), times weight and mask.
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`]; logits, log_rate and targets have the same
    ///   shape. Targets are counts: whole numbers from 0 up.
    /// - **Gradient**: P − 1\[k > 0\] for the logit, and λ/(1 − exp(−λ)) − k for η where k > 0.
    /// - **Accuracy**: near k·η the terms cancel. The loss is computed without this cancellation, for λ from the
    ///   smallest numbers up.
    /// - **Edges**: an element whose target is not a count has no loss: the loss is NaN, its gradients are 0, and
    ///   [`crate::Status`] counts it as a bad target. Infinite logits and log-rates have their limits. A NaN gives
    ///   NaN, which the status counts.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Source: Mullahy 1986.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, HurdlePoisson, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1], vec![0.0])),
    ///     ("log_rate".to_owned(), Array::float(&[1], vec![0.0])),
    ///     ("targets".to_owned(), Array::float(&[1], vec![0.0])),
    /// ]);
    /// let outputs = cpu::run(&HurdlePoisson::default(), &inputs, &["loss"])?;
    /// assert!((outputs["loss"].to_f64()[0] - 2f64.ln()).abs() < 1e-12);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    HurdlePoisson = "hurdle_poisson", "loss/hurdle_poisson.wgsl";
    summary: "Counts with a hurdle: whether any (a logit), and how many (a zero-truncated Poisson).",
    formula: "λ = exp(η); loss = weight·mask·(BCE(z, 1[k>0]) + \
              1[k>0]·(λ − k·η + log(1 − exp(−λ)) + log k!))",
    pytorch: "none";
    inputs HurdlePoissonInputs {
        logits = "logits", 0.0: arg::elements("logits", "logits of k > 0");
        log_rate = "log_rate", 0.0: arg::elements("log_rate", "log-rates η");
        targets = "targets", 0.0: arg::elements("targets", "counts k").within(Domain::Count);
    }
    outputs HurdlePoissonOutputs {
        logits_gradient = "grad.logits": "gradient of the logits";
        log_rate_gradient = "grad.log_rate": "gradient of the log-rates";
    }
    options {}
}

/// log((1 − exp(−λ))/λ).
fn log_share<T: Real>(rate: T) -> T {
    if rate < T::of(1e-4) {
        // −λ/2 + λ²/24 − …
        rate * (rate / T::of(24.0) - T::of(0.5))
    } else {
        (-(-rate).exp_m1()).ln() - rate.ln()
    }
}

/// log k!
fn log_factorial<T: Real>(k: T) -> T {
    let mut sum = T::zero();
    // From 64 on, Stirling's series is exact in f64.
    if k < T::of(64.0) {
        let mut factor = T::of(2.0);
        while factor <= k {
            sum += factor.ln();
            factor += T::one();
        }
        return sum;
    }
    let (one, squared) = (T::one(), k * k);
    let series = one / (T::of(12.0) * k) * (one - one / (T::of(30.0) * squared));
    k * k.ln() - k + T::of(0.5) * (T::of(std::f64::consts::TAU) * k).ln() + series
}

impl ElementLoss for HurdlePoisson {
    declared!();

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z, eta, k] = x else { return Point::nan() };
        let (zero, one) = (T::zero(), T::one());
        if !(k >= zero && k.is_finite() && k == k.floor()) {
            return Point::bad(k);
        }
        if z.is_nan() || eta.is_nan() {
            return Point::nan();
        }
        if k.is_zero() {
            return Point::of_two(softplus(z), [sigmoid(z), zero]);
        }
        let rate = eta.exp();
        let (truncated, slope) = if rate.is_infinite() {
            (rate, rate)
        } else if rate.is_zero() {
            (-times(k - one, eta), one - k)
        } else {
            // log(1 − exp(−λ)) = η + log((1 − exp(−λ))/λ), so one η of k·η cancels exactly.
            (rate - (k - one) * eta + log_share(rate), rate / -(-rate).exp_m1() - k)
        };
        let loss = softplus(-z) + truncated + log_factorial(k);
        Point::of_two(loss, [-sigmoid(-z), slope])
    }
}
