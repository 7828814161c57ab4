//! The top-k hinge: a margin to the k-th best of the other classes (catalogue R10).

use std::cmp::Ordering;

use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::Real,
    skeleton::row::{
        Field, RowLoss, RowProgram, StateLayout,
        reference::{Point, Row, RowFormula, total},
        row_loss,
    },
    spec::{about::Dim, call::Call},
};

/// The score that the target's score is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum TopkVariant {
    /// The k-th largest score of the other classes.
    #[default]
    Kth,
    /// The mean of the k largest of (margin·1[j≠y] + z_j − z_y), where the target itself contributes 0.
    Average,
}

row_loss! {
    /// The top-k hinge: 0 once the target is among the k best classes by a margin.
    ///
    /// - `variant` `"kth"`: row_weight·max(0, margin + z_(k) − z_y), z_(k) the k-th largest score of the
    ///   other classes.
    /// - `variant` `"average"`: row_weight·max(0, (1/k)·Σ of the k largest of
    ///   (margin·1[j≠y] + z_j − z_y)), j over all classes. With k = 1 both are the multi-class hinge of
    ///   Crammer and Singer.
    ///
    /// Of equal scores the class with the lower index comes first. k must be below the number of classes.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]`
    ///   (`i32`, `u32`, `i64`); row_weight `[rows]`; upstream `[1]`, or `[rows]` with
    ///   [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: those of the scores.
    /// - **Types**: logits, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in between
    ///   in f32; the gradient is rounded to nearest even.
    /// - **Gradient** where the loss is above 0, with f = row_weight·upstream/denominator: `"kth"` f at the
    ///   k-th best class and −f at the target; `"average"` f/k at each of the k best classes that is not
    ///   the target, and minus their sum at the target. 0 elsewhere, and at the kink.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them.
    /// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. The
    ///   same holds for rows whose row_weight is 0, but these are counted. A class at `-inf` comes last and has
    ///   gradient 0; where it is among the k best, the loss is 0. A target at `-inf` gives +inf. A NaN or +inf logit,
    ///   or a row that is all `-inf`, gives NaN for that row, which [`crate::Status`] counts. A target outside
    ///   `0..classes` is never used as an index: the loss of its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value. A k
    ///   that is not below the number of classes is such an error.
    ///
    /// Sources: Lapin, Hein and Schiele 2015 (top-k multiclass SVM, "α"); Berrada, Zisserman and Kumar
    /// 2018; with k = 1 Crammer and Singer 2001.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, TopkHinge, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 4], vec![3.0, 2.5, 2.0, 2.75])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![1])),
    /// ]);
    /// // The second best of the others is 2.75.
    /// let outputs = cpu::run(&TopkHinge::default().k(2), &inputs, &["loss"])?;
    /// assert_eq!(outputs["loss"].to_f64(), [1.25]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    TopkHinge = "topk_hinge";
    summary: "A margin to the k-th best of the other classes, or to the mean of the k best.",
    formula: "loss = row_weight·max(0, margin + z_(k) − z_y) over j≠y, \
              or row_weight·max(0, (1/k)·Σ of the k largest of margin·1[j≠y] + z_j − z_y)",
    pytorch: "torch.relu(margin + z_without_y.topk(k).values[:, -1] - z_y)";
    inputs TopkHingeInputs {
        targets = "targets": arg::LABELS;
    }
    outputs TopkHingeOutputs;
    options {
        variant: TopkVariant = TopkVariant::Kth, "\"kth\"", &["\"average\""],
            "the k-th best of the other classes (\"kth\") or the mean of the k best (\"average\")";
        k: u32 = 1, "1", &["3"], "from 1 to one less than the classes";
        margin: f64 = 1.0, "1.0", &["0.5"], "by how much the target should be ahead";
    }
}

impl RowFormula for TopkHinge {
    fn check(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::option("topk_hinge", "k", self.k, "k is at least 1"));
        }
        if !(self.margin as f32).is_finite() {
            return Err(Error::option("topk_hinge", "margin", self.margin, "it is within f32"));
        }
        Ok(())
    }

    fn check_given(&self, _given: &dyn Fn(&str) -> bool, classes: u64) -> Result<()> {
        if u64::from(self.k) < classes {
            return Ok(());
        }
        let reason = format!("k is below the number of classes, {classes}");
        Err(Error::option("topk_hinge", "k", self.k, reason))
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let (z, classes, k) = (row.logits, row.logits.len(), self.k as usize);
        let lowest = T::neg_infinity();
        let none = z.iter().any(|&z| z.is_nan() || z == T::infinity());
        let Some(label) = row.target.filter(|_| !none && z.iter().any(|&z| z != lowest)) else {
            return Point::bad(classes);
        };
        // The other classes from high to low; of equal scores the lower index stays first.
        let mut others: Vec<usize> = (0..classes).filter(|&c| c != label).collect();
        others.sort_by(|&a, &b| z[b].partial_cmp(&z[a]).unwrap_or(Ordering::Equal));
        others.truncate(k);
        // How far a class is ahead of the target, including the margin.
        let margin = T::of(self.margin);
        let ahead = |c: usize| if z[c] == lowest { lowest } else { margin + (z[c] - z[label]) };
        // The target contributes 0. It takes the last place if it comes before the class that has this place.
        let first = |c: usize| ahead(c) < T::zero() || (ahead(c) == T::zero() && label < c);
        let counted = match self.variant {
            TopkVariant::Kth => &others[k - 1..],
            TopkVariant::Average if first(others[k - 1]) => &others[..k - 1],
            TopkVariant::Average => &others[..],
        };
        let places = if self.variant == TopkVariant::Kth { 1 } else { k };
        let share = T::one() / T::of(places as f64);
        let loss = if z[label] == lowest {
            T::infinity()
        } else {
            (share * total(counted.iter().map(|&c| ahead(c)))).max(T::zero())
        };
        let mut gradient = vec![T::zero(); classes];
        if loss > T::zero() {
            for &c in counted.iter().filter(|&&c| z[c] != lowest) {
                gradient[c] = share;
            }
            gradient[label] = -total(gradient.iter().copied());
        }
        Point::new(loss, gradient)
    }
}

impl RowLoss for TopkHinge {
    fn program(&self, _call: &Call) -> RowProgram {
        let average = self.variant == TopkVariant::Average;
        let share = if average { 1.0 / f64::from(self.k) } else { 1.0 };
        self.ruled(RowProgram {
            factors: FACTORS,
            select: self.k,
            overrides: vec![("AVERAGE", average.into())],
            uniforms: vec![("margin", self.margin.into()), ("share", share.into())],
            ..RowProgram::compared(shader!("loss/topk_hinge.wgsl"), StateLayout::words(3))
        })
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.check_given(&|name| call.has(name), call.dim(Dim::Classes))
    }
}

static FACTORS: &[Field] = &[
    Field::f32("share"),
    Field::f32("label_share"),
    Field::u32("label"),
    Field::u32("last_key"),
    Field::u32("last_column"),
    Field::u32("takes_last"),
];
