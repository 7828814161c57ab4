//! What comes after the stream: records to per-row outputs, and their sums to scalars.

use std::ops::Range;

use super::Rows;
use crate::{
    data::error::Result,
    plan::{Plan, View, kernel::shader},
    skeleton::{
        row::RowOptions,
        sums::{BLOCK, Ending},
    },
    spec::options::Reduction,
};

/// The per-row outputs and their word in a row's record.
const BY_PRODUCTS: [(&str, u32); 7] = [
    ("lse", 1),
    ("log_prob", 2),
    ("entropy", 3),
    ("max_prob", 4),
    ("argmax", 5),
    ("rank", 6),
    ("correct", 7),
];

impl Rows<'_> {
    /// Expands records into per-row outputs, reduces the losses, and writes the scalars.
    pub fn end(mut self, windows: &[Range<u64>]) -> Result<Plan> {
        for index in 0..windows.len() {
            self.copies(index)?;
        }
        let scalar =
            ["loss", "sum", "denominator", "count", "correct_count", "perplexity", "status"];
        let per_row = self.loss.options().reduction == Reduction::None;
        let wanted =
            scalar.iter().any(|name| self.call.wants(name) && !(per_row && *name == "loss"));
        if wanted {
            self.scalars()?;
        }
        Ok(self.planner.finish())
    }

    fn copies(&mut self, index: usize) -> Result<()> {
        let window = &self.windows[index];
        let (rows, records) = (window.rows.clone(), window.records.clone());
        let loss = (self.loss.options().reduction == Reduction::None).then_some(("loss", 0));
        for (name, word) in loss.into_iter().chain(BY_PRODUCTS) {
            let Some(output) = self.call.output(name) else {
                continue;
            };
            let count = rows.end - rows.start;
            let lanes = self.profile().tally_lanes();
            self.around("copy", &[shader!("record.wgsl"), shader!("copy.wgsl")])
                .number("rows", count)
                .number("word", word)
                .table("records", &records, "u32")
                .words("values", Some(output.rows(&rows)))
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(())
    }

    /// Sums one word of all records, in a fixed order, into an element of the caller's.
    pub fn sum_word(&mut self, word: u32, output: View) -> Result<()> {
        let Some(tallies) = self.tallies.clone() else {
            return Ok(());
        };
        let (first, count) = self.total(&tallies, word)?;
        self.around("scalar", &[shader!("tally.wgsl"), shader!("scalar.wgsl")])
            .number("classes", 1u32)
            .number("first", first)
            .number("tallies", count)
            .table("tallies", &tallies, "Tally")
            .write_elements("value", Some(output))
            .groups(1)
    }

    /// One word of all records as tallies: where they begin, and how many there are.
    fn total(&mut self, tallies: &View, word: u32) -> Result<(u64, u64)> {
        let second = self.kept_tally() + 1;
        for window in 0..self.windows.len() {
            let window = &self.windows[window];
            let (count, records, first) =
                (window.rows.end - window.rows.start, window.records.clone(), window.first_tally);
            self.around(
                "total",
                &[shader!("tally.wgsl"), shader!("record.wgsl"), shader!("total.wgsl")],
            )
            .number("rows", count)
            .number("word", word)
            .number("first_tally", second + first)
            .table("records", &records, "u32")
            .table("tallies", tallies, "Tally")
            .groups(count.div_ceil(BLOCK))?;
        }
        self.fold(tallies, second, self.blocks)
    }

    fn scalars(&mut self) -> Result<()> {
        let Some(tallies) = self.tallies.clone() else {
            return Ok(());
        };
        let (first, count) = self.total(&tallies, 0)?;
        let RowOptions { reduction, empty, .. } = self.loss.options();
        let kept = self.kept_tally();
        let ending = Ending { reduction, empty, float_targets: false, watched: None, kept };
        self.totals.finish(&mut self.planner, self.call, ending, &tallies, (first, count))
    }
}
