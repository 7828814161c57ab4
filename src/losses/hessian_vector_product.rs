//! The Hessian of a cross-entropy times a vector (catalogue E13).

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, kernel::shader, profile::Profile},
    reference::{Real, argmax, times},
    skeleton::{
        element::reference::sigmoid,
        operation::{Operation, Options},
        request::request,
        row::{
            self, Broadcast, Counted, DROPPED, Field, OPEN, Rounds, RowLoss, RowProgram, RowStream,
            reference::{self, Point, Row, RowFormula, Ruled, Rules, Softmax, total},
        },
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Denominator, Empty, Padding, Reduction, check_reduction, check_temperature},
    },
};

/// The loss whose Hessian is multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HessianOf {
    /// [`CrossEntropy`](crate::CrossEntropy): p∘(v − ⟨p, v⟩) for each row.
    #[default]
    CrossEntropy,
    /// [`BceWithLogits`](crate::BceWithLogits): P·(1 − P)·v for each element.
    BceWithLogits,
}

/// The Hessian of a cross-entropy with respect to the logits, times a vector. The Hessian is never stored.
///
/// For `of` `"cross_entropy"`, with p = softmax(z/T), a row of the product is f/T²·p∘(v − ⟨p, v⟩), where f =
/// row_weight·upstream/denominator. For `"bce_with_logits"`, with P = sigmoid(z/T), an element of the product is
/// f/T²·weight·P·(1 − P)·v. Newton steps, Gauss–Newton approximations and influence functions need such products: with the
/// Jacobian J of the logits, Jᵀ·(H·(J·u)) is the Gauss–Newton matrix times u.
///
/// These Hessians do not depend on the targets. What a target does to a row goes into the weights: `row_weight` is the
/// weight of the target's class, and 0 for an ignored row; `weight` is w·((1 − y) + pos_weight·y) for a `pos_weight`.
///
/// - **Shapes**: logits, vector and product `[rows, classes]`, each with its own row stride and element offset; weight
///   `[rows, classes]`, only for `"bce_with_logits"`; row_weight `[rows]`; upstream `[1]`, or `[rows]` with
///   [`Reduction::None`].
/// - **Types**: all of them `f32`, `f16` or `bf16`; everything in between in f32; the product is rounded to nearest even. It
///   may be written over the logits.
/// - **Mean** divides by the number of rows, or by Σ row_weight; for `"bce_with_logits"` also by the number of classes, as a
///   mean over elements does.
/// - **Gradient**: none.
/// - **Edges**: a row whose row_weight is 0 has the product 0, whatever it holds. For `"cross_entropy"`, a `-inf` logit has
///   p = 0 and the product 0; a NaN or +inf logit, a row that is all `-inf`, or a number of the vector that is not finite
///   gives NaN for that row, which [`crate::Status`] counts. For `"bce_with_logits"`, the product at z = ±inf is 0, and a NaN
///   logit, or a vector or weight that is not finite, gives NaN for that element, which the status does not count.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value. Only
///   `"bce_with_logits"` takes `weight`.
///
/// Source: Pearlmutter 1994.
///
/// ```
/// use surprisal::{Array, Arrays, HessianVectorProduct, cpu};
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 3.0_f64.ln()])),
///     ("vector".to_owned(), Array::float(&[1, 2], vec![1.0, 0.0])),
/// ]);
/// let outputs = cpu::run(&HessianVectorProduct::default(), &inputs, &["product"])?;
/// let product = outputs["product"].to_f64(); // p = (1/4, 3/4), ⟨p, v⟩ = 1/4
/// assert!((product[0] - 0.1875).abs() < 1e-12 && (product[1] + 0.1875).abs() < 1e-12);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct HessianVectorProduct {
    /// The loss whose Hessian is multiplied.
    pub of: HessianOf,
    /// T > 0, which divides the logits.
    pub temperature: f64,
    /// How the losses of rows become the number whose Hessian is meant.
    pub reduction: Reduction,
    /// What a mean divides by: the number of rows, or their weights.
    pub denominator: Denominator,
    /// Whether columns of the product past the classes are written.
    pub padding: Padding,
}

impl Default for HessianVectorProduct {
    fn default() -> Self {
        Self {
            of: HessianOf::CrossEntropy,
            temperature: 1.0,
            reduction: Reduction::Mean,
            denominator: Denominator::Targets,
            padding: Padding::Keep,
        }
    }
}

impl HessianVectorProduct {
    setters! {
        of: HessianOf, temperature: f64, reduction: Reduction, denominator: Denominator, padding: Padding,
    }
}

tensors! {
    /// What [`HessianVectorProduct`] takes; see there for the shapes.
    HessianVectorProductInputs {
        /// The logits `[rows, classes]`.
        logits = "logits",
        /// What the Hessian is multiplied by, `[rows, classes]`.
        vector = "vector",
        /// The weight of each element, `[rows, classes]`, for [`HessianOf::BceWithLogits`].
        weight = "weight",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
    }
}

tensors! {
    /// What [`HessianVectorProduct`] can hand back.
    HessianVectorProductOutputs {
        /// The product `[rows, classes]`.
        product = "product",
        /// The status words.
        status = "status",
    }
}

request!(HessianVectorProduct: HessianVectorProductInputs, HessianVectorProductOutputs);

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

pub(super) static ABOUT: About = About {
    name: "hessian_vector_product",
    summary: "The Hessian of a cross-entropy times a vector, without the Hessian.",
    formula: "product = p∘(v − ⟨p, v⟩), or P·(1 − P)·v, times weights and the factor of the reduction",
    pytorch: "torch.func.jvp(torch.func.grad(loss), (z,), (v,))[1]",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "logits"),
        Argument::required("vector", Kind::Float, MATRIX, "what the Hessian is multiplied by"),
        Argument::optional("weight", Kind::Float, MATRIX, "the weights of binary cross-entropies"),
        arg::ROW_WEIGHT,
        arg::UPSTREAM,
    ],
    outputs: &[
        Argument::optional("product", Kind::Float, MATRIX, "the product").over("logits"),
        arg::STATUS,
    ],
    options: &[
        OptionAbout {
            name: "of",
            default: "\"cross_entropy\"",
            samples: &["\"bce_with_logits\""],
            about: "the loss whose Hessian is meant: \"cross_entropy\" or \"bce_with_logits\"",
        },
        OptionAbout {
            name: "temperature",
            default: "1.0",
            samples: &["1.7"],
            about: "T > 0, which divides the logits",
        },
        arg::REDUCTION,
        arg::ROWS_MEAN,
        arg::PADDING,
    ],
};

impl HessianVectorProduct {
    fn is_binary(&self) -> bool {
        self.of == HessianOf::BceWithLogits
    }

    /// What every element is multiplied by beside the factor of its row: a mean over elements divides by the classes too.
    fn share(&self, classes: u64) -> f64 {
        match self.reduction {
            Reduction::Mean if self.is_binary() => 1.0 / classes.max(1) as f64,
            _ => 1.0,
        }
    }
}

impl Signature for HessianVectorProduct {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        check_reduction(ABOUT.name, self.reduction)?;
        check_temperature(ABOUT.name, self.temperature)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        row::accepts(self, call)
    }
}

impl Operation for HessianVectorProduct {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        reference::run(self, inputs, wanted, arithmetic)
    }
}

impl Ruled for HessianVectorProduct {
    fn rules(&self) -> Rules {
        Rules {
            reduction: self.reduction,
            empty: Empty::default(),
            ignored: Vec::new(),
            weighted_rows: self.denominator == Denominator::Weights,
        }
    }
}

impl RowFormula for HessianVectorProduct {
    const GRADIENT: Option<&'static str> = Some("product");
    const BESIDE: &'static [&'static str] = &["vector", "weight"];

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn check_given(&self, given: &dyn Fn(&str) -> bool, _classes: u64) -> Result<()> {
        if self.is_binary() || !given("weight") {
            return Ok(());
        }
        Err(Error::Conflict {
            operation: ABOUT.name.into(),
            argument: "weight".into(),
            other: "of".into(),
            reason: "only elements of `bce_with_logits` have weights; rows have `row_weight`"
                .into(),
        })
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let vector = row.get("vector").unwrap_or_default();
        let temperature = T::of(self.temperature);
        let squared = temperature * temperature;
        if self.is_binary() {
            let weight = row.get("weight");
            let share = T::of(self.share(classes as u64));
            let element = |c: usize| {
                let weight = weight.map_or(T::one(), |weight| weight[c]);
                if row.logits[c].is_nan() || !vector[c].is_finite() || !weight.is_finite() {
                    return T::nan();
                }
                let [p, q] = [row.logits[c], -row.logits[c]].map(|z| sigmoid(z / temperature));
                times(weight, vector[c]) * share * p * q / squared
            };
            return Point::new(T::zero(), (0..classes).map(element).collect());
        }
        match Softmax::of(row.logits, temperature) {
            Some(Softmax { p, .. }) if vector.iter().all(|v| v.is_finite()) => {
                let slopes = jacobian_product(&p, vector);
                Point::new(T::zero(), slopes.map(|slope| slope / squared).collect())
            }
            _ => Point::bad(classes),
        }
    }
}

/// p∘(v − ⟨p, v⟩). Relative to v at the largest p, nothing cancels where that p is near 1.
pub(super) fn jacobian_product<'a, T: Real>(
    p: &'a [T],
    vector: &'a [T],
) -> impl Iterator<Item = T> + 'a {
    let centre = vector.get(argmax(p)).copied().unwrap_or_else(T::zero);
    let mean = total(p.iter().zip(vector).map(|(&p, &v)| p * (v - centre)));
    p.iter().zip(vector).map(move |(&p, &v)| p * ((v - centre) - mean))
}

impl RowLoss for HessianVectorProduct {
    fn program(&self, call: &Call) -> RowProgram {
        let program = if self.is_binary() {
            RowProgram {
                sources: vec![OPEN, DROPPED, shader!("loss/sigmoid_hessian_vector_product.wgsl")],
                streams: ["vector", "weight"]
                    .map(|name| RowStream::read(name, Broadcast::Elements).or(1.0))
                    .to_vec(),
                rounds: Rounds::None,
                factors: &const { [Field::f32("factor")] },
                uniforms: vec![
                    ("share", self.share(call.dim(Dim::Classes)).into()),
                    ("inverse_temperature", (1.0 / self.temperature).into()),
                ],
                ..RowProgram::default()
            }
        } else {
            let own = shader!("loss/hessian_vector_product.wgsl");
            RowProgram { factors: FACTORS, ..RowProgram::jacobian(own, "vector", call) }
                .tempered(self.temperature)
        };
        RowProgram {
            reduction: self.reduction,
            padding: self.padding,
            gradient: Some("product"),
            counted: Counted {
                row_weights: self.denominator == Denominator::Weights,
                ..Counted::default()
            },
            ..program
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.check_given(&|name| call.has(name), call.dim(Dim::Classes))
    }
}

static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("centre"),
    Field::f32("mean"),
    Field::f32("factor"),
];
