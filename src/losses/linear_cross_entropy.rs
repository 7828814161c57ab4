//! Cross-entropy of a linear layer whose logits are never stored (catalogue P1).

use super::{CrossEntropy, cross_entropy};
use crate::{
    skeleton::{
        linear::{Linear, OPTIONS_OF_LAYER, options_of_layer},
        request::request,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout},
        arguments as arg,
        declare::tensors,
    },
};

/// Cross-entropy of hidden·Wᵀ + bias, and the gradients of all three, without storing the logits.
///
/// The logits are hidden·Wᵀ + bias, and their loss is [`CrossEntropy`] with all its options. The logits are made a
/// chunk at a time, reduced, and replaced by their gradient. The gradient of W adds up over the chunks in row order,
/// so neither the size nor the shape of the chunk changes a bit of any result.
///
/// - **Targets** are those of [`CrossEntropy`]: one or several a row, or target_probs, which have no gradient here.
/// - **Shapes**: hidden `[rows, hidden]`, weight `[classes, hidden]` (or `[hidden, classes]`, without a transposed
///   copy), bias `[classes]`; the rest as in [`CrossEntropy`], whose `weight` is `class_weight` here.
/// - **Normalised** (CosFace, AM-softmax, cosine classifiers): with `normalize`, the logits are
///   ⟨hidden, W_c⟩/(‖hidden‖·‖W_c‖) + bias, and the gradients are those of hidden and W. With
///   [`target_margin`](CrossEntropy::target_margin) m and a temperature τ, the u of the target is (cos − m)/τ. A vector
///   of zeros has cosine 0 with everything and gradient 0, and [`crate::Status::zero_vectors`] counts it. With a shard
///   of the vocabulary, ∂hidden stays a part, and the parts still add up.
/// - **Memory** beside inputs and outputs: O(rows + classes), 16 + 8·k bytes a row of k targets, one chunk of at most
///   `chunk_bytes`, the hidden states of a chunk's rows (gathered without the ignored ones), and 256 bytes of parameters a dispatch. The chunk holds some whole rows of logits, or some rows of
///   a block of classes, whichever the plan finds cheaper ([`crate::Plan::path`] says which, and why). With blocks, the
///   logits are made twice, unless a saved lse or the statistics of shards close the rows. The logits of up to as many
///   rows as W is deep are kept in ∂W until it is written, if ∂W is f32, has no gaps (as `[classes, hidden]`) and is
///   not added to: they are made once, and take no memory of their own. A budget that holds neither a row nor a block
///   of one row (less than a kilobyte on software adapters, 25 KB elsewhere) is an error. A 16-bit gradient that adds
///   up over several chunks needs an f32 sum: ∂W over stretches of rows, ∂hidden (also in place) over blocks of
///   classes, for the rows of the chunk. With `normalize` both need it always, and so do gradients that are added to
///   what is there.
/// - **Gradient**: ∂hidden = G·W, ∂W = Gᵀ·hidden, ∂bias = Σ_rows G, where G is the gradient of the logits; G already
///   contains row weights and the upstream gradient before ∂W is summed. With `normalize`, these are the gradients ∂û
///   of the unit vectors û = v/‖v‖, and ∂v = (∂û − û·⟨∂û, û⟩)/‖v‖.
/// - **Policy gradients and preferences** need log_prob, entropy and lse of each token and their gradients: a call for
///   these, the caller's arithmetic, and a call with `upstream.log_prob`, `upstream.entropy`, `upstream.lse` and the
///   saved `lse` and `entropy`. The logits are never stored, and a row's bits do not depend on the rows beside it
///   (without matrix units).
/// - **Edges**: those of [`CrossEntropy`]. The hidden state of an ignored row is not used, so a NaN in it changes
///   nothing. Products leave ignored rows out, so they take next to no time (not with several targets a row, shards or
///   `normalize`).
/// - **Shards** of the vocabulary: see [`crate::Shard`]. ∂W and ∂bias are complete; ∂hidden is a part.
///
/// Sources: Liger-Kernel's fused linear cross-entropy (Hsu et al. 2024); Cut Cross-Entropy (Wijmans et al. 2024); CosFace
/// (Wang et al. 2018) and AM-softmax (Wang et al. 2018).
///
/// ```
/// use surprisal::{Array, Arrays, CrossEntropy, LinearCrossEntropy, cpu};
/// let inputs = Arrays::from([
///     ("hidden".to_owned(), Array::float(&[1, 2], vec![1.0, 0.0])),
///     ("weight".to_owned(), Array::float(&[3, 2], vec![1.0, 0.0, 2.0, 0.0, 3.0, 0.0])),
///     ("targets".to_owned(), Array::int(&[1], vec![2])),
/// ]);
/// let loss = LinearCrossEntropy::new(CrossEntropy::default());
/// let outputs = cpu::run(&loss, &inputs, &["loss", "grad.weight"])?;
/// assert!((outputs["loss"].to_f64()[0] - 0.407_605_964).abs() < 1e-9);
/// // CosFace with s = 16 and m = 0.35: all three classes have cosine 1, and the target's u is 16·(1 − 0.35).
/// let loss = CrossEntropy::default().temperature(1.0 / 16.0).target_margin(0.35);
/// let loss = LinearCrossEntropy::new(loss).normalize(true);
/// let outputs = cpu::run(&loss, &inputs, &["loss"])?;
/// assert!((outputs["loss"].to_f64()[0] - (2.0 * 5.6_f64.exp()).ln_1p()).abs() < 1e-9);
/// # Ok::<(), surprisal::Error>(())
/// ```
pub type LinearCrossEntropy = Linear<CrossEntropy>;

tensors! {
    /// The inputs of [`LinearCrossEntropy`].
    LinearCrossEntropyInputs {
        /// Hidden states `[rows, hidden]`.
        hidden = "hidden",
        /// The weight of the classifier, `[classes, hidden]` or `[hidden, classes]`.
        weight = "weight",
        /// The bias of the classifier `[classes]`.
        bias = "bias",
        /// Class indices `[rows]`, or several a row `[rows, k]`; either these or `target_probs`.
        targets = "targets",
        /// The weights of several targets `[rows, k]`; 1 if they are not given.
        target_weight = "target_weight",
        /// Target distributions `[rows, classes]`, used without normalisation.
        target_probs = "target_probs",
        /// Class weights `[classes]` (of all shards).
        class_weight = "class_weight",
        /// Added to the logits after the soft cap `[classes]`.
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
        /// The caller's denominator `[1]` on the GPU.
        denominator = "denominator",
        /// A saved `lse` `[rows]`.
        lse = "lse",
        /// A saved `entropy` `[rows]`: with a saved `lse`, it spares `upstream.entropy` a first pass.
        entropy = "entropy",
        /// The statistics of all shards `[shards·rows, 8]`, one shard after another.
        statistics = "statistics",
    }
}

tensors! {
    /// The outputs of [`LinearCrossEntropy`].
    LinearCrossEntropyOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the hidden states.
        hidden_gradient = "grad.hidden",
        /// The gradient of the weight, in the weight's layout.
        weight_gradient = "grad.weight",
        /// The gradient of the bias.
        bias_gradient = "grad.bias",
        /// The gradient of the input `temperature`.
        temperature_gradient = "grad.temperature",
        /// log Σ exp(u) of each row.
        lse = "lse",
        /// log softmax(u)_y of each row.
        log_prob = "log_prob",
        /// The entropy of each row.
        entropy = "entropy",
        /// The largest probability of each row.
        max_prob = "max_prob",
        /// The class with the largest u.
        argmax = "argmax",
        /// The number of classes that come before the target.
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

request!(LinearCrossEntropy: LinearCrossEntropyInputs, LinearCrossEntropyOutputs);

const CLASSES: &[&[Dim]] = &[&[Dim::Classes]];

pub(super) static ABOUT: About = About {
    name: "linear_cross_entropy",
    summary: "Cross-entropy of a linear layer whose logits are never stored.",
    formula: "z = hidden·Wᵀ + bias (of unit vectors with normalize); u = (cap·tanh((z − m·onehot(y))/cap) + logit_bias)/τ; \
              loss = row_weight·((1−p_y)^γ·Σ_c w_c q_c (lse(u) − u_c) + λ·lse(u)²)",
    pytorch: "torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight, bias), …)",
    inputs: &[
        arg::HIDDEN,
        arg::WEIGHT,
        arg::BIAS,
        arg::SEVERAL_TARGETS,
        arg::TARGET_WEIGHT,
        arg::TARGET_PROBS,
        Argument::optional("class_weight", Kind::Float, arg::CLASS_WEIGHT_SHAPES, "class weights")
            .within(Domain::Positive),
        Argument::optional("logit_bias", Kind::Float, CLASSES, "added to the capped logits"),
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
        arg::HIDDEN_GRADIENT,
        arg::WEIGHT_GRADIENT,
        arg::BIAS_GRADIENT,
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
    options: &OPTIONS,
};

const OPTIONS: [OptionAbout; OPTIONS_OF_LAYER.len() + cross_entropy::OPTIONS.len()] =
    options_of_layer(cross_entropy::OPTIONS);
