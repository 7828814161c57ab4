//! Rows whose columns go by in blocks: what waits in between, and how they are closed.

use std::ops::Range;

use super::{Rows, stream::functor_streams};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS},
    spec::shard::STATE_WORDS,
};

/// States that wait in memory while blocks of columns go by: one a row, then one a lane of each row.
pub(crate) struct Waiting {
    states: View,
    /// Where those of the lanes begin.
    lanes: u64,
}

impl Rows<'_> {
    /// Columns of a block are a multiple of this: a tile of all lanes of a row.
    pub fn block_unit(&self) -> u64 {
        16 * u64::from(self.lanes().1)
    }

    /// The most columns of a block: see `MOST_ITERATIONS`.
    pub fn block_most(&self) -> u64 {
        MOST_ITERATIONS / 5 * self.block_unit()
    }

    /// Bytes of the states that wait between blocks, a row.
    pub fn waiting_bytes(&self) -> u64 {
        (1 + u64::from(self.lanes().1)) * STATE_WORDS * 4
    }

    /// The states of rows whose columns go by in blocks.
    pub fn waiting(&mut self, rows: &Range<u64>) -> Waiting {
        let count = rows.end - rows.start;
        let words = count * (1 + u64::from(self.lanes().1)) * STATE_WORDS;
        Waiting { states: self.shared("states", Layout::vector(Dtype::U32, words)), lanes: count }
    }

    /// Whether a stream compares every score with one that may not have gone by yet.
    pub fn looks_ahead(&self) -> bool {
        self.call.wants("rank")
    }

    /// Keeps the scores that a loss looks at out of turn, as far as a block of columns holds them.
    pub fn beside(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("beside", shader!("row/beside.wgsl"), index, rows)
            .shape("APART", true)
            .number("first_column", columns.start)
            .number("end_column", columns.end)
            .words("statistics", None);
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// The first stream of a block of columns, which are all that `scores` holds.
    pub fn block(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
        waiting: &Waiting,
    ) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("block", shader!("row/block.wgsl"), index, rows)
            .shape("APART", true)
            .number("first_column", columns.start)
            .number("end_column", columns.end)
            .number("lane_states", waiting.lanes)
            .words("statistics", None)
            .table("states", &waiting.states, "State");
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Closes rows whose columns have all gone by in blocks.
    pub fn close_blocks(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        waiting: &Waiting,
    ) -> Result<()> {
        self.merge(index, rows, None, Some((&waiting.states, 1)))
    }
}
