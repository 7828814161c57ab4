//! The loss of a GAN's generator (catalogue E10).

use crate::{
    reference::Real,
    skeleton::element::{
        ElementLoss, declared, element_loss,
        reference::{Point, sigmoid, softplus},
    },
};

element_loss! {
    /// The loss of a generator on the discriminator's scores of its samples: weight·mask·softplus(−z), in nats, or the
    /// saturating −softplus(z) = log(1 − P) of the minimax game.
    ///
    /// - **Shapes, types, reductions, masks**: `fake` as the logits of [`crate::BceWithLogits`].
    /// - **Gradient**: P − 1 with P = sigmoid(z). If `saturating`, it is −P, which vanishes as long as the
    ///   discriminator recognises the fakes.
    /// - **Slope**: the mean of |∂loss/∂z| over the scores kept, before weights, mask and reduction: 1 − P, or P if
    ///   `saturating`. Near 0 nothing reaches the generator any more.
    /// - **Edges**: at z = ±inf the loss has its limits, and the gradient is finite. A NaN score gives NaN, which
    ///   [`crate::Status`] counts.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Source: Goodfellow et al. 2014, section 3.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, GanGenerator, cpu};
    /// let inputs = Arrays::from([("fake".to_owned(), Array::float(&[2], vec![-8.0, -8.0]))]);
    /// let slope = |saturating| {
    ///     let loss = GanGenerator::default().saturating(saturating);
    ///     Ok::<f64, surprisal::Error>(cpu::run(&loss, &inputs, &["slope"])?["slope"].to_f64()[0])
    /// };
    /// assert!(slope(false)? > 0.999 && slope(true)? < 0.001);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    GanGenerator = "gan_generator", "loss/gan_generator.wgsl";
    summary: "A GAN generator's loss on the discriminator's scores of its fakes.",
    formula: "loss = weight·mask·softplus(−z), or −softplus(z) where saturating",
    pytorch: "torch.nn.functional.binary_cross_entropy_with_logits(fake, ones)";
    inputs GanGeneratorInputs {
        fake = "fake", 0.0: arg::elements("fake", "the discriminator's scores of the fakes");
    }
    outputs GanGeneratorOutputs { gradient = "grad.fake": "gradient of the scores"; }
    monitors slope = "slope": "mean of |∂loss/∂z| before weights: 0 where gradients have vanished";
    options {
        saturating: bool = false, "false", &["true"], "the minimax game's log(1 − P) instead of −log P";
    }
}

impl ElementLoss for GanGenerator {
    declared!();

    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![("SATURATING", self.saturating.into())]
    }

    fn monitor(&self) -> Option<&'static str> {
        Some("slope")
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z] = x else { return Point::nan() };
        if z.is_nan() {
            return Point::nan();
        }
        let (loss, slope) = if self.saturating {
            (-softplus(z), -sigmoid(z))
        } else {
            (softplus(-z), -sigmoid(-z))
        };
        Point::new(loss, slope).monitoring(-slope)
    }
}
