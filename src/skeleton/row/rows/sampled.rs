//! Rows whose columns are samples of the classes: k samples that all rows share, and the row's target behind them. Their
//! scores are a matrix of their own, which the kernels of the stream take as they take any scores.

use std::ops::Range;

use super::{Gradient, Rows, Scores};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        Step, View,
        kernel::{Source, record::Declared, shader},
        limits::MOST_ITERATIONS,
    },
    skeleton::{row::Columns, sums::BLOCK},
    spec::about::Dim,
};

impl<'a> Rows<'a> {
    /// Whether the columns are samples and a target.
    pub fn is_sampled(&self) -> bool {
        self.program.columns == Columns::Sampled
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        if self.is_sampled() { self.call.dim(Dim::Samples) } else { 0 }
    }

    /// Bytes of a row's scores that are made of samples.
    pub(in crate::skeleton::row) fn sampled_bytes(&self) -> u64 {
        if self.is_sampled() { 4 * (self.samples() + 4) } else { 0 }
    }

    /// Makes the table of the samples.
    pub(super) fn sample_table(&mut self) -> Result<()> {
        let count = self.samples();
        if count > MOST_ITERATIONS {
            let what = "samples of a row".into();
            return Err(Error::Limit { what, found: count, limit: MOST_ITERATIONS });
        }
        if !self.is_sampled() {
            return Ok(());
        }
        let table = self.planner.scratch(Layout::vector(Dtype::U32, 2 * count.max(1)));
        self.give("sample_table", table.clone());
        if count == 0 {
            return Ok(());
        }
        let (samples, all_classes) = (self.call.input("samples"), self.call.dim(Dim::Classes));
        let lanes = u64::from(self.profile().tally_lanes());
        self.around("drawn", &[shader!("row/drawn.wgsl")])
            .uniform("rows", count)
            .uniform("classes", 1_u64)
            .uniform("all_classes", all_classes)
            .integers("samples", samples)
            .words("sample_table", Some(table))
            .groups(count.div_ceil(lanes))
    }

    /// Counts the samples that are no class, in tallies behind all others.
    pub(super) fn bad_samples(&mut self, tallies: &View, first_tally: u64) -> Result<()> {
        let (count, first_row) = (self.samples(), self.count);
        if count == 0 {
            return Ok(());
        }
        let (samples, all_classes) = (self.call.input("samples"), self.call.dim(Dim::Classes));
        self.around("samples_found", &[shader!("tally.wgsl"), shader!("row/samples.wgsl")])
            .uniform("rows", count)
            .uniform("classes", 1_u64)
            .uniform("all_classes", all_classes)
            .uniform("first_row", first_row)
            .uniform("first_tally", first_tally)
            .integers("samples", samples)
            .table("tallies", tallies, "Tally")
            .groups(count.div_ceil(BLOCK))
    }

    /// Memory for the scores of some rows. The column of the targets is the last one.
    pub fn sampled_chunk(&mut self, rows: u64) -> View {
        let layout = Layout::matrix(Dtype::F32, rows, self.samples() + 1);
        self.shared("sampled_scores", layout)
    }

    /// Begins a dispatch of one lane for each element of a matrix with these columns and a row for each of these rows.
    pub fn sampled_step(
        &mut self,
        entry: &'static str,
        files: &[Source],
        index: usize,
        rows: &Range<u64>,
    ) -> Step<'_, 'a> {
        let (record, samples, classes) =
            (self.record(), self.samples(), self.call.dim(Dim::Classes));
        let window = &self.windows[index];
        let (table, records) = (window.table.clone(), window.records.clone());
        let (count, first_row) = (rows.end - rows.start, rows.start - window.rows.start);
        let sample_table = self.given.get("sample_table").cloned();
        let scaling = record.quantized.then_some(shader!("row/quantized.wgsl"));
        let own = std::iter::once(shader!("row/sampled.wgsl")).chain(scaling);
        let sources: Vec<Source> = own.chain(files.iter().copied()).collect();
        self.around(entry, &sources)
            .declare(Declared::Places(record))
            .uniform("rows", count)
            .uniform("classes", classes)
            .uniform("first_row", first_row)
            .uniform("samples", samples)
            .table("row_table", &table, "vec4<u32>")
            .table("records", &records, "u32")
            .words("sample_table", sample_table)
    }

    /// The workgroups for so many lanes of the kernels around the stream.
    pub fn groups_of(&self, lanes: u64) -> u64 {
        lanes.div_ceil(u64::from(self.profile().tally_lanes()))
    }

    /// The vector that is subtracted from all scores.
    pub fn expected_counts(&self) -> Option<View> {
        self.call.input("log_expected_count").map(View::for_every_row)
    }

    /// Rows of stored scores: copies what they read, streams it, and writes the gradient over zeros.
    pub(super) fn walk_samples(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: &Scores,
    ) -> Result<()> {
        let count = rows.end - rows.start;
        let chunk = self.sampled_chunk(count);
        let (counts, groups) = (self.expected_counts(), self.groups_of(count * self.classes));
        self.sampled_step("sampled_scores", &[shader!("row/sampled_scores.wgsl")], index, rows)
            .read_elements("logits", Some(scores.scores.clone()), 0.0)
            .read_elements("log_expected_count", counts, 0.0)
            .write_elements("scores", Some(chunk.clone()))
            .groups(groups)?;
        let gradient = match &scores.gradient {
            Gradient::Nowhere => Gradient::Nowhere,
            _ => Gradient::InPlace,
        };
        self.stream(index, rows, &Scores { scores: chunk.clone(), gradient })?;
        if let Gradient::Nowhere = scores.gradient {
            return Ok(());
        }
        self.zero(&scores.gradient, &scores.scores)?;
        let step = self
            .sampled_step("sampled_gradient", &[shader!("row/sampled_gradient.wgsl")], index, rows)
            .read_elements("scores", Some(chunk), 0.0);
        let step = match &scores.gradient {
            Gradient::To(view) => step.write_elements("gradient", Some(view.clone())),
            _ => step.read_write_elements("logits", "gradient", scores.scores.clone()),
        };
        step.groups(groups)
    }

    /// Fills a gradient with zeros.
    pub fn zero(&mut self, gradient: &Gradient, scores: &View) -> Result<()> {
        let view = if let Gradient::To(view) = gradient { view } else { scores };
        let (rows, columns) = (view.layout.rows(), view.layout.columns());
        let quads = columns.div_ceil(4);
        let groups = self.groups_of(rows * quads);
        let step = self
            .around("zero", &[shader!("row/zero.wgsl")])
            .uniform("rows", rows)
            .uniform("classes", columns)
            .uniform("quads", quads.max(1));
        match gradient {
            Gradient::To(view) => step.write("gradient", Some(view.clone())),
            _ => step.read_write("logits", "gradient", scores.clone()),
        }
        .groups(groups)
    }
}
