//! The Brier score: the squared error of a softmax (catalogue R11).

use crate::{
    data::error::Result,
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Broadcast, Field, LabelScore, Rounds, RowLoss, RowProgram, RowStream,
        reference::{Point, Row, RowFormula, Softmax, total},
        row_loss, target_or_probs,
    },
    spec::{about::Dim, call::Call},
};

/// How the squared errors of a row's classes become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum OverClasses {
    /// Their sum, from 0 to 2 for index targets: the score as Brier defined it.
    #[default]
    Sum,
    /// Their mean: `F.mse_loss` of the softmax and the one-hot targets.
    Mean,
}

row_loss! {
    /// The Brier score, which is the squared error of a softmax: row_weight·Σ_c (p_c − q_c)².
    ///
    /// p = softmax(z), and q is the one-hot row of an index target, or a target distribution. The loss is bounded:
    /// where the softmax is sure of a wrong class, the gradient vanishes, unlike that of [`crate::CrossEntropy`].
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
    ///   `i64`) or target_probs `[rows, classes]`, used without normalisation; row_weight `[rows]`; upstream `[1]`, or
    ///   `[rows]` with [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: a squared probability, from 0 to 2 a row for index targets; with `over_classes`
    ///   `"mean"` divided by the number of classes.
    /// - **Types**: logits, target_probs, row_weight and the gradient in `f32`, `f16` or `bf16`;
    ///   everything in between in f32; the gradient is rounded to nearest even.
    /// - **Gradient**: ∂z = f·2·p∘[(p − q) − ⟨p, p − q⟩] with f = row_weight·upstream/denominator. With index targets,
    ///   1 − p_y is computed as the sum of the other classes, so that loss and gradient keep their relative accuracy
    ///   where p_y is near 1. target_probs have no gradient.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. The
    ///   same holds for rows whose row_weight is 0, but these are counted. A `-inf` logit has p = 0 and gradient 0,
    ///   even if it is the target's, since the loss is bounded. A NaN or +inf logit, a row that is all `-inf`, or a
    ///   target probability that is not finite gives NaN for that row, which [`crate::Status`] counts. A target
    ///   outside `0..classes` is never used as an index: the loss of its row is NaN, the gradient 0, and the status
    ///   counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Sources: Brier 1950; as a training loss, Hui and Belkin 2021.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, Brier, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 3.0_f64.ln()])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![1])),
    /// ]);
    /// let outputs = cpu::run(&Brier::default(), &inputs, &["loss"])?;
    /// assert!((outputs["loss"].to_f64()[0] - 0.125).abs() < 1e-12); // p = (1/4, 3/4)
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    Brier = "brier";
    summary: "The Brier score: squared error of the softmax.",
    formula: "p = softmax(z); loss = row_weight·Σ_c (p_c − q_c)², or its mean over the classes",
    pytorch: "F.mse_loss(softmax(z), F.one_hot(y)) with over_classes = \"mean\"";
    inputs BrierInputs {
        targets = "targets": arg::TARGETS;
        target_probs = "target_probs": arg::TARGET_PROBS;
    }
    outputs BrierOutputs;
    options {
        over_classes: OverClasses = OverClasses::Sum, "\"sum\"", &["\"mean\""],
            "the squares of a row's classes are added (\"sum\") or averaged (\"mean\")";
    }
}

impl Brier {
    /// The factor of a row's sum of squares.
    fn share(&self, classes: u64) -> f64 {
        match self.over_classes {
            OverClasses::Sum => 1.0,
            OverClasses::Mean => 1.0 / classes.max(1) as f64,
        }
    }
}

impl RowFormula for Brier {
    const BESIDE: &'static [&'static str] = &["target_probs"];

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn check_given(&self, given: &dyn Fn(&str) -> bool, _classes: u64) -> Result<()> {
        target_or_probs("brier", given("targets"), given("target_probs"))
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let Some(Softmax { p, others, .. }) = Softmax::of(row.logits, T::one()) else {
            return Point::bad(classes);
        };
        // p − q for each class.
        let off: Vec<T> = match (row.target, row.get("target_probs")) {
            (Some(label), _) => {
                let off = |(c, (&p, &rest)): (usize, (&T, &T))| if c == label { -rest } else { p };
                p.iter().zip(&others).enumerate().map(off).collect()
            }
            (None, Some(q)) if q.iter().all(|q| q.is_finite()) => {
                p.iter().zip(q).map(|(&p, &q)| p - q).collect()
            }
            (None, _) => return Point::bad(classes),
        };
        let share = T::of(self.share(classes as u64));
        let inner = total(p.iter().zip(&off).map(|(&p, &off)| p * off));
        let slope = |(&p, &off): (&T, &T)| T::of(2.0) * share * p * (off - inner);
        let mut gradient: Vec<T> = p.iter().zip(&off).map(slope).collect();
        let squares = total(off.iter().map(|&off| off * off));
        if let Some(label) = row.target {
            // −(1 − p_y) − ⟨p, p − q⟩ equals −Σ (p − q)², in which nothing cancels where p_y is near 1.
            gradient[label] = -(T::of(2.0) * share * p[label] * squares);
        }
        Point::new(share * squares, gradient)
    }
}

impl RowLoss for Brier {
    fn program(&self, call: &Call) -> RowProgram {
        let probs = call.has("target_probs");
        let rounds = if probs { Rounds::Two } else { Rounds::One };
        let share = self.share(call.dim(Dim::Classes));
        self.ruled(RowProgram {
            streams: vec![RowStream::read("target_probs", Broadcast::Elements)],
            factors: FACTORS,
            settled: SETTLED,
            label_score: if probs { LabelScore::Unused } else { LabelScore::Closing },
            overrides: vec![("HAS_PROBS", probs.into())],
            uniforms: vec![("share", share.into())],
            ..RowProgram::softmax(shader!("loss/brier.wgsl"), rounds)
        })
        .tempered(1.0)
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.check_given(&|name| call.has(name), call.dim(Dim::Classes))
    }
}

static SETTLED: &[Field] = &[Field::f32("top"), Field::f32("inverse_sum")];

static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("scale"),
    Field::f32("inner"),
    Field::f32("label_slope"),
    Field::u32("label"),
];
