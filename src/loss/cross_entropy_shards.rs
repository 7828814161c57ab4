//! Cross-entropy of class shards, from their statistics (catalogue P6).

use super::{
    About, Argument, CrossEntropy, Dim, Empty, Kind, Loss, OptionAbout, Reduction,
    arguments as arg,
    cross_entropy::{IgnoreIndex, Shard},
    setters, tensors,
};
use crate::{
    array::{Arithmetic, Arrays},
    cpu,
    error::{Error, Result},
    kernel::Source,
    plan::{Call, Plan},
    profile::Profile,
    row::{self, FunctorStream, Number, RowLoss, RowOptions},
};

/// The loss of rows whose classes lie in several shards: other bindings, other GPUs, other machines.
///
/// Each shard's call of [`CrossEntropy`] or [`crate::LinearCrossEntropy`] with
/// [`CrossEntropy::shard`] set hands out `statistics` (maximum, Σ exp, target score, argmax, …).
/// Gathered one shard after another, they are merged here in that order and closed to the loss and
/// the by-products of the whole rows. Each shard's gradient then follows from the `lse` found here:
///
/// 1. on every shard: `statistics` from its logits (or hidden states and part of W);
/// 2. an all-gather of `statistics`, `[shards·rows, 8]`;
/// 3. this loss, on every shard alike: the same bits everywhere;
/// 4. on every shard: its gradients, with `lse` as an input. Its ∂logits, ∂W and ∂bias are whole;
///    its ∂hidden is a part, to be added up over the shards.
///
/// - **Shapes**: statistics `[shards·rows, 8]`, dense; targets `[rows]`, global indices; row_weight
///   `[rows]`.
/// - **Options** are those of the shards' own loss, as far as they come after its statistics;
///   temperature, soft-cap and logit bias are in the statistics already.
/// - **Edges**: those of [`CrossEntropy`]; a shard whose classes are all −inf is none.
/// - **Errors**: [`Error`] names the argument and its value, before any GPU work.
///
/// Source: the vocabulary-parallel cross-entropy of Megatron-LM (Shoeybi et al. 2019).
///
/// ```
/// use surprisal::{Array, Arrays, CrossEntropy, CrossEntropyShards, Shard, cpu};
/// let targets = Array::int(&[1], vec![2]);
/// let mut gathered = Vec::new();
/// for (first, logits) in [(0, vec![1.0, 2.0]), (2, vec![3.0])] {
///     let inputs = Arrays::from([
///         ("logits".to_owned(), Array::float(&[1, logits.len() as u64], logits)),
///         ("targets".to_owned(), targets.clone()),
///     ]);
///     let loss = CrossEntropy::default().shard(Some(Shard { first, classes: 3 }));
///     gathered.extend(cpu::run(&loss, &inputs, &["statistics"])?["statistics"].to_f64());
/// }
/// let inputs = Arrays::from([
///     ("statistics".to_owned(), Array::float(&[2, 8], gathered)),
///     ("targets".to_owned(), targets),
/// ]);
/// let outputs = cpu::run(&CrossEntropyShards::new(3), &inputs, &["loss", "argmax"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.407_605_964).abs() < 1e-9);
/// assert_eq!(outputs["argmax"].to_i64(), [2]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct CrossEntropyShards {
    /// The classes of all shards together.
    pub classes: u64,
    /// How row losses become one number.
    pub reduction: Reduction,
    /// What a mean over nothing is.
    pub empty: Empty,
    /// Target indices whose rows count for nothing.
    pub ignore_index: IgnoreIndex,
    /// λ ≥ 0.
    pub z_loss: f64,
}

impl Default for CrossEntropyShards {
    fn default() -> Self {
        Self {
            classes: 1,
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            ignore_index: IgnoreIndex::One(-100),
            z_loss: 0.0,
        }
    }
}

impl CrossEntropyShards {
    /// The mean loss over shards of this many classes in all.
    pub fn new(classes: u64) -> Self {
        Self { classes, ..Self::default() }
    }

    setters! {
        classes: u64, reduction: Reduction, empty: Empty, ignore_index: IgnoreIndex, z_loss: f64,
    }

    /// The loss that closes the rows: that of a shard which is the whole.
    pub(crate) fn whole(&self) -> CrossEntropy {
        CrossEntropy::default()
            .reduction(self.reduction)
            .empty(self.empty)
            .ignore_index(self.ignore_index.clone())
            .z_loss(self.z_loss)
            .shard(Some(Shard { first: 0, classes: self.classes }))
    }

    /// How many shards' statistics there are.
    pub(crate) fn shards(gathered: u64, rows: u64) -> Result<u64> {
        if (rows == 0 && gathered == 0)
            || (rows > 0 && gathered > 0 && gathered.is_multiple_of(rows))
        {
            return Ok(gathered / rows.max(1));
        }
        Err(Error::WrongShape {
            argument: "statistics".to_owned(),
            found: vec![gathered, row::STATE_WORDS],
            expected: format!("a multiple of {rows} rows"),
        })
    }
}

tensors! {
    /// What [`CrossEntropyShards`] takes.
    CrossEntropyShardsInputs {
        /// The shards' statistics, one shard after another `[shards·rows, 8]`.
        statistics = "statistics",
        /// Class indices `[rows]`, counted over all shards.
        targets = "targets",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The caller's denominator `[1]` on the GPU.
        denominator = "denominator",
    }
}

tensors! {
    /// What [`CrossEntropyShards`] can hand back.
    CrossEntropyShardsOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// log Σ exp(u) of each row: what the shards' gradients need.
        lse = "lse",
        /// log softmax(u)_y of each row.
        log_prob = "log_prob",
        /// The entropy of each row.
        entropy = "entropy",
        /// The largest probability of each row.
        max_prob = "max_prob",
        /// The class with the largest u, counted over all shards.
        argmax = "argmax",
        /// 1 where argmax is the target.
        correct = "correct",
        /// Σ of the row losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of rows kept.
        count = "count",
        /// The number of rows kept whose argmax is the target.
        correct_count = "correct_count",
        /// exp(sum/denominator).
        perplexity = "perplexity",
        /// The status words.
        status = "status",
    }
}

static ABOUT: About = About {
    name: "cross_entropy_shards",
    summary: "Cross-entropy of rows whose classes lie in several shards, from their statistics.",
    formula: "m = max_s m_s; loss = log Σ_s Σ_s·exp(m_s − m) − (u_y − m)",
    pytorch: "Megatron-LM's vocab_parallel_cross_entropy",
    inputs: &[
        Argument::required(
            "statistics",
            Kind::F32,
            &[&[Dim::Gathered, Dim::State]],
            "the shards' statistics, one shard after another",
        ),
        Argument::required("targets", Kind::Index, &[&[Dim::Rows]], "indices over all shards"),
        arg::ROW_WEIGHT,
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::LSE,
        arg::LOG_PROB,
        arg::ENTROPY,
        arg::MAX_PROB,
        arg::ARGMAX,
        arg::CORRECT,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::CORRECT_COUNT,
        arg::PERPLEXITY,
        arg::STATUS,
    ],
    options: &[
        OptionAbout { name: "classes", default: "1", about: "of all shards together" },
        arg::REDUCTION,
        arg::EMPTY,
        arg::IGNORE_INDEX,
        OptionAbout { name: "z_loss", default: "0.0", about: "λ ≥ 0: adds λ·lse² a row" },
    ],
};

impl Loss for CrossEntropyShards {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn validate(&self) -> Result<()> {
        self.whole().validate()
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        vec![(Dim::Classes, self.classes)]
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::combine(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        cpu::cross_entropy::combine(self, inputs, wanted, arithmetic)
    }
}

impl RowLoss for CrossEntropyShards {
    fn sources(&self) -> Vec<Source> {
        self.whole().sources()
    }

    fn options(&self) -> RowOptions {
        self.whole().options()
    }

    fn streams(&self) -> &'static [FunctorStream] {
        super::cross_entropy::STREAMS
    }

    fn shapes(&self, call: &Call) -> Vec<(&'static str, u32)> {
        self.whole().shapes(call)
    }

    fn numbers(&self, call: &Call) -> Vec<(String, Number)> {
        self.whole().numbers(call)
    }

    fn streams_twice(&self, _: &Call) -> bool {
        true
    }

    fn check(&self, call: &Call) -> Result<()> {
        Self::shards(call.dim(Dim::Gathered), call.dim(Dim::Rows)).map(drop)
    }
}
