//! Sampled softmax of a linear layer whose logits are never made (catalogue R16).

use super::{
    SampledSoftmax, sampled_softmax,
    sampled_softmax::{LOG_EXPECTED_COUNT, SAMPLES},
};
use crate::{
    skeleton::{
        linear::{Linear, OPTIONS_OF_LAYER, options_of_layer},
        request::request,
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout},
        arguments as arg,
        declare::tensors,
    },
};

/// [`SampledSoftmax`] of a linear layer: only the scores of the targets and of the samples are computed.
///
/// The scores are z = hidden·Wᵀ + bias, of the k sampled classes and of each row's target. The rows of W that the samples
/// name are gathered once; a step costs three products of rows·k·hidden multiply-adds, whatever the number of classes.
///
/// - **Shapes**: hidden `[rows, hidden]`, weight `[classes, hidden]` (or `[hidden, classes]`, with `weight_layout`), bias
///   `[classes]`; the rest as in [`SampledSoftmax`].
/// - **Units**: nats.
/// - **Types**: every float tensor in `f32`, `f16` or `bf16`; sums in f32; gradients are rounded to nearest even.
/// - **Gradient**, with G the gradient of the scores: ∂hidden = Σ_j G_j·W_j + G_y·W_y. That of W comes in two ways:
///   - sparse: `grad.sampled_weight` `[k, hidden]`, whose row j is Σ_rows G_j·hidden for sample j, and
///     `grad.target_weight` `[rows, hidden]`, whose row i is G_y·hidden_i. Together they are the values of a sparse tensor
///     whose indices are (samples, targets). A class may occur several times, and its values add up. A row of a bad sample,
///     and of an ignored or bad target, is 0: leave its index out;
///   - dense: `grad.weight` in W's shape, and `grad.bias`. Each is filled with zeros, and every class that occurs is added
///     up by one lane in the order of the samples and then of the rows.
/// - **Memory** beside inputs and outputs: k·hidden floats for the gathered weight (and as many again for ∂W), rows·hidden
///   floats for ∂hidden, and k + 1 words for each row of a chunk of at most `chunk_bytes`.
/// - **Limits**: the dense gradients take at most 32,768 samples and rows together, since each looks for the others of its
///   class; hidden states have at most 32,768 numbers; W must fit one binding.
///   `accumulate` and `normalize` are refused.
/// - **Edges**: those of [`SampledSoftmax`]. The hidden state of an ignored row is not used. A bad sample reads no row of W.
/// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
///
/// Sources: Jean, Cho, Memisevic and Bengio 2015; Mikolov et al. 2013.
///
/// ```
/// use surprisal::{Array, Arrays, LinearSampledSoftmax, cpu};
/// let inputs = Arrays::from([
///     ("hidden".to_owned(), Array::float(&[1, 1], vec![2.0])),
///     ("weight".to_owned(), Array::float(&[3, 1], vec![1.0, 7.0, 1.0])),
///     ("targets".to_owned(), Array::int(&[1], vec![0])),
///     ("samples".to_owned(), Array::int(&[2], vec![2, 0])),
/// ]);
/// let wanted = ["loss", "grad.sampled_weight", "grad.target_weight"];
/// let outputs = cpu::run(&LinearSampledSoftmax::default(), &inputs, &wanted)?;
/// assert!((outputs["loss"].to_f64()[0] - 2.0_f64.ln()).abs() < 1e-12);
/// // The sample 0 is the target, and is left out.
/// assert_eq!(outputs["grad.sampled_weight"].to_f64(), [1.0, 0.0]);
/// assert_eq!(outputs["grad.target_weight"].to_f64(), [-1.0]);
/// # Ok::<(), surprisal::Error>(())
/// ```
pub type LinearSampledSoftmax = Linear<SampledSoftmax>;

tensors! {
    /// The inputs of [`LinearSampledSoftmax`].
    LinearSampledSoftmaxInputs {
        /// Hidden states `[rows, hidden]`.
        hidden = "hidden",
        /// The weight of the classifier, `[classes, hidden]` or `[hidden, classes]`.
        weight = "weight",
        /// The bias of the classifier `[classes]`.
        bias = "bias",
        /// Class indices `[rows]`.
        targets = "targets",
        /// Sampled classes `[k]`.
        samples = "samples",
        /// Subtracted from every score `[classes]`.
        log_expected_count = "log_expected_count",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`LinearSampledSoftmax`].
    LinearSampledSoftmaxOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the hidden states.
        hidden_gradient = "grad.hidden",
        /// The dense gradient of the weight, in the weight's layout.
        weight_gradient = "grad.weight",
        /// The values of the weight's sparse gradient at the samples `[k, hidden]`.
        sampled_weight_gradient = "grad.sampled_weight",
        /// The values of the weight's sparse gradient at the rows' targets `[rows, hidden]`.
        target_weight_gradient = "grad.target_weight",
        /// The gradient of the bias.
        bias_gradient = "grad.bias",
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

request!(LinearSampledSoftmax: LinearSampledSoftmaxInputs, LinearSampledSoftmaxOutputs);

const SAMPLED_GRADIENT: Argument = Argument::optional(
    "grad.sampled_weight",
    Kind::Float,
    &[&[Dim::Samples, Dim::Hidden]],
    "the values of W's sparse gradient at the samples",
);
const TARGET_GRADIENT: Argument = Argument::optional(
    "grad.target_weight",
    Kind::Float,
    &[&[Dim::Rows, Dim::Hidden]],
    "the values of W's sparse gradient at the rows' targets",
);

pub(super) static ABOUT: About = About {
    name: "linear_sampled_softmax",
    summary: "Sampled softmax of a linear layer whose other logits are never made.",
    formula: "z = hidden·Wᵀ + bias at the targets and samples; then sampled_softmax",
    pytorch: "none; index_select of W's rows, F.linear, then F.cross_entropy with hits masked",
    inputs: &[
        arg::HIDDEN,
        arg::WEIGHT,
        arg::BIAS,
        arg::LABELS,
        SAMPLES,
        LOG_EXPECTED_COUNT,
        arg::ROW_WEIGHT,
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::HIDDEN_GRADIENT,
        SAMPLED_GRADIENT,
        TARGET_GRADIENT,
        arg::WEIGHT_GRADIENT,
        arg::BIAS_GRADIENT,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &OPTIONS,
};

const OPTIONS: [OptionAbout; OPTIONS_OF_LAYER.len() + sampled_softmax::ABOUT.options.len()] =
    options_of_layer(sampled_softmax::ABOUT.options);
