//! The multi-class hinge: a margin to all other classes, or to the best of them (catalogue R9).

use crate::{
    data::error::{Error, Result},
    plan::kernel::shader,
    reference::{Real, times},
    skeleton::row::{
        Broadcast, Field, Reduced, RowLoss, RowOutput, RowProgram, RowStream, StateLayout,
        reference::{Point, Row, RowFormula, total},
        row_loss,
    },
    spec::{about::Dim, call::Call},
};

/// The classes whose scores are compared with that of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum HingeVariant {
    /// All other classes, whose hinges are added and divided by the number of classes: Weston and Watkins, and
    /// PyTorch's `multi_margin_loss`.
    #[default]
    Sum,
    /// The best of the other classes: Crammer and Singer.
    Max,
}

row_loss! {
    /// The multi-class hinge: 0 once the target is ahead of the other classes by a margin.
    ///
    /// - `variant` `"sum"`: row_weight·w_y·min((1/C)·Σ_{j≠y} max(0, m_y − z_y + z_j)^p, ramp), as
    ///   `F.multi_margin_loss`.
    /// - `variant` `"max"`: row_weight·w_y·min(max(0, m_y − z_y + z_b)^p, ramp), b the best of the other classes; of
    ///   equal scores the class with the lower index.
    ///
    /// m_y is `margin`, or the target's entry of `class_margin`, which replaces it (larger margins for rare classes:
    /// LDAM). w_y is the target's entry of `weight`, or 1.
    ///
    /// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
    ///   `i64`); weight and class_margin `[classes]`; row_weight `[rows]`; upstream `[1]`, or `[rows]` with
    ///   [`Reduction::None`](crate::Reduction::None).
    /// - **Units**: those of the scores, to the power p.
    /// - **Types**: logits, weight, class_margin, row_weight and the gradient in `f32`, `f16` or `bf16`; everything in
    ///   between in f32; the gradient is rounded to nearest even.
    /// - **Gradient** with f = row_weight·w_y·upstream/denominator and h the hinge of a class before the power:
    ///   f·p·h^(p − 1) at each class whose h is above 0 (`"sum"`: divided by C; `"max"`: at b alone), and minus their
    ///   sum at the target. 0 at the kink, and where the ramp caps the row.
    /// - **Mean** divides by the number of rows kept, or by Σ row_weight of them; `weight` is not in it.
    /// - **By-product**: `active`, the share of the rows kept whose hinge is above 0, before any weight.
    /// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. A row
    ///   whose row_weight is 0 has loss and gradient 0, but is counted. A class at `-inf` adds nothing. A target at
    ///   `-inf` gives +inf, or the ramp; with p = 2 and no ramp its gradient is 0, and [`crate::Status`] counts the
    ///   row. A NaN or +inf logit, a row that is all `-inf`, or a weight or margin of its target that is not finite
    ///   gives NaN for that row, which the status counts. A target outside `0..classes` is never used as an index: the
    ///   loss of its row is NaN, the gradient 0, and the status counts it.
    /// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
    ///
    /// Sources: Weston and Watkins 1999; Crammer and Singer 2001; ramp, Collobert et al. 2006; margins of classes, Cao
    /// et al. 2019.
    ///
    /// ```
    /// use surprisal::{Array, Arrays, MulticlassHinge, cpu};
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 4], vec![3.0, 2.5, 2.0, 1.0])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![1])),
    /// ]);
    /// let outputs = cpu::run(&MulticlassHinge::default(), &inputs, &["loss", "active"])?;
    /// assert_eq!(outputs["loss"].to_f64(), [(1.5 + 0.5) / 4.0]);
    /// assert_eq!(outputs["active"].to_f64(), [1.0]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    MulticlassHinge = "multiclass_hinge";
    summary: "A margin to all other classes, or to the best of them; plain, squared or capped.",
    formula: "loss = row_weight·w_y·min((1/C)·Σ_{j≠y} max(0, m_y − z_y + z_j)^p, ramp), \
              or the same of the best j≠y alone, not divided by C",
    pytorch: "F.multi_margin_loss(z, y, p, margin, weight)";
    inputs MulticlassHingeInputs {
        targets = "targets": arg::LABELS;
        weight = "weight": arg::CLASS_WEIGHT;
        class_margin = "class_margin": arg::CLASS_MARGIN;
    }
    outputs MulticlassHingeOutputs {
        active = "active": arg::ACTIVE;
    };
    options {
        variant: HingeVariant = HingeVariant::Sum, "\"sum\"", &["\"max\""],
            "all other classes, divided by C (\"sum\"), or the best of them (\"max\")";
        p: f64 = 1.0, "1.0", &["2.0"], "1 (hinge) or 2 (squared hinge)";
        margin: f64 = 1.0, "1.0", &["0.5"], "by how much the target should be ahead";
        ramp: Option<f64> = None, "null", &["0.75"], "caps the loss of a row; the gradient is 0 there";
    }
}

impl RowFormula for MulticlassHinge {
    const OF_CLASSES: &'static [&'static str] = &["weight", "class_margin"];
    const OUTPUTS: &'static [RowOutput] = OUTPUTS;

    fn check(&self) -> Result<()> {
        let bad = |option, value: f64, reason: &str| {
            Err(Error::option("multiclass_hinge", option, value, reason))
        };
        if self.p != 1.0 && self.p != 2.0 {
            return bad("p", self.p, "p is 1 or 2");
        }
        if !(self.margin as f32).is_finite() {
            return bad("margin", self.margin, "the margin is within f32");
        }
        match self.ramp {
            Some(ramp) if !(ramp > 0.0 && (ramp as f32).is_normal()) => {
                bad("ramp", ramp, "the cap is above 0 and within f32")
            }
            _ => Ok(()),
        }
    }

    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T> {
        let (z, classes, lowest) = (row.logits, row.logits.len(), T::neg_infinity());
        let none = z.iter().any(|&z| z.is_nan() || z == T::infinity());
        let Some(label) = row.target.filter(|_| !none && z.iter().any(|&z| z != lowest)) else {
            return Point::bad(classes);
        };
        let of_label = |name, other| row.get(name).map_or(other, |values| values[label]);
        let weight = of_label("weight", T::one());
        let margin = of_label("class_margin", T::of(self.margin));
        if !weight.is_finite() || !margin.is_finite() {
            return Point::bad(classes);
        }
        let (others, share) = self.compared(z, label);
        let open = |c: usize| (margin + (z[c] - z[label])).max(T::zero());
        let squared = self.p == 2.0;
        let power = |h: T| if squared { h * h } else { h };
        let hinge = share * total(others.iter().map(|&c| power(open(c))));
        let by_products = vec![if hinge > T::zero() { T::one() } else { T::zero() }];
        let mut gradient = vec![T::zero(); classes];
        if let Some(ramp) = self.ramp.map(T::of).filter(|&ramp| hinge >= ramp) {
            return Point::new(weight * ramp, gradient).with(by_products);
        }
        if squared && hinge.is_infinite() && !weight.is_zero() {
            let mut endless = Point::infinite(classes).with(by_products);
            endless.loss = times(weight, endless.loss);
            return endless;
        }
        for &c in others.iter().filter(|&&c| open(c) > T::zero()) {
            let slope = if squared { T::of(2.0) * open(c) } else { T::one() };
            gradient[c] = times(weight, share * slope);
        }
        gradient[label] = -total(gradient.iter().copied());
        Point::new(times(weight, hinge), gradient).with(by_products)
    }
}

impl MulticlassHinge {
    /// The classes whose scores are compared with that of the target, and the share of each in the loss.
    fn compared<T: Real>(&self, z: &[T], label: usize) -> (Vec<usize>, T) {
        let others = (0..z.len()).filter(|&c| c != label && z[c] != T::neg_infinity());
        if self.variant == HingeVariant::Sum {
            return (others.collect(), T::one() / T::of(z.len() as f64));
        }
        // Of equal scores the first stays.
        let best = others.reduce(|best, c| if z[c] > z[best] { c } else { best });
        (best.into_iter().collect(), T::one())
    }
}

impl RowLoss for MulticlassHinge {
    fn program(&self, call: &Call) -> RowProgram {
        let only_best = self.variant == HingeVariant::Max;
        let share = if only_best { 1.0 } else { 1.0 / call.dim(Dim::Classes).max(1) as f64 };
        let margin = if call.has("class_margin") { 0.0 } else { self.margin };
        let squared = self.p == 2.0;
        self.ruled(RowProgram {
            streams: vec![
                RowStream::read("weight", Broadcast::Columns).or(1.0),
                RowStream::read("class_margin", Broadcast::Columns),
            ],
            outputs: OUTPUTS,
            factors: FACTORS,
            overrides: vec![("ONLY_BEST", only_best.into())],
            uniforms: vec![
                ("margin", margin.into()),
                ("share", share.into()),
                ("slope_share", if squared { 2.0 } else { share }.into()),
                ("squared", u32::from(squared).into()),
                ("capped", u32::from(self.ramp.is_some()).into()),
                ("ramp", self.ramp.unwrap_or(1.0).into()),
            ],
            ..RowProgram::compared(shader!("loss/multiclass_hinge.wgsl"), StateLayout::words(5))
        })
    }
}

static OUTPUTS: &[RowOutput] = &[RowOutput::number("open_row").reduced(Reduced::Mean("active"))];

static FACTORS: &[Field] = &[
    Field::u32("label"),
    Field::u32("label_bits"),
    Field::u32("best_column"),
    Field::f32("margin"),
    Field::f32("scale"),
    Field::f32("label_slope"),
];
