//! Rows whose columns are streamed in blocks: the states that stay in memory between blocks, and how the rows are
//! closed.

use std::ops::Range;

use super::{Rows, stream::functor_streams};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS},
    skeleton::row::LabelScore,
};

/// The states that stay in memory between blocks of columns: first one a row, then one for each lane of each row.
pub(crate) struct Waiting {
    states: View,
    /// The index of the first state of a lane.
    lanes: u64,
}

impl Rows<'_> {
    /// The columns of a block are a multiple of this: one tile for all lanes of a row.
    pub fn block_unit(&self) -> u64 {
        16 * u64::from(self.lanes().1)
    }

    /// The most columns of a block; see `MOST_ITERATIONS`.
    pub fn block_most(&self) -> u64 {
        MOST_ITERATIONS / 5 / (1 + 4 * self.quad_iterations()) * self.block_unit()
    }

    /// Bytes of the states of one row between blocks.
    pub fn waiting_bytes(&self) -> u64 {
        (1 + u64::from(self.lanes().1)) * self.state_words() * 4
    }

    /// The states of rows whose columns are streamed in blocks.
    pub fn waiting(&mut self, rows: &Range<u64>) -> Waiting {
        let count = rows.end - rows.start;
        let words = count * (1 + u64::from(self.lanes().1)) * self.state_words();
        Waiting { states: self.shared("states", Layout::vector(Dtype::U32, words)), lanes: count }
    }

    /// When the loss reads the score of a row's label.
    pub fn label_score(&self) -> LabelScore {
        self.program.label_score
    }

    /// Keeps the scores of labels and of the columns beside them, where this block of columns holds them.
    pub fn label_scores(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("label_scores", shader!("row/label_scores.wgsl"), index, rows)
            .overriding("IN_BLOCKS", true)
            .uniform("first_column", columns.start)
            .uniform("end_column", columns.end)
            .words("statistics", None);
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// The reducing stream over a block of columns; `scores` holds only this block.
    pub fn block(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
        waiting: &Waiting,
        round: u32,
    ) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("block", shader!("row/block.wgsl"), index, rows)
            .overriding("IN_BLOCKS", true)
            .uniform("first_column", columns.start)
            .uniform("end_column", columns.end)
            .uniform("lane_states", waiting.lanes)
            .uniform("round", round)
            .words("statistics", None)
            .table("states", &waiting.states, "State");
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Ends a round of rows after the last of their blocks.
    pub fn end_blocks(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        waiting: &Waiting,
        round: u32,
    ) -> Result<()> {
        self.merge(index, rows, None, (&waiting.states, 1), round)
    }
}
