//! Cooperative matrices: when products use them, and which. The public module of this name says what they are.

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

/// Which large products of score tiles use cooperative matrices; none by default.
///
/// [`crate::Gpu::with_cooperative_matrices`] sets this from what it finds. A device without the feature refuses
/// kernels that need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Cooperative {
    /// The f16 matrices for products of two tensors that are stored as f16.
    pub f16: Option<Side>,
    /// The f32 matrices for all other products.
    pub f32: Option<Side>,
    /// The lanes of a workgroup: one subgroup, or several subgroups that all compute the same.
    pub lanes: u32,
    /// Replace the hardware by plain WGSL, which is slow but needs no feature. For tests.
    pub emulated: bool,
}

/// The number of rows, columns and steps of a cooperative matrix.
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
    /// The side as a number.
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

/// The most steps of a sum in one dispatch.
const MOST_STEPS: u64 = 1 << 14;

/// The matrices that one product uses.
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

    /// Checks that a workgroup may have as many lanes as the matrices need.
    pub(crate) fn check(self, workgroup_size: u32) -> Result<()> {
        let wanted = self.f16.is_some() || self.f32.is_some();
        if !wanted || self.lanes <= workgroup_size {
            return Ok(());
        }
        Err(Error::Limit {
            what: "lanes of a workgroup on cooperative matrices".into(),
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
    /// Loop iterations of a lane before a sum, after it, and for as many steps of it as the side of a tile.
    ///
    /// Copies to and from workgroup memory run in loops, and the plain WGSL for tests multiplies in a loop.
    fn iterations(self) -> [u64; 3] {
        let (side, lanes) = (u64::from(self.side.extent()), u64::from(self.lanes));
        let copy = (side * side).div_ceil(lanes);
        let products = if self.emulated { 8 * copy } else { 0 };
        [2 * copy, 1 + 2 + copy + products, 2 * side]
    }

    /// The steps of a sum that one dispatch takes; see [`MOST_ITERATIONS`].
    pub fn most_steps(self) -> u64 {
        let [once, tile, steps] = self.iterations();
        (MOST_ITERATIONS.saturating_sub(once) / tile * steps).clamp(steps, MOST_STEPS)
    }

    /// The WGSL files that define the matrices and use them.
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
