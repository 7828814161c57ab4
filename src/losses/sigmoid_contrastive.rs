//! SigLIP's loss: each pair of a query and a key has a loss of its own (catalogue P4).

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    plan::{Plan, kernel::shader, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        pairs::{self, Columns, PairLoss, Pairing, Term},
        request::request,
        row::{Field, Reduced, RowLoss, RowOutput, RowProgram, StateLayout, Target},
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Accumulate, Empty, IgnoreIndex, Reduction, check_reduction},
        shard::Shard,
    },
};

/// Sigmoid contrast (SigLIP): a binary decision for every pair. The score matrix is never stored.
///
/// s_ij = scale·⟨q_i, k_j⟩ + bias (of q/‖q‖ and k/‖k‖ with `normalize`), and the loss of a query is Σ_j
/// softplus(−l_ij·s_ij), in nats. l is 1 for the query's positive and −1 for every other key.
///
/// - **Shapes**: queries `[rows, hidden]`, keys `[classes, hidden]`; targets `[rows]`, the index of each query's
///   positive key (without targets, key i is the positive of query i, and further keys are additional negatives);
///   scale and bias `[1]` (1 and 0 if they are not given); upstream `[1]`, or `[rows]` with [`Reduction::None`].
/// - **Types**: vectors, scale, bias and gradients in `f32`, `f16` or `bf16`; everything in between in f32.
/// - **Memory** beside inputs and outputs: O(rows + classes) and one chunk of at most `chunk_bytes`: whole rows of
///   scores, or some rows of a block of keys, as in [`crate::LinearCrossEntropy`]. 16-bit gradients with `normalize`
///   or several chunks also need their sums in f32. Neither the size nor the shape of the chunk changes a bit.
/// - **Gradient**: G_ij = −l_ij·sigmoid(−l_ij·s_ij)·upstream/denominator, then as in [`crate::InfoNce`]; ∂bias = Σ G,
///   ∂scale = Σ_ij G_ij·⟨q̂_i, k̂_j⟩.
/// - **Mean** divides by the number of queries that are kept, as SigLIP's code does.
/// - **Edges**: those of [`crate::InfoNce`].
/// - **Shards** of the keys ([`Shard`]): every loss and sum is a part, which must be summed over the shards; so are
///   ∂queries, ∂scale and ∂bias. denominator, count and ∂keys are complete.
/// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
///
/// Source: Zhai et al. 2023.
///
/// ```
/// use surprisal::{Array, Arrays, SigmoidContrastive, cpu};
/// let inputs = Arrays::from([
///     ("queries".to_owned(), Array::float(&[1, 2], vec![2.0, 0.0])),
///     ("keys".to_owned(), Array::float(&[2, 2], vec![3.0, 0.0, 0.0, 1.0])),
///     ("scale".to_owned(), Array::float(&[1], vec![10.0])),
///     ("bias".to_owned(), Array::float(&[1], vec![-10.0])),
/// ]);
/// let loss = SigmoidContrastive::default().normalize(true);
/// let outputs = cpu::run(&loss, &inputs, &["loss", "grad.scale", "grad.bias"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.693_192_579).abs() < 1e-9); // log 2 + softplus(-10)
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SigmoidContrastive {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Targets whose queries count for nothing.
    pub ignore_index: IgnoreIndex,
    /// Divide queries and keys by their norms.
    pub normalize: bool,
    /// The most bytes of the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
    /// Which gradients are added to what their tensors hold.
    pub accumulate: Accumulate,
    /// Set where the keys are a shard of all keys.
    pub shard: Option<Shard>,
}

impl Default for SigmoidContrastive {
    fn default() -> Self {
        Self {
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            ignore_index: IgnoreIndex::One(-100),
            normalize: false,
            chunk_bytes: None,
            accumulate: Accumulate::Nothing,
            shard: None,
        }
    }
}

impl SigmoidContrastive {
    setters! {
        reduction: Reduction, empty: Empty, ignore_index: IgnoreIndex, normalize: bool,
        chunk_bytes: Option<u64>, accumulate: Accumulate, shard: Option<Shard>,
    }
}

tensors! {
    /// The inputs of [`SigmoidContrastive`].
    SigmoidContrastiveInputs {
        /// Queries `[rows, hidden]`.
        queries = "queries",
        /// Keys `[classes, hidden]`.
        keys = "keys",
        /// The index of each query's positive key `[rows]`.
        targets = "targets",
        /// The factor of the similarities `[1]`.
        scale = "scale",
        /// Added to the similarities after the factor `[1]`.
        bias = "bias",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`SigmoidContrastive`].
    SigmoidContrastiveOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the queries.
        queries_gradient = "grad.queries",
        /// The gradient of the keys.
        keys_gradient = "grad.keys",
        /// The gradient of the scale.
        scale_gradient = "grad.scale",
        /// The gradient of the bias.
        bias_gradient = "grad.bias",
        /// The sum of the row losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of queries kept.
        count = "count",
        /// The status words.
        status = "status",
    }
}

request!(SigmoidContrastive: SigmoidContrastiveInputs, SigmoidContrastiveOutputs);

const ONE: &[&[Dim]] = &[&[Dim::One]];

pub(super) static ABOUT: About = About {
    name: "sigmoid_contrastive",
    summary: "A binary decision for every pair of a query and a key, the scores never stored.",
    formula: "s = scale·⟨q_i, k_j⟩ + bias; loss = Σ_j softplus(−l_ij·s_ij), l = 1 for the positive, \
              −1 otherwise",
    pytorch: "-torch.nn.functional.logsigmoid(l * (scale * queries @ keys.T + bias)).sum() / N",
    inputs: &[
        arg::QUERIES,
        arg::KEYS,
        arg::POSITIVES,
        Argument::optional("scale", Kind::Float, ONE, "what similarities are multiplied by"),
        Argument::optional("bias", Kind::Float, ONE, "what is added to every score"),
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::QUERIES_GRADIENT,
        arg::KEYS_GRADIENT,
        arg::SCALE_GRADIENT,
        Argument::optional("grad.bias", Kind::Float, ONE, "gradient of the bias"),
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &[
        arg::REDUCTION,
        arg::EMPTY,
        arg::IGNORE_INDEX,
        OptionAbout {
            name: "normalize",
            default: "false",
            samples: &["true"],
            about: "queries and keys are divided by their norms",
        },
        arg::CHUNK_BYTES,
        arg::ACCUMULATE,
        arg::SHARD,
    ],
};

impl Signature for SigmoidContrastive {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn validate(&self) -> Result<()> {
        check_reduction(ABOUT.name, self.reduction)?;
        Shard::validate(self.shard, ABOUT.name)?;
        self.ignore_index.validate(ABOUT.name)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        pairs::accepts(self, call)
    }
}

impl Operation for SigmoidContrastive {
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

static FACTORS: &[Field] = &[Field::f32("factor")];

/// The parts of a row in the gradients of scale and bias.
static OUTPUTS: &[RowOutput] = &[
    RowOutput::number("scale").reduced(Reduced::Sum("grad.scale")),
    RowOutput::number("bias").reduced(Reduced::Sum("grad.bias")),
];

impl RowLoss for SigmoidContrastive {
    fn program(&self, call: &Call) -> RowProgram {
        let own = shader!("loss/sigmoid_contrastive.wgsl");
        RowProgram {
            reduction: self.reduction,
            empty: self.empty,
            target: Target::Index { ignored: self.ignore_index.as_slice().to_vec() },
            state: StateLayout::words(4),
            outputs: OUTPUTS,
            factors: FACTORS,
            overrides: vec![("HAS_SCALE", call.has("scale").into())],
            ..pairs::program(own, self.pairing(), !call.has("targets"))
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        pairs::check(self, call)
    }
}

impl PairLoss for SigmoidContrastive {
    fn pairing(&self) -> Pairing {
        Pairing {
            normalize: self.normalize,
            columns: Columns::Keys,
            term: Term::Sigmoid,
            temperature: 1.0,
            target_margin: 0.0,
            false_negative_margin: None,
            chunk_bytes: self.chunk_bytes,
            accumulate: self.accumulate,
            shard: self.shard,
        }
    }
}
