//! Row losses of your own, from three short WGSL functions and one in Rust.

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
    },
    plan::{
        Plan,
        kernel::{Source, shader},
        profile::Profile,
    },
    reference::{Findings, array, extents, no_output, row_factor, scores, times},
    skeleton::{
        operation::Operation,
        request::Request,
        row::{self, Field, RowLoss, RowProgram, StateLayout, Target},
    },
    spec::{
        about::{About, Signature},
        arguments as arg,
        call::Call,
        declare::tensors,
        options::{MOST_IGNORED, Reduction, check_reduction},
    },
};

/// The state of `shaders/loss/sums.wgsl`.
pub(crate) const SUMS_STATE: StateLayout = StateLayout::words(8);
/// The factors that `shaders/loss/sums.wgsl` leaves for the gradient.
pub(crate) static SUMS_FACTORS: &[Field] =
    &[Field::vec4("sums"), Field::f32("factor"), Field::u32("label")];

/// A loss of a row that depends on the row's columns only through four sums.
///
/// The WGSL supplies `fn term(label: u32, column: u32, z: f32) -> vec4<f32>` (what a column adds to
/// the sums), `fn row_loss(label: u32, sums: vec4<f32>) -> f32` and
/// `fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32` (the derivative with respect
/// to z); it reads uniforms as `params.NAME`. [`Separable`] makes a [`RowLoss`] of it, with every
/// storage type, reduction, weight and edge rule of the built-in losses, and [`crate::Linear`]
/// makes a loss on scores that are never stored. `examples/own_loss.rs` is an example.
pub trait SeparableRow: std::fmt::Debug + Send + Sync {
    /// The name of the loss.
    const NAME: &'static str;
    /// The three WGSL functions.
    const WGSL: &'static str;

    /// The uniforms that the WGSL reads.
    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Returns the loss of a row and writes its gradient to `gradient`, in f64. The GPU's results
    /// are compared with it.
    fn row(&self, label: usize, z: &[f64], gradient: &mut [f64]) -> f64;
}

/// A [`SeparableRow`] of your own as a loss. It needs index targets, and its mean divides by the
/// number of rows kept.
#[derive(Clone, Debug)]
pub struct Separable<L> {
    /// The function that gives the loss of a row.
    pub row: L,
    /// How row losses become one number.
    pub reduction: Reduction,
    /// Targets whose rows count for nothing (at most four).
    pub ignored: Vec<i64>,
}

tensors! {
    /// The inputs of [`Separable`].
    SeparableInputs {
        /// Scores `[rows, classes]`.
        logits = "logits",
        /// The scale of i8 scores, `[1]` or `[rows]`: see [quantised logits](crate::row#quantised-logits).
        logits_scale = "logits_scale",
        /// The zero point of i8 scores, an `i8` in the shape of the scale; 0 if it is not given.
        logits_zero_point = "logits_zero_point",
        /// The index of the target of each row.
        targets = "targets",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`Separable`]. Only those that are given are computed.
    SeparableOutputs {
        /// The loss, `[1]`, or `[rows]` with [`Reduction::None`].
        loss = "loss",
        /// The gradient of the scores.
        gradient = "grad.logits",
        /// The sum of the row losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of rows kept.
        count = "count",
        /// The status words.
        status = "status",
    }
}

impl<L: SeparableRow> Separable<L> {
    /// The mean of this loss over the rows.
    pub fn new(row: L) -> Self {
        Self { row, reduction: Reduction::Mean, ignored: vec![-100] }
    }

    /// A call with these tensors.
    pub fn request<'a>(
        &'a self,
        inputs: SeparableInputs<'a>,
        outputs: SeparableOutputs<'a>,
    ) -> Request<'a> {
        Request::new(self, inputs.into(), outputs.into())
    }

    /// Sets how row losses become one number.
    #[must_use]
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
            arg::LOGITS,
            arg::LOGITS_SCALE,
            arg::LOGITS_ZERO_POINT,
            arg::TARGETS,
            arg::ROW_WEIGHT,
            arg::UPSTREAM,
            arg::DENOMINATOR_IN,
        ],
        outputs: &[
            arg::LOSS,
            arg::LOGITS_GRADIENT,
            arg::SUM,
            arg::DENOMINATOR,
            arg::COUNT,
            arg::STATUS,
        ],
        options: &[],
    };
}

impl<L: SeparableRow> Signature for Separable<L> {
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
        if self.ignored.len() > MOST_IGNORED {
            let found = self.ignored.len();
            return Err(Error::option(L::NAME, "ignored", found, "at most 4 indices"));
        }
        check_reduction(L::NAME, self.reduction)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        row::accepts(self, call)
    }
}

impl<L: SeparableRow> Operation for Separable<L> {
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(&self, inputs: &Arrays, wanted: &[&str], _: Arithmetic) -> Result<Arrays> {
        let Solved { losses, gradient, count, divisor, found } = self.solve(inputs)?;
        let sum: f64 = losses.iter().sum();
        let one = |value: f64| Array::float(&[1], vec![value]);
        let output = |name: &str| {
            Ok(match name {
                "loss" if self.is_per_row() => Array::float(&[losses.len() as u64], losses.clone()),
                "loss" if divisor == 0.0 => one(f64::NAN),
                "loss" => one(sum / divisor),
                "grad.logits" => gradient.clone(),
                "sum" => one(sum),
                "denominator" => one(count as f64),
                "count" => Array::int(&[1], vec![count]),
                "status" => found.words(),
                _ => return Err(no_output(&Self::ABOUT, name)),
            })
        };
        wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
    }
}

/// A call that was computed on the host.
struct Solved {
    losses: Vec<f64>,
    gradient: Array,
    count: i64,
    divisor: f64,
    found: Findings,
}

impl<L: SeparableRow> Separable<L> {
    fn solve(&self, inputs: &Arrays) -> Result<Solved> {
        let needed = |name| inputs.get(name).ok_or_else(|| row::missing(self, name));
        let targets = needed("targets")?.to_i64();
        let shape: [usize; 2] = extents(L::NAME, inputs, "logits")?.into();
        let classes = shape[1].max(1);
        let weights = each(inputs, "row_weight", targets.len());
        let z: Vec<f64> = scores(inputs, "logits", shape)?;
        let mut gradient = vec![0.0; z.len()];
        let mut losses = vec![0.0; targets.len()];
        let rows = z.chunks(classes).zip(gradient.chunks_mut(classes)).zip(&targets);
        let mut found = Findings::of_rows();
        for (row, (((z, g), &target), loss)) in rows.zip(&mut losses).enumerate() {
            *loss = self.solve_row((row, target), z, g, &mut found);
        }
        let kept =
            |target: &&i64| !self.ignored.contains(target) && (0..classes as i64).contains(*target);
        for ((loss, weight), target) in losses.iter_mut().zip(&weights).zip(&targets) {
            // The loss of a row with weight 0 is 0, even if a score is NaN.
            let is_weightless = *weight == 0.0 && kept(&target);
            *loss = if is_weightless { 0.0 } else { times(*weight, *loss) };
        }
        let no_loss = |(target, loss): &(&i64, &f64)| kept(target) && loss.is_nan();
        targets.iter().zip(&losses).filter(no_loss).for_each(|_| found.bad_row());
        let count = targets.iter().filter(kept).count() as i64;
        let own = match self.reduction {
            Reduction::Mean | Reduction::Multilabel => count as f64,
            Reduction::Over(d) => d,
            Reduction::None | Reduction::Sum => 1.0,
        };
        let given = inputs.get("denominator").map(Array::to_f64);
        let divisor = given.and_then(|d| d.first().copied()).unwrap_or(own);
        let upstream = each(inputs, "upstream", targets.len());
        for ((g, weight), up) in gradient.chunks_mut(classes).zip(&weights).zip(&upstream) {
            let factor = row_factor(*weight, *up, divisor);
            for g in g {
                *g = if factor == 0.0 { 0.0 } else { *g * factor };
            }
        }
        let gradient = array(&shape, gradient);
        Ok(Solved { losses, gradient, count, divisor, found })
    }

    /// The loss of a row and its gradient, before weights.
    fn solve_row(
        &self,
        (row, target): (usize, i64),
        z: &[f64],
        gradient: &mut [f64],
        found: &mut Findings,
    ) -> f64 {
        let label = usize::try_from(target).ok().filter(|&label| label < z.len());
        match label {
            _ if self.ignored.contains(&target) => 0.0,
            None => {
                found.bad_target(row, target);
                f64::NAN
            }
            Some(_) if z.iter().any(|z| !z.is_finite()) => {
                gradient.fill(f64::NAN);
                f64::NAN
            }
            Some(label) => self.row.row(label, z, gradient),
        }
    }
}

/// One value a row: that of the input, its single value, or 1 if it is not given.
fn each(inputs: &Arrays, name: &str, rows: usize) -> Vec<f64> {
    match inputs.get(name).map(Array::to_f64) {
        Some(values) if values.len() == rows => values,
        Some(values) => vec![values.first().copied().unwrap_or(1.0); rows],
        None => vec![1.0; rows],
    }
}

impl<L: SeparableRow> RowLoss for Separable<L> {
    fn program(&self, _: &Call) -> RowProgram {
        let number = |(name, value): (&'static str, f64)| (name, value.into());
        RowProgram {
            reduction: self.reduction,
            sources: vec![
                Source { path: L::NAME, text: L::WGSL },
                shader!("loss/separable.wgsl"),
                shader!("row/open.wgsl"),
                shader!("loss/sums.wgsl"),
            ],
            target: Target::Index { ignored: self.ignored.clone() },
            state: SUMS_STATE,
            factors: SUMS_FACTORS,
            uniforms: self.row.uniforms().into_iter().map(number).collect(),
            ..RowProgram::default()
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        if call.has("targets") { Ok(()) } else { Err(row::missing(self, "targets")) }
    }
}
