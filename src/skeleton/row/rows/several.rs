//! Rows with several targets: a table of each row's classes in ascending order, each with its weight.

use std::slice;

use super::Rows;
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{View, kernel::shader},
    skeleton::row::{Broadcast, RowStream, StreamElement, Target},
};

/// The table as the functor reads it: the words of its header, then class and weight of each target.
static TARGET_TABLE: RowStream =
    RowStream::read("target_table", Broadcast::Elements).of(StreamElement::Words);
/// Words of a row in front of its targets: flags, a bad target as two words, the number of classes.
const HEADER_WORDS: u64 = 4;
/// The most targets of a row: a workgroup has room for them, and each of its lanes compares some of them with all others.
const MOST_TARGETS: u64 = 512;
/// Lanes that sort the targets of a row together, at most.
const LANES: u32 = 64;

impl Rows<'_> {
    /// The targets of all rows, where a row has several.
    fn several(&self) -> Option<View> {
        let is_several = matches!(self.program.target, Target::Several { .. });
        self.input("targets").filter(|_| is_several)
    }

    /// The words of a row's table.
    pub(super) fn target_words(&self) -> u64 {
        self.several().map_or(0, |targets| HEADER_WORDS + 2 * targets_of_a_row(&targets))
    }

    /// How often a functor loops for a quad of columns: it searches the targets of the row.
    pub(super) fn quad_iterations(&self) -> u64 {
        self.several().map_or(0, |targets| u64::from(targets_of_a_row(&targets).max(1).ilog2() + 1))
    }

    /// Bytes of a row in the table and in the tensors that it is made from.
    pub fn target_bytes(&self) -> u64 {
        let bytes = |view: View| view.layout.row_span() * view.layout.dtype.bytes();
        let weights = self.input("target_weight").map(bytes);
        let of_tensors = self.several().map(bytes).max(weights);
        of_tensors.map_or(0, |bytes| bytes.max(self.target_words() * 4))
    }

    /// The stream by which a functor reads the table.
    pub(super) fn several_streams(&self) -> slice::Iter<'static, RowStream> {
        let is_several = matches!(self.program.target, Target::Several { .. });
        if is_several { slice::from_ref(&TARGET_TABLE).iter() } else { [].iter() }
    }

    /// Makes the table of all rows.
    pub(super) fn target_table(&mut self, ignored: &[i64]) -> Result<()> {
        let Some(targets) = self.several() else { return Ok(()) };
        let (count, found) = (self.count, targets_of_a_row(&targets));
        if found > MOST_TARGETS {
            let what = "targets a row".into();
            return Err(Error::Limit { what, found, limit: MOST_TARGETS });
        }
        let words = self.target_words();
        let table = self.planner.scratch(Layout::matrix(Dtype::U32, count, words));
        self.give(TARGET_TABLE.name, table.clone());
        self.program.uniforms.push(("target_words", words.into()));
        let shard = self.program.shard.map(|shard| shard.classes);
        let (classes, lanes) = (self.classes, self.profile().workgroup_size.min(LANES));
        let weights = self.input("target_weight");
        let sources =
            [shader!("record.wgsl"), shader!("row/ignored.wgsl"), shader!("row/several.wgsl")];
        for window in self.windows.iter().map(|window| window.rows.clone()).collect::<Vec<_>>() {
            let rows = |view: &View| view.clone().rows(&window);
            let window_rows = window.end - window.start;
            self.around("several", &sources)
                .overriding("WORKGROUP", lanes)
                .uniform("rows", window_rows)
                .uniform("classes", found)
                .uniform("all_classes", shard.unwrap_or(classes))
                .uniform("target_words", words)
                .uniforms(super::ignored_indices(ignored))
                .integers("targets", Some(rows(&targets)))
                .read_elements("target_weight", weights.as_ref().map(rows), 1.0)
                .words("target_table", Some(rows(&table)))
                .groups(window_rows)?;
        }
        Ok(())
    }
}

/// The targets of a row. A vector has one a row.
fn targets_of_a_row(targets: &View) -> u64 {
    if targets.layout.shape.len() == 1 { 1 } else { targets.layout.columns() }
}
