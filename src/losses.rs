//! The losses, a file or a folder each, and the registry that knows them by name.

use crate::skeleton::operation::Entry;

pub mod elementwise;
pub mod separable;

pub use elementwise::{ElementFunction, Elementwise};
pub use separable::{Separable, SeparableRow};

/// One line a loss: its module, what it exports, and its entry in the registry.
///
/// `cargo fmt` does not look inside macros for modules: `rustfmt src/losses/*.rs` formats these files.
macro_rules! losses {
    ($($module:ident::$loss:ident),* $(,)?) => {
        $(pub mod $module;
        pub use $module::*;)*

        /// The losses there are, by name.
        pub static REGISTRY: &[Entry] = &[$(Entry {
            about: &$module::ABOUT,
            #[cfg(feature = "serde")]
            parse: |options| crate::skeleton::operation::parse::<$loss>($module::ABOUT.name, options),
            default: || Box::new($loss::default()),
        },)*];
    };
}

losses! {
    cross_entropy::CrossEntropy,
    linear_cross_entropy::LinearCrossEntropy,
    brier::Brier,
    distillation::Distillation,
    topk_hinge::TopkHinge,
    bce_with_logits::BceWithLogits,
    binary_hinge::BinaryHinge,
    mse::Mse,
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

/// The registered loss of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    REGISTRY.iter().find(|entry| entry.about.name == name)
}
