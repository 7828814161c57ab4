//! The losses, one file or folder each, and their registry.

use crate::skeleton::operation::operations;

pub(crate) mod elementwise;
pub(crate) mod separable;

pub use elementwise::{ElementFunction, Elementwise, ElementwiseInputs, ElementwiseOutputs};
pub use separable::{Separable, SeparableInputs, SeparableOutputs, SeparableRow};

operations! {
    /// The registry of the losses.
    cross_entropy::CrossEntropy,
    linear_cross_entropy::LinearCrossEntropy,
    hierarchical_cross_entropy::HierarchicalCrossEntropy,
    sampled_softmax::SampledSoftmax,
    linear_sampled_softmax::LinearSampledSoftmax,
    nll::Nll,
    brier::Brier,
    ce_mse_mix::CeMseMix,
    generalized_cross_entropy::GeneralizedCrossEntropy,
    kl_div::KlDiv,
    entropy::Entropy,
    free_energy::FreeEnergy,
    distillation::Distillation,
    linear_distillation::LinearDistillation,
    multiclass_hinge::MulticlassHinge,
    topk_hinge::TopkHinge,
    gumbel_softmax::GumbelSoftmax,
    hessian_vector_product::HessianVectorProduct,
    bce_with_logits::BceWithLogits,
    binary_hinge::BinaryHinge,
    mse::Mse,
    huber::Huber,
    gaussian_nll::GaussianNll,
    poisson_nll::PoissonNll,
    hurdle_poisson::HurdlePoisson,
    dice::Dice,
    gan_discriminator::GanDiscriminator,
    gan_generator::GanGenerator,
    mixed_columns::MixedColumns,
    info_nce::InfoNce,
    sup_con::SupCon,
    sigmoid_contrastive::SigmoidContrastive,
    similarity::Similarity,
}
