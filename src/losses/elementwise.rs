//! Element losses of your own, from two short WGSL functions and one in Rust.

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    plan::{
        Plan,
        kernel::{Source, shader},
        profile::Profile,
    },
    reference::Real,
    skeleton::{
        element::{self, ElementLoss, ElementOptions, ElementStream, reference::Point},
        operation::Operation,
        request::Request,
    },
    spec::{
        about::{About, Signature},
        arguments as arg,
        call::Call,
        declare::tensors,
        options::Reduction,
    },
};

/// A loss of one score and its target.
///
/// The WGSL supplies `fn element_loss(z: f32, y: f32) -> f32` and `fn element_slope(z: f32, y: f32) -> f32` (the
/// derivative with respect to z); it reads uniforms as `params.NAME`. [`Elementwise`] makes an [`ElementLoss`] of it,
/// with every storage type, reduction, weight, mask and layout of the built-in losses. The functions never get scores
/// or targets that are not finite: the loss of such elements is NaN.
pub trait ElementFunction: std::fmt::Debug + Send + Sync {
    /// The name of the loss.
    const NAME: &'static str;
    /// The two WGSL functions.
    const WGSL: &'static str;

    /// The uniforms that the WGSL reads.
    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The loss and its derivative with respect to z, in f64. The GPU's results are compared with it.
    fn at(&self, z: f64, y: f64) -> (f64, f64);
}

/// An [`ElementFunction`] of your own as a loss of `logits` and `targets`.
///
/// ```
/// use surprisal::{Array, Arrays, ElementFunction, Elementwise, cpu};
/// #[derive(Debug)]
/// struct LogCosh;
/// impl ElementFunction for LogCosh {
///     const NAME: &'static str = "log_cosh";
///     const WGSL: &'static str = "
///         fn element_loss(z: f32, y: f32) -> f32 { return log(cosh(z - y)); }
///         fn element_slope(z: f32, y: f32) -> f32 { return tanh(z - y); }";
///     fn at(&self, z: f64, y: f64) -> (f64, f64) {
///         ((z - y).cosh().ln(), (z - y).tanh())
///     }
/// }
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[1], vec![1.0])),
///     ("targets".to_owned(), Array::float(&[1], vec![1.0])),
/// ]);
/// let outputs = cpu::run(&Elementwise::new(LogCosh), &inputs, &["loss"])?;
/// assert_eq!(outputs["loss"].to_f64(), [0.0]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Elementwise<L> {
    /// The function that gives the loss of an element.
    pub function: L,
    /// How losses become one number.
    pub reduction: Reduction,
}

tensors! {
    /// The inputs of [`Elementwise`].
    ElementwiseInputs {
        /// Scores of any shape.
        logits = "logits",
        /// Their targets, of the same shape.
        targets = "targets",
        /// Multiplies losses and gradients.
        weight = "weight",
        /// Multiplies losses, gradients and the terms of a mean's denominator; 0 removes an element.
        mask = "mask",
        /// The upstream gradient (a loss scale), `[1]`, or one value an element with [`Reduction::None`].
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`Elementwise`]. Only those that are given are computed.
    ElementwiseOutputs {
        /// The loss, `[1]`, or one value an element with [`Reduction::None`].
        loss = "loss",
        /// The gradient of the scores.
        gradient = "grad.logits",
        /// The sum of the losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of elements kept.
        count = "count",
        /// The status words.
        status = "status",
    }
}

impl<L: ElementFunction> Elementwise<L> {
    /// The mean of this loss over the elements.
    pub fn new(function: L) -> Self {
        Self { function, reduction: Reduction::Mean }
    }

    /// A call with these tensors.
    pub fn request<'a>(
        &'a self,
        inputs: ElementwiseInputs<'a>,
        outputs: ElementwiseOutputs<'a>,
    ) -> Request<'a> {
        Request::new(self, inputs.into(), outputs.into())
    }

    /// Sets how losses become one number.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    const ABOUT: About = About {
        name: L::NAME,
        summary: "A user's own loss of one score.",
        formula: "",
        pytorch: "",
        inputs: &[
            arg::elements("logits", "scores"),
            arg::elements("targets", "what they should be"),
            arg::ELEMENT_WEIGHT,
            arg::MASK,
            arg::ELEMENT_UPSTREAM,
            arg::DENOMINATOR_IN,
        ],
        outputs: &[
            arg::ELEMENT_LOSS,
            arg::elements_gradient("grad.logits", "gradient of the scores"),
            arg::SUM,
            arg::DENOMINATOR,
            arg::COUNT,
            arg::STATUS,
        ],
        options: &[],
    };
}

impl<L: ElementFunction> Signature for Elementwise<L> {
    fn about(&self) -> &'static About {
        &Self::ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        element::check_options(L::NAME, self.options())
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        element::accepts(self, call)
    }
}

impl<L: ElementFunction> Operation for Elementwise<L> {
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        element::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        element::compute(self, inputs, wanted, arithmetic)
    }
}

impl<L: ElementFunction> ElementLoss for Elementwise<L> {
    fn sources(&self) -> Vec<Source> {
        vec![Source { path: L::NAME, text: L::WGSL }, shader!("loss/elementwise.wgsl")]
    }

    fn options(&self) -> ElementOptions {
        ElementOptions { reduction: self.reduction, ..ElementOptions::default() }
    }

    fn streams(&self) -> &'static [ElementStream] {
        &[
            ElementStream { name: "logits", default: 0.0 },
            ElementStream { name: "targets", default: 0.0 },
        ]
    }

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        self.function.uniforms()
    }

    fn at<T: Real>(&self, x: &[T]) -> Point<T> {
        match *x {
            [z, y] if z.is_finite() && y.is_finite() => {
                let (loss, slope) = self.function.at(z.wide(), y.wide());
                Point::new(T::of(loss), T::of(slope))
            }
            _ => Point::nan(),
        }
    }
}
