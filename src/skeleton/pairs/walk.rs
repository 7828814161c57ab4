//! The walks over the chunks of scores, and the gradients that they make. One walk is enough where the gradient of a
//! row follows from the row; two are needed where columns have a softmax of their own or rows are closed block by
//! block.

use std::ops::Range;

use super::{Columns, Pairs, first, table::Tables};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{
        View,
        kernel::{record::Declared, shader},
        limits::MOST_ITERATIONS,
        stretches::stretches,
    },
    skeleton::{
        linear::{Layer, RowBlock, RowsSum, Schedule, ScorePasses, Sums},
        row::{Gradient, Rows, Scores, functor_streams},
        vectors::{RawGradient, Table, needs_own_sum},
    },
    spec::options::Accumulate,
};

/// Planes of the table for columns that have a softmax of their own; the last holds what columns filter by.
const COLUMN_PLANES: u64 = 6;

impl Pairs<'_> {
    pub(super) fn wants_gradients(&self) -> bool {
        self.layer.hidden_gradient.is_some() || self.layer.weight_gradient.is_some()
    }

    fn filters(&self) -> bool {
        self.pairing.false_negative_margin.is_some()
    }

    /// How often the scores are made.
    pub(super) fn passes(&self, rows: &Rows) -> ScorePasses {
        let one = |is: bool| u64::from(is);
        let softmax = self.pairing.columns == Columns::Softmax;
        let again = !rows.closes() && (self.wants_gradients() || self.wants_scale);
        // Rows that filter their keys read the score of the positive first, even if their lse is saved.
        let closing = one(self.filters() && rows.closes());
        let columns = one(self.filters() && softmax && !rows.closes());
        let ahead = one(self.filters());
        let whole = one(again && self.pairing.columns != Columns::Keys) + 1 + columns + closing;
        let blocks = one(again) + 1 + columns + closing + ahead;
        ScorePasses { held: 1 + closing, whole, blocks }
    }

    /// Each chunk's loss and gradient in one walk, where a chunk holds whole rows.
    pub(super) fn one_walk(&self, rows: &mut Rows, tables: &Tables, walk: &Schedule) -> Result<()> {
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

    /// One walk for the loss of every chunk, then a second walk over the scores where gradients are wanted.
    pub(super) fn two_walks(
        &self,
        rows: &mut Rows,
        tables: &Tables,
        walk: &Schedule,
        windows: &[Range<u64>],
    ) -> Result<()> {
        let stride = tables.keys.word_step;
        let columns = rows.planner.scratch(Layout::matrix(Dtype::F32, COLUMN_PLANES, stride));
        if self.filters() {
            // Columns compare each pair with their own positive, which may lie in a later chunk.
            self.first_walk(rows, walk, |_, _, _, _| Ok(()))?;
            self.positives(rows, windows, &columns, stride)?;
            self.columns_walk(rows, walk, &columns)?;
        } else {
            self.first_walk(rows, walk, |rows, part, block, scores| match self.pairing.columns {
                Columns::Softmax => Self::columns(rows, part, block, scores, &columns),
                _ => Ok(()),
            })?;
        }
        self.join(rows, windows, &columns, stride)?;
        rows.give("column_table", columns);
        self.second_walk(rows, tables, walk)
    }

    /// Closes all rows, and passes their scores to `see`, if any scores are made.
    fn first_walk(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        see: impl Fn(&mut Rows, &RowBlock, &Range<u64>, &View) -> Result<()>,
    ) -> Result<()> {
        for part in &walk.parts {
            let streams = !rows.closes_unseen() && rows.rounds() > 0;
            if !streams || !walk.is_whole() {
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

    /// The scores of a block after the first walk. A single chunk still holds them, if they were made.
    fn seen(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
        block: &Range<u64>,
    ) -> Result<View> {
        if walk.is_held() && !rows.closes() {
            return Ok(walk.block(part, block));
        }
        self.layer.block_scores(rows, walk, part, block)
    }

    /// The states of the columns, after all rows are closed.
    fn columns_walk(&self, rows: &mut Rows, walk: &Schedule, columns: &View) -> Result<()> {
        let parts = if rows.closes() { &[] } else { &*walk.parts };
        for part in parts {
            for block in &walk.blocks {
                let scores = self.seen(rows, walk, part, block)?;
                Self::columns(rows, part, block, &scores, columns)?;
            }
        }
        Ok(())
    }

    /// Gives each column the similarity of its positive pair, which its row knows.
    fn positives(
        &self,
        rows: &mut Rows,
        windows: &[Range<u64>],
        columns: &View,
        stride: u64,
    ) -> Result<()> {
        let lanes = self.profile.tally_lanes();
        let sources =
            [shader!("record.wgsl"), shader!("pairs/column.wgsl"), shader!("pairs/positives.wgsl")];
        for (index, window) in windows.iter().enumerate() {
            let Some((records, _)) = rows.records(index, window) else { continue };
            let count = window.end - window.start;
            let places = Declared::Places(rows.record());
            rows.around("positives", &sources)
                .declare(places)
                .uniform("rows", count)
                .uniform("classes", self.layer.classes)
                .uniform("origin", window.start)
                .uniform("stride", stride)
                .table("records", &records, "u32")
                .table("column_states", columns, "u32")
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(())
    }

    /// The gradients of closed rows.
    fn second_walk(&self, rows: &mut Rows, tables: &Tables, walk: &Schedule) -> Result<()> {
        // Vectors that are compared with themselves have several positives, which a row's state does not tell apart.
        let itself = self.pairing.columns == Columns::Queries;
        let scale = self.wants_scale && (rows.closes() || itself);
        if !self.wants_gradients() && !scale {
            return Ok(());
        }
        let gradients = Gradients::new(self, rows, walk);
        if walk.parts.is_empty() {
            gradients.nothing(rows, walk)?;
        }
        for part in &walk.parts {
            let sum = gradients.rows_sum(rows, walk, part);
            for (number, block) in walk.blocks.iter().enumerate() {
                let seen = self.seen(rows, walk, part, block)?;
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

    /// The parts of the rows in the gradient of the scale. Each dispatch takes as many keys as the limit of its loops
    /// allows. The parts add up over the blocks of keys, so the last bits of the gradient depend on the blocks.
    fn slope(
        &self,
        rows: &mut Rows,
        part: &RowBlock,
        block: &Range<u64>,
        scores: &View,
    ) -> Result<()> {
        // Where keys and queries are the same vectors, the gradient of s_ij holds that of s_ji too.
        let share = if self.pairing.columns == Columns::Queries { 0.5 } else { 1.0 };
        let reach = MOST_ITERATIONS * 4 * u64::from(rows.lanes().0);
        for keys in stretches(block.end - block.start, reach)? {
            let streams = rows.streams(&part.rows, false);
            let step = rows
                .step("scale_slope", shader!("pairs/slope.wgsl"), part.index, &part.rows)
                .uniform("first", block.start + keys.start)
                .uniform("end", block.start + keys.end)
                .uniform("slope_share", share)
                .words("statistics", None)
                .read("logits", Some(scores.clone()), 0.0)
                .write("gradient", None);
            functor_streams(step, streams).groups(part.rows.end - part.rows.start)?;
        }
        Ok(())
    }

    /// Adds a block of a stretch of rows to the states of the columns.
    fn columns(
        rows: &mut Rows,
        part: &RowBlock,
        block: &Range<u64>,
        scores: &View,
        columns: &View,
    ) -> Result<()> {
        let streams = rows.streams(&part.rows, false);
        let (lanes, _) = rows.lanes();
        let step = rows
            .step("columns", shader!("pairs/columns.wgsl"), part.index, &part.rows)
            .uniform("stride", columns.layout.row_stride)
            .uniform("first_column", block.start)
            .uniform("end_column", block.end)
            .words("statistics", None)
            .table("column_states", columns, "vec4<u32>")
            .read("logits", Some(scores.clone()), 0.0)
            .write("gradient", None);
        functor_streams(step, streams)
            .groups((block.end - block.start).div_ceil(4 * u64::from(lanes)))
    }

    /// The number by which the kernel `join` knows where the columns' softmax comes from; `None` where it is not
    /// needed.
    fn source(&self, rows: &Rows) -> Option<u32> {
        let gradients = self.wants_gradients() || self.wants_scale;
        match (self.pairing.columns, rows.closes()) {
            (Columns::Softmax, false) => Some(1),
            _ if !gradients => None,
            (Columns::Softmax, true) => Some(2),
            _ => Some(0),
        }
    }

    /// Closes the columns, and adds their part to the losses of the pairs.
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
            let places = Declared::Places(rows.record());
            rows.around("join", &sources)
                .declare(places)
                .overriding("SOURCE", source)
                .uniform("rows", count)
                .uniform("classes", self.layer.classes)
                .uniform("origin", window.start)
                .uniform("first_class", first(self.pairing.shard))
                .uniform("stride", stride)
                .uniform("target_margin", self.pairing.target_margin)
                .words("saved_lse", saved.clone())
                .words("column_lse", kept.clone())
                .words("statistics", self.statistics.clone())
                .table("records", &records, "u32")
                .table("column_states", columns, "u32")
                .groups(count.div_ceil(u64::from(lanes)))?;
        }
        Ok(())
    }
}

/// The gradients of a walk: raw ones (of the products) and, made from these, those of the vectors.
struct Gradients<'a> {
    layer: Layer<'a>,
    sums: Sums,
    /// Where the raw gradient of a chunk's queries goes, if it does not go to the output directly.
    query_rows: Option<View>,
}

impl<'a> Gradients<'a> {
    fn new(pairs: &Pairs<'a>, rows: &mut Rows, walk: &Schedule) -> Self {
        let mut layer = pairs.layer.clone();
        let (depth, normalize) = (layer.depth, pairs.pairing.normalize);
        let mut wide = |output: &Option<View>, count: u64, adds: bool| {
            let apart = normalize && output.as_ref().is_some_and(|o| adds || needs_own_sum(o));
            apart.then(|| rows.planner.scratch(Layout::matrix(Dtype::F32, count, depth)))
        };
        let accumulate = layer.options.accumulate;
        let query_rows = wide(&layer.hidden_gradient, walk.chunk.layout.rows(), accumulate.rows());
        let keys = wide(&layer.weight_gradient, layer.classes, accumulate.shared());
        if normalize {
            // The last step of such a gradient adds to its output, and the products do not.
            layer.options.accumulate = Accumulate::Nothing;
        }
        layer.weight_gradient = keys.or(layer.weight_gradient);
        let sums = layer.sums(rows, walk.parts.len());
        Self { layer, sums, query_rows }
    }

    /// Without queries the gradient of the keys is a sum over nothing.
    fn nothing(&self, rows: &mut Rows, walk: &Schedule) -> Result<()> {
        self.layer.columns_step(rows, &self.sums, &RowBlock::NONE, &walk.chunk)
    }

    /// Where the raw gradient of a stretch of queries goes, and the gradient that is made from it.
    fn of_rows(&self, part: &RowBlock) -> Option<[View; 2]> {
        let output = self.layer.hidden_gradient.clone()?.rows(&part.rows);
        let count = part.rows.end - part.rows.start;
        let here = self.query_rows.clone().map(|raw| raw.rows(&(0..count)));
        Some([here.unwrap_or_else(|| output.clone()), output])
    }

    fn rows_sum(&self, rows: &mut Rows, walk: &Schedule, part: &RowBlock) -> Option<RowsSum> {
        let raw = self.of_rows(part).map(|[raw, _]| raw);
        self.layer.rows_sum(rows, walk, part, raw.as_ref())
    }

    /// Adds the part of a block to the gradients.
    fn block(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        at: (&RowBlock, usize),
        sum: Option<&RowsSum>,
    ) -> Result<()> {
        self.layer.block_gradients(rows, walk, at, &self.sums, sum)
    }

    /// Finishes the gradient of a stretch of queries after its last block.
    fn rows_end(
        &self,
        pairs: &Pairs,
        rows: &mut Rows,
        table: &Table,
        part: &RowBlock,
    ) -> Result<()> {
        match self.of_rows(part) {
            Some([raw, output]) if pairs.pairing.normalize => {
                let adds = pairs.pairing.accumulate.rows();
                table.tangent(
                    rows,
                    &self.layer.hidden,
                    &part.rows,
                    &raw_gradient(raw, output, adds),
                )
            }
            _ => Ok(()),
        }
    }

    /// Finishes the gradient of the keys after the last chunk.
    fn finish(self, pairs: &Pairs, rows: &mut Rows, table: &Table) -> Result<()> {
        let ends = (self.layer.weight_gradient, pairs.layer.weight_gradient.clone());
        if let (Some(raw), Some(output)) = ends
            && pairs.pairing.normalize
        {
            let gradient = raw_gradient(raw, output, pairs.pairing.accumulate.shared());
            table.tangent(rows, &self.layer.weight, &(0..table.count), &gradient)?;
        }
        Ok(())
    }
}

/// A gradient that was made from scores that contain the norms.
fn raw_gradient(raw: View, output: View, adds: bool) -> RawGradient {
    RawGradient { raw, output, adds, in_place: false, of_units: false }
}
