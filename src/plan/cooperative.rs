//! Cooperative matrices: score tiles multiplied by the matrix units of a GPU.
//!
//! WebGPU has none; wgpu offers them as an experimental feature on Vulkan and Metal. They are never used
//! unless they are asked for ([`crate::Gpu::with_cooperative_matrices`]), and then only where a probe finds
//! them right and faster on the very device: what a driver says of them is not always so.
//!
//! Products of two tensors stored in f16 go through f16 matrices with f32 sums: a product of two f16
//! numbers is exact in f32. All others would lose something in f16 (gradients of scores are f32, bf16
//! reaches further): they take f32 matrices, in which every storage type is exact, where there are some
//! (Apple's), and else the plain tile.
//!
//! In which order the hardware adds, and how it rounds in between, it does not say. Results are within the
//! tolerance, and not the plain tile's bits; where chunks, blocks or windows of the sum are cut shows in
//! the last ones. The kernel is chosen by types, classes and depth, not by the number of rows.
//!
//! So far the f16 kernels have run on a software driver's matrices alone (lavapipe of Mesa 26.2), the f32
//! ones on none: naga validates them, and a stand-in in plain WGSL takes the matrices' place in tests.

use crate::{
    data::{
        error::{Error, Result},
        tensor::Dtype,
    },
    plan::{
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
    },
};

/// Which large products of score tiles go through cooperative matrices; none by default.
///
/// [`crate::Gpu::with_cooperative_matrices`] fills it in from what it finds; a device without the feature
/// refuses kernels that need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Cooperative {
    /// Matrices of f16 for products of two tensors that are stored so.
    pub f16: Option<Side>,
    /// Matrices of f32 for all others.
    pub f32: Option<Side>,
    /// Lanes of a workgroup: a subgroup, or several that all do the same.
    pub lanes: u32,
    /// Plain WGSL in place of the hardware, slow and for tests: needs no feature.
    pub emulated: bool,
}

/// Rows, columns and steps of a cooperative matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Side {
    /// 8 × 8
    Eight,
    /// 16 × 16
    Sixteen,
}

impl Side {
    /// The number.
    pub const fn extent(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{0}×{0}", self.extent())
    }
}

/// Steps of a sum that one dispatch takes at most.
const MOST_STEPS: u64 = 1 << 14;

/// The matrices of one product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrices {
    pub side: Side,
    pub lanes: u32,
    half: bool,
    emulated: bool,
}

impl Cooperative {
    /// The matrices for a product of operands of these types.
    pub(crate) fn matrices(self, a: Dtype, b: Dtype) -> Option<Matrices> {
        let Self { f16, f32, lanes, emulated } = self;
        let half = f16.is_some() && [a, b] == [Dtype::F16; 2];
        let side = if half { f16 } else { f32 }.filter(|_| lanes > 0)?;
        Some(Matrices { side, lanes, half, emulated })
    }

    /// Whether workgroups have as many lanes as the matrices want.
    pub(crate) fn check(self, workgroup_size: u32) -> Result<()> {
        let wanted = self.f16.is_some() || self.f32.is_some();
        if !wanted || self.lanes <= workgroup_size {
            return Ok(());
        }
        Err(Error::Limit {
            what: "lanes of a workgroup on cooperative matrices".to_owned(),
            found: self.lanes.into(),
            limit: workgroup_size.into(),
        })
    }
}

impl std::fmt::Display for Cooperative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [("f16", self.f16), ("f32", self.f32)];
        let chosen = kinds.iter().filter_map(|(name, side)| Some(format!("{name} {}", (*side)?)));
        match chosen.collect::<Vec<_>>() {
            kinds if kinds.is_empty() => f.write_str("none (used only where they are asked for)"),
            kinds => f.write_str(&kinds.join(", ")),
        }
    }
}

impl Matrices {
    /// Loop iterations of a lane: before and after a sum, and for so many steps of it, a tile's side.
    ///
    /// What is copied to workgroup memory and back is copied in loops, and the stand-in multiplies in one.
    fn iterations(self) -> [u64; 3] {
        let (side, lanes) = (u64::from(self.side.extent()), u64::from(self.lanes));
        let copy = (side * side).div_ceil(lanes);
        let products = if self.emulated { 8 * copy } else { 0 };
        [2 * copy, 1 + 2 + copy + products, 2 * side]
    }

    /// Steps of a sum that one dispatch takes: see [`MOST_ITERATIONS`].
    pub fn most_steps(self) -> u64 {
        let [once, tile, steps] = self.iterations();
        (MOST_ITERATIONS.saturating_sub(once) / tile * steps).clamp(steps, MOST_STEPS)
    }

    /// The files that say what the matrices are and what is done with them.
    pub fn sources(self) -> Vec<Source> {
        let types = match (self.half, self.side) {
            _ if self.emulated => return vec![shader!("linear/cooperative/emulated.wgsl")],
            (true, Side::Eight) => shader!("linear/cooperative/f16_8.wgsl"),
            (true, Side::Sixteen) => shader!("linear/cooperative/f16_16.wgsl"),
            (false, Side::Eight) => shader!("linear/cooperative/f32_8.wgsl"),
            (false, Side::Sixteen) => shader!("linear/cooperative/f32_16.wgsl"),
        };
        vec![types, shader!("linear/cooperative/hardware.wgsl")]
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_ITERATIONS, MOST_STEPS, Matrices, Side};

    #[test]
    fn no_matrices_iterate_too_often() {
        for (lanes, side) in (1..=1024).flat_map(|l| [Side::Eight, Side::Sixteen].map(|s| (l, s))) {
            for emulated in [false, true] {
                let matrices = Matrices { side, lanes, half: false, emulated };
                let steps = matrices.most_steps();
                let [once, tile, tile_steps] = matrices.iterations();
                let iterations = once + steps.div_ceil(tile_steps) * tile;
                assert!(iterations <= MOST_ITERATIONS, "{matrices:?}: {iterations}");
                assert!(steps.is_multiple_of(tile_steps) && steps >= 64, "{matrices:?}: {steps}");
            }
        }
        let subgroup = Matrices { side: Side::Sixteen, lanes: 8, half: true, emulated: false };
        assert_eq!(subgroup.most_steps(), MOST_STEPS);
    }
}
