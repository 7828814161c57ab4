//! Softmax cross-entropy with index or probability targets (catalogue R1 to R6).

mod reference;

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Number, Plan, kernel::shader, limits::MOST_ITERATIONS, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        request::request,
        row::{
            self, Broadcast, Counted, Field, Given, LabelScore, Reduced, RowLoss, RowNumber,
            RowOutput, RowProgram, RowStream, StateLayout, TEMPERATURE_SLOPE, Target,
        },
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Empty, IgnoreIndex, Padding, Reduction, check_reduction},
        shard::Shard,
    },
};

pub use crate::spec::options::Denominator;

/// How label smoothing distributes the share ε of an index target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Smoothing {
    /// q = (1 − ε)·onehot(y) + ε/C.
    #[default]
    Uniform,
    /// ε/2 to each neighbour of an interior class, ε to the one neighbour of a class at the end; nothing where there
    /// is only one class.
    Ordinal,
}

/// Fused softmax cross-entropy, as `torch.nn.functional.cross_entropy`, with further options.
///
/// u = (cap·tanh(z/cap) + logit_bias)/τ, where the z of the target is first lowered by target_margin, and the loss of a
/// row is row_weight·((1 − p_y)^γ·Σ_c w_c q_c (lse(u) − u_c) + λ·lse(u)²), in nats.
///
/// - **Shapes**: logits `[rows, classes]` with any row stride and element offset; targets `[rows]` (`i32`, `u32`,
///   `i64`) or target_probs `[rows, classes]`; weight and logit_bias `[classes]`; row_weight `[rows]`; upstream `[1]`,
///   or `[rows]` with [`Reduction::None`]; the upstream gradients of by-products, a saved lse and a saved entropy
///   `[rows]`; temperature `[1]`.
/// - **Types**: logits, target_probs, weights, upstream gradients and gradients in `f32`, `f16` or `bf16`; by-products,
///   saved numbers and everything in between in f32; gradients are rounded to nearest even.
/// - **Quantised logits** are packed `i8` with the inputs `logits_scale` and, if they need one, `logits_zero_point`: see
///   [quantised logits](crate::row#quantised-logits).
/// - **Several targets**: with targets `[rows, k]` and target_weight `[rows, k]`, the target distribution of a row is q =
///   Σ_k target_weight_k·onehot(y_k), not normalised: the top k of a teacher, the votes of a crowd, several next tokens.
///   A class that occurs twice has the sum of its weights. An ignored target counts for nothing, and a row is kept if
///   any of its targets is. log_prob is Σ_k target_weight_k·log p of y_k. A target outside the classes makes the row a
///   bad one, even with weight 0. A row has at most 512 targets. Label smoothing, focal loss, rank, correct and
///   correct_count are refused, and so is log_prob or its upstream gradient together with class weights. Targets
///   `[rows, 1]` and any target_weight count as several.
/// - **Gradient**: ∂u = f·[(Σ_c w_c q_c + 2λ·lse)·p − w∘q] with f = row_weight·upstream/denominator (γ = 0), then ∂z =
///   ∂u/τ·(1 − tanh²(z/cap)).
/// - **A margin** m (target_margin; CosFace, AM-softmax) is subtracted from the logit of the target before the cap, so
///   that the target has to exceed the other classes by m. All by-products and saved numbers describe u with the margin.
///   It needs one index target a row: several targets, target_probs and label smoothing are refused.
/// - **A learned temperature** is the input `temperature`, one float on the GPU. It overrides the option, and
///   ∂τ = −Σ ∂u·u/τ over all elements: `f·(z_y − E_p z)/τ²` a row for plain cross-entropy. A value outside
///   [2⁻¹²⁶, 2¹²⁶] makes every row a bad row. Where the target of a kept row is at `-inf`, ∂τ is infinite.
/// - **Upstream gradients of by-products**: with `upstream.log_prob`, `upstream.entropy` or `upstream.lse`, one number
///   a row, the gradients are those of Σ upstream·loss + Σ upstream.log_prob·log_prob + Σ upstream.entropy·entropy +
///   Σ upstream.lse·lse. The loss takes part only if `upstream` is given too. ∂log_prob/∂u = e_y − p (several targets: q
///   − (Σq)·p), ∂entropy/∂u = −p∘(log p + H), ∂lse/∂u = p. No weight multiplies these parts, and no denominator divides
///   them. Rows that are ignored or have a bad target have gradient 0. From a saved `lse` the entropy's part needs the
///   saved `entropy` as well; without it the scores are streamed once more. Errors: `upstream.log_prob` with
///   target_probs, a saved `entropy` without `lse`, `upstream.entropy` with the output `grad.temperature`.
/// - **Mean** divides by Σ w_y over the rows that are kept (one target a row), or by the number of rows kept (several
///   targets, whatever their weights, and probability targets), as PyTorch does. With `denominator` `"weights"` a row
///   counts row_weight times that.
/// - **Edges**: ignored rows add nothing and have a gradient of exactly 0, even where their logits are NaN. A `-inf`
///   logit has p = 0; a target at `-inf` gives +inf. A NaN or +inf logit, or a row that is all `-inf`, gives NaN for
///   that row alone, which stays in the mean's denominator. A row_weight of 0 makes the row's loss 0, and the
///   loss's part of its gradient, whatever its logits hold; the parts of by-products remain. A target outside `0..classes` is never used as an index: the loss of its row is NaN, the
///   gradient 0, and [`crate::Status`] counts it.
/// - **By-products**, in the same pass: lse, log_prob, entropy, max_prob, argmax, rank, correct (see
///   [`CrossEntropyOutputs`]).
/// - **Shards** of the classes: see [`Shard`]. Class weights are then those of all classes, and logit biases those of
///   the shard's classes. Every option and output can be used except `rank` and a saved lse.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
///
/// Sources: label smoothing, Szegedy et al. 2016; focal, Lin et al. 2017; logit adjustment, Menon et al. 2021; z-loss,
/// Chowdhery et al. 2022; soft-cap, Gemma 2 (2024); margins, Wang et al. 2018 (CosFace, AM-softmax); the online form of
/// the softmax, Milakov and Gimelshein 2018.
///
/// ```
/// use surprisal::{Array, Arrays, CrossEntropy, cpu};
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[1, 3], vec![1.0, 2.0, 3.0])),
///     ("targets".to_owned(), Array::int(&[1], vec![2])),
/// ]);
/// let outputs = cpu::run(&CrossEntropy::default(), &inputs, &["loss"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.407_605_964).abs() < 1e-9);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct CrossEntropy {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Target indices whose rows count for nothing.
    pub ignore_index: IgnoreIndex,
    /// What a mean divides by.
    pub denominator: Denominator,
    /// ε in [0, 1].
    pub label_smoothing: f64,
    /// How ε is distributed.
    pub smoothing: Smoothing,
    /// τ > 0.
    pub temperature: f64,
    /// cap > 0, or `None`.
    pub softcap: Option<f64>,
    /// m, subtracted from the target's logit before the cap; one index target a row without smoothing only.
    pub target_margin: f64,
    /// λ ≥ 0.
    pub z_loss: f64,
    /// γ ≥ 0; index targets only.
    pub focal_gamma: f64,
    /// Whether gradient columns past the classes are written.
    pub padding: Padding,
    /// Set where the logits are a shard of all classes.
    pub shard: Option<Shard>,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self {
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            ignore_index: IgnoreIndex::One(-100),
            denominator: Denominator::Targets,
            label_smoothing: 0.0,
            smoothing: Smoothing::Uniform,
            temperature: 1.0,
            softcap: None,
            target_margin: 0.0,
            z_loss: 0.0,
            focal_gamma: 0.0,
            padding: Padding::Keep,
            shard: None,
        }
    }
}

impl CrossEntropy {
    setters! {
        reduction: Reduction, empty: Empty, ignore_index: IgnoreIndex, denominator: Denominator,
        label_smoothing: f64, smoothing: Smoothing, temperature: f64, softcap: Option<f64>,
        target_margin: f64, z_loss: f64, focal_gamma: f64, padding: Padding, shard: Option<Shard>,
    }
}

tensors! {
    /// The inputs of [`CrossEntropy`].
    CrossEntropyInputs {
        /// Logits `[rows, classes]`.
        logits = "logits",
        /// The scale of i8 logits, `[1]` or `[rows]`: see [quantised logits](crate::row#quantised-logits).
        logits_scale = "logits_scale",
        /// The zero point of i8 logits, an `i8` in the shape of the scale; 0 if it is not given.
        logits_zero_point = "logits_zero_point",
        /// Class indices `[rows]`, or several a row `[rows, k]`; either these or `target_probs`.
        targets = "targets",
        /// The weights of several targets `[rows, k]`; 1 if they are not given.
        target_weight = "target_weight",
        /// Target distributions `[rows, classes]`, used without normalisation.
        target_probs = "target_probs",
        /// Class weights `[classes]` (of all shards).
        weight = "weight",
        /// Added to the logits `[classes]` (logit adjustment: τ·log π).
        logit_bias = "logit_bias",
        /// τ `[1]` on the GPU; overrides the option.
        temperature = "temperature",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The upstream gradient of `log_prob` `[rows]`. Where by-products have upstream gradients and `upstream` is
        /// not given, the loss takes no part in the gradient.
        upstream_log_prob = "upstream.log_prob",
        /// The upstream gradient of `entropy` `[rows]`.
        upstream_entropy = "upstream.entropy",
        /// The upstream gradient of `lse` `[rows]`.
        upstream_lse = "upstream.lse",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
        /// A saved `lse` `[rows]`, from which the gradient is made without a first pass.
        lse = "lse",
        /// A saved `entropy` `[rows]`: with a saved `lse`, it spares `upstream.entropy` a first pass.
        entropy = "entropy",
        /// The statistics of all shards `[shards·rows, 8]`, one shard after another.
        statistics = "statistics",
    }
}

tensors! {
    /// The outputs of [`CrossEntropy`]. Only those that are given are computed.
    CrossEntropyOutputs {
        /// The loss, `[1]`, or `[rows]` with [`Reduction::None`].
        loss = "loss",
        /// The gradient of the logits. It is not written in place just because its tensor equals that of the logits:
        /// see [`crate::Request::gradient_in_place`].
        gradient = "grad.logits",
        /// The gradient of the target distributions.
        target_probs_gradient = "grad.target_probs",
        /// The gradient of the input `temperature`.
        temperature_gradient = "grad.temperature",
        /// log Σ exp(u) of each row.
        lse = "lse",
        /// log softmax(u)_y of each row (index targets; Σ target_weight·log p of several), 0 of an ignored row.
        log_prob = "log_prob",
        /// The entropy of softmax(u) of each row.
        entropy = "entropy",
        /// The largest probability of each row.
        max_prob = "max_prob",
        /// The class with the largest u, the lowest index on a tie.
        argmax = "argmax",
        /// The number of classes that come before the target in a stable descending order: those with a larger u, or
        /// an equal u and a lower index. The target is among the top k if rank < k.
        rank = "rank",
        /// 1 where argmax is the target, else 0.
        correct = "correct",
        /// The mergeable state of each row (see [`crate::row::STATE_WORDS`]).
        statistics = "statistics",
        /// The sum of the row losses.
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

request!(CrossEntropy: CrossEntropyInputs, CrossEntropyOutputs);

const CLASSES: &[&[Dim]] = &[&[Dim::Classes]];
const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

pub(super) static ABOUT: About = About {
    name: "cross_entropy",
    summary: "Softmax cross-entropy with index or probability targets.",
    formula: "u = (cap·tanh((z − m·onehot(y))/cap) + logit_bias)/τ; \
              loss = row_weight·((1−p_y)^γ·Σ_c w_c q_c (lse(u) − u_c) + λ·lse(u)²)",
    pytorch: "torch.nn.functional.cross_entropy",
    inputs: &[
        arg::LOGITS,
        arg::LOGITS_SCALE,
        arg::LOGITS_ZERO_POINT,
        arg::SEVERAL_TARGETS,
        arg::TARGET_WEIGHT,
        arg::TARGET_PROBS,
        Argument::optional("weight", Kind::Float, arg::CLASS_WEIGHT_SHAPES, "class weights")
            .within(Domain::Positive),
        Argument::optional("logit_bias", Kind::Float, CLASSES, "added to the logits"),
        arg::TEMPERATURE_IN,
        arg::ROW_WEIGHT,
        arg::UPSTREAM,
        arg::LOG_PROB_UPSTREAM,
        arg::ENTROPY_UPSTREAM,
        arg::LSE_UPSTREAM,
        arg::DENOMINATOR_IN,
        arg::LSE_IN,
        arg::ENTROPY_IN,
        arg::STATISTICS_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::LOGITS_GRADIENT,
        Argument::optional("grad.target_probs", Kind::Float, MATRIX, "gradient of target_probs"),
        arg::TEMPERATURE_GRADIENT,
        arg::LSE,
        arg::LOG_PROB,
        arg::ENTROPY,
        arg::MAX_PROB,
        arg::ARGMAX,
        arg::RANK,
        arg::CORRECT,
        arg::STATISTICS,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::CORRECT_COUNT,
        arg::PERPLEXITY,
        arg::STATUS,
    ],
    options: OPTIONS,
};

/// The descriptions of the options of [`CrossEntropy`].
pub(crate) const OPTIONS: &[OptionAbout] = &[
    OptionAbout {
        name: "reduction",
        default: "\"mean\"",
        samples: &["\"none\"", "\"sum\"", "{\"over\": 2.5}"],
        about: "\"none\", \"sum\", \"mean\" or {\"over\": D}",
    },
    OptionAbout {
        name: "empty",
        default: "\"nan\"",
        samples: &["\"zero\""],
        about: "a mean over nothing: \"nan\" or \"zero\"",
    },
    OptionAbout {
        name: "ignore_index",
        default: "-100",
        samples: &["1", "[0, 2]"],
        about: "a target, or a list of up to 4, whose rows count for nothing",
    },
    OptionAbout {
        name: "denominator",
        default: "\"targets\"",
        samples: &["\"weights\""],
        about: "a mean divides by Σ w_y (\"targets\") or Σ row_weight·w_y (\"weights\")",
    },
    OptionAbout {
        name: "label_smoothing",
        default: "0.0",
        samples: &["0.1"],
        about: "ε in [0, 1]",
    },
    OptionAbout {
        name: "smoothing",
        default: "\"uniform\"",
        samples: &["\"ordinal\""],
        about: "ε goes to all classes (\"uniform\") or to the neighbours (\"ordinal\")",
    },
    OptionAbout { name: "temperature", default: "1.0", samples: &["1.7"], about: "τ > 0" },
    OptionAbout {
        name: "softcap",
        default: "null",
        samples: &["8.0"],
        about: "cap > 0: cap·tanh(z/cap)",
    },
    OptionAbout {
        name: "target_margin",
        default: "0.0",
        samples: &["0.35"],
        about: "m, subtracted from the target's logit before the cap (index targets)",
    },
    OptionAbout {
        name: "z_loss",
        default: "0.0",
        samples: &["0.01"],
        about: "λ ≥ 0: adds λ·lse² a row",
    },
    OptionAbout {
        name: "focal_gamma",
        default: "0.0",
        samples: &["0.5", "2.0"],
        about: "γ ≥ 0 (index targets)",
    },
    OptionAbout {
        name: "padding",
        default: "\"keep\"",
        samples: &["\"zero\""],
        about: "gradient columns past the classes: \"keep\" or \"zero\"",
    },
    arg::SHARD,
];

impl Signature for CrossEntropy {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        self.reduction == Reduction::None
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        self.shard.map(|shard| (Dim::AllClasses, shard.classes)).into_iter().collect()
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        let bad = |option, value: f64, reason: &str| {
            Err(Error::option("cross_entropy", option, value, reason))
        };
        check_reduction("cross_entropy", self.reduction)?;
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return bad("label_smoothing", self.label_smoothing, "ε lies in [0, 1]");
        }
        // The GPU uses these numbers, and the inverses of the first two, in f32.
        let normal = |value: f64| (value as f32).is_normal() && (1.0 / value) as f32 != 0.0;
        if !(self.temperature > 0.0 && normal(self.temperature)) {
            return bad("temperature", self.temperature, "τ is above 0 and within f32");
        }
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && normal(cap))
        {
            return bad("softcap", cap, "the cap is above 0 and within f32");
        }
        if !(self.target_margin as f32).is_finite() {
            return bad("target_margin", self.target_margin, "the margin is within f32");
        }
        if !((self.z_loss as f32).is_finite() && self.z_loss >= 0.0) {
            return bad("z_loss", self.z_loss, "λ is within f32 and not below 0");
        }
        if !((self.focal_gamma as f32).is_finite() && self.focal_gamma >= 0.0) {
            return bad("focal_gamma", self.focal_gamma, "γ is within f32 and not below 0");
        }
        Shard::validate(self.shard, "cross_entropy")?;
        self.ignore_index.validate("cross_entropy")
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        row::accepts(self, call)
    }
}

impl Operation for CrossEntropy {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        reference::run(self, inputs, wanted, arithmetic)
    }
}

static STREAMS: [RowStream; 4] = [
    RowStream::read("weight", Broadcast::Columns).or(1.0),
    RowStream::read("logit_bias", Broadcast::Columns),
    RowStream::read("target_probs", Broadcast::Elements),
    RowStream::write("target_gradient", "grad.target_probs", Broadcast::Elements),
];

/// The by-products of a row.
static OUTPUTS: &[RowOutput] = &[
    RowOutput::number("lse"),
    RowOutput::number("log_prob"),
    RowOutput::number("entropy"),
    RowOutput::number("max_prob"),
    RowOutput::index("argmax"),
    RowOutput::index("rank"),
    RowOutput::count("correct").reduced(Reduced::Sum("correct_count")),
    TEMPERATURE_SLOPE,
];

/// The factors of the gradient alpha·p - beta·coefficient - kappa·[target] - side·[neighbour].
static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("alpha"),
    Field::f32("beta"),
    Field::f32("kappa"),
    Field::f32("side"),
    Field::u32("label"),
];

/// The by-products that have an upstream gradient of their own.
const UPSTREAMS: [&str; 3] = ["upstream.log_prob", "upstream.entropy", "upstream.lse"];

/// What the targets of a call are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    /// One index a row.
    One,
    /// Several indices a row, each with a weight.
    Several,
    /// A distribution a row.
    Probs,
}

impl Targets {
    /// Those of a call with these inputs and this rank of `targets`.
    fn of(given: &dyn Fn(&str) -> bool, rank: usize) -> Self {
        if given("target_probs") {
            Self::Probs
        } else if rank > 1 || given("target_weight") {
            Self::Several
        } else {
            Self::One
        }
    }

    fn of_call(call: &Call) -> Self {
        let targets = call.inputs.get("targets");
        let rank = targets.map_or(0, |targets| targets.layout.shape.len());
        Self::of(&|name| call.has(name), rank)
    }

    /// Those of arrays on the host.
    pub(crate) fn of_arrays(inputs: &Arrays) -> Self {
        let rank = inputs.get("targets").map_or(0, |targets| targets.shape.len());
        Self::of(&|name| inputs.contains_key(name), rank)
    }
}

/// Whether the gradient contains by-products.
fn has_byproducts(given: &dyn Fn(&str) -> bool) -> bool {
    UPSTREAMS.iter().any(|name| given(name))
}

/// The upstream gradients of by-products, and the saved entropy.
static NUMBERS: &[RowNumber] = &[
    RowNumber { name: "log_prob_pull", argument: "upstream.log_prob" },
    RowNumber { name: "entropy_pull", argument: "upstream.entropy" },
    RowNumber { name: "lse_pull", argument: "upstream.lse" },
    RowNumber { name: "saved_entropy", argument: "entropy" },
];

/// [`FACTORS`], and those of entropy_pull·p·(u - top - mean_score), which is subtracted from the gradient.
static BYPRODUCT_FACTORS: &[Field] = &{
    let mut all = [Field::f32("entropy_pull"); FACTORS.len() + 2];
    let mut at = 0;
    while at < FACTORS.len() {
        all[at] = FACTORS[at];
        at += 1;
    }
    all[at] = Field::f32("mean_score");
    all
};

impl CrossEntropy {
    /// The classes of all shards.
    pub(crate) fn all_classes(&self, classes: u64) -> u64 {
        self.shard.map_or(classes, |shard| shard.classes)
    }

    /// Whether the loss needs a sum over all columns beside the softmax.
    fn has_term(&self, call: &Call) -> bool {
        Targets::of_call(call) != Targets::One
            || self.shard.is_some()
            || (self.label_smoothing > 0.0 && self.smoothing == Smoothing::Uniform)
    }

    /// The overrides: what changes the code.
    fn overrides(&self, call: &Call) -> Vec<(&'static str, u32)> {
        let wants = |names: &[&str]| u32::from(names.iter().any(|name| call.wants(name)));
        let ordinal = self.label_smoothing > 0.0 && self.smoothing == Smoothing::Ordinal;
        let (statistics, targets) = (call.wants("statistics"), Targets::of_call(call));
        let has_temperature = call.has("temperature");
        #[expect(clippy::float_cmp, reason = "a factor of exactly 1 is no factor")]
        let transformed = self.softcap.is_some()
            || call.has("logit_bias")
            || has_temperature
            || self.temperature != 1.0;
        vec![
            ("HAS_PROBS", (targets != Targets::One).into()),
            ("SEVERAL", (targets == Targets::Several).into()),
            ("HAS_TERM", self.has_term(call).into()),
            ("ORDINAL", ordinal.into()),
            ("SOFTCAP", self.softcap.is_some().into()),
            ("TRANSFORMED", u32::from(transformed)),
            ("SHARDED", self.shard.is_some().into()),
            ("FOCAL", (self.focal_gamma > 0.0).into()),
            ("MARGIN", (self.target_margin != 0.0).into()),
            (
                "WANTS_ENTROPY",
                wants(&["entropy", "grad.temperature"])
                    | u32::from(statistics || call.has("upstream.entropy")),
            ),
            (
                "WANTS_ARGMAX",
                wants(&["argmax", "correct", "correct_count"]) | u32::from(statistics),
            ),
            ("WANTS_RANK", wants(&["rank"])),
        ]
    }

    /// The uniforms: what changes without a new pipeline.
    fn uniforms(&self, call: &Call) -> Vec<(&'static str, Number)> {
        let epsilon = self.label_smoothing;
        let classes = self.all_classes(call.dim(Dim::Classes));
        let uniform = self.smoothing == Smoothing::Uniform;
        let spread = if uniform { epsilon / classes as f64 } else { 0.0 };
        let temperature = if call.has("temperature") { 1.0 } else { self.temperature };
        let numbers = [
            ("kept_share", 1.0 - epsilon),
            ("spread_share", spread),
            ("ordinal_share", epsilon),
            ("temperature", temperature),
            ("softcap", self.softcap.unwrap_or(1.0)),
            ("inverse_softcap", 1.0 / self.softcap.unwrap_or(1.0)),
            ("target_margin", self.target_margin),
            ("z_loss", self.z_loss),
            ("focal_gamma", self.focal_gamma),
        ];
        let counts =
            [("first_class", self.shard.map_or(0, |shard| shard.first)), ("all_classes", classes)];
        let has_byproducts = has_byproducts(&|name| call.has(name));
        let flags = [
            ("loss_takes_part", call.has("upstream") || !has_byproducts),
            ("knows_entropy", call.has("entropy")),
        ];
        let flags = flags.map(|(name, value)| (name, Number::U32(value.into())));
        let numbers = numbers.map(|(name, value)| (name, Number::from(value)));
        let counts = counts.map(|(name, value)| (name, Number::from(value)));
        let flags = flags.into_iter().filter(|_| has_byproducts);
        numbers.into_iter().chain(counts).chain(flags).collect()
    }

    /// What a call with a saved lse does not have to compute.
    fn given(&self, call: &Call) -> Given {
        // For very many classes, Σ w needs the stream: see `MOST_ITERATIONS`.
        let many = call.has("weight") && call.dim(Dim::Classes) > MOST_ITERATIONS;
        let focal = self.focal_gamma > 0.0;
        let entropy_unseen = call.has("upstream.entropy") && !call.has("entropy");
        if call.wants("grad.temperature") || entropy_unseen {
            // The gradients of the temperature and of the entropy need the mean score.
            return Given::Nothing;
        }
        let has_probs = Targets::of_call(call) != Targets::One;
        if self.has_term(call) && (has_probs || focal || many) {
            Given::Nothing
        } else if focal {
            // The factors of the gradient need the target's score.
            Given::Stream
        } else {
            Given::All
        }
    }
}

impl RowLoss for CrossEntropy {
    fn linear_about(&self) -> Option<&'static About> {
        Some(&super::linear_cross_entropy::ABOUT)
    }

    fn program(&self, call: &Call) -> RowProgram {
        let ignored = self.ignore_index.as_slice().to_vec();
        let has_byproducts = has_byproducts(&|name| call.has(name));
        let (byproducts, factors, numbers): (_, _, &[RowNumber]) = if has_byproducts {
            (shader!("loss/byproducts.wgsl"), BYPRODUCT_FACTORS, NUMBERS)
        } else {
            (shader!("loss/no_byproducts.wgsl"), FACTORS, &[])
        };
        let targets = Targets::of_call(call);
        let label_score = match targets {
            Targets::One if call.wants("rank") => LabelScore::Streaming,
            Targets::One => LabelScore::Closing,
            Targets::Several | Targets::Probs => LabelScore::Unused,
        };
        let (target, sparse) = if targets == Targets::Several {
            (Target::Several { ignored }, row::TARGETS)
        } else {
            (Target::Index { ignored }, shader!("row/no_targets.wgsl"))
        };
        RowProgram {
            reduction: self.reduction,
            empty: self.empty,
            padding: self.padding,
            shard: self.shard,
            sources: vec![
                shader!("row/scores.wgsl"),
                shader!("loss/cross_entropy.wgsl"),
                byproducts,
                sparse,
            ],
            streams: STREAMS.to_vec(),
            scalar: Some("temperature"),
            numbers,
            target,
            counted: Counted {
                row_weights: self.denominator == Denominator::Weights,
                class_weights: Some("weight"),
            },
            state: StateLayout { words: 8, shardable: true },
            outputs: OUTPUTS,
            factors,
            label_score,
            given: self.given(call),
            overrides: self.overrides(call),
            uniforms: self.uniforms(call),
            ..RowProgram::default()
        }
    }

    fn check(&self, call: &Call) -> Result<()> {
        let targets = Targets::of_call(call);
        self.check_targets(&|name| call.has(name), targets)?;
        check_weights(call)?;
        let names: Vec<&str> = call.outputs.keys().map(String::as_str).collect();
        let weights = call.inputs.get("weight").map(|weight| weight.layout.len());
        self.check_shard(&|name| call.has(name), &names, call.dim(Dim::Classes), weights)?;
        Self::check_wanted(&|name| call.has(name), targets, &names)
    }
}

impl CrossEntropy {
    /// Checks the inputs and outputs of a shard's call.
    pub(crate) fn check_shard(
        &self,
        given: &dyn Fn(&str) -> bool,
        wanted: &[&str],
        classes: u64,
        weights: Option<u64>,
    ) -> Result<()> {
        Shard::check(self.shard, "cross_entropy", given, wanted)?;
        let Some(shard) = self.shard else { return Ok(()) };
        shard.check_columns("cross_entropy", "logits", classes)?;
        // The denominator of a mean includes the weights of targets that belong to other shards.
        match weights.filter(|&found| found != shard.classes) {
            Some(found) => Err(Error::WrongShape {
                argument: "weight".into(),
                found: vec![found].into(),
                expected: format!("[{}], the classes of all shards", shard.classes).into(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that the call has either index or probability targets, and that the options go with them.
    pub(crate) fn check_targets(
        &self,
        given: &dyn Fn(&str) -> bool,
        targets: Targets,
    ) -> Result<()> {
        let loss = "cross_entropy";
        row::target_or_probs(loss, given("targets"), given("target_probs"))?;
        if given("target_weight") && !given("targets") {
            return conflict("target_weight", "target_probs", "it weighs index targets");
        }
        if targets != Targets::One && self.focal_gamma > 0.0 {
            let value = self.focal_gamma;
            return Err(Error::option(loss, "focal_gamma", value, "needs one index target a row"));
        }
        let (epsilon, ordinal) = (self.label_smoothing, self.smoothing == Smoothing::Ordinal);
        if self.target_margin != 0.0 && (targets != Targets::One || epsilon > 0.0) {
            let reason = "needs one index target a row, without label smoothing";
            return Err(Error::option(loss, "target_margin", self.target_margin, reason));
        }
        if targets == Targets::Probs && epsilon > 0.0 && ordinal {
            return Err(Error::option(loss, "smoothing", "ordinal", "needs index targets"));
        }
        if targets == Targets::Several && epsilon > 0.0 {
            let reason = "needs one target a row, or `target_probs`";
            return Err(Error::option(loss, "label_smoothing", epsilon, reason));
        }
        Ok(())
    }

    /// Checks what rows with several targets do not have.
    fn check_several(given: &dyn Fn(&str) -> bool, wanted: &[&str]) -> Result<()> {
        let refused = ["rank", "correct", "correct_count"];
        if let Some(name) = wanted.iter().find(|name| refused.contains(*name)) {
            return conflict(name, "targets", "a row has several targets");
        }
        let weighed = given("weight");
        let of_log_prob = given("upstream.log_prob") || wanted.contains(&"log_prob");
        if weighed && of_log_prob {
            let argument =
                if wanted.contains(&"log_prob") { "log_prob" } else { "upstream.log_prob" };
            return conflict(argument, "weight", "several targets are summed with class weights");
        }
        Ok(())
    }

    /// Checks the upstream gradients of by-products.
    fn check_byproducts(given: &dyn Fn(&str) -> bool, wanted: &[&str]) -> Result<()> {
        let operation = || "cross_entropy".into();
        if given("entropy") && !given("lse") {
            return Err(Error::MissingInput {
                operation: operation(),
                argument: "lse".into(),
                reason: "a saved `entropy` goes with it".into(),
            });
        }
        if given("upstream.log_prob") && given("target_probs") {
            return conflict("upstream.log_prob", "target_probs", "log_prob is of index targets");
        }
        if given("upstream.entropy") && wanted.contains(&"grad.temperature") {
            return conflict(
                "upstream.entropy",
                "grad.temperature",
                "the temperature has no gradient through the entropy",
            );
        }
        Ok(())
    }

    /// Checks outputs that need one kind of target, or a learned temperature.
    pub(crate) fn check_wanted(
        given: &dyn Fn(&str) -> bool,
        targets: Targets,
        wanted: &[&str],
    ) -> Result<()> {
        Self::check_byproducts(given, wanted)?;
        if targets == Targets::Several {
            Self::check_several(given, wanted)?;
        }
        let (kind, refused): (&str, &[&str]) = if given("target_probs") {
            ("targets", &["log_prob", "rank", "correct", "correct_count"])
        } else {
            ("target_probs", &["grad.target_probs"])
        };
        let is_fixed = !given("temperature");
        let needs = |name: &&&str| match **name {
            "grad.temperature" if is_fixed => Some("temperature"),
            name => refused.contains(&name).then_some(kind),
        };
        match wanted.iter().find_map(|name| Some((name, needs(&name)?))) {
            Some((name, needs)) => Err(Error::MissingInput {
                operation: "cross_entropy".into(),
                argument: needs.into(),
                reason: format!("output `{name}` needs it").into(),
            }),
            None => Ok(()),
        }
    }
}

/// Checks that targets and their weights have the same shape.
fn check_weights(call: &Call) -> Result<()> {
    let shape = |name| call.inputs.get(name).map(|operand| operand.layout.shape.clone());
    match (shape("targets"), shape("target_weight")) {
        (Some(expected), Some(found)) if found != expected => Err(Error::WrongShape {
            argument: "target_weight".into(),
            found: found.into(),
            expected: format!("{expected:?}, as `targets`").into(),
        }),
        _ => Ok(()),
    }
}

fn conflict(argument: &str, other: &str, reason: &str) -> Result<()> {
    Err(Error::Conflict {
        operation: "cross_entropy".into(),
        argument: argument.into(),
        other: other.into(),
        reason: reason.into(),
    })
}
