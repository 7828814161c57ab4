//! Every operation by name: the losses, and the operations that make their targets and weights.

pub use crate::skeleton::operation::{Entry, Options};
use crate::{losses, targets};

/// All operations, the losses first.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    losses::registry::REGISTRY.iter().chain(targets::REGISTRY)
}

/// The operation of this name.
///
/// ```
/// assert!(surprisal::operations::find("cross_entropy").is_some());
/// assert!(surprisal::operations::find("cross_entropie").is_none());
/// ```
pub fn find(name: &str) -> Option<&'static Entry> {
    all().find(|entry| entry.about.name == name)
}
