//! The order of a window's rows: those that count first, then the ignored ones. The stretches of a loss on the scores of
//! a layer then consist of slots in this order, so that its products leave out the ignored rows.

use std::ops::Range;

use super::{ENTRY_WORDS, HEADER_WORDS, Rows};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS},
    skeleton::row::{Broadcast, Target},
};

/// Words in front of the slots; the first of them is the number of rows that count.
const COUNT_WORDS: u64 = 4;

impl Rows<'_> {
    /// Puts the rows of each window in order, if some may be ignored and no tensor of the call has columns for each
    /// row. The streams in `chunks` consist of slots themselves.
    pub fn put_in_order(&mut self, chunks: &[&str], windows: &[Range<u64>]) {
        let call = self.call;
        let has_rows = self.program.streams.iter().any(|stream| {
            let shared = matches!(stream.broadcast, Broadcast::Columns | Broadcast::One);
            let is_there = self.input(stream.argument).is_some() || call.wants(stream.argument);
            is_there && !shared && !chunks.contains(&stream.argument)
        });
        let ignores =
            matches!(&self.program.target, Target::Index { ignored } if !ignored.is_empty());
        let shards = call.has("statistics") || call.wants("statistics");
        // One workgroup puts a window in order.
        let most = MOST_ITERATIONS / 2 * u64::from(self.profile().tally_lanes());
        let short = windows.iter().all(|window| window.end - window.start <= most);
        self.orders =
            ignores && call.has("targets") && short && !has_rows && !shards && !self.has_tree();
    }

    /// Whether the rows of a stretch are slots.
    pub fn are_ordered(&self) -> bool {
        self.orders
    }

    /// Words of the row table for the order of this many rows.
    pub(super) fn order_words(&self, rows: u64) -> u64 {
        if self.orders { COUNT_WORDS + rows.next_multiple_of(ENTRY_WORDS) } else { 0 }
    }

    /// The place of the first slots in the row table of a window, in entries; 0 where rows are not in order.
    pub(super) fn order_place(&self, index: usize) -> u64 {
        let rows = self.windows.get(index).map_or(0, |window| window.rows.end - window.rows.start);
        let words = HEADER_WORDS + rows * ENTRY_WORDS + COUNT_WORDS;
        if self.orders { words / ENTRY_WORDS } else { 0 }
    }

    /// The order of a window: the number of rows that count, and the row of each slot.
    pub fn order_of(&self, index: usize) -> Option<View> {
        let window = self.windows.get(index).filter(|_| self.orders)?;
        let mut order = window.table.clone();
        let skipped = self.order_place(index) * ENTRY_WORDS - COUNT_WORDS;
        let words = order.layout.len() - skipped;
        let offset = order.layout.offset + skipped;
        order.layout = Layout { offset, ..Layout::vector(Dtype::U32, words) };
        Some(order)
    }

    /// The rows of a window.
    pub fn window(&self, index: usize) -> Range<u64> {
        self.windows.get(index).map_or(0..0, |window| window.rows.clone())
    }

    /// Puts the rows of a window in order.
    pub(super) fn order(&mut self, index: usize) -> Result<()> {
        if !self.orders {
            return Ok(());
        }
        let (rows, order) = (self.window(index), self.order_place(index));
        let table = self.windows[index].table.clone();
        self.around("order", &[shader!("record.wgsl"), shader!("row/order.wgsl")])
            .uniform("rows", rows.end - rows.start)
            .uniform("order", order)
            .table("row_table", &table, "u32")
            .groups(1)
    }
}
