//! The column in some place of each row, found before the row is reduced.

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

/// What the functor reads of it: the key of its score, the column, and what only the search needs.
static SELECTED: RowStream =
    RowStream::read("selected", Broadcast::Elements).of(StreamElement::Words);
const SELECTED_WORDS: u64 = 3;

/// Bytes of a score's key, how many values a byte has, and loop iterations around a walk: counts are set to 0 and
/// searched.
const KEY_BYTES: u64 = 4;
const VALUES: u64 = 256;
const AROUND: u64 = 2 * VALUES;

impl Rows<'_> {
    /// The stream that a functor reads it by, where the loss asks for one.
    pub(super) fn selected_streams(&self) -> slice::Iter<'static, RowStream> {
        if self.program.select > 0 { slice::from_ref(&SELECTED).iter() } else { [].iter() }
    }

    /// Makes room for the selected columns of all rows.
    pub(super) fn selection(&mut self) {
        if self.program.select > 0 {
            let words = Layout::matrix(Dtype::U32, self.count, SELECTED_WORDS);
            let table = self.planner.scratch(words);
            self.give(SELECTED.name, table);
        }
    }

    /// Whether a row's scores have to be in memory at once.
    pub fn needs_whole_rows(&self) -> bool {
        self.program.select > 0
    }

    /// Lanes that search a row together: as few as suit the adapter, as many as its longest loop needs.
    fn select_lanes(&self) -> u64 {
        let most = u64::from(self.profile().workgroup_size).min(VALUES);
        let mut lanes = u64::from(self.lanes().0).min(most);
        while 2 * lanes <= most && self.classes.div_ceil(4 * lanes) > MOST_ITERATIONS / 16 {
            lanes *= 2;
        }
        lanes
    }

    /// Finds the column in the program's place of a stretch of rows, where the loss asks for one: a byte a walk, as
    /// many a dispatch as its loops allow.
    pub(super) fn select(&mut self, index: usize, rows: &Range<u64>, scores: &View) -> Result<()> {
        let k = self.program.select;
        if k == 0 {
            return Ok(());
        }
        let lanes = self.select_lanes();
        let walk = self.classes.div_ceil(4 * lanes) + AROUND;
        if walk > MOST_ITERATIONS {
            let limit = (MOST_ITERATIONS - AROUND) * 4 * lanes;
            let what = "columns of a selection".to_owned();
            return Err(Error::Limit { what, found: self.classes, limit });
        }
        let column_bits = u64::from((self.classes.max(2) - 1).ilog2() + 1);
        let bytes = KEY_BYTES + column_bits.div_ceil(8);
        for part in stretches(bytes, MOST_ITERATIONS / walk) {
            let streams = self.streams(rows, false);
            let step = self
                .step("select_place", shader!("row/select.wgsl"), index, rows)
                .overriding("SELECT_LANES", lanes as u32)
                .uniform("k", k)
                .uniform("bytes", bytes)
                .uniform("first", part.start)
                .uniform("end", part.end)
                .words("statistics", None)
                .read("logits", Some(scores.clone()), 0.0)
                .write("gradient", None);
            functor_streams(step, streams).groups(rows.end - rows.start)?;
        }
        Ok(())
    }
}
