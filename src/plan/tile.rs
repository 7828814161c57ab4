//! The shapes of score tiles: the part of a product that a lane and a workgroup compute, and who loads its operands.

use std::fmt;

use crate::plan::{
    cooperative::Matrices,
    kernel::{Source, shader},
    limits::{MOST_ITERATIONS, previous_power_of_two},
};

/// Rows of a lane in products that are too small for a large tile.
const SHORT_ROWS: u32 = 8;
/// Rows of a lane where the largest tile would be half empty. Without this shape, small batches would need fewer kernels.
/// But a linear cross-entropy of 9 to 24 rows would then take 1.7 to 2.3 times as long on lavapipe in short tiles, and in
/// the largest tile as long as one of 32 rows, which is 1.4 to 1.6 times as long.
const MIDDLE_ROWS: u32 = 24;
/// Columns of one band of a lane.
const BAND_COLUMNS: u32 = 4;
/// Steps of a sum that a workgroup copies to its memory at once, and their bytes for one row (or column) of its tile.
const DEEP: u64 = 16;
const BROUGHT_BYTES: u32 = 64;

/// Who loads the operands of a score tile. This changes the speed, but no bit of a result.
///
/// Physical GPUs get [`TileLoads::Workgroup`], which the literature recommends for their caches and registers. It was
/// compared with the others, bit by bit, on three software drivers; it was not timed on a physical GPU yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TileLoads {
    /// Each lane loads what it needs.
    Lane,
    /// Four lanes of a subgroup load for each other; needs `SUBGROUP`, subgroups of four or more, and all lanes side
    /// by side.
    Four,
    /// Eight lanes of a subgroup load for each other; needs `SUBGROUP`, subgroups of eight or more, and all lanes side
    /// by side.
    Eight,
    /// The workgroup loads tiles of both operands into its memory.
    Workgroup,
}

impl fmt::Display for TileLoads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lane => "each lane for itself",
            Self::Four => "four lanes of a subgroup for each other",
            Self::Eight => "eight lanes of a subgroup for each other",
            Self::Workgroup => "the workgroup into its memory",
        })
    }
}

/// The shape of score tiles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Tile {
    /// Who loads the operands.
    pub loads: TileLoads,
    /// Lanes of a workgroup, a power of two.
    pub lanes: u32,
    /// Lanes of a workgroup that lie side by side, a power of two; the other lanes lie below them.
    pub across: u32,
    /// Rows that one lane computes: 8, 24 or 48.
    pub rows: u32,
    /// Bands of four columns that one lane computes: 1, 2 or 4.
    pub bands: u32,
    /// Whether f32 operands and sums are loaded and stored as 64-bit words; needs `SHADER_INT64`, and was tried on
    /// Vulkan. Drivers that execute a load lane by lane and word by word then need half as many.
    pub wide: bool,
}

impl Default for Tile {
    fn default() -> Self {
        Self { loads: TileLoads::Workgroup, lanes: 128, across: 16, rows: 8, bands: 2, wide: false }
    }
}

impl Tile {
    /// The reason why the shape is invalid, if it is.
    pub fn invalid(&self) -> Option<&'static str> {
        let powers = self.lanes.is_power_of_two() && self.across.is_power_of_two();
        if !powers || self.across > self.lanes {
            return Some("lanes and across are powers of two, across at most lanes");
        }
        if ![8, 24, 48].contains(&self.rows) {
            return Some("rows is 8, 24 or 48");
        }
        let together = match self.loads {
            TileLoads::Four => 4,
            TileLoads::Eight => 8,
            TileLoads::Lane | TileLoads::Workgroup => 0,
        };
        if together > 0 && (self.across < self.lanes || self.lanes < together) {
            return Some("lanes that load for each other are side by side, and as many");
        }
        (![1, 2, 4].contains(&self.bands)).then_some("bands is 1, 2 or 4")
    }

    /// The rows of a workgroup's tile.
    pub(crate) fn height(&self) -> u64 {
        u64::from(self.lanes / self.across) * u64::from(self.rows)
    }

    /// The columns of a workgroup's tile.
    pub(crate) fn width(&self) -> u64 {
        u64::from(self.across) * u64::from(self.bands * BAND_COLUMNS)
    }

    /// Loop iterations of a lane for [`DEEP`] steps of a sum: one for four steps, and one for each block of four by
    /// four that the lane copies to the workgroup's memory.
    fn iterations(&self) -> u64 {
        let [lanes, across, rows, bands] =
            [self.lanes, self.across, self.rows, self.bands].map(u64::from);
        let brought = match self.loads {
            TileLoads::Workgroup => rows.div_ceil(across) + (across * bands * 4).div_ceil(lanes),
            TileLoads::Lane | TileLoads::Four | TileLoads::Eight => 0,
        };
        DEEP / 4 + brought
    }

    /// The most steps of a sum in one dispatch, for this tile and those [fitted](Self::fitted) from it: see
    /// [`MOST_ITERATIONS`].
    pub(crate) fn most_steps(&self) -> u64 {
        (MOST_ITERATIONS / self.iterations() * DEEP).min(MOST_ITERATIONS)
    }

    /// The same shape within the limits of a device, or the nearest valid shape where it is [invalid](Self::invalid).
    pub(crate) fn within(&self, workgroup_size: u32, workgroup_bytes: u32) -> Self {
        let lanes = previous_power_of_two(self.lanes.min(workgroup_size));
        let across = previous_power_of_two(self.across.min(lanes));
        let rows = [48, MIDDLE_ROWS].into_iter().find(|&rows| rows <= self.rows);
        let rows = rows.unwrap_or(SHORT_ROWS);
        let bands = previous_power_of_two(self.bands.min(4));
        let tile = Self { lanes, across, rows, bands, ..self.clone() };
        let alone = Self { loads: TileLoads::Lane, across: lanes, ..tile.clone() };
        let brought = (tile.height() + tile.width()) * u64::from(BROUGHT_BYTES);
        match tile.loads {
            TileLoads::Workgroup if brought <= u64::from(workgroup_bytes) => tile,
            // Lanes that load for each other must have the same rows.
            TileLoads::Four if lanes >= 4 => Self { across: lanes, ..tile },
            TileLoads::Eight if lanes >= 8 => Self { across: lanes, ..tile },
            TileLoads::Lane => tile,
            TileLoads::Four | TileLoads::Eight | TileLoads::Workgroup => alone,
        }
    }

    /// The shape for a product of this many outputs; `large` says whether the product is worth a large tile.
    pub(crate) fn fitted(&self, rows: u64, columns: u64, large: bool) -> Self {
        if !large || rows <= u64::from(SHORT_ROWS) {
            let flat = self.loads == TileLoads::Workgroup;
            let loads = if flat { TileLoads::Lane } else { self.loads };
            let across = if flat { self.lanes } else { self.across };
            return Self { loads, across, rows: SHORT_ROWS, bands: 1, ..self.clone() };
        }
        let most = if rows <= u64::from(MIDDLE_ROWS) { MIDDLE_ROWS } else { self.rows };
        let quads = columns.div_ceil(u64::from(self.across) * u64::from(BAND_COLUMNS));
        let bands = quads.min(u64::from(self.bands)) as u32;
        Self { rows: self.rows.min(most), bands: previous_power_of_two(bands), ..self.clone() }
    }

    /// The kernel of this shape; `octets` says that the rows of sums consist of groups of eight elements.
    pub(crate) fn kernel(&self, octets: bool) -> TileKernel {
        let (loads, sharing) = match self.loads {
            TileLoads::Lane => (shader!("linear/lane.wgsl"), None),
            TileLoads::Four => (shader!("linear/subgroup.wgsl"), Some(4)),
            TileLoads::Eight => (shader!("linear/subgroup.wgsl"), Some(8)),
            TileLoads::Workgroup => (shader!("linear/workgroup.wgsl"), None),
        };
        let quads = if self.wide { 4 } else { 0 };
        let (sums, wide_sums) = if self.wide && octets && self.bands > 1 {
            (shader!("linear/octets.wgsl"), 2 * quads)
        } else {
            (shader!("linear/quads.wgsl"), quads)
        };
        let overrides = [
            ("WORKGROUP", self.lanes),
            ("ACROSS", self.across),
            ("EIGHTS", self.rows / 8),
            ("BANDS", self.bands),
        ];
        TileKernel {
            entry: "product",
            sources: vec![shader!("record.wgsl"), shader!("linear.wgsl"), sums, loads],
            overrides: overrides
                .into_iter()
                .chain(sharing.map(|lanes| ("SHARING", lanes)))
                .collect(),
            height: self.height(),
            width: self.width(),
            wide_operands: quads,
            wide_sums,
        }
    }
}

/// The kernel that multiplies a tile, and the size of the tile.
pub(crate) struct TileKernel {
    pub entry: &'static str,
    pub sources: Vec<Source>,
    pub overrides: Vec<(&'static str, u32)>,
    pub height: u64,
    pub width: u64,
    /// f32 elements a load as 64-bit words, for the operands and for the sums; 0 for 32-bit words.
    pub wide_operands: u32,
    pub wide_sums: u32,
}

impl TileKernel {
    /// The kernel on cooperative matrices: a tile of two by two matrices.
    pub fn cooperative(matrices: Matrices) -> Self {
        let files = [
            shader!("record.wgsl"),
            shader!("linear.wgsl"),
            shader!("linear/quads.wgsl"),
            shader!("linear/lane.wgsl"),
            shader!("linear/cooperative.wgsl"),
        ];
        let side = matrices.side.extent();
        Self {
            entry: "product_cooperative",
            sources: files.into_iter().chain(matrices.sources()).collect(),
            overrides: vec![("WORKGROUP", matrices.lanes), ("SIDE", side)],
            height: u64::from(2 * side),
            width: u64::from(2 * side),
            wide_operands: 0,
            wide_sums: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DEEP, MOST_ITERATIONS, Tile, TileLoads};

    #[test]
    fn shapes_keep_to_the_device() {
        let tile = Tile::default();
        assert_eq!(tile.invalid(), None);
        assert_eq!(tile.within(256, 16 << 10), tile);
        // The memory is too small for tiles of both operands, or the workgroup has too few lanes.
        assert_eq!(tile.within(256, 8 << 10).loads, TileLoads::Lane);
        assert_eq!(
            (tile.within(64, 16 << 10).height(), tile.within(64, 16 << 10).width()),
            (32, 128)
        );
    }

    /// No loop of a legal tile, or of a tile that is fitted from it, exceeds the limit of iterations.
    #[test]
    fn no_shape_iterates_too_often() {
        let loads = [TileLoads::Lane, TileLoads::Four, TileLoads::Eight, TileLoads::Workgroup];
        let mut least = MOST_ITERATIONS;
        for (lanes, across) in (0..9).flat_map(|l| (0..=l).map(move |a| (1 << l, 1 << a))) {
            for (rows, bands) in [8, 24, 48].into_iter().flat_map(|r| [1, 2, 4].map(|b| (r, b))) {
                for tile in
                    loads.map(|loads| Tile { loads, lanes, across, rows, bands, wide: false })
                {
                    let tile = tile.within(256, 64 << 10);
                    let steps = tile.most_steps();
                    least = least.min(steps);
                    assert!(steps >= 64 && steps.is_multiple_of(DEEP), "{tile:?}: {steps}");
                    for (rows, columns) in [(1, 1), (9, 5), (24, 500), (500, 40), (500, 5000)] {
                        let fitted = tile.fitted(rows, columns, true);
                        let iterations = steps.div_ceil(DEEP) * fitted.iterations();
                        assert!(
                            iterations <= MOST_ITERATIONS,
                            "{tile:?}, {fitted:?}: {iterations}"
                        );
                    }
                }
            }
        }
        // The extreme case is one lane that copies a whole tile: 64 blocks for every 16 steps.
        assert_eq!(least, MOST_ITERATIONS / (4 + 64) * DEEP);
    }

    #[test]
    fn what_is_no_shape_becomes_one() {
        for (lanes, across, rows, bands) in
            [(0, 0, 0, 0), (7, 9, 25, 3), (64, 128, 1000, 1000), (u32::MAX, u32::MAX, 16, 9)]
        {
            for loads in [TileLoads::Lane, TileLoads::Four, TileLoads::Eight, TileLoads::Workgroup]
            {
                let tile = Tile { loads, lanes, across, rows, bands, wide: false };
                assert!(tile.invalid().is_some(), "{tile:?}");
                assert_eq!(tile.within(256, 16 << 10).invalid(), None, "{tile:?}");
            }
        }
        let apart =
            Tile { loads: TileLoads::Eight, lanes: 16, across: 8, rows: 24, bands: 1, wide: false };
        assert!(apart.invalid().is_some());
        assert_eq!(apart.within(256, 16 << 10).across, 16);
        let few = Tile { lanes: 4, ..apart };
        assert_eq!(few.within(256, 16 << 10).loads, TileLoads::Lane);
    }

    #[test]
    fn small_products_get_small_tiles() {
        let tile =
            Tile { loads: TileLoads::Eight, lanes: 8, across: 8, rows: 48, bands: 4, wide: true };
        let [small, thin, middle, full] =
            [(100, 100, false), (8, 100, true), (20, 40, true), (48, 500, true)]
                .map(|(rows, columns, large)| tile.fitted(rows, columns, large));
        assert_eq!([small.height(), small.width()], [8, 32]);
        assert_eq!([thin.height(), thin.width()], [8, 32]);
        assert_eq!([middle.height(), middle.width()], [24, 64]);
        assert_eq!(full, tile);
        assert_eq!(Tile::default().fitted(5, 5, true).loads, TileLoads::Lane);
    }
}
