//! Targets and weights that are made on the host, and the registry of the operations that make
//! them.

use crate::{
    data::error::{Error, Result},
    skeleton::operation::operations,
};

operations! {
    /// The operations that make targets and weights.
    class_weights::ClassWeights,
    draw_samples::DrawSamples,
}

pub use registry::REGISTRY;

/// Flips a share of the labels, each label independently: y becomes 1 − y (noisy labels).
///
/// The same seed flips the same labels on every machine. A share outside [0, 1] is
/// [`Error::InvalidOption`].
///
/// ```
/// let labels = surprisal::targets::flipped(&[1.0; 1000], 0.05, 7)?;
/// let flipped = labels.iter().filter(|&&y| y == 0.0).count();
/// assert!((30..70).contains(&flipped));
/// # Ok::<(), surprisal::Error>(())
/// ```
pub fn flipped(labels: &[f64], share: f64, seed: u64) -> Result<Vec<f64>> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::option("targets", "share", share, "a share lies in [0, 1]"));
    }
    let numbered = labels.iter().zip(0u64..);
    let flip = |(&y, nth): (&f64, u64)| if uniform(seed, nth) < share { 1.0 - y } else { y };
    Ok(numbered.map(flip).collect())
}

/// Number `nth` of a seed's sequence, uniform over [0, 1): SplitMix64 (Steele et al. 2014).
fn uniform(seed: u64, nth: u64) -> f64 {
    let mut bits = seed.wrapping_add((nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
