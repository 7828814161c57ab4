//! Squared error of a score or of its sigmoid (catalogue E5).

use crate::{
    reference::Real,
    skeleton::element::{
        ElementLoss, declared, element_loss,
        reference::{Point, sigmoid},
    },
};

/// The function that is applied to a score before it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// sigmoid(z).
    Sigmoid,
}

element_loss! {
    /// Squared error, as `torch.nn.functional.mse_loss`: weight·mask·(a(z) − y)², where a is the identity or the
    /// sigmoid.
    ///
    /// - **Shapes, types, reductions, masks**: as [`crate::BceWithLogits`].
    /// - **Gradient**: 2·(z − y). With the sigmoid it is 2·(P − y)·P·(1 − P) with P = sigmoid(z), which vanishes where
    ///   P saturates, even on the wrong side.
    /// - **Saturation** (with the sigmoid): the mean of 2·P·(1 − P) over the elements kept. This is the ratio of the
    ///   gradient to that of [`crate::BceWithLogits`], from 1/2 at z = 0 down to 0 where the gradient has vanished.
    /// - **Edges**: at z = ±inf the loss is +inf; with the sigmoid the loss has its limit, and the gradient is 0. A
    ///   NaN logit, or a target that is not finite, gives NaN, which [`crate::Status`] counts.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Mse, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[2], vec![0.5, 2.0])),
    ///     ("targets".to_owned(), Array::float(&[2], vec![1.0, 0.0])),
    /// ]);
    /// let outputs = cpu::run(&Mse::default(), &inputs, &["loss"])?;
    /// assert_eq!(outputs["loss"].to_f64(), [2.125]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Mse = "mse", "loss/mse.wgsl";
    summary: "Squared error of a score, or of its sigmoid.",
    formula: "loss = weight·mask·(a(z) − y)², a(z) = z or sigmoid(z)",
    pytorch: "torch.nn.functional.mse_loss";
    inputs MseInputs {
        logits = "logits", 0.0: arg::elements("logits", "scores");
        targets = "targets", 0.0: arg::elements("targets", "what they should be");
    }
    outputs MseOutputs { gradient = "grad.logits": "gradient of the scores"; }
    monitors saturation = "saturation":
        "mean of 2·P·(1 − P) with the sigmoid, what is left of cross-entropy's gradient";
    options {
        activation: Activation = Activation::None, "\"none\"", &["\"sigmoid\""], "\"none\" or \"sigmoid\"";
    }
}

impl ElementLoss for Mse {
    declared!();

    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        vec![("SIGMOID", (self.activation == Activation::Sigmoid).into())]
    }

    fn monitor(&self) -> Option<&'static str> {
        (self.activation == Activation::Sigmoid).then_some("saturation")
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        let &[z, y] = x else { return Point::nan() };
        if z.is_nan() || !y.is_finite() {
            return Point::nan();
        }
        let two = T::of(2.0);
        match self.activation {
            Activation::None => Point::new((z - y) * (z - y), two * (z - y)),
            Activation::Sigmoid => {
                let (p, q) = (sigmoid(z), sigmoid(-z));
                Point::new((p - y) * (p - y), two * (p - y) * p * q).monitoring(two * p * q)
            }
        }
    }
}
