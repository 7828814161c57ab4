//! The plan around and of the stream: the row table, the stream's kernels, the reductions.

use std::{collections::BTreeMap, ops::Range};

use super::{
    FunctorStream, MOST_ITERATIONS, RowLoss, RowOptions, STATE_WORDS, Span, check_outputs, missing,
};
use crate::{
    error::Result,
    kernel::{Source, shader, size},
    loss::{Dim, Padding, Reduction, Shard, shard},
    plan::{Call, Number, Plan, Planner, Step, View},
    profile::Profile,
    tensor::{Dtype, Layout},
    total::{self, BLOCK, Ending, TALLY_WORDS, Totals},
};

pub(super) const RECORD_WORDS: u64 = size::RECORD as u64;
/// Words of an entry of the row table, and of its header.
const ENTRY_WORDS: u64 = 4;
const HEADER_WORDS: u64 = size::HEADER as u64 * ENTRY_WORDS;

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

/// Classes that one lane walks by itself where they are planes.
const FEW_CLASSES: u64 = 1024;

/// Where the scores come from, and where their gradient goes.
pub(crate) struct Scores {
    /// The scores of a stretch of rows.
    pub scores: View,
    /// Their gradient.
    pub gradient: Gradient,
}

/// Where the gradient of the scores goes.
pub(crate) enum Gradient {
    Nowhere,
    InPlace,
    To(View),
}

/// The plan of a row loss on stored scores.
pub(crate) fn plan(loss: &dyn RowLoss, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut rows = Rows::new(loss, call, profile)?;
    let Some(logits) = call.input("logits") else {
        return Err(missing(loss, "logits"));
    };
    let gradient = call.output("grad.logits");
    let matrices = [Some(&logits), gradient.as_ref()];
    let windows = rows.windows(matrices.into_iter().flatten(), rows.short())?;
    rows.begin(&windows)?;
    for (index, window) in windows.iter().enumerate() {
        let gradient = match &gradient {
            None => Gradient::Nowhere,
            Some(_) if call.in_place => Gradient::InPlace,
            Some(view) => Gradient::To(view.clone().rows(window)),
        };
        let scores = Scores { scores: logits.clone().rows(window), gradient };
        rows.main(index, window, &scores)?;
        if loss.options().padding == Padding::Zero {
            for name in ["grad.logits", "grad.target_probs"] {
                rows.pad(call.output(name).map(|view| view.rows(window)))?;
            }
        }
    }
    rows.end(&windows)
}

/// A functor's tensors, each with what it is bound to.
pub(crate) type FunctorViews = Vec<(FunctorStream, Option<View>)>;

/// States that wait in memory while blocks of columns go by: one a row, then one a lane of each row.
pub(crate) struct Waiting {
    states: View,
    /// Where those of the lanes begin.
    lanes: u64,
}

/// A table of vectors, some of which may be zeros, for the status.
struct Vectors {
    table: View,
    entry_step: u64,
    count: u64,
}

/// What the planner keeps for a stretch of rows that share bindings.
struct Window {
    rows: Range<u64>,
    table: View,
    records: View,
    first_tally: u64,
}

/// Plans everything around the stream: the row table before it, the reductions after it.
pub(crate) struct Rows<'a> {
    pub planner: Planner<'a>,
    pub(super) loss: &'a dyn RowLoss,
    pub(super) call: &'a Call,
    classes: u64,
    pub(super) count: u64,
    totals: Totals,
    windows: Vec<Window>,
    tallies: Option<View>,
    shared: BTreeMap<&'static str, (u64, View)>,
    given: BTreeMap<&'static str, View>,
    vectors: Vec<Vectors>,
    blocks: u64,
    /// Tallies before the header: those of the rows, and of what else was counted.
    counted: u64,
}

impl<'a> Rows<'a> {
    pub fn new(loss: &'a dyn RowLoss, call: &'a Call, profile: &'a Profile) -> Result<Self> {
        loss.validate()?;
        check_outputs(loss, call)?;
        loss.check(call)?;
        let name = loss.about().name;
        let dtype = call.inputs.get("logits").map_or(Dtype::F32, |logits| logits.layout.dtype);
        Ok(Self {
            planner: Planner::new(name, profile),
            loss,
            call,
            classes: call.dim(Dim::Classes),
            count: call.dim(Dim::Rows),
            totals: Totals { skeleton: "row", loss: name, dtype },
            windows: Vec::new(),
            tallies: None,
            shared: BTreeMap::new(),
            given: BTreeMap::new(),
            vectors: Vec::new(),
            blocks: 0,
            counted: 0,
        })
    }

    /// Gives a tensor of the plan's own under the name of an input.
    pub fn give(&mut self, name: &'static str, view: View) {
        self.given.insert(name, view);
    }

    /// Has the status count the vectors of a table whose entry is 0.
    pub fn count_zeros(&mut self, table: View, entry_step: u64, count: u64) {
        self.vectors.push(Vectors { table, entry_step, count });
    }

    fn input(&self, name: &str) -> Option<View> {
        self.given.get(name).cloned().or_else(|| self.call.input(name))
    }

    pub(super) fn profile(&self) -> &'a Profile {
        self.planner.profile
    }

    fn label(&self, kernel: &str) -> String {
        self.totals.label(kernel)
    }

    /// Rows whose stream is one short dispatch.
    pub fn short(&self) -> u64 {
        (self.profile().dispatch_elements / self.classes.max(1)).max(1)
    }

    /// Reads what is given for rows, and finds the denominator.
    pub fn begin(&mut self, windows: &[Range<u64>]) -> Result<()> {
        self.planner.windows(windows.len() as u64);
        let blocks: u64 = windows.iter().map(|w| (w.end - w.start).div_ceil(BLOCK)).sum();
        // Two sets of tallies (before and after the stream), each with room to fold into, and one
        // tally for what the header found.
        let vectors: u64 = self.vectors.iter().map(|v| v.count.div_ceil(BLOCK)).sum();
        let counted = blocks + vectors;
        let words = (2 * counted + 2 * blocks + 4) * TALLY_WORDS;
        let tallies = self.planner.scratch(Layout::vector(Dtype::U32, words));
        let mut first_tally = 0;
        for rows in windows {
            let count = rows.end - rows.start;
            let table = HEADER_WORDS + count * ENTRY_WORDS;
            let table = self.planner.scratch(Layout::vector(Dtype::U32, table));
            let records = self.planner.scratch(Layout::vector(Dtype::U32, count * RECORD_WORDS));
            self.windows.push(Window { rows: rows.clone(), table, records, first_tally });
            first_tally += count.div_ceil(BLOCK);
        }
        (self.blocks, self.counted) = (blocks, counted);
        for index in 0..self.windows.len() {
            self.prepare(index, &tallies)?;
        }
        self.zeros(&tallies, first_tally)?;
        let (first, count) = self.fold(&tallies, 0, counted)?;
        let tables: Vec<View> = self.windows.iter().map(|w| w.table.clone()).collect();
        for table in tables {
            self.header(&tallies, &table, first, count)?;
        }
        if self.windows.is_empty() {
            let table = self.planner.scratch(Layout::vector(Dtype::U32, HEADER_WORDS));
            self.header(&tallies, &table, first, count)?;
        }
        self.tallies = Some(tallies);
        Ok(())
    }

    fn prepare(&mut self, index: usize, tallies: &View) -> Result<()> {
        let window = &self.windows[index];
        let (rows, first_tally) = (window.rows.clone(), window.first_tally);
        let (table, records) = (window.table.clone(), window.records.clone());
        let count = rows.end - rows.start;
        let options = self.loss.options();
        let row = |name| self.input(name).map(|view| per_row(view, self.count).rows(&rows));
        let (targets, row_weight, upstream) = (row("targets"), row("row_weight"), row("upstream"));
        // Targets that are no indices are the functor's.
        let targets = targets.filter(|view| !view.layout.dtype.is_float());
        let lse = row("lse");
        let weight = self.class_weight();
        let ignored = ignore_words(&options.ignored);
        let classes = self.classes;
        let shard = options.shard.unwrap_or(Shard { first: 0, classes });
        self.around(
            "prepare",
            &[shader!("tally.wgsl"), shader!("record.wgsl"), shader!("prepare.wgsl")],
        )
        .shape("HAS_TARGETS", targets.is_some())
        .shape("HAS_LSE", lse.is_some())
        .shape("WEIGHTED_ROWS", options.weighted_rows)
        .number("rows", count)
        .number("classes", classes)
        .number("first_row", rows.start)
        .number("first_tally", first_tally)
        .number("first_class", shard.first)
        .number("all_classes", shard.classes)
        .numbers(ignored)
        .read_elements("row_weight", row_weight, 1.0)
        .read_elements("upstream", upstream, 1.0)
        .read_elements("weight", weight, 1.0)
        .integers("targets", targets)
        .read_elements("lse", lse, 0.0)
        .table("row_table", &table, "vec4<u32>")
        .table("records", &records, "u32")
        .table("tallies", tallies, "Tally")
        .groups(count.div_ceil(BLOCK))
    }

    /// Counts the vectors of zeros, into tallies behind those of the rows.
    fn zeros(&mut self, tallies: &View, first_tally: u64) -> Result<()> {
        let mut first_tally = first_tally;
        for Vectors { table, entry_step, count } in std::mem::take(&mut self.vectors) {
            self.around("zeros", &[shader!("tally.wgsl"), shader!("pairs/zeros.wgsl")])
                .number("rows", count)
                .number("entry_step", entry_step)
                .number("first_tally", first_tally)
                .table("table", &table, "u32")
                .table("tallies", tallies, "Tally")
                .groups(count.div_ceil(BLOCK))?;
            first_tally += count.div_ceil(BLOCK);
        }
        Ok(())
    }

    /// The class weights, which `prepare` and the functor share.
    fn class_weight(&self) -> Option<View> {
        let stream = self.loss.streams().iter().find(|stream| stream.name == "weight")?;
        Some(self.call.input(stream.argument)?.for_every_row())
    }

    /// Folds `count` tallies from `first` on until one workgroup can take them.
    fn fold(&mut self, tallies: &View, first: u64, count: u64) -> Result<(u64, u64)> {
        self.totals.fold(&mut self.planner, tallies, first, count)
    }

    /// Begins a dispatch of one of the small kernels around the stream.
    pub fn around(&mut self, entry: &'static str, sources: &[Source]) -> Step<'_, 'a> {
        self.totals.around(&mut self.planner, entry, sources)
    }

    /// Where the header leaves what it found, and where the second set of tallies begins.
    fn kept_tally(&self) -> u64 {
        2 * self.counted + 1
    }

    fn header(&mut self, tallies: &View, table: &View, first: u64, count: u64) -> Result<()> {
        let options = self.loss.options();
        let (reduction, over) = total::divisor(options.reduction);
        let weight = self.class_weight();
        // Only a gradient made from a saved lse alone needs Σ w: a stream finds it by itself.
        let sums_weights = self.call.has("lse") && weight.is_some();
        let denominator = self.call.input("denominator");
        let kept = self.kept_tally();
        let classes = self.classes;
        self.around(
            "header",
            &[shader!("tally.wgsl"), shader!("divisor.wgsl"), shader!("header.wgsl")],
        )
        .shape("SUMS_CLASS_WEIGHTS", sums_weights)
        .shape("HAS_DENOMINATOR", denominator.is_some())
        .number("classes", classes)
        .number("first", first)
        .number("tallies", count)
        .number("kept", kept)
        .number("reduction", reduction)
        .number("over", over)
        .read_elements("weight", weight.filter(|_| sums_weights), 1.0)
        .read_elements("denominator", denominator, 1.0)
        .table("row_table", table, "vec4<u32>")
        .table("tallies", tallies, "Tally")
        .groups(1)
    }

    /// Lanes that share a row: enough for a tile each, so a choice by the classes and whether they are
    /// planes, which may change a row's last bits; what lies beside the row may not.
    fn lanes(&self) -> (u32, u32) {
        let workgroup = self.profile().lanes();
        let planes = self.call.inputs.get("logits").is_some_and(|l| l.layout.has_planes());
        if planes && self.classes <= FEW_CLASSES {
            // Neighbouring rows lie side by side, a row's classes far apart.
            return (workgroup, 1);
        }
        let wanted = self.classes.div_ceil(16).next_power_of_two();
        (workgroup, wanted.min(u64::from(workgroup)) as u32)
    }

    /// Columns of a segment: a whole number of tiles.
    fn segment(&self, lanes: u32) -> u64 {
        u64::from(self.profile().segment).next_multiple_of(u64::from(lanes) * 16)
    }

    /// The stream of a stretch of rows, which lies inside window `index`.
    pub fn main(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let segments = self.classes.div_ceil(self.segment(lanes));
        let count = rows.end - rows.start;
        let groups = count.div_ceil(u64::from(workgroup / lanes));
        let few = segments > 1 && groups < u64::from(self.profile().busy_workgroups);
        // See `MOST_ITERATIONS`: a workgroup that walks a very long row twice would exceed it.
        let long = 5 * self.classes / (16 * u64::from(lanes)) > MOST_ITERATIONS;
        if self.closes() {
            self.close(index, rows, Some(scores))?;
            self.gradient(index, rows, scores)
        } else if few || long || self.call.wants("statistics") {
            let words = count * segments * STATE_WORDS;
            let partials = self.shared("partials", Layout::vector(Dtype::U32, words));
            self.partial(index, rows, scores, &partials)?;
            self.merge(index, rows, Some(scores), Some((&partials, segments)))?;
            self.gradient(index, rows, scores)
        } else {
            self.fused(index, rows, scores)
        }
    }

    /// Whether what is given closes the rows without a stream: the statistics of all shards, or the
    /// lse where the loss needs no more.
    pub fn closes(&self) -> bool {
        let saved = self.call.has("lse") && !self.loss.streams_twice(self.call);
        saved || self.call.has("statistics")
    }

    /// Closes rows from what is given.
    pub fn close(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: Option<&Scores>,
    ) -> Result<()> {
        match self.call.input("statistics") {
            Some(gathered) => self.gathered(index, rows, &gathered),
            None => self.merge(index, rows, scores, None),
        }
    }

    /// Whether that can be done without a look at their scores.
    pub fn closes_unseen(&self) -> bool {
        self.call.has("statistics") || (self.call.has("lse") && self.loss.closes_unseen(self.call))
    }

    /// Scratch that one stretch of rows after another uses again.
    pub fn shared(&mut self, name: &'static str, layout: Layout) -> View {
        let bytes = layout.end().unwrap_or(u64::MAX >> 8) * layout.dtype.bytes();
        if let Some((_, view)) = self.shared.get(name).filter(|(held, _)| *held >= bytes) {
            return view.clone().reshaped(layout);
        }
        let view = self.planner.scratch(layout);
        self.shared.insert(name, (bytes, view.clone()));
        view
    }

    /// The records of window `index`, and where in it `rows` begin.
    pub fn records(&self, index: usize, rows: &Range<u64>) -> Option<(View, u64)> {
        let window = self.windows.get(index)?;
        Some((window.records.clone(), rows.start - window.rows.start))
    }

    /// Begins a dispatch over a stretch of rows with everything that all row kernels have.
    pub fn step(
        &mut self,
        entry: &'static str,
        file: Source,
        index: usize,
        rows: &Range<u64>,
    ) -> Step<'_, 'a> {
        let (workgroup, lanes) = self.lanes();
        let segment = self.segment(lanes);
        let mut sources = vec![shader!("record.wgsl")];
        sources.extend(self.loss.sources());
        sources.extend([shader!("row.wgsl"), file]);
        let window = &self.windows[index];
        let (table, records, start) =
            (window.table.clone(), window.records.clone(), window.rows.start);
        let shapes = self.loss.shapes(self.call);
        let numbers = self.loss.numbers(self.call);
        self.planner
            .dispatch(self.label(entry), entry, &sources)
            .shape("WORKGROUP", workgroup)
            .shape("LANES", lanes)
            .shapes(shapes)
            .number("rows", rows.end - rows.start)
            .number("classes", self.classes)
            .number("first_row", rows.start - start)
            .number("origin", rows.start)
            .number("segment", segment)
            .numbers(numbers)
            .table("row_table", &table, "vec4<u32>")
            .table("records", &records, "u32")
    }

    fn fused(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let writes = self.writes(&scores.gradient);
        let (streams, call) = (self.streams(rows, writes), self.call);
        let step = self
            .step("fused", shader!("row/fused.wgsl"), index, rows)
            .words("statistics", None)
            .shape("WRITES_GRADIENT", writes)
            .shape("IN_PLACE", matches!(scores.gradient, Gradient::InPlace))
            .shape("HAS_LSE", call.has("lse"));
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
    ) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let segments = self.classes.div_ceil(self.segment(lanes));
        let streams = self.streams(rows, false);
        let step = self
            .step("partial", shader!("row/partial.wgsl"), index, rows)
            .number("segments", segments)
            .words("statistics", None)
            .table("partials", partials, "State");
        let step = functor_streams(step, streams);
        gradient_stream(step, scores, false)
            .groups(((rows.end - rows.start) * segments).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Closes rows from their partial states, so many a row, or from their saved lse where there are none.
    fn merge(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: Option<&Scores>,
        partials: Option<(&View, u64)>,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let (streams, call) = (self.streams(rows, false), self.call);
        let statistics = call.output("statistics").map(|view| view.rows(rows));
        let file =
            if partials.is_some() { shader!("row/merge.wgsl") } else { shader!("row/saved.wgsl") };
        let entry = if partials.is_some() { "merge" } else { "saved" };
        let mut step = self
            .step(entry, file, index, rows)
            .shape("HAS_LSE", call.has("lse"))
            .shape("STREAMED", partials.is_some())
            .shape("APART", partials.is_some() && scores.is_none())
            .words("statistics", statistics);
        if let Some((partials, count)) = partials {
            step = step.number("segments", count).table("partials", partials, "State");
        }
        let step = functor_streams(step, streams);
        let step = match scores {
            Some(scores) => gradient_stream(step, scores, false),
            None => step.read("logits", None, 0.0).write("gradient", None),
        };
        step.groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// Columns of a block are a multiple of this: a tile of all lanes of a row.
    pub fn block_unit(&self) -> u64 {
        16 * u64::from(self.lanes().1)
    }

    /// The most columns of a block: see `MOST_ITERATIONS`.
    pub fn block_most(&self) -> u64 {
        MOST_ITERATIONS / 5 * self.block_unit()
    }

    /// Bytes of the states that wait between blocks, a row.
    pub fn waiting_bytes(&self) -> u64 {
        (1 + u64::from(self.lanes().1)) * STATE_WORDS * 4
    }

    /// The states of rows whose columns go by in blocks.
    pub fn waiting(&mut self, rows: &Range<u64>) -> Waiting {
        let count = rows.end - rows.start;
        let words = count * (1 + u64::from(self.lanes().1)) * STATE_WORDS;
        Waiting { states: self.shared("states", Layout::vector(Dtype::U32, words)), lanes: count }
    }

    /// Keeps the scores that a loss looks at out of turn, as far as a block of columns holds them.
    pub fn beside(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
    ) -> Result<()> {
        let (workgroup, _) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("beside", shader!("row/beside.wgsl"), index, rows)
            .shape("APART", true)
            .number("first_column", columns.start)
            .number("end_column", columns.end)
            .words("statistics", None);
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// Whether a stream compares every score with one that may not have gone by yet.
    pub fn looks_ahead(&self) -> bool {
        self.call.wants("rank")
    }

    /// The first stream of a block of columns, which are all that `scores` holds.
    pub fn block(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        columns: &Range<u64>,
        scores: &View,
        waiting: &Waiting,
    ) -> Result<()> {
        let (workgroup, lanes) = self.lanes();
        let streams = self.streams(rows, false);
        let step = self
            .step("block", shader!("row/block.wgsl"), index, rows)
            .shape("APART", true)
            .number("first_column", columns.start)
            .number("end_column", columns.end)
            .number("lane_states", waiting.lanes)
            .words("statistics", None)
            .table("states", &waiting.states, "State");
        functor_streams(step, streams)
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Closes rows whose columns have all gone by in blocks.
    pub fn close_blocks(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        waiting: &Waiting,
    ) -> Result<()> {
        self.merge(index, rows, None, Some((&waiting.states, 1)))
    }

    /// Closes rows from the statistics of their shards.
    fn gathered(&mut self, index: usize, rows: &Range<u64>, gathered: &View) -> Result<()> {
        let shards = shard::gathered(gathered.layout.rows(), self.count)?;
        let (workgroup, _) = self.lanes();
        let (streams, count) = (self.streams(rows, false), self.count);
        let step = self
            .step("combine", shader!("row/gathered.wgsl"), index, rows)
            .shape("GATHERED", true)
            .number("shards", shards)
            .number("all_rows", count)
            .words("gathered", Some(gathered.clone()))
            .words("statistics", None)
            .read("logits", None, 0.0)
            .write("gradient", None);
        functor_streams(step, streams)
            .groups((rows.end - rows.start).div_ceil(u64::from(workgroup)))
    }

    /// The second stream alone, of rows that were closed before.
    pub fn gradient(&mut self, index: usize, rows: &Range<u64>, scores: &Scores) -> Result<()> {
        self.gradient_of(index, rows, &(0..self.classes), scores)
    }

    /// The second stream of some columns, which are all that `scores` holds.
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
            .number("first_column", columns.start)
            .number("end_column", columns.end)
            .number("column_segments", segments)
            .shape("HAS_LSE", call.has("lse"))
            .words("statistics", None);
        let step = functor_streams(step, streams);
        gradient_stream(step, scores, true)
            .groups(((rows.end - rows.start) * segments).div_ceil(u64::from(workgroup / lanes)))
    }

    /// Whether the second stream is wanted.
    pub fn writes(&self, gradient: &Gradient) -> bool {
        // Beside the gradient of the scores, a functor may write some of its own.
        !matches!(gradient, Gradient::Nowhere)
            || self.loss.streams().iter().any(|s| self.call.wants(s.argument))
    }

    /// The functor's own tensors for a stretch of rows.
    pub fn streams(&self, rows: &Range<u64>, writes: bool) -> FunctorViews {
        let view = |stream: &FunctorStream| {
            let view = if stream.argument.starts_with("grad.") {
                self.call.output(stream.argument).filter(|_| writes)
            } else {
                self.input(stream.argument)
            }?;
            Some(match stream.span {
                Span::Classes => self.own_classes(view.for_every_row()),
                Span::Rows => per_row(view, self.count).rows(rows),
                Span::Matrix => view.rows(rows),
                Span::Planes => view,
            })
        };
        self.loss.streams().iter().map(|stream| (*stream, view(stream))).collect()
    }

    /// The stretch of a vector over the classes of all shards that is the call's own.
    fn own_classes(&self, view: View) -> View {
        match self.loss.options().shard {
            Some(Shard { first, .. }) if view.layout.columns() > self.classes => {
                view.columns(&(first..first + self.classes))
            }
            _ => view,
        }
    }

    /// Zeroes a gradient's columns between the classes and the row stride.
    pub fn pad(&mut self, gradient: Option<View>) -> Result<()> {
        self.totals.pad(&mut self.planner, gradient, self.classes)
    }

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

/// A scalar as a vector that has the same element for every row.
fn per_row(mut view: View, rows: u64) -> View {
    if view.layout.len() == 1 && rows != 1 {
        view.layout.row_stride = 0;
        view.layout.shape = vec![rows];
    }
    view
}

fn ignore_words(ignored: &[i64]) -> Vec<(String, Number)> {
    let mut numbers = vec![("ignored".to_owned(), Number::from(ignored.len() as u64))];
    for slot in 0..4 {
        let value = ignored.get(slot).copied().unwrap_or(0) as u64;
        numbers.push((format!("ignore_{slot}_low"), Number::U32(value as u32)));
        numbers.push((format!("ignore_{slot}_high"), Number::U32((value >> 32) as u32)));
    }
    numbers
}

/// Adds the functor's own tensors.
pub(crate) fn functor_streams<'p, 'a>(step: Step<'p, 'a>, streams: FunctorViews) -> Step<'p, 'a> {
    streams.into_iter().fold(step, |step, (stream, view)| {
        if stream.argument.starts_with("grad.") {
            step.write(stream.name, view)
        } else if stream.span == Span::Rows {
            step.read_elements(stream.name, view, stream.default)
        } else {
            step.read(stream.name, view, stream.default)
        }
    })
}

/// Adds the scores and their gradient.
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
