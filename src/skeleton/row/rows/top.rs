//! The largest columns of each row, found before a row is closed.

use std::{ops::Range, slice};

use super::{Rows, stream::functor_streams};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader, limits::MOST_ITERATIONS, stretches::stretches},
    skeleton::row::{Broadcast, RowStream, StreamElement},
};

/// Their scores and columns, `top` words a row, as the functor reads them.
static STREAMS: [RowStream; 2] = [
    RowStream::read("top_scores", Broadcast::Elements).of(StreamElement::Words),
    RowStream::read("top_indices", Broadcast::Elements).of(StreamElement::Words),
];

impl Rows<'_> {
    /// The streams that the largest columns are read by, where the loss asks for any.
    pub(super) fn top_streams(&self) -> slice::Iter<'static, RowStream> {
        if self.program.top > 0 { STREAMS.iter() } else { [].iter() }
    }

    /// Makes room for the largest columns of all rows.
    pub(super) fn top_tables(&mut self) {
        for stream in self.top_streams() {
            let words = Layout::matrix(Dtype::U32, self.count, self.program.top.into());
            let table = self.planner.scratch(words);
            self.give(stream.name, table);
        }
    }

    /// Whether a row's scores have to be in memory at once.
    pub fn needs_whole_rows(&self) -> bool {
        self.program.top > 0
    }

    /// Finds the largest columns of a stretch of rows, where the loss asks for any.
    pub(super) fn top(&mut self, index: usize, rows: &Range<u64>, scores: &View) -> Result<()> {
        let k = u64::from(self.program.top);
        if k == 0 { Ok(()) } else { self.largest(index, rows, scores, k, None) }
    }

    /// Finds the `k` largest columns of a stretch of rows, as many ranks a dispatch as its loops allow: into tensors of
    /// the caller's, or into the tables that the functor reads.
    pub fn largest(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: &View,
        k: u64,
        outputs: Option<&[View; 2]>,
    ) -> Result<()> {
        let lanes = u64::from(self.lanes().0);
        let walk = self.classes.div_ceil(4 * lanes) + 16;
        if walk > MOST_ITERATIONS {
            let (what, limit) =
                ("columns of a top k".to_owned(), (MOST_ITERATIONS - 16) * 4 * lanes);
            return Err(Error::Limit { what, found: self.classes, limit });
        }
        for ranks in stretches(k, MOST_ITERATIONS / walk) {
            let streams = self.streams(rows, false);
            let mut step = self
                .step("top", shader!("row/top.wgsl"), index, rows)
                .number("k", k)
                .number("first", ranks.start)
                .number("end", ranks.end)
                .words("statistics", None)
                .read("logits", Some(scores.clone()), 0.0)
                .write("gradient", None);
            if let Some([scores, indices]) = outputs {
                step = step
                    .words("top_scores", Some(scores.clone().rows(rows)))
                    .words("top_indices", Some(indices.clone().rows(rows)));
            }
            functor_streams(step, streams).groups(rows.end - rows.start)?;
        }
        Ok(())
    }
}
