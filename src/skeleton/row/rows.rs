//! The plan of a row loss: the row table before the stream, the kernels of the stream, and the reductions after it.

mod blocks;
mod order;
mod sampled;
mod select;
mod several;
mod stream;
mod top;
mod totals;
mod tree;

use std::{collections::BTreeMap, ops::Range};

use super::{
    Broadcast, Columns, RowLoss, RowProgram, RowStream, StreamAccess, Target, accepts_program,
    missing,
};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{
        Number, Plan, Planner, Step, View,
        kernel::{Label, Source, record::RowRecord, shader, size},
        profile::Profile,
    },
    skeleton::sums::{self, BLOCK, TALLY_WORDS, Totals},
    spec::{
        about::Dim,
        call::Call,
        options::Padding,
        quantized::{SCALE, ZERO_POINT},
        shard::Shard,
    },
};

pub(crate) use stream::functor_streams;

/// The numbers of a row that one dispatch puts into its record.
const NUMBERS: [&str; 4] = ["number_0", "number_1", "number_2", "number_3"];
/// Words of an entry of the row table, and of the table's header.
const ENTRY_WORDS: u64 = 4;
const HEADER_WORDS: u64 = size::HEADER as u64 * ENTRY_WORDS;

/// Where the scores come from, and where their gradient goes.
pub(crate) struct Scores {
    /// The scores of a stretch of rows.
    pub scores: View,
    /// Where the gradient of the scores goes.
    pub gradient: Gradient,
}

/// Where the gradient of the scores goes.
pub(crate) enum Gradient {
    Nowhere,
    InPlace,
    To(View),
}

/// The plan of a row loss on stored scores, the input `logits` or [`RowProgram::scores`].
///
/// # Errors
///
/// Everything that the loss and its skeleton refuse of the call.
pub fn plan(loss: &dyn RowLoss, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut rows = Rows::new(loss, call, profile)?;
    let name = rows.program.streamed();
    let gradient_name = rows.program.gradient_name();
    let emitted: Vec<String> = rows.program.emitted().collect();
    let Some(scores) = call.input(name) else {
        return Err(missing(loss, name));
    };
    let gradient = call.output(&gradient_name);
    let matrices = [Some(&scores), gradient.as_ref()];
    let windows = rows.windows(matrices.into_iter().flatten(), rows.short())?;
    rows.begin(&windows)?;
    for (index, window) in windows.iter().enumerate() {
        let gradient = match &gradient {
            None => Gradient::Nowhere,
            Some(_) if call.is_in_place(&gradient_name) => Gradient::InPlace,
            Some(view) => Gradient::To(view.clone().rows(window)),
        };
        let streamed = Scores { scores: scores.clone().rows(window), gradient };
        rows.main(index, window, &streamed)?;
        if rows.program.padding == Padding::Zero {
            for name in &emitted {
                rows.pad(call.output(name).map(|view| view.rows(window)))?;
            }
        }
    }
    rows.end(&windows)
}

/// The functor's tensors, each with the view that is bound to it.
pub(crate) type FunctorViews = Vec<(RowStream, Option<View>)>;

/// A table of vectors. The status counts its vectors of zeros.
struct Vectors {
    table: View,
    entry_step: u64,
    count: u64,
}

/// What the planner keeps for a window: a stretch of rows that share bindings.
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
    pub(super) program: RowProgram,
    pub(super) call: &'a Call,
    classes: u64,
    pub(super) count: u64,
    totals: Totals,
    windows: Vec<Window>,
    tallies: Option<View>,
    /// The lanes that share a row whose columns are the nodes of a tree.
    tree_lanes: u32,
    shared: BTreeMap<&'static str, (u64, View)>,
    given: BTreeMap<&'static str, View>,
    chunks: BTreeMap<&'static str, View>,
    vectors: Vec<Vectors>,
    /// Whether the scores are i8.
    quantized: bool,
    /// Whether sums over the rows, which are gradients, are added to what their outputs hold.
    pub adds_sums: bool,
    /// Whether rows that count come before ignored ones, and the rows of a stretch are their slots.
    orders: bool,
    blocks: u64,
    /// The number of tallies that are folded before the header: those of the rows, and those of the vectors.
    counted: u64,
}

impl<'a> Rows<'a> {
    pub fn new(loss: &'a dyn RowLoss, call: &'a Call, profile: &'a Profile) -> Result<Self> {
        loss.validate()?;
        let program = loss.program(call);
        accepts_program(loss, &program, call)?;
        program.check(profile)?;
        let name = loss.about().name;
        let scores = call.inputs.get(program.streamed());
        let dtype = scores.map_or(Dtype::F32, |scores| scores.layout.dtype);
        let columns = match program.columns {
            Columns::Sampled => call.dim(Dim::Samples) + 1,
            _ => call.dim(Dim::Classes),
        };
        let mut rows = Self {
            planner: Planner::new(name, call, profile),
            loss,
            program,
            call,
            classes: columns,
            count: call.dim(Dim::Rows),
            totals: Totals { skeleton: "row", loss: name, dtype },
            windows: Vec::new(),
            tallies: None,
            tree_lanes: 1,
            shared: BTreeMap::new(),
            given: BTreeMap::new(),
            chunks: BTreeMap::new(),
            vectors: Vec::new(),
            quantized: dtype == Dtype::I8,
            adds_sums: false,
            orders: false,
            blocks: 0,
            counted: 0,
        };
        rows.selection();
        rows.tree_tables()?;
        Ok(rows)
    }

    /// Lets the kernels read a tensor of the plan under the name of an input.
    pub fn give(&mut self, name: &'static str, view: View) {
        self.given.insert(name, view);
    }

    /// Lets the kernels read scores under the name of an input: those of the stretch of rows, and of the block of columns,
    /// that is streamed next.
    pub fn give_chunk(&mut self, name: &'static str, chunk: View) {
        self.chunks.insert(name, chunk);
    }

    /// Has the status count the vectors of a table whose entry is 0.
    pub fn count_zeros(&mut self, table: View, entry_step: u64, count: u64) {
        self.vectors.push(Vectors { table, entry_step, count });
    }

    /// Words of a row's record.
    pub fn record_words(&self) -> u64 {
        self.record().words().into()
    }

    /// The words of a row's record.
    pub fn record(&self) -> RowRecord {
        self.program.record(self.quantized)
    }

    pub(super) fn input(&self, name: &str) -> Option<View> {
        self.given.get(name).cloned().or_else(|| self.call.input(name))
    }

    pub(super) fn profile(&self) -> &'a Profile {
        self.planner.profile
    }

    fn label(&self, kernel: &'static str) -> Label {
        self.totals.label(kernel)
    }

    /// The most rows whose stream is one short dispatch.
    pub fn short(&self) -> u64 {
        (self.profile().dispatch_elements / self.classes.max(1)).max(1)
    }

    /// Reads what the call gives for rows, and finds the denominator.
    pub fn begin(&mut self, windows: &[Range<u64>]) -> Result<()> {
        self.planner.windows(windows.len() as u64);
        let blocks: u64 = windows.iter().map(|w| (w.end - w.start).div_ceil(BLOCK)).sum();
        // Two sets of tallies (before and after the stream), each with room to fold into, and one tally for what the
        // header finds.
        let vectors: u64 = self.vectors.iter().map(|v| v.count.div_ceil(BLOCK)).sum();
        let samples = self.samples().div_ceil(BLOCK);
        let counted = blocks + vectors + samples;
        let words = (2 * counted + 2 * blocks + 4) * TALLY_WORDS;
        let tallies = self.planner.scratch(Layout::vector(Dtype::U32, words));
        let mut first_tally = 0;
        for rows in windows {
            let count = rows.end - rows.start;
            let table = HEADER_WORDS + count * ENTRY_WORDS + self.order_words(count);
            let table = self.planner.scratch(Layout::vector(Dtype::U32, table));
            let records =
                self.planner.scratch(Layout::vector(Dtype::U32, count * self.record_words()));
            self.windows.push(Window { rows: rows.clone(), table, records, first_tally });
            first_tally += count.div_ceil(BLOCK);
        }
        (self.blocks, self.counted) = (blocks, counted);
        let ignored = self.program.target.ignored().to_vec();
        self.target_table(&ignored)?;
        for index in 0..self.windows.len() {
            self.prepare(index, &tallies)?;
            self.order(index)?;
            self.numbers(index)?;
        }
        self.zeros(&tallies, first_tally)?;
        self.bad_samples(&tallies, counted - samples)?;
        self.sample_table()?;
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
        let row = |name| self.input(name).map(|view| per_row(view, self.count).rows(&rows));
        let (targets, row_weight) = (row("targets"), row("row_weight"));
        let upstream = row("upstream").filter(|_| !self.program.streams_upstream());
        let ignored = ignored_indices(self.program.target.ignored());
        let targets = targets.filter(|_| matches!(self.program.target, Target::Index { .. }));
        let target_words = self.target_words();
        let target_table = self.given.get("target_table").map(|table| table.clone().rows(&rows));
        let lse = row("lse");
        let weight = self.class_weight();
        let row_weights = self.program.counted.row_weights;
        let (record_words, saved_lse) = (self.record().words(), self.record().saved_lse_word());
        let classes = self.classes;
        let labels = self.given.get("labels").cloned();
        // Targets are nodes of a tree, of which the root is no column.
        let targets_below = self.call.dim(Dim::Classes) + u64::from(labels.is_some());
        let shard = self.program.shard.unwrap_or(Shard { first: 0, classes: targets_below });
        self.around(
            "prepare",
            &[
                shader!("tally.wgsl"),
                shader!("record.wgsl"),
                shader!("row/ignored.wgsl"),
                shader!("prepare.wgsl"),
            ],
        )
        .overriding("HAS_TARGETS", targets.is_some())
        .overriding("HAS_SEVERAL", target_table.is_some())
        .overriding("HAS_LABELS", labels.is_some())
        .overriding("HAS_LSE", lse.is_some())
        .uniform("target_words", target_words)
        .uniform("weighted_rows", u32::from(row_weights))
        .uniform("rows", count)
        .uniform("classes", classes)
        .uniform("first_row", rows.start)
        .uniform("first_tally", first_tally)
        .uniform("first_class", shard.first)
        .uniform("all_classes", shard.classes)
        .uniform("record_words", record_words)
        .uniform("saved_lse", saved_lse)
        .uniforms(ignored)
        .read_elements("row_weight", row_weight, 1.0)
        .read_elements("upstream", upstream, 1.0)
        .read_elements("weight", weight, 1.0)
        .integers("targets", targets)
        .words("target_table", target_table)
        .words("labels", labels)
        .read_elements("lse", lse, 0.0)
        .table("row_table", &table, "vec4<u32>")
        .table("records", &records, "u32")
        .table("tallies", tallies, "Tally")
        .groups(count.div_ceil(BLOCK))
    }

    /// Puts the numbers of the rows, and the scales of their scores, into their records.
    fn numbers(&mut self, index: usize) -> Result<()> {
        let record = self.record();
        let arguments: Vec<&str> = record.numbers.iter().map(|number| number.argument).collect();
        self.put_numbers(index, record.first_number(), &arguments)?;
        let scales: &[&str] = if self.quantized { &[SCALE, ZERO_POINT] } else { &[] };
        self.put_numbers(index, record.scale_word(), scales)
    }

    /// Puts inputs of one number a row, or one for all rows, into the words of the records from `first` on.
    fn put_numbers(&mut self, index: usize, first: u32, arguments: &[&str]) -> Result<()> {
        let record_words = self.record().words();
        let Window { rows, records, .. } = &self.windows[index];
        let (rows, records) = (rows.clone(), records.clone());
        let (count, lanes) = (rows.end - rows.start, u64::from(self.profile().tally_lanes()));
        let first_words = (u64::from(first)..).step_by(NUMBERS.len());
        for (numbers, first) in arguments.chunks(NUMBERS.len()).zip(first_words) {
            let view = |name: &&str| Some(per_row(self.input(name)?, self.count).rows(&rows));
            let views: Vec<Option<View>> = numbers.iter().map(view).collect();
            let step = self
                .around("numbers", &[shader!("row/numbers.wgsl")])
                .uniform("rows", count)
                .uniform("classes", 1_u64)
                .uniform("record_words", record_words)
                .uniform("first", first)
                .uniform("count", numbers.len() as u64);
            let views = views.into_iter().chain(std::iter::repeat(None));
            NUMBERS
                .into_iter()
                .zip(views)
                .fold(step, |step, (name, view)| step.read_numbers(name, view, 0.0))
                .table("records", &records, "u32")
                .groups(count.div_ceil(lanes))?;
        }
        Ok(())
    }

    /// Counts the vectors of zeros, in tallies behind those of the rows.
    fn zeros(&mut self, tallies: &View, first_tally: u64) -> Result<()> {
        let mut first_tally = first_tally;
        for Vectors { table, entry_step, count } in std::mem::take(&mut self.vectors) {
            self.around("zeros", &[shader!("tally.wgsl"), shader!("pairs/zeros.wgsl")])
                .uniform("rows", count)
                .uniform("entry_step", entry_step)
                .uniform("first_tally", first_tally)
                .table("table", &table, "u32")
                .table("tallies", tallies, "Tally")
                .groups(count.div_ceil(BLOCK))?;
            first_tally += count.div_ceil(BLOCK);
        }
        Ok(())
    }

    /// The class weights, which `prepare` and the functor share.
    fn class_weight(&self) -> Option<View> {
        let name = self.program.counted.class_weights?;
        let stream = self.program.streams.iter().find(|stream| stream.name == name)?;
        Some(self.call.input(stream.argument)?.for_every_row())
    }

    /// Folds `count` tallies, the first of them `first`, until one workgroup can take the rest.
    fn fold(&mut self, tallies: &View, first: u64, count: u64) -> Result<(u64, u64)> {
        self.totals.fold(&mut self.planner, tallies, first, count)
    }

    /// Begins a dispatch of one of the small kernels around the stream.
    pub fn around(&mut self, entry: &'static str, sources: &[Source]) -> Step<'_, 'a> {
        self.totals.around(&mut self.planner, entry, sources)
    }

    /// The tally in which the header leaves what it found. The second set of tallies begins behind it.
    fn kept_tally(&self) -> u64 {
        2 * self.counted + 1
    }

    fn header(&mut self, tallies: &View, table: &View, first: u64, count: u64) -> Result<()> {
        let weight = self.class_weight();
        // The header sums the class weights only for gradients from a saved lse: a stream computes Σ w itself.
        let sums_weights = self.call.has("lse") && weight.is_some();
        let denominator = self.call.input("denominator");
        let scalar = self.program.scalar.and_then(|name| self.input(name));
        let (reduction, over) = sums::divisor(self.program.reduction, denominator.is_some());
        let kept = self.kept_tally();
        let classes = self.classes;
        self.around(
            "header",
            &[shader!("tally.wgsl"), shader!("divisor.wgsl"), shader!("header.wgsl")],
        )
        .overriding("SUMS_CLASS_WEIGHTS", sums_weights)
        .uniform("classes", classes)
        .uniform("first", first)
        .uniform("tallies", count)
        .uniform("kept", kept)
        .uniform("reduction", reduction)
        .uniform("over", over)
        .read_elements("weight", weight.filter(|_| sums_weights), 1.0)
        .read_elements("denominator", denominator, 1.0)
        .read_elements("scalar", scalar, 1.0)
        .table("row_table", table, "vec4<u32>")
        .table("tallies", tallies, "Tally")
        .groups(1)
    }

    /// Scratch that is used by one stretch of rows after another.
    pub fn shared(&mut self, name: &'static str, layout: Layout) -> View {
        let bytes = layout.end().unwrap_or(u64::MAX >> 8) * layout.dtype.bytes();
        if let Some((_, view)) = self.shared.get(name).filter(|(held, _)| *held >= bytes) {
            return view.clone().reshaped(layout);
        }
        let view = self.planner.scratch(layout);
        self.shared.insert(name, (bytes, view.clone()));
        view
    }

    /// The records of window `index`, and the place of the first of `rows` among them.
    pub fn records(&self, index: usize, rows: &Range<u64>) -> Option<(View, u64)> {
        let window = self.windows.get(index)?;
        Some((window.records.clone(), rows.start - window.rows.start))
    }

    /// The functor's tensors for a stretch of rows.
    pub fn streams(&self, rows: &Range<u64>, writes: bool) -> FunctorViews {
        let view = |stream: &RowStream| {
            if let Some(chunk) = self.chunks.get(stream.argument) {
                return Some(chunk.clone());
            }
            let view = match stream.access {
                StreamAccess::Write => self.call.output(stream.argument).filter(|_| writes),
                StreamAccess::Read => self.input(stream.argument),
            }?;
            Some(match stream.broadcast {
                Broadcast::Columns => self.own_classes(view.for_every_row()),
                Broadcast::Rows => per_row(view, self.count).rows(rows),
                Broadcast::Elements => view.rows(rows),
                // The axes of the rows are folded into one, so a stream extends over all of them or over none.
                Broadcast::One | Broadcast::Axes(_) => view,
            })
        };
        let streams = self.program.streams.iter();
        let streams = streams.chain(self.selected_streams()).chain(self.several_streams());
        streams.map(|stream| (*stream, view(stream))).collect()
    }

    /// The part of a vector over the classes of all shards that belongs to this call.
    fn own_classes(&self, view: View) -> View {
        match self.program.shard {
            Some(Shard { first, .. }) if view.layout.columns() > self.classes => {
                view.columns(&(first..first + self.classes))
            }
            _ => view,
        }
    }

    /// Zeroes a gradient's columns between the classes and the row stride.
    pub fn pad(&mut self, gradient: Option<View>) -> Result<()> {
        self.totals.pad(&mut self.planner, gradient, self.call.dim(Dim::Classes))
    }
}

/// A scalar as a vector with the same element for every row.
fn per_row(mut view: View, rows: u64) -> View {
    if view.layout.len() == 1 && rows != 1 {
        view.layout.row_stride = 0;
        view.layout.shape = vec![rows];
    }
    view
}

/// The uniforms that say which target indices are ignored.
fn ignored_indices(ignored: &[i64]) -> [(&'static str, Number); 9] {
    let value = |slot: usize| ignored.get(slot).copied().unwrap_or(0) as u64;
    let low = |slot| Number::U32(value(slot) as u32);
    let high = |slot| Number::U32((value(slot) >> 32) as u32);
    [
        ("ignored", Number::from(ignored.len() as u64)),
        ("ignore_0_low", low(0)),
        ("ignore_0_high", high(0)),
        ("ignore_1_low", low(1)),
        ("ignore_1_high", high(1)),
        ("ignore_2_low", low(2)),
        ("ignore_2_high", high(2)),
        ("ignore_3_low", low(3)),
        ("ignore_3_high", high(3)),
    ]
}
