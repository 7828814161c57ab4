//! The pair skeleton: losses of a score matrix between two sets of vectors, never stored whole.
//!
//! The scores are those of a linear layer whose weight is the other set, so the products, the chunk
//! and the row kernels are [`crate::linear`]'s and [`crate::row`]'s own. What is added: one entry a
//! vector (its inverse norm and its label) that the row kernels multiply by, and, where a key has a
//! softmax of its own, a second walk over the chunks, because no gradient is known before every
//! row has been seen.

use std::ops::Range;

use crate::{
    check,
    error::{Error, Result},
    kernel::{Source, shader},
    linear::{Layer, LinearOptions, Part, Passes, RowsSum, Sums, Walk},
    loss::{Dim, Empty, Reduction, Shard, Similarity, WeightLayout},
    plan::{Call, Number, Plan, View},
    profile::Profile,
    row::{
        FunctorStream, Gradient, MOST_ITERATIONS, RowLoss, RowOptions, Rows, Scores, Span, missing,
        stretches,
    },
    tensor::{Dtype, Layout},
};

/// Planes of the table of columns that have a softmax of their own.
const COLUMN_PLANES: u64 = 5;
/// Words of a row's record that are its parts of the gradients of scale and bias.
const SHARED: [(&str, u32); 2] = [("grad.scale", 2), ("grad.bias", 3)];

/// How a pair loss pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairing {
    /// Vectors are divided by their norms.
    pub normalize: bool,
    /// Where the columns' part of the gradient comes from.
    pub columns: Columns,
    /// The most bytes for the chunk of scores.
    pub chunk_bytes: Option<u64>,
    /// The keys are a shard of all keys.
    pub shard: Option<Shard>,
}

/// What the columns of the scores are, beside keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Keys and nothing more: a row's gradient follows from the row.
    Keys,
    /// Keys that have a softmax over the queries.
    Softmax,
    /// The queries themselves: a column's softmax is that of its row.
    Queries,
}

/// A loss of pairs.
pub(crate) trait PairLoss: RowLoss {
    /// How it pairs.
    fn pairing(&self) -> Pairing;

    /// What only this loss can refuse, of the inputs given, the outputs wanted, and the numbers of
    /// queries and keys.
    fn check_pairs(
        &self,
        _given: &dyn Fn(&str) -> bool,
        _wanted: &[&str],
        _extents: [u64; 2],
    ) -> Result<()> {
        Ok(())
    }
}

/// The tensors of every pair functor beside the scores.
pub(crate) static STREAMS: &[FunctorStream] = &[
    stream("query_table", Span::Matrix),
    stream("key_table", Span::Planes),
    stream("column_table", Span::Planes),
    stream("scale", Span::Rows),
    stream("bias", Span::Rows),
];

const fn stream(name: &'static str, span: Span) -> FunctorStream {
    FunctorStream { name, argument: name, span, default: 0.0 }
}

/// The functor's files: what all pairs share, a softmax or not, and the loss's own.
pub(crate) fn sources(softmax: bool, own: Source) -> Vec<Source> {
    let softmax_files = [shader!("pairs/column.wgsl"), shader!("pairs/softmax.wgsl")];
    let softmax_files = softmax_files.into_iter().filter(|_| softmax);
    [shader!("pairs.wgsl")].into_iter().chain(softmax_files).chain([own]).collect()
}

/// The scale where none is given, a direction's share of the loss, and the first key.
pub(crate) fn numbers(scale: f64, share: f64, shard: Option<Shard>) -> Vec<(String, Number)> {
    vec![
        ("scale".to_owned(), scale.into()),
        ("share".to_owned(), share.into()),
        ("first_class".to_owned(), first(shard).into()),
    ]
}

fn first(shard: Option<Shard>) -> u64 {
    shard.map_or(0, |shard| shard.first)
}

/// The options that pair losses share.
pub(crate) fn row_options(reduction: Reduction, empty: Empty, ignored: &[i64]) -> RowOptions {
    RowOptions { reduction, empty, ignored: ignored.to_vec(), ..RowOptions::default() }
}

/// Whether a temperature, and the scale that is its inverse, are within f32.
pub(crate) fn check_temperature(loss: &str, temperature: f64) -> Result<()> {
    let normal = (temperature as f32).is_normal() && ((1.0 / temperature) as f32).is_normal();
    if temperature > 0.0 && normal {
        return Ok(());
    }
    Err(Error::option(loss, "temperature", temperature, "τ is above 0 and within f32"))
}

/// What a pair loss refuses.
pub(crate) fn check(loss: &dyn PairLoss, call: &Call) -> Result<()> {
    let wanted: Vec<&str> = call.outputs.keys().map(String::as_str).collect();
    let extents = [call.dim(Dim::Rows), call.dim(Dim::Classes)];
    check_inputs(loss, &|name| call.has(name), &wanted, extents)
}

/// The same for a call on the host.
pub(crate) fn check_inputs(
    loss: &dyn PairLoss,
    given: &dyn Fn(&str) -> bool,
    wanted: &[&str],
    [queries, keys]: [u64; 2],
) -> Result<()> {
    for (gradient, input) in [("grad.scale", "scale"), ("grad.bias", "bias")] {
        if wanted.contains(&gradient) && !given(input) {
            return Err(missing(loss, input));
        }
    }
    let other = wanted.iter().find(|name| !name.starts_with("grad.") && **name != "status");
    if let Some(other) = other.filter(|_| given("lse")) {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "lse".to_owned(),
            other: (*other).to_owned(),
            reason: "a saved lse is for gradients alone".to_owned(),
        });
    }
    let Pairing { shard, columns, .. } = loss.pairing();
    if let Some(shard) = shard {
        shard.check_columns(loss.about().name, "keys", keys)?;
    }
    let all_keys = shard.map_or(keys, |shard| shard.classes);
    if columns != Columns::Queries && !given("targets") && all_keys < queries {
        return Err(Error::WrongShape {
            argument: "keys".to_owned(),
            found: vec![all_keys],
            expected: format!("at least {queries} keys, or `targets`: key i is query i's positive"),
        });
    }
    loss.check_pairs(given, wanted, [queries, keys])
}

/// The plan of a pair loss.
pub(crate) fn plan(loss: &dyn PairLoss, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut call = call.clone();
    if call.in_place {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "gradient_in_place".to_owned(),
            other: loss.about().inputs.first().map_or("", |input| input.name).to_owned(),
            reason: "the vectors are read again after their gradient is written".to_owned(),
        });
    }
    let Pairing { columns, shard, .. } = loss.pairing();
    if columns == Columns::Queries && shard.is_none() {
        // The rows are the columns as well.
        call.dims.insert(Dim::Classes, call.dim(Dim::Rows));
        check::extents(&call.dims)?;
    }
    let mut rows = Rows::new(loss, &call, profile)?;
    let pairs = Pairs::new(loss, &call, profile)?;
    let windows = rows.windows([&pairs.layer.hidden].into_iter(), u64::MAX)?;
    let tables = pairs.tables(&mut rows)?;
    rows.begin(&windows)?;
    rows.planner.unstored(pairs.layer.rows * pairs.layer.classes * 4);
    let again = !rows.closes() && (pairs.wants_gradients() || pairs.wants_scale);
    let whole = u64::from(again && columns != Columns::Keys) + 1;
    let passes = Passes { held: 1, whole, blocks: u64::from(again) + 1 };
    let walk = pairs.layer.walk(&mut rows, &windows, passes)?;
    match pairs.pairing.columns {
        Columns::Keys => pairs.one_walk(&mut rows, &tables, &walk)?,
        _ => pairs.two_walks(&mut rows, &tables, &walk, &windows)?,
    }
    for (name, word) in SHARED {
        if let Some(output) = call.output(name) {
            rows.sum_word(word, output)?;
        }
    }
    rows.end(&windows)
}

/// The plan of the scores themselves: written by the row kernels' second stream in the place of a
/// gradient, and searched for the largest while a chunk is there.
pub(crate) fn similarity(loss: &Similarity, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut rows = Rows::new(loss, call, profile)?;
    let mut pairs = Pairs::new(loss, call, profile)?;
    let matrix = call.output("scores");
    let matrices = [Some(&pairs.layer.hidden), matrix.as_ref()];
    let windows = rows.windows(matrices.into_iter().flatten(), u64::MAX)?;
    pairs.tables(&mut rows)?;
    rows.begin(&windows)?;
    let top = call.output("top_scores").is_some() || call.output("top_indices").is_some();
    pairs.layer.needs_whole_rows = top;
    let walk = pairs.layer.walk(&mut rows, &windows, Passes { held: 1, whole: 1, blocks: 1 })?;
    let outputs = top.then(|| {
        ["top_scores", "top_indices"].map(|name| {
            let words = Layout::matrix(Dtype::U32, pairs.layer.rows, loss.k.into());
            call.output(name).unwrap_or_else(|| rows.planner.scratch(words))
        })
    });
    for part in &walk.parts {
        let gradient = || match &matrix {
            Some(scores) => Gradient::To(scores.clone().rows(&part.rows)),
            None => Gradient::Nowhere,
        };
        if walk.is_whole() {
            let chunk = walk.block(part, &(0..pairs.layer.classes));
            pairs.layer.scores(&mut rows, part, &chunk)?;
            let scores = Scores { scores: chunk.clone(), gradient: gradient() };
            rows.main(part.index, &part.rows, &scores)?;
            if let Some(outputs) = &outputs {
                pairs.top(&mut rows, part, &chunk, outputs)?;
            }
        } else {
            pairs.layer.close(&mut rows, &walk, part, |rows, block, scores| {
                let scores = Scores { scores: scores.clone(), gradient: gradient() };
                rows.gradient_of(part.index, &part.rows, block, &scores)
            })?;
        }
    }
    rows.end(&windows)
}

/// The operands of a pair loss.
struct Pairs<'a> {
    pairing: Pairing,
    profile: &'a Profile,
    layer: Layer<'a>,
    labels: Option<View>,
    key_labels: Option<View>,
    wants_scale: bool,
    /// Of the columns' softmax: what was saved of it, and where it is to be saved.
    column_lse: [Option<View>; 2],
    statistics: Option<View>,
}

/// A vector's inverse norm and label, and how far apart entries and their words are.
#[derive(Clone)]
struct Table {
    view: View,
    entry_step: u64,
    word_step: u64,
    count: u64,
}

struct Tables {
    queries: Table,
    keys: Table,
}

impl<'a> Pairs<'a> {
    fn new(loss: &dyn PairLoss, call: &Call, profile: &'a Profile) -> Result<Self> {
        let pairing = loss.pairing();
        let itself = pairing.columns == Columns::Queries;
        let queries = if itself { "features" } else { "queries" };
        let keys = if itself && pairing.shard.is_none() { queries } else { "keys" };
        let needed = |name| call.input(name).ok_or_else(|| missing(loss, name));
        let labels = call.input("labels");
        // By default the f32 sum beside a 16-bit gradient of the keys is a part of the chunk's budget.
        let keys_gradient = call.output("grad.keys").filter(needs_own_sum);
        let beside =
            keys_gradient.map_or(0, |_| call.dim(Dim::Classes) * call.dim(Dim::Hidden) * 4);
        let layer = Layer {
            options: LinearOptions {
                weight_layout: WeightLayout::ClassesHidden,
                chunk_bytes: pairing.chunk_bytes,
                accumulate: false,
            },
            profile,
            rows: call.dim(Dim::Rows),
            classes: call.dim(Dim::Classes),
            depth: call.dim(Dim::Hidden),
            multiply_adds: (call.dim(Dim::Rows) * call.dim(Dim::Classes))
                .saturating_mul(call.dim(Dim::Hidden)),
            weight_elements: call.dim(Dim::Classes).saturating_mul(call.dim(Dim::Hidden)),
            hidden: needed(queries)?,
            weight: needed(keys)?,
            bias: None,
            hidden_gradient: call.output(&format!("grad.{queries}")),
            weight_gradient: call.output("grad.keys"),
            bias_gradient: None,
            in_place: false,
            beside,
            // A lane walks all rows of a chunk for its columns' softmax.
            most_rows: match pairing.columns {
                Columns::Softmax => MOST_ITERATIONS,
                _ => u64::MAX,
            },
            needs_whole_rows: false,
        };
        let deepest = MOST_ITERATIONS / 2 * 4 * u64::from(profile.tally_lanes());
        if layer.depth > deepest {
            let what = Dim::Hidden.name().to_owned();
            return Err(Error::Limit { what, found: layer.depth, limit: deepest });
        }
        let own = |labels: View| match pairing.shard {
            Some(Shard { first, .. }) if itself => labels.rows(&(first..first + layer.classes)),
            _ => labels,
        };
        let key_labels = call.input("key_labels").or_else(|| labels.clone().map(own));
        Ok(Self {
            pairing,
            profile,
            layer,
            labels,
            key_labels,
            wants_scale: call.wants("grad.scale"),
            column_lse: [call.input("column_lse"), call.output("column_lse")],
            statistics: call.output("statistics"),
        })
    }

    // --- tables ---

    /// Reads norms and labels, and gives the row kernels what they found.
    fn tables(&self, rows: &mut Rows) -> Result<Tables> {
        let Layer { rows: queries, classes: keys, .. } = self.layer;
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, queries, 4));
        let query_table = Table { view, entry_step: 4, word_step: 1, count: queries };
        let planes = if self.key_labels.is_some() { 3 } else { 1 };
        let stride = keys.next_multiple_of(4);
        let view = rows.planner.scratch(Layout::matrix(Dtype::F32, planes, stride));
        let key_table = Table { view, entry_step: 1, word_step: stride, count: keys };
        self.vectors(rows, &query_table, &self.layer.hidden, self.labels.as_ref())?;
        self.vectors(rows, &key_table, &self.layer.weight, self.key_labels.as_ref())?;
        if self.pairing.columns == Columns::Queries {
            let counts = self.partners(rows, &query_table)?;
            rows.give("targets", counts);
        }
        rows.give("query_table", query_table.view.clone());
        rows.give("key_table", key_table.view.clone());
        if self.pairing.normalize {
            rows.count_zeros(query_table.view.clone(), query_table.entry_step, queries);
            if self.pairing.columns != Columns::Queries {
                rows.count_zeros(key_table.view.clone(), key_table.entry_step, keys);
            }
        }
        Ok(Tables { queries: query_table, keys: key_table })
    }

    fn vectors(
        &self,
        rows: &mut Rows,
        table: &Table,
        operand: &View,
        labels: Option<&View>,
    ) -> Result<()> {
        for part in self.stretches(operand, table.count) {
            rows.around("vectors", &[shader!("pairs/vectors.wgsl")])
                .shape("NORMALIZE", self.pairing.normalize)
                .shape("HAS_LABELS", labels.is_some())
                .number("rows", part.end - part.start)
                .number("classes", self.layer.depth)
                .number("first", part.start)
                .number("entry_step", table.entry_step)
                .number("word_step", table.word_step)
                .read("vector", Some(operand.clone().rows(&part)), 0.0)
                .integers("labels", labels.map(|labels| labels.clone().rows(&part)))
                .table("table", &table.view, "u32")
                .groups(part.end - part.start)?;
        }
        Ok(())
    }

    /// Stretches of vectors that fit a binding and a short dispatch.
    fn stretches(&self, operand: &View, count: u64) -> Vec<Range<u64>> {
        let row = operand.layout.row_stride.max(operand.layout.columns()).max(1);
        let room = self.profile.binding_bytes.saturating_sub(self.profile.offset_alignment + 64);
        // A 16-bit gradient may be summed in f32.
        let fits = room / (row * operand.layout.dtype.bytes().max(4));
        stretches(count, fits.min(self.profile.dispatch_elements / row).max(1))
    }

    /// How many other vectors have each vector's label: what stands for a target where positives are
    /// found by label. A row with none of them is ignored.
    fn partners(&self, rows: &mut Rows, table: &Table) -> Result<View> {
        let count = table.count;
        let counts = rows.planner.scratch(Layout::vector(Dtype::U32, count));
        let lanes = self.profile.tally_lanes();
        let short = self.profile.dispatch_elements / count.max(1);
        for part in stretches(count, short.clamp(1, MOST_ITERATIONS)) {
            rows.around("partners", &[shader!("pairs/partners.wgsl")])
                .number("classes", count)
                .number("entry_step", table.entry_step)
                .number("word_step", table.word_step)
                .number("first", part.start)
                .number("end", part.end)
                .table("table", &table.view, "u32")
                .table("counts", &counts, "u32")
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(counts)
    }

    // --- walks ---

    fn wants_gradients(&self) -> bool {
        self.layer.hidden_gradient.is_some() || self.layer.weight_gradient.is_some()
    }

    /// Every chunk's loss and gradient at once, where it holds whole rows.
    fn one_walk(&self, rows: &mut Rows, tables: &Tables, walk: &Walk) -> Result<()> {
        if rows.closes() || !walk.is_whole() {
            self.first_walk(rows, walk, |_, _, _, _| Ok(()))?;
            return self.second_walk(rows, tables, walk);
        }
        let gradients = Gradients::new(self, rows, walk);
        if walk.parts.is_empty() {
            gradients.nothing(rows, walk)?;
        }
        for part in &walk.parts {
            let chunk = self.layer.block_scores(rows, walk, part, &(0..self.layer.classes))?;
            let gradient =
                if self.wants_gradients() { Gradient::InPlace } else { Gradient::Nowhere };
            rows.main(part.index, &part.rows, &Scores { scores: chunk, gradient })?;
            let sum = gradients.rows_sum(rows, walk, part);
            gradients.block(rows, walk, (part, 0), sum.as_ref())?;
            gradients.rows_end(self, rows, &tables.queries, part)?;
        }
        gradients.finish(self, rows, &tables.keys)
    }

    /// Every chunk's loss; then, where gradients are wanted, the scores again.
    fn two_walks(
        &self,
        rows: &mut Rows,
        tables: &Tables,
        walk: &Walk,
        windows: &[Range<u64>],
    ) -> Result<()> {
        let stride = tables.keys.word_step;
        let columns = rows.planner.scratch(Layout::matrix(Dtype::F32, COLUMN_PLANES, stride));
        self.first_walk(rows, walk, |rows, part, block, scores| match self.pairing.columns {
            Columns::Softmax => self.columns(rows, part, block, scores, &columns),
            _ => Ok(()),
        })?;
        self.join(rows, windows, &columns, stride)?;
        rows.give("column_table", columns);
        self.second_walk(rows, tables, walk)
    }

    /// Closes all rows, and shows their scores to `see`, if any are made.
    fn first_walk(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        see: impl Fn(&mut Rows, &Part, &Range<u64>, &View) -> Result<()>,
    ) -> Result<()> {
        for part in &walk.parts {
            if rows.closes() || !walk.is_whole() {
                self.layer.close(rows, walk, part, |rows, block, scores| {
                    see(rows, part, block, scores)
                })?;
            } else {
                let all = 0..self.layer.classes;
                let chunk = self.layer.block_scores(rows, walk, part, &all)?;
                let scores = Scores { scores: chunk.clone(), gradient: Gradient::Nowhere };
                rows.main(part.index, &part.rows, &scores)?;
                see(rows, part, &all, &chunk)?;
            }
        }
        Ok(())
    }

    /// The gradients of rows that are closed.
    fn second_walk(&self, rows: &mut Rows, tables: &Tables, walk: &Walk) -> Result<()> {
        let scale = rows.closes() && self.wants_scale;
        if !self.wants_gradients() && !scale {
            return Ok(());
        }
        let gradients = Gradients::new(self, rows, walk);
        if walk.parts.is_empty() {
            gradients.nothing(rows, walk)?;
        }
        // A single chunk still holds its scores, if they were made.
        let held = walk.is_held() && !rows.closes();
        for part in &walk.parts {
            let sum = gradients.rows_sum(rows, walk, part);
            for (number, block) in walk.blocks.iter().enumerate() {
                let seen = if held {
                    walk.block(part, block)
                } else {
                    self.layer.block_scores(rows, walk, part, block)?
                };
                if scale {
                    self.slope(rows, part, block, &seen)?;
                }
                if self.wants_gradients() {
                    let scores = Scores { scores: seen, gradient: Gradient::InPlace };
                    rows.gradient_of(part.index, &part.rows, block, &scores)?;
                    gradients.block(rows, walk, (part, number), sum.as_ref())?;
                }
            }
            gradients.rows_end(self, rows, &tables.queries, part)?;
        }
        gradients.finish(self, rows, &tables.keys)
    }

    /// The rows' parts of the gradient of the scale, as far as a dispatch's loops allow at a time. They add up
    /// over the blocks of keys: its last bits depend on these.
    fn slope(&self, rows: &mut Rows, part: &Part, block: &Range<u64>, scores: &View) -> Result<()> {
        let reach = MOST_ITERATIONS * 4 * u64::from(self.profile.lanes());
        for keys in stretches(block.end - block.start, reach) {
            let streams = rows.streams(&part.rows, false);
            let step = rows
                .step("scale_slope", shader!("pairs/slope.wgsl"), part.index, &part.rows)
                .number("first", block.start + keys.start)
                .number("end", block.start + keys.end)
                .words("statistics", None)
                .read("logits", Some(scores.clone()), 0.0)
                .write("gradient", None);
            crate::row::functor_streams(step, streams).groups(part.rows.end - part.rows.start)?;
        }
        Ok(())
    }

    /// Takes a block of some rows into the columns' own states.
    fn columns(
        &self,
        rows: &mut Rows,
        part: &Part,
        block: &Range<u64>,
        scores: &View,
        columns: &View,
    ) -> Result<()> {
        let streams = rows.streams(&part.rows, false);
        let lanes = self.profile.lanes();
        let step = rows
            .step("columns", shader!("pairs/columns.wgsl"), part.index, &part.rows)
            .number("stride", columns.layout.row_stride)
            .number("first_column", block.start)
            .number("end_column", block.end)
            .words("statistics", None)
            .table("column_states", columns, "vec4<u32>")
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None);
        crate::row::functor_streams(step, streams)
            .groups((block.end - block.start).div_ceil(4 * u64::from(lanes)))
    }

    /// Where the columns' softmax comes from, as `join` numbers it; nowhere where nobody needs it.
    fn source(&self, rows: &Rows) -> Option<u32> {
        let gradients = self.wants_gradients() || self.wants_scale;
        match (self.pairing.columns, rows.closes()) {
            (Columns::Softmax, false) => Some(1),
            _ if !gradients => None,
            (Columns::Softmax, true) => Some(2),
            _ => Some(0),
        }
    }

    /// Closes the columns, and the pairs' losses with them.
    fn join(
        &self,
        rows: &mut Rows,
        windows: &[Range<u64>],
        columns: &View,
        stride: u64,
    ) -> Result<()> {
        let Some(source) = self.source(rows) else { return Ok(()) };
        let lanes = self.profile.tally_lanes();
        let [saved, kept] = &self.column_lse;
        let sources =
            [shader!("record.wgsl"), shader!("pairs/column.wgsl"), shader!("pairs/join.wgsl")];
        for (index, window) in windows.iter().enumerate() {
            let Some((records, _)) = rows.records(index, window) else { continue };
            let count = window.end - window.start;
            rows.around("join", &sources)
                .shape("SOURCE", source)
                .number("rows", count)
                .number("classes", self.layer.classes)
                .number("origin", window.start)
                .number("first_class", first(self.pairing.shard))
                .number("stride", stride)
                .words("saved_lse", saved.clone())
                .words("column_lse", kept.clone())
                .words("statistics", self.statistics.clone())
                .table("records", &records, "u32")
                .table("column_states", columns, "u32")
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(())
    }

    /// The largest scores of a chunk's rows: as many ranks a dispatch as its loops allow.
    fn top(
        &self,
        rows: &mut Rows,
        Part { index, rows: part, .. }: &Part,
        chunk: &View,
        [scores, indices]: &[View; 2],
    ) -> Result<()> {
        let lanes = u64::from(self.profile.lanes());
        let walk = self.layer.classes.div_ceil(4 * lanes) + 16;
        if walk > MOST_ITERATIONS {
            let (what, limit) = ("keys of a top k".to_owned(), (MOST_ITERATIONS - 16) * 4 * lanes);
            return Err(Error::Limit { what, found: self.layer.classes, limit });
        }
        let k = scores.layout.columns();
        for ranks in stretches(k, MOST_ITERATIONS / walk) {
            let streams = rows.streams(part, false);
            let step = rows
                .step("top", shader!("pairs/top.wgsl"), *index, part)
                .number("k", k)
                .number("first", ranks.start)
                .number("end", ranks.end)
                .words("statistics", None)
                .words("top_scores", Some(scores.clone().rows(part)))
                .words("top_indices", Some(indices.clone().rows(part)))
                .read("logits", Some(chunk.clone()), 0.0)
                .write("gradient", None);
            crate::row::functor_streams(step, streams).groups(part.end - part.start)?;
        }
        Ok(())
    }

    /// Takes a gradient through the normalisation of its vectors, `part` of them.
    fn tangent(
        &self,
        rows: &mut Rows,
        table: &Table,
        vectors: &View,
        part: &Range<u64>,
        [raw, output]: [&View; 2],
    ) -> Result<()> {
        for piece in self.stretches(vectors, part.end - part.start) {
            let all = part.start + piece.start..part.start + piece.end;
            let (from, to) = (raw.clone().rows(&piece), output.clone().rows(&piece));
            let step = rows
                .around("tangent", &[shader!("pairs/tangent.wgsl")])
                .number("rows", piece.end - piece.start)
                .number("classes", self.layer.depth)
                .number("first", all.start)
                .number("entry_step", table.entry_step)
                .read("vector", Some(vectors.clone().rows(&all)), 0.0)
                .table("table", &table.view, "u32");
            let step = if needs_own_sum(output) {
                step.read("raw", Some(from), 0.0).write("gradient", Some(to))
            } else {
                step.read_write("raw", "gradient", from)
            };
            step.groups(piece.end - piece.start)?;
        }
        Ok(())
    }
}

/// A 16-bit gradient is made in f32 before the normalisation's backward rounds it.
fn needs_own_sum(output: &View) -> bool {
    output.layout.dtype != Dtype::F32
}

/// The gradients of a walk: raw ones (of the products), turned into those of the vectors.
struct Gradients<'a> {
    layer: Layer<'a>,
    sums: Sums,
    /// Where the raw gradient of a chunk's queries goes, if not straight to the caller.
    query_rows: Option<View>,
}

impl<'a> Gradients<'a> {
    fn new(pairs: &Pairs<'a>, rows: &mut Rows, walk: &Walk) -> Self {
        let mut layer = pairs.layer.clone();
        let depth = layer.depth;
        let mut wide = |output: &Option<View>, count: u64| {
            let narrow = output.as_ref().is_some_and(needs_own_sum) && pairs.pairing.normalize;
            narrow.then(|| rows.planner.scratch(Layout::matrix(Dtype::F32, count, depth)))
        };
        let query_rows = wide(&layer.hidden_gradient, walk.chunk.layout.rows());
        let keys = wide(&layer.weight_gradient, layer.classes);
        layer.weight_gradient = keys.or(layer.weight_gradient);
        let sums = layer.sums(rows, walk.parts.len());
        Self { layer, sums, query_rows }
    }

    /// Without queries the gradient of the keys is a sum over nothing.
    fn nothing(&self, rows: &mut Rows, walk: &Walk) -> Result<()> {
        self.layer.columns_step(rows, &self.sums, &Part::NONE, &walk.chunk)
    }

    /// Where the raw gradient of some queries goes, and what it is turned into.
    fn of_rows(&self, part: &Part) -> Option<[View; 2]> {
        let output = self.layer.hidden_gradient.clone()?.rows(&part.rows);
        let count = part.rows.end - part.rows.start;
        let here = self.query_rows.clone().map(|raw| raw.rows(&(0..count)));
        Some([here.unwrap_or_else(|| output.clone()), output])
    }

    fn rows_sum(&self, rows: &mut Rows, walk: &Walk, part: &Part) -> Option<RowsSum> {
        let raw = self.of_rows(part).map(|[raw, _]| raw);
        self.layer.rows_sum(rows, walk, part, raw.as_ref())
    }

    /// A block's part.
    fn block(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        at: (&Part, usize),
        sum: Option<&RowsSum>,
    ) -> Result<()> {
        self.layer.block_gradients(rows, walk, at, &self.sums, sum)
    }

    /// The gradient of some queries, once every block is in it.
    fn rows_end(&self, pairs: &Pairs, rows: &mut Rows, table: &Table, part: &Part) -> Result<()> {
        match self.of_rows(part) {
            Some([raw, output]) if pairs.pairing.normalize => {
                let ends = [&raw, &output];
                pairs.tangent(rows, table, &self.layer.hidden, &part.rows, ends)
            }
            _ => Ok(()),
        }
    }

    /// The keys' gradient, once every chunk is in it.
    fn finish(self, pairs: &Pairs, rows: &mut Rows, table: &Table) -> Result<()> {
        let ends = (&self.layer.weight_gradient, &pairs.layer.weight_gradient);
        if let (Some(raw), Some(output)) = ends
            && pairs.pairing.normalize
        {
            let all = 0..table.count;
            pairs.tangent(rows, table, &self.layer.weight, &all, [raw, output])?;
        }
        Ok(())
    }
}
