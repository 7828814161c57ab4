//! What a plan needs to know of a device: its limits, and the kernel shapes that suit it.

use crate::plan::{
    cooperative::Cooperative,
    limits::previous_power_of_two,
    tile::{Tile, TileLoads},
};

/// A device as the planner sees it, without wgpu. The default has the default limits of WebGPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Profile {
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Largest buffer in bytes.
    pub buffer_bytes: u64,
    /// Storage buffers a stage.
    pub storage_buffers: u32,
    /// The offset of a storage binding must be a multiple of this.
    pub offset_alignment: u64,
    /// Invocations a workgroup.
    pub workgroup_size: u32,
    /// Workgroups a dimension.
    pub workgroups: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Lanes of a workgroup in row kernels; a power of two.
    pub row_lanes: u32,
    /// Kernels have code for tiles (four quads at once) if each lane has more than this many columns, of a row or of a
    /// whole tensor of elements. This code is most of a kernel, and most of the time to compile it.
    pub row_tiles_from: u32,
    /// Columns of a segment: the part of a row that one of several workgroups takes.
    pub segment: u32,
    /// The number of workgroups that keep the device busy. With fewer rows, several workgroups share a row.
    pub busy_workgroups: u32,
    /// Elements that a workgroup of an element kernel takes and sums; a multiple of four.
    pub element_block: u32,
    /// The shape of score tiles.
    pub tile: Tile,
    /// Products with at least this many multiply-adds use large tiles, which drivers compile for seconds.
    pub large_products: u64,
    /// Which large products use cooperative matrices; none, unless a caller asked for them.
    pub cooperative: Cooperative,
    /// The most elements that one dispatch of a row kernel may stream, which keeps the dispatch short.
    pub dispatch_elements: u64,
    /// The most multiply-adds of one dispatch of score tiles.
    pub dispatch_products: u64,
    /// The most dispatches of one submission (see [`crate::Plan::submissions`]).
    pub submission_dispatches: u32,
    /// The most bytes of a chunk of scores where the caller sets no budget.
    pub chunk_bytes: u64,
    /// The most bytes of a block of classes in that case. A small block costs nothing and should stay in a cache.
    pub block_bytes: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            binding_bytes: 128 << 20,
            buffer_bytes: 256 << 20,
            storage_buffers: 8,
            offset_alignment: 256,
            workgroup_size: 256,
            workgroups: 65_535,
            workgroup_bytes: 16 << 10,
            row_lanes: 256,
            row_tiles_from: 16,
            segment: 16_384,
            busy_workgroups: 256,
            element_block: 4096,
            tile: Tile::default(),
            large_products: 1 << 26,
            cooperative: Cooperative::default(),
            dispatch_elements: 1 << 28,
            dispatch_products: 1 << 36,
            submission_dispatches: u32::MAX,
            chunk_bytes: 64 << 20,
            block_bytes: 32 << 20,
        }
    }
}

/// A mergeable state of at most this many words never reduces the lanes of a workgroup.
const SMALL_STATE: u32 = 8;
/// The bytes of a tally.
const TALLY_BYTES: u32 = 52;

impl Profile {
    /// Sets the shapes that suit a software adapter with subgroups of `lanes`: workgroups of one or two subgroups,
    /// because barriers are expensive there, and short dispatches.
    #[must_use]
    pub fn software(mut self, lanes: u32) -> Self {
        self.row_lanes = lanes;
        // Tiles begin to pay at about 1000 columns for 8 lanes, and later for 32 lanes.
        self.row_tiles_from = 128;
        self.segment = 32_768;
        self.busy_workgroups = 4;
        self.element_block = 16_384;
        self.tile =
            Tile { loads: TileLoads::Lane, lanes: 8, across: 8, rows: 24, bands: 4, wide: false };
        // About 100 ms at 0.4 G elements and 6 G products a second.
        self.dispatch_elements = 1 << 25;
        self.dispatch_products = 1 << 29;
        self.chunk_bytes = 25 << 20;
        self.block_bytes = 8 << 20;
        self
    }

    /// Sets score tiles for a software adapter whose subgroups have at least this many lanes. A load costs more than
    /// its arithmetic there, so one lane loads for several.
    pub(crate) fn sharing(mut self, lanes: u32) -> Self {
        let tile = &mut self.tile;
        match lanes {
            0..4 => {}
            4..8 => tile.loads = TileLoads::Four,
            8.. => (tile.loads, tile.rows, tile.bands) = (TileLoads::Eight, 48, 4),
        }
        self
    }

    /// The shape of score tiles within the limits of the device.
    pub(crate) fn tile(&self) -> Tile {
        self.tile.within(self.workgroup_size, self.workgroup_bytes)
    }

    /// The lanes of a workgroup for tallies: as many as fit.
    pub(crate) fn tally_lanes(&self) -> u32 {
        let most = self.workgroup_size.min(self.workgroup_bytes / TALLY_BYTES).min(64);
        let lanes = if self.row_lanes < 64 { self.row_lanes } else { most };
        previous_power_of_two(lanes.min(most))
    }

    /// Lanes of a workgroup in element kernels, within the limits.
    pub(crate) fn element_lanes(&self) -> u32 {
        let most = self.workgroup_size.min(self.workgroup_bytes / TALLY_BYTES);
        previous_power_of_two(self.row_lanes.min(most).max(1))
    }

    /// Lanes of a workgroup in row kernels with a mergeable state of this many words, within the limits.
    pub(crate) fn lanes(&self, state_words: u32) -> u32 {
        let bytes = 4 * state_words.max(SMALL_STATE);
        let most = self.workgroup_size.min(self.workgroup_bytes / bytes);
        previous_power_of_two(self.row_lanes.min(most).max(1))
    }

    /// Whether kernels have code for tiles, if `lanes` lanes share the quads of `columns` columns.
    pub(crate) fn has_tiles(&self, columns: u64, lanes: u32) -> bool {
        // The code would never run if not even the first lane has a whole tile.
        let least = 3 * 4 * u64::from(lanes) + 4;
        columns >= least && columns > u64::from(self.row_tiles_from) * u64::from(lanes)
    }
}
