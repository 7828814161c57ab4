//! Supervised contrast of vectors with each other, and NT-Xent (catalogue P3).

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, kernel::shader, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        pairs::{self, Columns, PairLoss, Pairing, Term},
        request::request,
        row::{self, RowLoss, RowProgram, Target},
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Accumulate, Empty, Reduction, check_reduction},
        shard::Shard,
    },
};

/// Supervised contrast: every vector against all others. Its positives are the others with its label.
///
/// s_ij = scale·⟨f_i, f_j⟩/(‖f_i‖·‖f_j‖), where scale is 1/τ or an input. The loss of a row is log Σ_{j≠i} exp(s_ij)
/// minus the mean of s_ij over its positives (j ≠ i with the same label), in nats.
///
/// **NT-Xent** (SimCLR) is this loss with label i for both views of sample i: each of 2N vectors has one positive.
/// [`SupCon::views`] makes the labels.
///
/// - **Shapes**: features `[rows, hidden]`, labels `[rows]` (`i32`, `u32`, `i64`; any values); scale `[1]`; upstream
///   `[1]`, or `[rows]` with [`Reduction::None`].
/// - **Types**: features, scale and gradients in `f32`, `f16` or `bf16`; everything in between in f32.
/// - **Memory** beside inputs and outputs: O(rows) and one chunk of at most `chunk_bytes`: whole rows of scores, or
///   some rows of a block of the vectors, as in [`crate::LinearCrossEntropy`]. A 16-bit gradient also needs the rows
///   of the chunk in f32.
/// - **Gradient**: that of a vector as a query and as a key together. Since s is symmetric, one product with G + Gᵀ
///   gives both. ∂scale = Σ_ij ∂loss/∂s_ij·⟨f_i, f_j⟩/(‖f_i‖·‖f_j‖) takes another pass over the scores; its last bits
///   depend on the size of the chunk.
/// - **Cost**: three products of rows²·hidden for loss and gradient; two where one chunk holds all scores.
/// - **Mean** divides by the number of rows that have a positive, which is `count`. A row without one adds nothing as
///   a query, but is a negative of the others.
/// - **Edges**: a vector of zeros has score 0 with everything and gradient 0, and [`crate::Status::zero_vectors`]
///   counts it. A vector that contains a NaN or an infinity makes the loss of every row NaN.
/// - **From a saved lse** the gradient is made without a first pass.
/// - **Shards** ([`Shard`]): `keys` are the vectors `first…` of the features, and every shard has all features. ∂keys
///   is the complete gradient of these vectors; ∂features and ∂scale are parts, whose sums are the same
///   gradients.
/// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
///
/// Unlike the SupContrast code, this loss has no factor temperature/base_temperature.
///
/// Sources: Khosla et al. 2020; NT-Xent, Chen et al. 2020.
///
/// ```
/// use surprisal::{Array, Arrays, SupCon, cpu};
/// let inputs = Arrays::from([
///     ("features".to_owned(), Array::float(&[3, 2], vec![1.0, 0.0, 2.0, 0.0, 0.0, 3.0])),
///     ("labels".to_owned(), Array::int(&[3], vec![7, 7, 5])),
/// ]);
/// let outputs = cpu::run(&SupCon::default().temperature(1.0), &inputs, &["loss", "count"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.313_261_688).abs() < 1e-9);
/// assert_eq!(outputs["count"].to_i64(), [2]); // the third vector has no positive
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SupCon {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// τ > 0.
    pub temperature: f64,
    /// The most bytes of the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
    /// Which gradients are added to what their tensors hold.
    pub accumulate: Accumulate,
    /// Set where the vectors to compare with are `keys`, a shard of the features.
    pub shard: Option<Shard>,
}

impl Default for SupCon {
    fn default() -> Self {
        Self {
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            temperature: 1.0,
            chunk_bytes: None,
            accumulate: Accumulate::Nothing,
            shard: None,
        }
    }
}

impl SupCon {
    setters! {
        reduction: Reduction, empty: Empty, temperature: f64, chunk_bytes: Option<u64>, accumulate: Accumulate,
        shard: Option<Shard>,
    }

    /// NT-Xent with SimCLR's temperature of 0.5: use it with the labels of [`SupCon::views`].
    pub fn nt_xent() -> Self {
        Self::default().temperature(0.5)
    }

    /// The labels that make this loss NT-Xent: `views` batches of `samples` vectors one after another, in which vector
    /// i of each batch is a view of sample i.
    ///
    /// ```
    /// assert_eq!(surprisal::SupCon::views(3, 2), [0, 1, 2, 0, 1, 2]);
    /// ```
    pub fn views(samples: u32, views: u32) -> Vec<u32> {
        (0..views).flat_map(|_| 0..samples).collect()
    }
}

tensors! {
    /// The inputs of [`SupCon`].
    SupConInputs {
        /// Features `[rows, hidden]`.
        features = "features",
        /// Labels `[rows]`.
        labels = "labels",
        /// The features of a shard `[classes, hidden]`.
        keys = "keys",
        /// What similarities are multiplied by `[1]`, instead of 1/τ.
        scale = "scale",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
        /// A saved `lse` `[rows]`.
        lse = "lse",
        /// The statistics of all shards `[shards·rows, 8]`, one shard after another.
        statistics = "statistics",
    }
}

tensors! {
    /// The outputs of [`SupCon`].
    SupConOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the features.
        features_gradient = "grad.features",
        /// The gradient of a shard's features.
        keys_gradient = "grad.keys",
        /// The gradient of the scale.
        scale_gradient = "grad.scale",
        /// log Σ exp(s) of each row over the other vectors.
        lse = "lse",
        /// The mergeable state of each row, for shards.
        statistics = "statistics",
        /// The sum of the row losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of rows that have a positive.
        count = "count",
        /// The status words.
        status = "status",
    }
}

request!(SupCon: SupConInputs, SupConOutputs);

const FEATURES: &[&[Dim]] = &[&[Dim::Rows, Dim::Hidden]];
const KEYS: &[&[Dim]] = &[&[Dim::Classes, Dim::Hidden]];

pub(super) static ABOUT: About = About {
    name: "sup_con",
    summary: "Contrast of vectors with each other, positives by label, the scores never stored.",
    formula: "s = scale·⟨f_i, f_j⟩/(‖f_i‖·‖f_j‖); loss = log Σ_{j≠i} exp(s_ij) − mean of s_ij over \
              j≠i of the same label",
    pytorch: "SupConLoss of SupContrast with temperature = base_temperature",
    inputs: &[
        Argument::required("features", Kind::Float, FEATURES, "vectors, normalised inside"),
        Argument::required("labels", Kind::Label, &[&[Dim::Rows]], "equal ones are positives"),
        Argument::optional("keys", Kind::Float, KEYS, "the features of a shard"),
        arg::SCALE,
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
        arg::LSE_IN,
        arg::STATISTICS_IN,
    ],
    outputs: &[
        arg::LOSS,
        Argument::optional("grad.features", Kind::Float, FEATURES, "gradient of the features"),
        arg::KEYS_GRADIENT,
        arg::SCALE_GRADIENT,
        arg::LSE,
        arg::STATISTICS,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &[
        arg::REDUCTION,
        arg::EMPTY,
        OptionAbout { name: "temperature", default: "1.0", samples: &["1.7"], about: "τ > 0" },
        arg::CHUNK_BYTES,
        arg::ACCUMULATE,
        arg::SHARD,
    ],
};

impl Signature for SupCon {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn validate(&self) -> Result<()> {
        check_reduction(ABOUT.name, self.reduction)?;
        Shard::validate(self.shard, ABOUT.name)?;
        pairs::check_temperature(ABOUT.name, self.temperature)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        pairs::accepts(self, call)
    }
}

impl Operation for SupCon {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        pairs::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        pairs::reference::run(self, inputs, wanted, arithmetic)
    }
}

impl RowLoss for SupCon {
    fn program(&self, call: &Call) -> RowProgram {
        let own = shader!("loss/sup_con.wgsl");
        RowProgram {
            reduction: self.reduction,
            empty: self.empty,
            shard: self.shard.map(|shard| Shard { first: 0, ..shard }),
            // The number of positives takes the place of a target: see `pairs`.
            target: Target::Index { ignored: vec![0] },
            overrides: vec![
                ("JOINT", 1),
                ("SHARDED", self.shard.is_some().into()),
                ("HAS_SCALE", call.has("scale").into()),
            ],
            ..pairs::softmax_program(own, self.pairing(), false)
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        pairs::check(self, call)
    }
}

impl PairLoss for SupCon {
    fn pairing(&self) -> Pairing {
        Pairing {
            normalize: true,
            columns: Columns::Queries,
            term: Term::Softmax,
            temperature: self.temperature,
            target_margin: 0.0,
            false_negative_margin: None,
            chunk_bytes: self.chunk_bytes,
            accumulate: self.accumulate,
            shard: self.shard,
        }
    }

    fn check_pairs(
        &self,
        given: &dyn Fn(&str) -> bool,
        wanted: &[&str],
        [rows, _]: [u64; 2],
    ) -> Result<()> {
        Shard::check(self.shard, ABOUT.name, given, wanted)?;
        match self.shard {
            None if given("keys") => Err(Error::Conflict {
                operation: ABOUT.name.into(),
                argument: "keys".into(),
                other: "shard".into(),
                reason: "without it features are compared with all features".into(),
            }),
            None if wanted.contains(&"grad.keys") => Err(row::missing(self, "keys")),
            Some(_) if !given("keys") => Err(row::missing(self, "keys")),
            Some(shard) if shard.classes != rows => Err(Error::WrongShape {
                argument: "features".into(),
                found: vec![rows].into(),
                expected: format!("the {} features of all shards", shard.classes).into(),
            }),
            _ => Ok(()),
        }
    }
}
