//! What follows the stream: per-row outputs are copied from the records, and sums become scalars.

use std::ops::Range;

use super::Rows;
use crate::{
    data::error::Result,
    plan::{
        Plan, View,
        kernel::{shader, size},
    },
    skeleton::{
        row::{OutputKind, Reduced},
        sums::{BLOCK, Ending},
    },
    spec::options::{Empty, Reduction},
};

/// A word number that no record has.
const NO_WORD: u32 = u32::MAX;

impl Rows<'_> {
    /// Copies per-row outputs from the records, reduces the losses, and writes the scalars.
    pub fn end(mut self, windows: &[Range<u64>]) -> Result<Plan> {
        for index in 0..windows.len() {
            self.copies(index)?;
        }
        let per_row = self.program.reduction == Reduction::None;
        let counted = self.counted().map(|(_, output)| output);
        let scalar = ["loss", "sum", "denominator", "count", "perplexity", "status"];
        let wanted = scalar.into_iter().filter(|&name| !(per_row && name == "loss"));
        if wanted.chain(counted).any(|name| self.call.wants(name)) {
            self.scalars()?;
        }
        self.sums()?;
        Ok(self.planner.finish())
    }

    /// The word of the by-product that is counted together with the losses, and the output that is its sum.
    fn counted(&self) -> Option<(u32, &'static str)> {
        self.program.outputs.iter().find_map(|output| match (output.kind, output.reduced) {
            (OutputKind::Count, Reduced::Sum(name)) => {
                Some((self.record().output_word(output.name)?, name))
            }
            _ => None,
        })
    }

    /// The other outputs that are sums or means of by-products.
    fn sums(&mut self) -> Result<()> {
        for output in self.program.outputs {
            let (name, mean) = match (output.kind, output.reduced) {
                (OutputKind::Count, Reduced::Sum(_)) | (_, Reduced::None) => continue,
                (_, Reduced::Sum(name)) => (name, false),
                (_, Reduced::Mean(name)) => (name, true),
            };
            if let (Some(view), Some(word)) =
                (self.call.output(name), self.record().output_word(output.name))
            {
                self.sum_word(word, output.kind.is_integer(), mean, view)?;
            }
        }
        Ok(())
    }

    fn copies(&mut self, index: usize) -> Result<()> {
        let window = &self.windows[index];
        let (rows, records) = (window.rows.clone(), window.records.clone());
        let per_row = self.program.reduction == Reduction::None;
        let loss = per_row.then_some(("loss", size::RECORD_LOSS));
        let outputs = self.program.outputs.iter().map(|output| output.name);
        let outputs = outputs.filter_map(|name| Some((name, self.record().output_word(name)?)));
        for (name, word) in loss.into_iter().chain(outputs).collect::<Vec<_>>() {
            let Some(output) = self.call.output(name) else {
                continue;
            };
            let count = rows.end - rows.start;
            let (lanes, record_words) = (self.profile().tally_lanes(), self.record_words());
            self.around("copy", &[shader!("record.wgsl"), shader!("copy.wgsl")])
                .uniform("rows", count)
                .uniform("word", word)
                .uniform("record_words", record_words)
                .table("records", &records, "u32")
                .words("values", Some(output.rows(&rows)))
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(())
    }

    /// Sums one word of all records, in a fixed order, into an output of one element. The words are floats or
    /// integers; the result is their sum or their mean over the rows that are kept.
    fn sum_word(&mut self, word: u32, integers: bool, mean: bool, output: View) -> Result<()> {
        let Some(tallies) = self.tallies.clone() else {
            return Ok(());
        };
        let (first, count) = self.total(&tallies, word, integers, NO_WORD)?;
        let (kept, empty) = (self.kept_tally(), self.program.empty);
        // A mean describes this call alone.
        let adds = self.adds_sums && !mean;
        let step = self
            .around(
                "scalar",
                &[shader!("tally.wgsl"), shader!("quotient.wgsl"), shader!("scalar.wgsl")],
            )
            .uniform("empty_is_zero", u32::from(empty == Empty::Zero))
            .uniform("classes", 1u32)
            .uniform("first", first)
            .uniform("tallies", count)
            .uniform("kept", kept)
            .uniform("mean", u32::from(mean))
            .table("tallies", &tallies, "Tally");
        let step = if adds {
            step.read_write("begun", "value", output)
        } else {
            step.read_elements("begun", None, 0.0).write_elements("value", Some(output))
        };
        step.groups(1)
    }

    /// Tallies of one word of all records and, beside it, of a word that is counted. Returns the first tally and the
    /// number of tallies.
    fn total(
        &mut self,
        tallies: &View,
        word: u32,
        integers: bool,
        counted: u32,
    ) -> Result<(u64, u64)> {
        let second = self.kept_tally() + 1;
        let record_words = self.record_words();
        let knows_losses = self.program.shard.is_none() || self.call.has("statistics");
        for window in 0..self.windows.len() {
            let window = &self.windows[window];
            let (count, first) = (window.rows.end - window.rows.start, window.first_tally);
            let (table, records) = (window.table.clone(), window.records.clone());
            self.around(
                "total",
                &[shader!("tally.wgsl"), shader!("record.wgsl"), shader!("total.wgsl")],
            )
            .uniform("rows", count)
            .uniform("word", word)
            .uniform("integers", u32::from(integers))
            .uniform("counted_word", counted)
            .uniform("record_words", record_words)
            .uniform("first_tally", second + first)
            .uniform("knows_losses", u32::from(knows_losses))
            .table("row_table", &table, "vec4<u32>")
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
        let counted = self.counted();
        let word = counted.map_or(NO_WORD, |(word, _)| word);
        let (first, count) = self.total(&tallies, size::RECORD_LOSS, false, word)?;
        let ending = Ending {
            reduction: self.program.reduction,
            empty: self.program.empty,
            float_targets: false,
            monitored: None,
            counted: counted.map(|(_, name)| name),
            kept: self.kept_tally(),
        };
        self.totals.finish(&mut self.planner, self.call, ending, &tallies, (first, count))
    }
}
