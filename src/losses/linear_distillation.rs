//! Distillation between two linear layers whose logits are never stored (catalogue P7).

use super::{Distillation, distillation};
use crate::{
    skeleton::{
        linear::{Linear, OPTIONS_OF_LAYER, options_of_layer},
        request::request,
        row::Head,
    },
    spec::{
        about::{About, OptionAbout},
        arguments as arg,
        declare::tensors,
    },
};

/// Distillation of one language-model head by another, with the gradients of the student's head. Neither the student's
/// nor the teacher's logits are stored.
///
/// The student's logits are z = hidden·Wᵀ + bias, the teacher's t = teacher_hidden·Vᵀ + teacher_bias, and their loss is
/// [`Distillation`] with all its options: row_weight·(α·CE(z, y) + (1 − α)·T²·D(softmax(t/T), softmax(z/T))). Both heads
/// have the same classes; their hidden states may be of different lengths.
///
/// - **Shapes**: hidden `[rows, hidden]`, weight `[classes, hidden]`, bias `[classes]`; teacher_hidden `[rows, teacher
///   hidden]`, teacher_weight `[classes, teacher hidden]`, teacher_bias `[classes]`. With `weight_layout`
///   `"hidden_classes"` both weights are `[hidden, classes]`, read in place. The rest as in [`Distillation`].
/// - **Normalised**: with `normalize`, the vectors of both heads are divided by their norms, as in
///   [`crate::LinearCrossEntropy`].
/// - **Units**: nats, times T².
/// - **Types**: every float tensor in `f32`, `f16` or `bf16`; sums in f32; gradients are rounded to nearest even.
/// - **Memory** beside inputs and outputs: as [`crate::LinearCrossEntropy`], with two chunks of equal size, one for
///   each head, of at most `chunk_bytes` together. No scores are kept in ∂W.
/// - **Gradient**, only of the student (and the temperature): ∂hidden = G·W, ∂W = Gᵀ·hidden, ∂bias = Σ_rows G, where G
///   is the gradient of the student's logits.
/// - **By-products**: `teacher_entropy` and `agreement`, as in [`Distillation`].
/// - **Edges**: those of [`Distillation`]. The hidden states of an ignored row are not used, and
///   ignored rows take next to no time (not with `normalize`).
/// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
///
/// Sources: Hinton, Vinyals and Dean 2015; Liger-Kernel's fused linear distillation losses (Hsu et al. 2024).
///
/// ```
/// use surprisal::{Array, Arrays, Distillation, LinearDistillation, cpu};
/// let inputs = Arrays::from([
///     ("hidden".to_owned(), Array::float(&[1, 1], vec![0.0])),
///     ("weight".to_owned(), Array::float(&[2, 1], vec![1.0, 2.0])),
///     ("teacher_hidden".to_owned(), Array::float(&[1, 2], vec![1.0, 0.0])),
///     ("teacher_weight".to_owned(), Array::float(&[2, 2], vec![0.0, 5.0, 3.0_f64.ln(), 5.0])),
/// ]);
/// let loss = LinearDistillation::new(Distillation::default());
/// let outputs = cpu::run(&loss, &inputs, &["loss"])?;
/// // q = (1/4, 3/4), p = (1/2, 1/2)
/// let kl = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
/// assert!((outputs["loss"].to_f64()[0] - kl).abs() < 1e-12);
/// # Ok::<(), surprisal::Error>(())
/// ```
pub type LinearDistillation = Linear<Distillation>;

tensors! {
    /// The inputs of [`LinearDistillation`].
    LinearDistillationInputs {
        /// The student's hidden states `[rows, hidden]`.
        hidden = "hidden",
        /// The weight of the student's classifier, `[classes, hidden]` or `[hidden, classes]`.
        weight = "weight",
        /// The bias of the student's classifier `[classes]`.
        bias = "bias",
        /// The teacher's hidden states `[rows, teacher hidden]`.
        teacher_hidden = "teacher_hidden",
        /// The weight of the teacher's classifier, in the layout of the student's.
        teacher_weight = "teacher_weight",
        /// The bias of the teacher's classifier `[classes]`.
        teacher_bias = "teacher_bias",
        /// Class indices `[rows]`, for the hard term.
        targets = "targets",
        /// T `[1]` on the GPU; overrides the option.
        temperature = "temperature",
        /// Row weights `[rows]`.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`LinearDistillation`].
    LinearDistillationOutputs {
        /// The loss, `[1]` or `[rows]`.
        loss = "loss",
        /// The gradient of the student's hidden states.
        hidden_gradient = "grad.hidden",
        /// The gradient of the student's weight, in the weight's layout.
        weight_gradient = "grad.weight",
        /// The gradient of the student's bias.
        bias_gradient = "grad.bias",
        /// The gradient of the input `temperature`.
        temperature_gradient = "grad.temperature",
        /// The entropy of the teacher's softmax, one number a row.
        teacher_entropy = "teacher_entropy",
        /// The share of the rows kept in which student and teacher have their largest logit at the same class.
        agreement = "agreement",
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

request!(LinearDistillation: LinearDistillationInputs, LinearDistillationOutputs);

/// The teacher's head.
pub(super) const TEACHER: Head = Head {
    scores: "teacher_logits",
    hidden: "teacher_hidden",
    weight: "teacher_weight",
    bias: "teacher_bias",
};

pub(super) static ABOUT: About = About {
    name: "linear_distillation",
    summary: "Distillation between two linear layers whose logits are never stored.",
    formula: "z = hidden·Wᵀ + bias, t = teacher_hidden·Vᵀ + teacher_bias; q = softmax(t/T), p = softmax(z/T); \
              loss = row_weight·(α·CE(z, y) + (1 − α)·T²·D(q, p))",
    pytorch: "z = F.linear(hidden, W, bias); t = F.linear(teacher_hidden, V); \
              α * F.cross_entropy(z, y) + (1 - α) * T**2 * \
              F.kl_div(F.log_softmax(z / T, 1), F.softmax(t / T, 1), reduction=\"batchmean\")",
    inputs: &[
        arg::HIDDEN,
        arg::WEIGHT,
        arg::BIAS,
        arg::TEACHER_HIDDEN,
        arg::TEACHER_WEIGHT,
        arg::TEACHER_BIAS,
        arg::TARGETS,
        arg::TEMPERATURE_IN,
        arg::ROW_WEIGHT,
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::HIDDEN_GRADIENT,
        arg::WEIGHT_GRADIENT,
        arg::BIAS_GRADIENT,
        arg::TEMPERATURE_GRADIENT,
        arg::TEACHER_ENTROPY,
        arg::AGREEMENT,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &OPTIONS,
};

const OPTIONS: [OptionAbout; OPTIONS_OF_LAYER.len() + distillation::ABOUT.options.len()] =
    options_of_layer(distillation::ABOUT.options);
