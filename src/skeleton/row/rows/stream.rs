//! The kernels of the stream: for a whole row at once, for its segments one by one, and for its gradient alone.

use std::ops::Range;

use super::{FunctorViews, Gradient, Rows, Scores, Window};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{
        Step, View,
        kernel::{Source, record::Declared, shader},
        limits::MOST_ITERATIONS,
    },
    skeleton::row::{Broadcast, Given, Rounds, RowStream, StreamAccess, StreamElement},
    spec::shard,
};

/// The most classes that one lane walks alone where the columns are planes.
const FEW_CLASSES: u64 = 1024;

impl<'a> Rows<'a> {
    /// The lanes of a workgroup, and the lanes that share a row. The latter are enough for one tile each. They may
    /// change the last bits of a row, so they depend only on the classes and on whether the columns are planes, not on
    /// the other rows.
    pub fn lanes(&self) -> (u32, u32) {
        let workgroup = self.profile().lanes(self.program.state.words);
        let scores = self.call.inputs.get(self.program.streamed());
        let planes = scores.is_some_and(|l| l.layout.has_planes());
        if planes && self.classes <= FEW_CLASSES {
            // Neighbouring rows lie side by side in memory, but the classes of a row lie far apart.
            return (workgroup, 1);
        }
        let wanted = self.classes.div_ceil(16).next_power_of_two();
        (workgroup, wanted.min(u64::from(workgroup)) as u32)
    }

    /// The columns of a segment: a whole number of tiles.
    fn segment(&self, lanes: u32) -> u64 {
        u64::from(self.profile().segment).next_multiple_of(u64::from(lanes) * 16)
    }

    /// Streams a stretch of rows, which lies inside window `index`.
    pub fn main(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        if self.has_tree() {
            return self.walk_tree(index, rows, scores);
        }
        if self.is_sampled() {
            return self.walk_samples(index, rows, scores);
        }
        self.stream(index, rows, scores)
    }

    /// Streams rows whose columns lie side by side.
    pub fn stream(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let segments = self.classes.div_ceil(self.segment(lanes));
        let count = rows.end - rows.start;
        let groups = count.div_ceil(u64::from(workgroup / lanes));
        let few = segments > 1 && groups < u64::from(self.profile().busy_workgroups);
        // A workgroup that walks a very long row in each round and for its gradient would exceed `MOST_ITERATIONS`.
        let walks = 4 + u64::from(self.rounds());
        let iterations = walks * self.classes * (1 + 4 * self.quad_iterations());
        let long = iterations / (16 * u64::from(lanes)) > MOST_ITERATIONS;
        self.select(index, rows, &scores.scores)?;
        if self.closes() {
            self.close(index, rows, Some(scores))?;
            self.gradient(index, rows, scores)
        } else if few || long || self.call.wants("statistics") {
            let words = count * segments * self.state_words();
            let partials = self.shared("partials", Layout::vector(Dtype::U32, words));
            for round in 0..self.rounds() {
                self.partial(index, rows, scores, &partials, round)?;
                self.merge(index, rows, Some(scores), (&partials, segments), round)?;
            }
            self.gradient(index, rows, scores)
        } else {
            self.fused(index, rows, scores)
        }
    }

    /// Whether rows are closed without a reducing stream: the loss has no rounds, or the call gives the statistics of
    /// all shards, or it gives an lse that replaces the stream.
    pub fn closes(&self) -> bool {
        let saved = self.call.has("lse") && self.program.given != Given::Nothing;
        self.program.rounds == Rounds::None || saved || self.call.has("statistics")
    }

    /// Words of a state.
    pub(super) fn state_words(&self) -> u64 {
        self.program.state.words.into()
    }

    /// The number of reducing streams over the scores.
    pub fn rounds(&self) -> u32 {
        self.program.rounds.count()
    }

    /// Closes rows from what the call gives.
    pub fn close(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: Option<&Scores>,
    ) -> Result<()> {
        match self.call.input("statistics") {
            Some(gathered) => self.merge_shards(index, rows, &gathered),
            None => self.close_unstreamed(index, rows, scores),
        }
    }

    /// Whether rows can be closed without reading their scores.
    pub fn closes_unseen(&self) -> bool {
        let spared = self.call.has("lse") && self.program.given == Given::All;
        self.call.has("statistics") || spared
    }

    /// Begins a dispatch over a stretch of rows, with what the functor needs.
    pub(super) fn functor_step(
        &mut self,
        entry: &'static str,
        files: &[Source],
        index: usize,
        rows: &Range<u64>,
    ) -> Step<'_, 'a> {
        let (label, record) = (self.label(entry), self.record());
        let order = self.order_place(index);
        let Self { planner, program, windows, classes, .. } = self;
        let Window { table, records, rows: window, .. } = &windows[index];
        let scaling = record.quantized.then_some(shader!("row/quantized.wgsl"));
        let own = scaling.into_iter().chain(program.sources.iter().copied());
        let lanes = std::iter::once(shader!("row/lanes.wgsl"));
        let files = lanes.chain(files.iter().copied());
        let sources = std::iter::once(shader!("record.wgsl")).chain(own).chain(files);
        planner
            .dispatch(label, entry, sources)
            .declare(Declared::Functor(record))
            .overrides(program.overrides.iter().copied())
            .uniform("rows", rows.end - rows.start)
            .uniform("classes", *classes)
            .uniform("first_row", rows.start - window.start)
            .uniform("order", order)
            .uniforms(program.uniforms.iter().copied())
            .table("row_table", table, "vec4<u32>")
            .table("records", records, "u32")
    }

    /// Begins a dispatch over a stretch of rows whose columns are streamed.
    pub fn step(
        &mut self,
        entry: &'static str,
        file: Source,
        index: usize,
        rows: &Range<u64>,
    ) -> Step<'_, 'a> {
        let (workgroup, lanes) = self.lanes();
        let segment = self.segment(lanes);
        let has_tiles = self.profile().has_tiles(self.classes, lanes);
        self.functor_step(entry, &[shader!("row.wgsl"), file], index, rows)
            .overriding("WORKGROUP", workgroup)
            .overriding("LANES", lanes)
            .overriding("HAS_TILES", has_tiles)
            .uniform("origin", rows.start)
            .uniform("segment", segment)
    }

    fn fused(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let writes = self.writes(&scores.gradient);
        let (streams, call) = (self.streams(rows, writes), self.call);
        let step = self
            .step("fused", shader!("row/fused.wgsl"), index, rows)
            .words("statistics", None)
            .overriding("WRITES_GRADIENT", writes)
            .overriding("IN_PLACE", matches!(scores.gradient, Gradient::InPlace))
            .overriding("HAS_LSE", call.has("lse"));
        let step = functor_streams(step, streams);
        gradient_stream(step, scores, writes)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup / lanes)))
    }

    fn partial(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: &Scores,
        partials: &View,
        round: u32,
    ) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let segments = self.classes.div_ceil(self.segment(lanes));
        let streams = self.streams(rows, false);
        let step = self
            .step("partial", shader!("row/partial.wgsl"), index, rows)
            .uniform("segments", segments)
            .uniform("round", round)
            .words("statistics", None)
            .table("partials", partials, "State");
        let step = functor_streams(step, streams);
        gradient_stream(step, scores, false)
            .groups(((rows.end - rows.start) * segments).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Merges the partial states of each row and ends the round: the first of two rounds settles the rows, the last
    /// round closes them.
    pub(super) fn merge(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: Option<&Scores>,
        (partials, segments): (&View, u64),
        round: u32,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let streams = self.streams(rows, false);
        let call = self.call;
        let statistics = call.output("statistics").map(|view| view.rows(rows));
        let step = self
            .step("merge", shader!("row/merge.wgsl"), index, rows)
            .overriding("HAS_LSE", call.has("lse"))
            .overriding("IN_BLOCKS", scores.is_none())
            .uniform("round", round)
            .words("statistics", statistics)
            .uniform("segments", segments)
            .table("partials", partials, "State");
        let step = functor_streams(step, streams);
        optional_scores(step, scores).groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// Closes rows that are not reduced, from their saved lse or from their selected columns.
    fn close_unstreamed(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: Option<&Scores>,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let (streams, call) = (self.streams(rows, false), self.call);
        let step = self
            .step("close_unstreamed", shader!("row/close_unstreamed.wgsl"), index, rows)
            .overriding("HAS_LSE", call.has("lse"))
            .overriding("STREAMED", false)
            .words("statistics", None);
        let step = functor_streams(step, streams);
        optional_scores(step, scores).groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// Closes rows from the statistics of all shards.
    fn merge_shards(&mut self, index: usize, rows: &Range<u64>, gathered: &View) -> Result<()> {
        let shards = shard::gathered(gathered.layout.rows(), self.count)?;
        let (workgroup, _) = self.lanes();
        let (streams, count) = (self.streams(rows, false), self.count);
        let step = self
            .step("merge_shards", shader!("row/merge_shards.wgsl"), index, rows)
            .overriding("GATHERED", true)
            .uniform("shards", shards)
            .uniform("all_rows", count)
            .words("gathered", Some(gathered.clone()))
            .words("statistics", None)
            .read("logits", None, 0.0)
            .write("gradient", None);
        functor_streams(step, streams)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// Only the second stream, for rows that are already closed.
    pub fn gradient(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        self.gradient_of(index, rows, &(0..self.classes), scores)
    }

    /// The second stream over a block of columns; `scores` holds only this block.
    pub fn gradient_of(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &Scores,
    ) -> Result<()> {
        if !self.writes(&scores.gradient) {
            return Ok(());
        }
        let (workgroup, lanes) = self.lanes();
        let segments = (columns.end - columns.start).div_ceil(self.segment(lanes));
        let (streams, call) = (self.streams(rows, true), self.call);
        let step = self
            .step("backward", shader!("row/backward.wgsl"), index, rows)
            .uniform("first_column", columns.start)
            .uniform("end_column", columns.end)
            .uniform("column_segments", segments)
            .overriding("HAS_LSE", call.has("lse"))
            .words("statistics", None);
        let step = functor_streams(step, streams);
        gradient_stream(step, scores, true)
            .groups(((rows.end - rows.start) * segments).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Whether the second stream has anything to write.
    pub fn writes(&self, gradient: &Gradient) -> bool {
        // Beside the gradient of the scores, a functor may write outputs of its own.
        !matches!(gradient, Gradient::Nowhere)
            || self.program.streams.iter().any(|s| self.call.wants(s.argument))
    }
}

/// Binds the functor's own tensors.
pub(crate) fn functor_streams<'p, 'a>(step: Step<'p, 'a>, streams: FunctorViews) -> Step<'p, 'a> {
    streams.into_iter().fold(step, |step, (stream, view)| {
        let RowStream { name, access, element, broadcast, default, .. } = stream;
        match (element, access) {
            (StreamElement::Integer, _) => step.integers(name, view),
            (StreamElement::Words, _) => step.words(name, view),
            (StreamElement::Float, StreamAccess::Write) => step.write(name, view),
            _ if broadcast == Broadcast::Rows => step.read_elements(name, view, default),
            _ => step.read(name, view, default),
        }
    })
}

/// Binds the scores, if the call has them.
fn optional_scores<'p, 'a>(step: Step<'p, 'a>, scores: Option<&Scores>) -> Step<'p, 'a> {
    match scores {
        Some(scores) => gradient_stream(step, scores, false),
        None => step.read("logits", None, 0.0).write("gradient", None),
    }
}

/// Binds the scores and their gradient.
fn gradient_stream<'p, 'a>(step: Step<'p, 'a>, scores: &Scores, writes: bool) -> Step<'p, 'a> {
    let logits = scores.scores.clone();
    match &scores.gradient {
        Gradient::InPlace if writes => step.read_write("logits", "gradient", logits),
        Gradient::To(view) if writes => {
            step.read("logits", Some(logits), 0.0).write("gradient", Some(view.clone()))
        }
        _ => step.read("logits", Some(logits), 0.0).write("gradient", None),
    }
}
