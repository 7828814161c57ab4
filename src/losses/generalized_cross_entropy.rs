//! Generalised cross-entropy, which is bounded (catalogue R13).

use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Field, LabelScore, Rounds, RowLoss, RowProgram,
        reference::{Point, Row, RowFormula, Softmax},
        row_loss,
    },
    spec::call::Call,
};

row_loss! {
    /// Generalised cross-entropy, a bounded loss for noisy labels: row_weight·(1 − p_y^q)/q.
    ///
    /// p = softmax(z), and y is the target. Towards q = 0 it becomes [`crate::CrossEntropy`]; at q = 1 it is 1 − p_y,
    /// half the absolute error of the softmax. A row's loss is at most 1/q, and the gradient of a row whose target is
    /// unlikely vanishes, so that wrong labels pull less.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
    ///   `i64`); row_weight `[rows]`; upstream `[1]`, or `[rows]` with
    ///   [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: none, from 0 to 1/q a row.
    /// - **Types**: logits, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in between in f32; the
    ///   gradient is rounded to nearest even.
    /// - **Gradient**: ∂z = f·p_y^q·(p − e_y) with f = row_weight·upstream/denominator. 1 − p_y is the sum of the other
    ///   classes, so loss and gradient keep their relative accuracy where p_y is near 1.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. The
    ///   same holds for rows whose row_weight is 0, but these are counted. A `-inf` logit has p = 0 and gradient 0; a
    ///   target at `-inf` has the loss 1/q and no gradient. A NaN or +inf logit, or a row that is all `-inf`, gives NaN
    ///   for that row, which [`crate::Status`] counts. A target outside `0..classes` is never used as an index: the
    ///   loss of its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its
    ///   value.
    ///
    /// Source: Zhang and Sabuncu 2018.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, GeneralizedCrossEntropy, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 3.0_f64.ln()])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![0])),
    /// ]);
    /// let loss = GeneralizedCrossEntropy::default().q(0.5);
    /// let outputs = cpu::run(&loss, &inputs, &["loss"])?;
    /// assert!((outputs["loss"].to_f64()[0] - 1.0).abs() < 1e-12); // (1 − √(1/4))/½
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    GeneralizedCrossEntropy = "generalized_cross_entropy";
    summary: "Generalised cross-entropy: bounded, for noisy labels.",
    formula: "p = softmax(z); loss = row_weight·(1 − p_y^q)/q",
    pytorch: "((1 - softmax(z).gather(1, y)**q) / q).mean()";
    inputs GeneralizedCrossEntropyInputs {
        targets = "targets": arg::LABELS;
    }
    outputs GeneralizedCrossEntropyOutputs;
    options {
        q: f64 = 0.7, "0.7", &["0.25", "1.0"], "q in (0, 1]: towards 0 it is cross-entropy, at 1 it is 1 − p_y";
    }
}

/// The least q. Below it, p_y^q and 1 differ by less than f32 can hold.
const LEAST_Q: f64 = 1e-6;

impl RowFormula for GeneralizedCrossEntropy {
    fn check(&self) -> Result<()> {
        if (LEAST_Q..=1.0).contains(&self.q) {
            return Ok(());
        }
        let reason = format!("q lies between {LEAST_Q:e} and 1");
        Err(Error::option("generalized_cross_entropy", "q", self.q, reason))
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let classes = row.logits.len();
        let (Some(softmax), Some(label)) = (Softmax::of(row.logits, T::one()), row.target) else {
            return Point::bad(classes);
        };
        let (q, log_p) = (T::of(self.q), softmax.log_of(label));
        let power = (q * log_p).exp();
        let loss = -(q * log_p).exp_m1() / q;
        let slope =
            |(c, (&p, &rest)): (usize, (&T, &T))| power * if c == label { -rest } else { p };
        Point::new(loss, softmax.p.iter().zip(&softmax.others).enumerate().map(slope).collect())
    }
}

impl RowLoss for GeneralizedCrossEntropy {
    fn program(&self, _: &Call) -> RowProgram {
        self.ruled(RowProgram {
            factors: FACTORS,
            label_score: LabelScore::Closing,
            uniforms: vec![("q", self.q.into())],
            ..RowProgram::softmax(shader!("loss/generalized_cross_entropy.wgsl"), Rounds::One)
        })
        .tempered(1.0)
    }
}

static FACTORS: &[Field] =
    &[Field::f32("top"), Field::f32("scale"), Field::f32("label_slope"), Field::u32("label")];
