//! Losses of a user's own, in three short WGSL functions and one in Rust.

use super::{About, Argument, Dim, Kind, Loss, Reduction, arguments as arg};
use crate::{
    array::{Arithmetic, Array, Arrays},
    error::{Error, Result},
    kernel::{Source, shader},
    plan::{Call, Plan},
    profile::Profile,
    row::{self, FunctorStream, Number, RowLoss, RowOptions},
};

/// A loss of a row that depends on its columns through four sums alone.
///
/// The WGSL supplies `fn term(label: u32, column: u32, z: f32) -> vec4<f32>` (what a column adds to
/// the sums), `fn row_loss(label: u32, sums: vec4<f32>) -> f32` and
/// `fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32` (the derivative with respect
/// to z); numbers are reached as `params.NAME`. [`Separable`] makes it a [`RowLoss`] with every
/// storage type, reduction, weight and edge rule of the built-in ones, and
/// [`crate::Linear`] one on scores that are never stored. `examples/own_loss.rs` is one.
pub trait SeparableRow: std::fmt::Debug + Send + Sync {
    /// Its name.
    const NAME: &'static str;
    /// The three functions.
    const WGSL: &'static str;

    /// Numbers that the WGSL reads.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The loss of a row, and its gradient into `gradient`, in f64: what the GPU is held to.
    fn row(&self, label: usize, z: &[f64], gradient: &mut [f64]) -> f64;
}

/// A user's [`SeparableRow`] as a loss. Rows need index targets; the mean divides by the rows kept.
#[derive(Clone, Debug)]
pub struct Separable<L> {
    /// The loss of a row.
    pub row: L,
    /// How row losses become one number.
    pub reduction: Reduction,
    /// Targets whose rows count for nothing (at most four).
    pub ignored: Vec<i64>,
}

impl<L: SeparableRow> Separable<L> {
    /// The mean of this loss over the rows.
    pub fn new(row: L) -> Self {
        Self { row, reduction: Reduction::Mean, ignored: vec![-100] }
    }

    /// Sets how row losses become one number.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    const ABOUT: About = About {
        name: L::NAME,
        summary: "A user's own row loss.",
        formula: "",
        pytorch: "",
        inputs: &[
            Argument::required(
                "logits",
                Kind::Float,
                &[&[Dim::Rows, Dim::Classes]],
                "scores of the classes",
            ),
            arg::TARGETS,
            arg::ROW_WEIGHT,
            arg::UPSTREAM,
            arg::DENOMINATOR_IN,
        ],
        outputs: &[
            arg::LOSS,
            Argument::optional(
                "grad.logits",
                Kind::Float,
                &[&[Dim::Rows, Dim::Classes]],
                "gradient of the scores",
            ),
            arg::SUM,
            arg::DENOMINATOR,
            arg::COUNT,
            arg::STATUS,
        ],
        options: &[],
    };
}

impl<L: SeparableRow> Loss for Separable<L> {
    fn about(&self) -> &'static About {
        &Self::ABOUT
    }

    fn validate(&self) -> Result<()> {
        if self.ignored.len() > row::MOST_IGNORED {
            let found = self.ignored.len();
            return Err(Error::option(L::NAME, "ignored", found, "at most 4 indices"));
        }
        row::check_reduction(L::NAME, self.reduction)
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(&self, inputs: &Arrays, wanted: &[&str], _: Arithmetic) -> Result<Arrays> {
        let Some(logits) = inputs.get("logits") else { return Err(row::missing(self, "logits")) };
        let Some(targets) = inputs.get("targets") else {
            return Err(row::missing(self, "targets"));
        };
        let each = |name: &str, rows: usize| match inputs.get(name).map(Array::to_f64) {
            Some(values) if values.len() == 1 => vec![values.first().copied().unwrap_or(1.0); rows],
            Some(values) => values,
            None => vec![1.0; rows],
        };
        let classes = logits.shape.get(1).copied().unwrap_or(1).max(1) as usize;
        let (z, targets) = (logits.to_f64(), targets.to_i64());
        let (weights, upstream) =
            (each("row_weight", targets.len()), each("upstream", targets.len()));
        let mut gradient = vec![0.0; z.len()];
        let mut losses = vec![0.0; targets.len()];
        let mut count = 0;
        let rows = z.chunks(classes).zip(gradient.chunks_mut(classes));
        for ((((z, g), &target), loss), weight) in rows.zip(&targets).zip(&mut losses).zip(&weights)
        {
            if self.ignored.contains(&target) {
                continue;
            }
            match usize::try_from(target) {
                Ok(label) if label < classes => {
                    count += 1;
                    *loss = weight * self.row.row(label, z, g);
                }
                _ => *loss = f64::NAN,
            }
            if z.iter().any(|z| !z.is_finite()) {
                *loss = f64::NAN;
                g.fill(f64::NAN);
            }
        }
        let sum: f64 = losses.iter().sum();
        let own = match self.reduction {
            Reduction::Mean => f64::from(count),
            Reduction::Over(d) => d,
            Reduction::None | Reduction::Sum => 1.0,
        };
        let divisor =
            inputs.get("denominator").and_then(|d| d.to_f64().first().copied()).unwrap_or(own);
        for ((g, weight), up) in gradient.chunks_mut(classes).zip(&weights).zip(&upstream) {
            let factor = if divisor == 0.0 { 0.0 } else { weight * up / divisor };
            g.iter_mut().for_each(|g| *g = if factor == 0.0 { 0.0 } else { *g * factor });
        }
        let one = |value: f64| Array::float(&[1], vec![value]);
        let output = |name: &str| {
            Ok(match name {
                "loss" if self.is_per_row() => Array::float(&[losses.len() as u64], losses.clone()),
                "loss" if divisor == 0.0 => one(f64::NAN),
                "loss" => one(sum / divisor),
                "grad.logits" => Array::float(&logits.shape, gradient.clone()),
                "sum" => one(sum),
                "denominator" => one(f64::from(count)),
                "count" => Array::int(&[1], vec![i64::from(count)]),
                _ => return Err(row::missing(self, "an output the CPU has")),
            })
        };
        wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
    }
}

impl<L: SeparableRow> RowLoss for Separable<L> {
    fn sources(&self) -> Vec<Source> {
        vec![Source { path: L::NAME, text: L::WGSL }, shader!("loss/separable.wgsl")]
    }

    fn options(&self) -> RowOptions {
        RowOptions {
            reduction: self.reduction,
            ignored: self.ignored.clone(),
            ..RowOptions::default()
        }
    }

    fn streams(&self) -> &'static [FunctorStream] {
        &[]
    }

    fn shapes(&self, _: &Call) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    fn numbers(&self, _: &Call) -> Vec<(String, Number)> {
        let number = |(name, value): (&str, f64)| (name.to_owned(), value.into());
        self.row.numbers().into_iter().map(number).collect()
    }

    fn streams_twice(&self, _: &Call) -> bool {
        true
    }

    fn check(&self, call: &Call) -> Result<()> {
        if call.has("targets") { Ok(()) } else { Err(row::missing(self, "targets")) }
    }
}
