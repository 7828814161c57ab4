//! The arguments that several losses have.

use super::{
    about::{Argument, Dim, Domain, Kind, OptionAbout, Spread},
    quantized,
};

const ROWS: &[&[Dim]] = &[&[Dim::Rows]];
const ONE: &[&[Dim]] = &[&[Dim::One]];
const CLASSES: &[&[Dim]] = &[&[Dim::Classes]];
const HIDDEN_SHAPE: &[&[Dim]] = &[&[Dim::Rows, Dim::Hidden]];
const WEIGHT_SHAPE: &[&[Dim]] = &[&[Dim::Classes, Dim::Hidden], &[Dim::Hidden, Dim::Classes]];

const TEACHER_HIDDEN_SHAPE: &[&[Dim]] = &[&[Dim::Rows, Dim::TeacherHidden]];
const TEACHER_WEIGHT_SHAPE: &[&[Dim]] =
    &[&[Dim::Classes, Dim::TeacherHidden], &[Dim::TeacherHidden, Dim::Classes]];

pub(crate) const TEACHER_HIDDEN: Argument = Argument::required(
    "teacher_hidden",
    Kind::Float,
    TEACHER_HIDDEN_SHAPE,
    "hidden states of the teacher",
);
pub(crate) const TEACHER_WEIGHT: Argument = Argument::required(
    "teacher_weight",
    Kind::Float,
    TEACHER_WEIGHT_SHAPE,
    "weight of the teacher's classifier",
);
pub(crate) const TEACHER_BIAS: Argument =
    Argument::optional("teacher_bias", Kind::Float, CLASSES, "bias of the teacher's classifier");
pub(crate) const HIDDEN: Argument =
    Argument::required("hidden", Kind::Float, HIDDEN_SHAPE, "hidden states");
pub(crate) const WEIGHT: Argument =
    Argument::required("weight", Kind::Float, WEIGHT_SHAPE, "the classifier W, see weight_layout");
pub(crate) const BIAS: Argument =
    Argument::optional("bias", Kind::Float, CLASSES, "the classifier's bias");
pub(crate) const HIDDEN_GRADIENT: Argument =
    Argument::optional("grad.hidden", Kind::Float, HIDDEN_SHAPE, "gradient of the hidden states")
        .over("hidden");
pub(crate) const WEIGHT_GRADIENT: Argument =
    Argument::optional("grad.weight", Kind::Float, WEIGHT_SHAPE, "gradient of W, in W's layout");
pub(crate) const BIAS_GRADIENT: Argument =
    Argument::optional("grad.bias", Kind::Float, CLASSES, "gradient of the bias");

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

pub(crate) const LOGITS: Argument = Argument::required("logits", Kind::Logits, MATRIX, "logits");
const SCALES: &[&[Dim]] = &[&[Dim::One], &[Dim::Rows]];
pub(crate) const LOGITS_SCALE: Argument = Argument::optional(
    quantized::SCALE,
    Kind::Float,
    SCALES,
    "what i8 logits are multiplied by, one number for all rows or one a row",
)
.within(Domain::Positive);
pub(crate) const LOGITS_ZERO_POINT: Argument = Argument::optional(
    quantized::ZERO_POINT,
    Kind::I8,
    SCALES,
    "the i8 that stands for a logit of 0; 0 if it is not given",
);
pub(crate) const LOGITS_GRADIENT: Argument =
    Argument::optional("grad.logits", Kind::Float, MATRIX, "gradient of the logits").over("logits");
pub(crate) const LOG_PROBS: Argument =
    Argument::required("log_probs", Kind::Float, MATRIX, "log-probabilities, or probabilities");
pub(crate) const LOG_PROBS_GRADIENT: Argument =
    Argument::optional("grad.log_probs", Kind::Float, MATRIX, "gradient of log_probs")
        .over("log_probs");
pub(crate) const TARGET_PROBS: Argument =
    Argument::optional("target_probs", Kind::Float, MATRIX, "target distributions")
        .within(Domain::Probability);

/// Target distributions that a call must give.
pub(crate) const DISTRIBUTIONS: Argument =
    Argument::required("target_probs", Kind::Float, MATRIX, "target distributions")
        .within(Domain::Probability);

pub(crate) const TEACHER_LOGITS: Argument =
    Argument::required("teacher_logits", Kind::Float, MATRIX, "logits of the teacher");

pub(crate) const TARGETS: Argument =
    Argument::optional("targets", Kind::Index, ROWS, "class indices");
const SEVERAL: &[&[Dim]] = &[&[Dim::Rows], &[Dim::Rows, Dim::Targets]];
/// Class indices, of which a row may have several.
pub(crate) const SEVERAL_TARGETS: Argument =
    Argument::optional("targets", Kind::Index, SEVERAL, "class indices, one or several a row");
pub(crate) const TARGET_WEIGHT: Argument = Argument::optional(
    "target_weight",
    Kind::Float,
    SEVERAL,
    "the weight of each of a row's targets",
)
.within(Domain::Positive);
/// Class indices that a call must give.
pub(crate) const LABELS: Argument =
    Argument::required("targets", Kind::Index, ROWS, "class indices");
/// Weights of the targets' classes.
pub(crate) const CLASS_WEIGHT: Argument =
    Argument::optional("weight", Kind::Float, CLASSES, "class weights").within(Domain::Positive);
pub(crate) const CLASS_MARGIN: Argument = Argument::optional(
    "class_margin",
    Kind::Float,
    CLASSES,
    "the margin of each class as a target; replaces the option",
)
.within(Domain::Positive);
pub(crate) const ACTIVE: Argument = Argument::optional(
    "active",
    Kind::F32,
    ONE,
    "the share of the rows kept whose hinge is above 0",
);
pub(crate) const ALPHA_IN: Argument =
    Argument::optional("alpha", Kind::Float, ONE, "α on the GPU; overrides the option")
        .within(Domain::Probability);
pub(crate) const ALPHA_GRADIENT: Argument =
    Argument::optional("grad.alpha", Kind::Float, ONE, "gradient of the input `alpha`");
pub(crate) const SATURATION: Argument = Argument::optional(
    "saturation",
    Kind::F32,
    ROWS,
    "size of the squared error's gradient beside that of cross-entropy",
);
pub(crate) const ROW_WEIGHT: Argument =
    Argument::optional("row_weight", Kind::Float, ROWS, "multiplies a row's loss and gradient")
        .within(Domain::Positive);
pub(crate) const UPSTREAM: Argument = Argument::optional(
    "upstream",
    Kind::WideFloat,
    &[&[Dim::One], &[Dim::Rows]],
    "the gradient from above (a loss scale); one value a row with reduction `none`",
);
/// The upstream gradient of a by-product.
const fn byproduct_upstream(name: &'static str, about: &'static str) -> Argument {
    Argument::optional(name, Kind::WideFloat, ROWS, about)
}
pub(crate) const LOG_PROB_UPSTREAM: Argument =
    byproduct_upstream("upstream.log_prob", "the gradient from above of each row's log_prob");
pub(crate) const ENTROPY_UPSTREAM: Argument =
    byproduct_upstream("upstream.entropy", "the gradient from above of each row's entropy");
pub(crate) const LSE_UPSTREAM: Argument =
    byproduct_upstream("upstream.lse", "the gradient from above of each row's lse");
pub(crate) const DENOMINATOR_IN: Argument =
    Argument::optional("denominator", Kind::F32, ONE, "the caller's denominator, on the GPU")
        .within(Domain::Positive);
pub(crate) const LSE_IN: Argument = Argument::optional(
    "lse",
    Kind::F32,
    ROWS,
    "a saved lse: the gradient is made from it without a first pass",
);
pub(crate) const ENTROPY_IN: Argument = Argument::optional(
    "entropy",
    Kind::F32,
    ROWS,
    "a saved entropy: with a saved lse, spares `upstream.entropy` a first pass",
);
pub(crate) const LOSS: Argument = Argument::optional(
    "loss",
    Kind::F32,
    &[&[Dim::One], &[Dim::Rows]],
    "the loss; one value a row with reduction `none`",
);
pub(crate) const LSE: Argument = Argument::optional("lse", Kind::F32, ROWS, "log Σ exp(u)");
pub(crate) const LOG_PROB: Argument =
    Argument::optional("log_prob", Kind::F32, ROWS, "log softmax(u) of the target");
pub(crate) const ENTROPY: Argument =
    Argument::optional("entropy", Kind::F32, ROWS, "entropy of softmax(u)");
pub(crate) const SOFTMAX_ENTROPY: Argument =
    Argument::optional("entropy", Kind::F32, ROWS, "entropy of softmax(z/T)");
pub(crate) const TEACHER_ENTROPY: Argument =
    Argument::optional("teacher_entropy", Kind::F32, ROWS, "entropy of the teacher's softmax(t/T)");
pub(crate) const AGREEMENT: Argument = Argument::optional(
    "agreement",
    Kind::F32,
    ONE,
    "share of the rows kept whose two largest logits are of the same class",
);
pub(crate) const MEAN_ENERGY: Argument =
    Argument::optional("energy", Kind::F32, ROWS, "−Σ p·z, the mean energy");
pub(crate) const MAX_PROB: Argument =
    Argument::optional("max_prob", Kind::F32, ROWS, "largest probability");
pub(crate) const ARGMAX: Argument =
    Argument::optional("argmax", Kind::U32, ROWS, "class of the largest u, lowest on a tie");
pub(crate) const RANK: Argument = Argument::optional(
    "rank",
    Kind::U32,
    ROWS,
    "classes before the target in a stable descending order",
);
pub(crate) const CORRECT: Argument =
    Argument::optional("correct", Kind::U32, ROWS, "1 where argmax is the target");
pub(crate) const STATISTICS: Argument = Argument::optional(
    "statistics",
    Kind::F32,
    &[&[Dim::Rows, Dim::State]],
    "the mergeable state of each row",
);
pub(crate) const STATISTICS_IN: Argument = Argument::optional(
    "statistics",
    Kind::F32,
    &[&[Dim::Gathered, Dim::State]],
    "the statistics of all shards, one shard after another",
);
/// The shapes of class weights; with shards they have all classes.
pub(crate) const CLASS_WEIGHT_SHAPES: &[&[Dim]] = &[&[Dim::Classes], &[Dim::AllClasses]];
pub(crate) const SUM: Argument = Argument::optional("sum", Kind::F32, ONE, "Σ of the row losses");
pub(crate) const DENOMINATOR: Argument =
    Argument::optional("denominator", Kind::F32, ONE, "what a mean divides by");
pub(crate) const COUNT: Argument = Argument::optional("count", Kind::I64, ONE, "rows kept");
pub(crate) const CORRECT_COUNT: Argument =
    Argument::optional("correct_count", Kind::U32, ONE, "rows kept whose argmax is the target");
pub(crate) const PERPLEXITY: Argument =
    Argument::optional("perplexity", Kind::F32, ONE, "exp(sum/denominator)");
pub(crate) const STATUS: Argument = Argument::optional(
    "status",
    Kind::U32,
    &[&[Dim::StatusWords]],
    "completion, bad targets, bad rows",
);

/// The shapes of tensors in element losses: a matrix or a vector.
const ELEMENTS: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes], &[Dim::Rows]];
/// The shapes that broadcast to those of the elements.
const BROADCAST: &[&[Dim]] = &[
    &[Dim::Rows, Dim::Classes],
    &[Dim::Rows],
    &[Dim::Classes],
    &[Dim::Rows, Dim::One],
    &[Dim::One],
];
const REDUCED_ELEMENTS: &[&[Dim]] = &[&[Dim::One], &[Dim::Rows, Dim::Classes], &[Dim::Rows]];

/// One number an element.
pub(crate) const fn elements(name: &'static str, about: &'static str) -> Argument {
    Argument::required(name, Kind::Float, ELEMENTS, about).spread(Spread::Elements)
}

/// One number an element, which a call may leave out.
pub(crate) const fn optional_elements(name: &'static str, about: &'static str) -> Argument {
    Argument::optional(name, Kind::Float, ELEMENTS, about).spread(Spread::Elements)
}

/// The gradient of a stream of elements, which may be written over the stream. `name` is `grad.` and the stream's
/// name.
pub(crate) const fn elements_gradient(name: &'static str, about: &'static str) -> Argument {
    let (_, stream) = name.split_at("grad.".len());
    optional_elements(name, about).over(stream)
}

/// One number an element, a column or a row, or one for all.
pub(crate) const fn broadcast(name: &'static str, about: &'static str) -> Argument {
    Argument::optional(name, Kind::Float, BROADCAST, about).spread(Spread::Broadcast)
}

/// As `broadcast`, but a call must give it, and one number a row may have the shape `[rows]`.
pub(crate) const fn variances(name: &'static str, about: &'static str) -> Argument {
    Argument::required(name, Kind::Float, BROADCAST, about).spread(Spread::BroadcastOrRows)
}

/// The mean of what an element loss monitors.
pub(crate) const fn monitored(name: &'static str, about: &'static str) -> Argument {
    Argument::optional(name, Kind::F32, ONE, about)
}

pub(crate) const ELEMENT_WEIGHT: Argument =
    broadcast("weight", "multiplies losses and gradients").within(Domain::Positive);
pub(crate) const MASK: Argument = Argument::optional(
    "mask",
    Kind::Mask,
    &[
        &[Dim::Rows, Dim::Classes],
        &[Dim::Rows],
        &[Dim::Classes],
        &[Dim::Rows, Dim::One],
        &[Dim::One],
        &[Dim::BitWords],
    ],
    "multiplies losses and gradients, and is what a mean divides by; 0 takes an element out",
)
.within(Domain::Mask)
.spread(Spread::Broadcast);
pub(crate) const ELEMENT_UPSTREAM: Argument = Argument::optional(
    "upstream",
    Kind::WideFloat,
    REDUCED_ELEMENTS,
    "the gradient from above (a loss scale); one value an element with reduction `none`",
)
.spread(Spread::Elements);
pub(crate) const ELEMENT_LOSS: Argument = Argument::optional(
    "loss",
    Kind::F32,
    REDUCED_ELEMENTS,
    "the loss; one value an element with reduction `none`",
)
.spread(Spread::Elements);

pub(crate) const ELEMENT_REDUCTION: OptionAbout = OptionAbout {
    name: "reduction",
    default: "\"mean\"",
    samples: &["\"none\"", "\"sum\"", "\"multilabel\"", "{\"over\": 2.5}"],
    about: "\"none\", \"sum\", \"mean\", \"multilabel\" (Σ of a row, mean of the rows) or {\"over\": D}",
};
pub(crate) const TEMPERATURE_IN: Argument = Argument::optional(
    "temperature",
    Kind::Float,
    ONE,
    "τ on the GPU, from 2^-126 to 2^126; overrides the option",
)
.within(Domain::Positive);
pub(crate) const TEMPERATURE_GRADIENT: Argument =
    Argument::optional("grad.temperature", Kind::Float, ONE, "gradient of the input `temperature`");
const KEYS_SHAPE: &[&[Dim]] = &[&[Dim::Classes, Dim::Hidden]];

pub(crate) const QUERIES: Argument =
    Argument::required("queries", Kind::Float, HIDDEN_SHAPE, "one vector a row of scores");
pub(crate) const KEYS: Argument =
    Argument::required("keys", Kind::Float, KEYS_SHAPE, "one vector a column of scores");
pub(crate) const POSITIVES: Argument = Argument::optional(
    "targets",
    Kind::Index,
    ROWS,
    "the key that is each query's positive; key i for query i without it",
);
pub(crate) const SCALE: Argument = Argument::optional(
    "scale",
    Kind::Float,
    ONE,
    "what similarities are multiplied by, on the GPU; overrides temperature",
)
.within(Domain::Positive);
pub(crate) const QUERIES_GRADIENT: Argument =
    Argument::optional("grad.queries", Kind::Float, HIDDEN_SHAPE, "gradient of the queries");
pub(crate) const KEYS_GRADIENT: Argument =
    Argument::optional("grad.keys", Kind::Float, KEYS_SHAPE, "gradient of the keys");
pub(crate) const SCALE_GRADIENT: Argument =
    Argument::optional("grad.scale", Kind::Float, ONE, "gradient of the scale");

pub(crate) const CHUNK_BYTES: OptionAbout = OptionAbout {
    name: "chunk_bytes",
    default: "null",
    samples: &["256", "1152"],
    about: "the most bytes for the chunk of scores",
};
pub(crate) const ACCUMULATE: OptionAbout = OptionAbout {
    name: "accumulate",
    default: "\"nothing\"",
    samples: &["\"rows\"", "\"shared\""],
    about: "gradients that are added to what their tensors hold: of the \"rows\" (hidden, queries), of what they share \
            (\"shared\": weight, bias, keys, scale, temperature), \"all\" or \"nothing\"",
};
pub(crate) const REDUCTION: OptionAbout = OptionAbout {
    name: "reduction",
    default: "\"mean\"",
    samples: &["\"none\"", "\"sum\"", "{\"over\": 2.5}"],
    about: "\"none\", \"sum\", \"mean\" or {\"over\": D}",
};
pub(crate) const EMPTY: OptionAbout = OptionAbout {
    name: "empty",
    default: "\"nan\"",
    samples: &["\"zero\""],
    about: "a mean over nothing: \"nan\" or \"zero\"",
};
pub(crate) const MASKED_MEAN: OptionAbout = OptionAbout {
    name: "denominator",
    default: "\"mask\"",
    samples: &["\"all\""],
    about: "a mean divides by Σ mask of the known targets (\"mask\") or by all elements (\"all\")",
};
pub(crate) const UNKNOWN_TARGET: OptionAbout = OptionAbout {
    name: "unknown_target",
    default: "null",
    samples: &["1.0", "\"nan\""],
    about: "a number or \"nan\", a target that stands for an unknown one: its element counts for nothing",
};
pub(crate) const SHARD: OptionAbout = OptionAbout {
    name: "shard",
    default: "null",
    samples: &["{\"first\": 2, \"classes\": 8}", "{\"first\": 3, \"classes\": 1000}"],
    about: "{\"first\": F, \"classes\": C}: the columns are those from F on of C in all shards",
};
pub(crate) const PADDING: OptionAbout = OptionAbout {
    name: "padding",
    default: "\"keep\"",
    samples: &["\"zero\""],
    about: "gradient columns past the last one: \"keep\" or \"zero\"",
};
pub(crate) const SEED: OptionAbout = OptionAbout {
    name: "seed",
    default: "0",
    samples: &["7"],
    about: "the seed of the random numbers, a u64",
};
pub(crate) const OFFSET: OptionAbout = OptionAbout {
    name: "offset",
    default: "0",
    samples: &["3"],
    about: "the number of the draw, such as that of a training step, a u64",
};
pub(crate) const ROWS_MEAN: OptionAbout = OptionAbout {
    name: "denominator",
    default: "\"targets\"",
    samples: &["\"weights\""],
    about: "a mean divides by the rows kept (\"targets\") or by Σ row_weight of them (\"weights\")",
};
pub(crate) const IGNORE_INDEX: OptionAbout = OptionAbout {
    name: "ignore_index",
    default: "-100",
    samples: &["1", "[0, 2]"],
    about: "a target, or a list of up to 4, whose rows count for nothing",
};
