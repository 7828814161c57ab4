//! Finds the column in a given place of each row, before the row is reduced.

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

/// The selection of a row, as the functor reads it: the key of the score, the column, and a word that only the search
/// uses.
static SELECTED: RowStream =
    RowStream::read("selected", Broadcast::Elements).of(StreamElement::Words);
const SELECTED_WORDS: u64 = 3;

/// Bytes of the key of a score, the number of values of a byte, and the loop iterations before and after a walk, which
/// set the counts to 0 and search them.
const KEY_BYTES: u64 = 4;
const VALUES: u64 = 256;
const AROUND: u64 = 2 * VALUES;

impl Rows<'_> {
    /// The stream by which a functor reads the selection, where the program asks for one.
    pub(super) fn selected_streams(&self) -> slice::Iter<'static, RowStream> {
        if self.program.select > 0 { slice::from_ref(&SELECTED).iter() } else { [].iter() }
    }

    /// Makes scratch for the selected columns of all rows.
    pub(super) fn selection(&mut self) {
        if self.program.select > 0 {
            let words = Layout::matrix(Dtype::U32, self.count, SELECTED_WORDS);
            let table = self.planner.scratch(words);
            self.give(SELECTED.name, table);
        }
    }

    /// Whether all scores of a row must be in memory at once.
    pub fn needs_whole_rows(&self) -> bool {
        self.program.select > 0 || self.has_tree()
    }

    /// The lanes that search a row together: the usual lanes of the adapter, or more where the longest loop needs
    /// them.
    fn select_lanes(&self) -> u64 {
        let most = u64::from(self.profile().workgroup_size).min(VALUES);
        let mut lanes = u64::from(self.lanes().0).min(most);
        while 2 * lanes <= most && self.classes.div_ceil(4 * lanes) > MOST_ITERATIONS / 16 {
            lanes *= 2;
        }
        lanes
    }

    /// Finds the selected column of each row, where the program asks for one. One walk finds one byte of the key, and
    /// a dispatch makes as many walks as the limit of its loops allows.
    pub(super) fn select(&mut self, index: usize, rows: &Range<u64>, scores: &View) -> Result<()> {
        let k = self.program.select;
        if k == 0 {
            return Ok(());
        }
        let lanes = self.select_lanes();
        let walk = self.classes.div_ceil(4 * lanes) + AROUND;
        if walk > MOST_ITERATIONS {
            let limit = (MOST_ITERATIONS - AROUND) * 4 * lanes;
            let what = "columns of a selection".into();
            return Err(Error::Limit { what, found: self.classes, limit });
        }
        let column_bits = u64::from((self.classes.max(2) - 1).ilog2() + 1);
        let bytes = KEY_BYTES + column_bits.div_ceil(8);
        for part in stretches(bytes, MOST_ITERATIONS / walk)? {
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
