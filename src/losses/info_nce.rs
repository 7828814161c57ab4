//! InfoNCE: the softmax of each query's positive among all keys (catalogue P2).

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
        options::{Accumulate, Empty, IgnoreIndex, Reduction, check_reduction},
        shard::Shard,
    },
};

/// InfoNCE: the positive of each query against all keys. The score matrix is never stored.
///
/// s_ij = scale·x_ij with the similarity x_ij = ⟨q_i, k_j⟩ (of q/‖q‖ and k/‖k‖ with `normalize`), where scale is 1/τ or
/// an input. The loss of a query is log Σ_j exp(s_ij) − s_i⁺, in nats. With `symmetric` (CLIP) the loss is the mean of
/// this and of the same with queries and keys exchanged.
///
/// - **Shapes**: queries `[rows, hidden]`, keys `[classes, hidden]`; targets `[rows]`, the index of each query's
///   positive key (without targets, key i is the positive of query i, and further keys are additional negatives);
///   scale `[1]`; labels `[rows]` and key_labels `[classes]`; upstream `[1]`, or `[rows]` with [`Reduction::None`].
/// - **False negatives**: a key that has the query's label but is not its positive takes no part. Without key_labels
///   there must be as many keys as queries, and the labels hold for both.
/// - **Margins**: target_margin m makes the score of every positive scale·(x − m), wherever it occurs, so that the
///   positive has to exceed the other keys by m. With false_negative_margin f, a key that is no positive and has x_ij >
///   x_i⁺ + f (before m) is taken for an undetected positive and left out: it has no part in the sum and no gradient.
///   An equal similarity stays. With `symmetric` each direction filters by its own positive, and the scores are made
///   once more where one chunk does not hold them. A shard does not know the positives of other shards, so it refuses
///   f.
/// - **Types**: vectors, scale and gradients in `f32`, `f16` or `bf16`; everything in between in f32.
/// - **Memory** beside inputs and outputs: O(rows + classes) and one chunk of at most `chunk_bytes`: whole rows of
///   scores, or some rows of a block of keys, as in [`crate::LinearCrossEntropy`]. 16-bit gradients with `normalize` or
///   several chunks, and added ones with `normalize`, also need their sums in f32. Neither the size nor the shape of
///   the chunk changes a bit (except the last bits of ∂scale from a saved lse or from statistics).
/// - **Gradient**: with G = ∂loss/∂s, ∂q_i = scale·r_i·(I − q̂q̂ᵀ)·Σ_j G_ij·k̂_j, r = 1/‖q‖ (1 and the identity
///   without `normalize`), likewise ∂k, and ∂scale = Σ_ij G_ij·x_ij (of a positive: x − m).
/// - **Cost**: three products of rows·classes·hidden for loss and gradients. `symmetric` makes the scores a second
///   time where one chunk does not hold them all, because no gradient is known before every row has been read.
/// - **Mean** divides by the number of queries that are kept.
/// - **Edges**: with `normalize`, a vector of zeros has score 0 with everything and gradient 0, and
///   [`crate::Status::zero_vectors`] counts it. A score that is NaN or infinite makes the loss and the gradient of its
///   query NaN, even if its key takes no part. A target outside `0..classes` is never used as an index: the loss of
///   its row is NaN, the gradient 0, and [`crate::Status`] counts it.
/// - **From a saved lse** (with `symmetric`, also a saved `column_lse`) the gradients are made without a first pass.
/// - **Shards** of the keys: see [`Shard`]. ∂keys is complete; ∂queries and ∂scale are parts. A shard has all queries,
///   so with `symmetric` it has the whole softmax of each of its keys: `column_lse` of its first call is an input of
///   its second call and of no other shard's. To shard the queries, exchange them with the keys.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
///
/// Sources: van den Oord et al. 2018; CLIP, Radford et al. 2021; chunks as in Inf-CL, Cheng et al. 2024; margins as in
/// CosFace, Wang et al. 2018; filtering as in GISTEmbed, Solatorio 2024, with the model as its own guide.
///
/// ```
/// use surprisal::{Array, Arrays, InfoNce, cpu};
/// let inputs = Arrays::from([
///     ("queries".to_owned(), Array::float(&[2, 2], vec![1.0, 0.0, 0.0, 1.0])),
///     ("keys".to_owned(), Array::float(&[2, 2], vec![3.0, 0.0, 0.0, 2.0])),
/// ]);
/// let loss = InfoNce::default().normalize(true).symmetric(true).temperature(0.5);
/// let outputs = cpu::run(&loss, &inputs, &["loss", "grad.queries"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.126_928_011).abs() < 1e-9);
/// // The score of each positive falls from 1/0.5 to (1 − 0.2)/0.5.
/// let outputs = cpu::run(&loss.target_margin(0.2), &inputs, &["loss"])?;
/// assert!((outputs["loss"].to_f64()[0] - (-1.6_f64).exp().ln_1p()).abs() < 1e-9);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct InfoNce {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Targets whose queries count for nothing.
    pub ignore_index: IgnoreIndex,
    /// τ > 0; the scale is 1/τ if it is not an input.
    pub temperature: f64,
    /// Divide queries and keys by their norms.
    pub normalize: bool,
    /// Take the mean of both directions.
    pub symmetric: bool,
    /// What is taken from the similarity of every positive.
    pub target_margin: f64,
    /// By how much the similarity of a key may exceed the positive's before the key is left out; `None` keeps all keys.
    pub false_negative_margin: Option<f64>,
    /// The most bytes of the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
    /// Which gradients are added to what their tensors hold.
    pub accumulate: Accumulate,
    /// Set where the keys are a shard of all keys.
    pub shard: Option<Shard>,
}

impl Default for InfoNce {
    fn default() -> Self {
        Self {
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            ignore_index: IgnoreIndex::One(-100),
            temperature: 1.0,
            normalize: false,
            symmetric: false,
            target_margin: 0.0,
            false_negative_margin: None,
            chunk_bytes: None,
            accumulate: Accumulate::Nothing,
            shard: None,
        }
    }
}

impl InfoNce {
    setters! {
        reduction: Reduction, empty: Empty, ignore_index: IgnoreIndex, temperature: f64,
        normalize: bool, symmetric: bool, target_margin: f64, false_negative_margin: Option<f64>,
        chunk_bytes: Option<u64>, accumulate: Accumulate, shard: Option<Shard>,
    }
}

tensors! {
    /// The inputs of [`InfoNce`].
    InfoNceInputs {
        /// Queries `[rows, hidden]`.
        queries = "queries",
        /// Keys `[classes, hidden]`.
        keys = "keys",
        /// The index of each query's positive key `[rows]`.
        targets = "targets",
        /// The factor of the similarities `[1]`; replaces the temperature.
        scale = "scale",
        /// The labels of the queries `[rows]`: keys with the same label are not negatives.
        labels = "labels",
        /// The labels of the keys `[classes]`.
        key_labels = "key_labels",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
        /// A saved `lse` `[rows]`.
        lse = "lse",
        /// A saved `column_lse` `[classes]`.
        column_lse = "column_lse",
        /// The statistics of all shards `[shards·rows, 8]`, one shard after another.
        statistics = "statistics",
    }
}

tensors! {
    /// The outputs of [`InfoNce`].
    InfoNceOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the queries.
        queries_gradient = "grad.queries",
        /// The gradient of the keys.
        keys_gradient = "grad.keys",
        /// The gradient of the scale.
        scale_gradient = "grad.scale",
        /// log Σ exp(s) of each query.
        lse = "lse",
        /// log Σ exp(s) of each key over the queries, with `symmetric`.
        column_lse = "column_lse",
        /// The mergeable state of each query, for shards.
        statistics = "statistics",
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

request!(InfoNce: InfoNceInputs, InfoNceOutputs);

pub(super) static ABOUT: About = About {
    name: "info_nce",
    summary: "Softmax contrast of queries with keys, the scores never stored.",
    formula: "s = scale·(⟨q_i, k_j⟩ − target_margin·[positive]); loss = log Σ_j exp(s_ij) − s_i⁺; \
              symmetric: the mean of both directions",
    pytorch: "torch.nn.functional.cross_entropy(queries @ keys.T / temperature, targets)",
    inputs: &[
        arg::QUERIES,
        arg::KEYS,
        arg::POSITIVES,
        arg::SCALE,
        Argument::optional(
            "labels",
            Kind::Label,
            &[&[Dim::Rows]],
            "the queries' labels: keys with the same one are no negatives",
        ),
        Argument::optional(
            "key_labels",
            Kind::Label,
            &[&[Dim::Classes]],
            "the keys' labels; without them, those of as many queries",
        ),
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
        arg::LSE_IN,
        Argument::optional("column_lse", Kind::F32, &[&[Dim::Classes]], "a saved column_lse"),
        arg::STATISTICS_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::QUERIES_GRADIENT,
        arg::KEYS_GRADIENT,
        arg::SCALE_GRADIENT,
        arg::LSE,
        Argument::optional("column_lse", Kind::F32, &[&[Dim::Classes]], "log Σ exp(s) of each key"),
        arg::STATISTICS,
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
            name: "temperature",
            default: "1.0",
            samples: &["1.7"],
            about: "τ > 0: the scale is 1/τ",
        },
        OptionAbout {
            name: "normalize",
            default: "false",
            samples: &["true"],
            about: "queries and keys are divided by their norms",
        },
        OptionAbout {
            name: "symmetric",
            default: "false",
            samples: &["true"],
            about: "the mean of both directions (CLIP)",
        },
        OptionAbout {
            name: "target_margin",
            default: "0.0",
            samples: &["0.2"],
            about: "taken from the similarity of every positive, before the temperature",
        },
        OptionAbout {
            name: "false_negative_margin",
            default: "null",
            samples: &["0.05"],
            about: "a key whose similarity exceeds the positive's by more is left out",
        },
        arg::CHUNK_BYTES,
        arg::ACCUMULATE,
        arg::SHARD,
    ],
};

impl Signature for InfoNce {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn validate(&self) -> Result<()> {
        check_reduction(ABOUT.name, self.reduction)?;
        self.ignore_index.validate(ABOUT.name)?;
        Shard::validate(self.shard, ABOUT.name)?;
        pairs::check_margin(ABOUT.name, "target_margin", self.target_margin)?;
        let filter = self.false_negative_margin.unwrap_or_default();
        pairs::check_margin(ABOUT.name, "false_negative_margin", filter)?;
        pairs::check_temperature(ABOUT.name, self.temperature)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        pairs::accepts(self, call)
    }
}

impl Operation for InfoNce {
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

impl RowLoss for InfoNce {
    fn program(&self, call: &Call) -> RowProgram {
        let program = pairs::softmax_program(
            shader!("loss/info_nce.wgsl"),
            self.pairing(),
            !call.has("targets"),
        );
        let own = [
            ("HAS_LABELS", call.has("labels").into()),
            ("HAS_SCALE", call.has("scale").into()),
            ("JOINT", self.symmetric.into()),
            ("SHARDED", self.shard.is_some().into()),
            ("SCALE_GRADIENT", call.wants("grad.scale").into()),
        ];
        RowProgram {
            reduction: self.reduction,
            empty: self.empty,
            target: Target::Index { ignored: self.ignore_index.as_slice().to_vec() },
            overrides: program.overrides.into_iter().chain(own).collect(),
            ..program
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        pairs::check(self, call)
    }
}

impl PairLoss for InfoNce {
    fn pairing(&self) -> Pairing {
        let columns = if self.symmetric { Columns::Softmax } else { Columns::Keys };
        Pairing {
            normalize: self.normalize,
            columns,
            term: Term::Softmax,
            temperature: self.temperature,
            target_margin: self.target_margin,
            false_negative_margin: self.false_negative_margin,
            chunk_bytes: self.chunk_bytes,
            accumulate: self.accumulate,
            shard: self.shard,
        }
    }

    fn check_pairs(
        &self,
        given: &dyn Fn(&str) -> bool,
        wanted: &[&str],
        [queries, keys]: [u64; 2],
    ) -> Result<()> {
        Shard::check(self.shard, ABOUT.name, given, wanted)?;
        self.check_columns(given, wanted)?;
        if let Some(margin) = self.false_negative_margin.filter(|_| self.shard.is_some()) {
            let reason = "a shard does not know the positives of other shards";
            return Err(Error::option(ABOUT.name, "false_negative_margin", margin, reason));
        }
        let all_keys = self.shard.map_or(keys, |shard| shard.classes);
        let as_many = |found: u64, option: &str| Error::WrongShape {
            argument: "keys".into(),
            found: vec![found].into(),
            expected: format!("{queries} keys, as many as queries, with {option}").into(),
        };
        if self.symmetric && given("targets") {
            return Err(Error::Conflict {
                operation: ABOUT.name.into(),
                argument: "targets".into(),
                other: "symmetric".into(),
                reason: "key i is query i's positive, and the other way round".into(),
            });
        }
        if self.symmetric && all_keys != queries {
            return Err(as_many(all_keys, "`symmetric`"));
        }
        match (given("labels"), given("key_labels")) {
            (false, true) => Err(row::missing(self, "labels")),
            (true, false) if self.shard.is_some() => Err(row::missing(self, "key_labels")),
            (true, false) if keys != queries => Err(as_many(keys, "`labels` and no `key_labels`")),
            _ => Ok(()),
        }
    }
}

impl InfoNce {
    /// Checks that a saved lse of the columns comes with the call that needs it: gradients of both directions.
    fn check_columns(&self, given: &dyn Fn(&str) -> bool, wanted: &[&str]) -> Result<()> {
        let saved = given("lse") || given("statistics");
        if !self.symmetric && (given("column_lse") || wanted.contains(&"column_lse")) {
            return Err(Error::Conflict {
                operation: ABOUT.name.into(),
                argument: "column_lse".into(),
                other: "symmetric".into(),
                reason: "columns have a softmax with `symmetric` alone".into(),
            });
        }
        if given("column_lse") && !saved {
            return Err(row::missing(self, "lse"));
        }
        let gradients = wanted.iter().any(|name| name.starts_with("grad."));
        if self.symmetric && saved && gradients && !given("column_lse") {
            return Err(row::missing(self, "column_lse"));
        }
        if saved && wanted.contains(&"column_lse") {
            return Err(Error::Conflict {
                operation: ABOUT.name.into(),
                argument: "column_lse".into(),
                other: "statistics".into(),
                reason: "it comes with a shard's own statistics".into(),
            });
        }
        Ok(())
    }
}
