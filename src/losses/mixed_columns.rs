//! Rows with columns of several kinds (catalogue E11).

use std::collections::BTreeMap;

use super::{BceWithLogits, CrossEntropy, Mse};
use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, profile::Profile},
    skeleton::{
        composed::{self, Composed, Part, PartInput, TensorSlice},
        operation::{Operation, Options},
        request::request,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Empty, Reduction},
    },
};

const NAME: &str = "mixed_columns";

/// The loss of a span of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum SpanKind {
    /// Binary cross-entropy of each column.
    Bce,
    /// Softmax cross-entropy over the span, with one-hot or soft targets.
    Cce,
    /// The squared error of each column.
    #[default]
    Mse,
}

/// A span of columns that share one loss.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ColumnSpan {
    /// The loss of the span.
    pub kind: SpanKind,
    /// The number of columns. The last span may have `None`: it takes the rest.
    pub columns: Option<u64>,
    /// The weight of the span's loss.
    pub weight: f64,
}

impl Default for ColumnSpan {
    fn default() -> Self {
        Self { kind: SpanKind::Mse, columns: None, weight: 1.0 }
    }
}

impl ColumnSpan {
    /// A span of this kind and number of columns, with weight 1.
    pub fn new(kind: SpanKind, columns: u64) -> Self {
        Self { kind, columns: Some(columns), weight: 1.0 }
    }

    setters! { kind: SpanKind, columns: Option<u64>, weight: f64 }
}

/// Rows whose columns are of several kinds, like those of a tabular autoencoder: a loss for each span of columns,
/// their weighted sum, and one gradient over all columns, in one call.
///
/// loss = Σ_s weight_s·loss_s, in nats where the span's numbers are probabilities. The loss of a `bce` span is the
/// mean of y·softplus(−z) + (1 − y)·softplus(z) over its rows and columns. The loss of an `mse` span is the mean of (z
/// − y)² over its rows and columns. The loss of a `cce` span is the mean over the rows of −Σ_c y_c·log softmax(z)_c,
/// with the softmax over the span.
///
/// - **Shapes**: logits and targets `[rows, columns]`, with any row stride and element offset; row_weight `[rows]`,
///   which multiplies the losses and gradients of a row, but does not enter the denominator of a mean; upstream `[1]`.
///   The spans lie one behind the other and cover all columns.
/// - **Types**: `f32`, `f16`, `bf16`, computed in f32.
/// - **Gradient**: that of the weighted sum, in one tensor over all columns.
/// - **Parts** `[spans]`: the loss of each span, without its weight; part_sum and part_denominator combine
///   micro-batches exactly.
/// - **Reduction**: each span is reduced separately; `none` is refused.
/// - **Edges**: as [`BceWithLogits`], [`CrossEntropy`] and [`Mse`].
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
///
/// ```
/// use surprisal::{Array, Arrays, ColumnSpan, MixedColumns, SpanKind, cpu};
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[1, 4], vec![0.0, 0.0, 0.0, 3.0])),
///     ("targets".to_owned(), Array::float(&[1, 4], vec![1.0, 1.0, 0.0, 1.0])),
/// ]);
/// let spans = vec![
///     ColumnSpan::new(SpanKind::Bce, 1),
///     ColumnSpan::new(SpanKind::Cce, 2),
///     ColumnSpan::new(SpanKind::Mse, 1).weight(0.5),
/// ];
/// let outputs = cpu::run(&MixedColumns::default().spans(spans), &inputs, &["loss", "parts"])?;
/// assert!((outputs["loss"].to_f64()[0] - (2.0 * 2f64.ln() + 2.0)).abs() < 1e-12);
/// assert_eq!(outputs["parts"].to_f64()[2], 4.0);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct MixedColumns {
    /// How the losses of each span become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// The spans, in the order of the columns.
    pub spans: Vec<ColumnSpan>,
}

impl Default for MixedColumns {
    fn default() -> Self {
        Self { reduction: Reduction::Mean, empty: Empty::Nan, spans: vec![ColumnSpan::default()] }
    }
}

impl MixedColumns {
    setters! { reduction: Reduction, empty: Empty, spans: Vec<ColumnSpan> }

    /// The part for a span with these columns.
    fn part(&self, span: &ColumnSpan, rows: u64, first: u64, columns: u64) -> Part {
        let means = if span.kind == SpanKind::Cce { rows } else { rows * columns };
        let reduction = composed::weighted(self.reduction, span.weight, means);
        let (loss, [targets, weight]): (Box<dyn Operation>, _) = match span.kind {
            SpanKind::Bce => {
                let loss = BceWithLogits::default().reduction(reduction).empty(self.empty);
                (Box::new(loss), ["targets", "weight"])
            }
            SpanKind::Mse => {
                let loss = Mse::default().reduction(reduction).empty(self.empty);
                (Box::new(loss), ["targets", "weight"])
            }
            SpanKind::Cce => {
                let loss = CrossEntropy::default().reduction(reduction).empty(self.empty);
                (Box::new(loss), ["target_probs", "row_weight"])
            }
        };
        let of_rows =
            if span.kind == SpanKind::Cce { TensorSlice::All } else { TensorSlice::Column };
        let own = TensorSlice::Columns(first..first + columns);
        let input = |part, whole, slice| PartInput { part, whole, slice };
        Part {
            loss,
            inputs: vec![
                input("logits", "logits", own.clone()),
                input(targets, "targets", own),
                input(weight, "row_weight", of_rows),
                input("upstream", "upstream", TensorSlice::All),
            ],
            slope: None,
        }
    }
}

tensors! {
    /// The inputs of [`MixedColumns`].
    MixedColumnsInputs {
        /// The outputs of the model `[rows, columns]`.
        logits = "logits",
        /// The targets `[rows, columns]`.
        targets = "targets",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]`.
        upstream = "upstream",
    }
}

tensors! {
    /// The outputs of [`MixedColumns`]. Only those that are given are computed.
    MixedColumnsOutputs {
        /// The loss `[1]`.
        loss = "loss",
        /// The gradient of the logits.
        gradient = "grad.logits",
        /// The loss of each span without its weight `[spans]`.
        parts = "parts",
        /// The sum of the losses of each span `[spans]`.
        part_sum = "part_sum",
        /// What the mean of each span divides by `[spans]`.
        part_denominator = "part_denominator",
        /// The status words.
        status = "status",
    }
}

request!(MixedColumns: MixedColumnsInputs, MixedColumnsOutputs);

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

pub(super) static ABOUT: About = About {
    name: NAME,
    summary: "Rows of binary, categorical and numeric columns: a loss a span of them, and their sum.",
    formula: "loss = Σ_s weight_s·loss_s, loss_s the mean BCE, CCE or squared error of span s",
    pytorch: "Σ weight·F.binary_cross_entropy_with_logits, F.cross_entropy and F.mse_loss of slices",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "what the model makes of a row"),
        Argument::required("targets", Kind::Float, MATRIX, "what it should be")
            .within(Domain::Probability),
        arg::ROW_WEIGHT,
        composed::UPSTREAM,
    ],
    outputs: &[
        composed::LOSS,
        arg::LOGITS_GRADIENT,
        composed::PARTS,
        composed::PART_SUM,
        composed::PART_DENOMINATOR,
        arg::STATUS,
    ],
    options: &[
        composed::REDUCTION,
        arg::EMPTY,
        OptionAbout {
            name: "spans",
            default: "[{\"kind\": \"mse\"}]",
            samples: &[
                "[{\"kind\": \"cce\", \"columns\": 3}, {\"kind\": \"bce\", \"weight\": 0.5}]",
                "[{\"kind\": \"mse\", \"columns\": 2}, {\"kind\": \"cce\"}]",
            ],
            about: "[{\"kind\": \"bce\", \"cce\" or \"mse\", \"columns\": n, \"weight\": w}, …]; \
                    the last one can have the rest of the columns",
        },
    ],
};

impl Signature for MixedColumns {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        vec![(Dim::Parts, self.spans.len() as u64)]
    }

    fn validate(&self) -> Result<()> {
        composed::check_composed(NAME, self.reduction)?;
        let bad = |found: String, reason| Err(Error::option(NAME, "spans", found, reason));
        for (nth, span) in self.spans.iter().enumerate() {
            let last = nth + 1 == self.spans.len();
            if span.columns == Some(0) || (span.columns.is_none() && !last) {
                let reason = "a span has columns, and only the last one can have the rest";
                let columns = span.columns.map_or("no".to_owned(), |columns| columns.to_string());
                return bad(format!("span {nth} with {columns} columns"), reason);
            }
            if !((span.weight as f32).is_normal() && (1.0 / span.weight as f32).is_normal()) {
                let found = format!("span {nth} with weight {}", span.weight);
                return bad(found, "a weight is within f32 and not 0");
            }
        }
        if self.spans.is_empty() {
            bad("[]".to_owned(), "there is at least one span")
        } else {
            Ok(())
        }
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        composed::accepts(self, call)
    }
}

impl Operation for MixedColumns {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        composed::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        composed::reference(self, inputs, wanted, arithmetic)
    }
}

impl Composed for MixedColumns {
    fn parts(&self, dims: &BTreeMap<Dim, u64>, _: &dyn Fn(&str) -> bool) -> Result<Vec<Part>> {
        let dim = |dim| dims.get(&dim).copied().unwrap_or(0);
        let (rows, all) = (dim(Dim::Rows), dim(Dim::Classes));
        let mut first = 0u64;
        let mut parts = Vec::new();
        for span in &self.spans {
            let columns = span.columns.unwrap_or(all.saturating_sub(first));
            if columns == 0 || columns > all.saturating_sub(first) {
                return Err(self.misfit(all));
            }
            parts.push(self.part(span, rows, first, columns));
            first += columns;
        }
        if first == all { Ok(parts) } else { Err(self.misfit(all)) }
    }

    fn reduced(&self) -> (Reduction, Empty) {
        (self.reduction, self.empty)
    }
}

impl MixedColumns {
    fn misfit(&self, columns: u64) -> Error {
        let known = self.spans.iter().filter_map(|span| span.columns);
        let known = known.fold(0, u64::saturating_add);
        let rest = if self.spans.iter().any(|s| s.columns.is_none()) { " and a rest" } else { "" };
        Error::WrongShape {
            argument: "logits".into(),
            found: vec![columns].into(),
            expected: format!("the {known} columns of the spans{rest}").into(),
        }
    }
}
