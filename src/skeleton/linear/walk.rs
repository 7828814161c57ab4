//! The paths that the scores of a linear layer can take: chunks of whole rows, blocks of classes, or scores kept in
//! the memory of the weight's gradient. This file models what each path costs and chooses one.

use std::ops::Range;

use super::{Layer, WeightLayout};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        Path, View,
        stretches::{check_parts, stretches},
    },
    skeleton::row::Rows,
};

/// The classes of a block are a multiple of this.
const BLOCK_CLASSES: u64 = 64;
/// Multiply-adds that take as long as moving one byte to or from memory: 3 were measured on lavapipe, physical GPUs
/// have 4 to 12.
const PRODUCTS_A_BYTE: f64 = 3.0;
/// Blocks of classes that make the scores twice must cost at most this share of the other path, because they need more
/// dispatches.
const WORTH_BLOCKS: f64 = 0.9;
/// How many more reads or writes of the scores the kept path needs, because their gradient goes elsewhere.
const KEPT_PASSES: f64 = 2.0;

/// How often the scores are made: with all scores in one chunk, in chunks of whole rows, and in blocks of classes.
#[derive(Clone, Copy)]
pub(crate) struct ScorePasses {
    pub held: u64,
    pub whole: u64,
    pub blocks: u64,
}

/// A stretch of rows: its number, the index of its window, and the rows.
#[derive(Clone)]
pub(crate) struct RowBlock {
    pub number: usize,
    pub index: usize,
    pub rows: Range<u64>,
    /// The most rows of a stretch of the schedule.
    pub most: u64,
}

impl RowBlock {
    /// No rows.
    pub const NONE: Self = Self { number: 0, index: 0, rows: 0..0, most: 0 };
}

/// The order in which the scores are made: one stretch of rows after another, and for each stretch one block of
/// classes after another. All of them use the same chunk.
pub(crate) struct Schedule {
    pub chunk: View,
    pub parts: Vec<RowBlock>,
    pub blocks: Vec<Range<u64>>,
    /// Where the scores stay between the passes. Without it every pass makes them again.
    pub(super) kept: Option<HeldScores>,
}

/// The weight's gradient, whose memory keeps the scores of its classes until it is written.
pub(super) struct HeldScores {
    gradient: View,
    weight_layout: WeightLayout,
}

impl HeldScores {
    /// The memory of a block's scores. It does not overlap the gradient of any other block.
    fn block(&self, rows: u64, block: &Range<u64>) -> View {
        let gradient = self.gradient.clone();
        match self.weight_layout {
            WeightLayout::ClassesHidden => {
                let scores = Layout::matrix(Dtype::F32, rows, block.end - block.start);
                gradient.rows(block).reshaped(scores)
            }
            WeightLayout::HiddenClasses => gradient.rows(&(0..rows)).columns(block),
        }
    }
}

impl Schedule {
    /// Whether one block has all classes.
    pub fn is_whole(&self) -> bool {
        self.blocks.len() < 2
    }

    /// Whether the one chunk holds all scores from the first pass to the last.
    pub fn is_held(&self) -> bool {
        self.is_whole() && self.parts.len() < 2
    }

    /// The memory of a block's scores.
    pub(super) fn scores(&self, part: &RowBlock, block: &Range<u64>) -> View {
        match &self.kept {
            Some(kept) => kept.block(part.rows.end - part.rows.start, block),
            None => self.block(part, block),
        }
    }

    /// The part of the chunk that holds a block of a stretch of rows.
    pub fn block(&self, part: &RowBlock, block: &Range<u64>) -> View {
        Self::part_of(self.chunk.clone(), part, block)
    }

    /// The layout of the chunk, for those of other layers.
    pub(super) fn chunk_layout(&self) -> Layout {
        Layout { offset: 0, ..self.chunk.layout.clone() }
    }

    /// The part of a chunk that holds a block of a stretch of rows.
    pub(super) fn part_of(chunk: View, part: &RowBlock, block: &Range<u64>) -> View {
        let (rows, columns) = (part.rows.end - part.rows.start, block.end - block.start);
        chunk.rows(&(0..rows)).columns(&(0..columns))
    }
}

impl Layer<'_> {
    /// The most bytes of a chunk: the caller's number, or the default. All layers share it.
    fn budget(&self, default: u64) -> u64 {
        let default = default.saturating_sub(self.beside).max(default / 2);
        let budget = self.options.chunk_bytes.unwrap_or(default) / self.chunks();
        budget.min(self.profile.binding_bytes.saturating_sub(64))
    }

    /// Rounds down to whole tiles where the rows are more than one tile.
    fn whole_tiles(&self, rows: u64) -> u64 {
        let tile = self.profile.tile().height();
        if rows > tile { rows - rows % tile } else { rows }
    }

    /// The most rows of a chunk of whole rows, in whole tiles where it is more than one tile; 0 where the budget holds
    /// no row.
    fn whole_rows(&self, short: u64) -> u64 {
        let rows = self.budget(self.profile.chunk_bytes) / (stride(self.classes) * 4);
        let rows = rows.min(short).min(self.most_rows);
        if rows >= self.rows {
            return self.rows;
        }
        self.whole_tiles(rows)
    }

    /// The rows and classes of a chunk that holds a block. It is as square as possible, so that both operands are read
    /// few times. 0 rows where the budget holds no block.
    fn block(&self, rows: &Rows) -> [u64; 2] {
        let [unit, waiting] = Self::block_needs(rows);
        let bytes = self.budget(self.profile.block_bytes);
        let fit = |classes: u64| {
            let elements = self.profile.dispatch_elements / classes;
            (bytes / (4 * classes + waiting)).min(elements).min(self.most_rows).min(self.rows)
        };
        // A 16-bit gradient of the weight that adds up over stretches of rows would need an f32 sum, so one stretch
        // has all rows.
        let narrow = self.weight_gradient.as_ref().is_some_and(|g| g.layout.dtype != Dtype::F32);
        let square = if narrow { self.rows } else { (bytes / 4).isqrt() };
        let height = fit(unit).min(square.next_multiple_of(self.profile.tile().height()));
        let height = if height < self.rows { self.whole_tiles(height) } else { height };
        if height == 0 { [0, unit] } else { [height, self.width(rows, height, bytes)] }
    }

    /// The number of classes of a block with this many rows.
    fn width(&self, rows: &Rows, height: u64, bytes: u64) -> u64 {
        let [unit, waiting] = Self::block_needs(rows);
        let width = (bytes / height).saturating_sub(waiting) / 4;
        let width = width.min(self.profile.dispatch_elements / height).min(rows.block_most());
        (width - width % unit).max(unit)
    }

    /// The number that the classes of a block are a multiple of, and the bytes of a row's states between blocks.
    fn block_needs(rows: &Rows) -> [u64; 2] {
        if rows.closes_unseen() {
            [BLOCK_CLASSES, 0]
        } else {
            [rows.block_unit().max(BLOCK_CLASSES), rows.waiting_bytes()]
        }
    }

    /// The modelled cost of chunks with these rows and classes, per multiply-add of one product: the products, the
    /// operands that are read again for each chunk, and the scores.
    fn cost(&self, [rows, classes]: [u64; 2], passes: u64) -> f64 {
        let made = passes.max(1) as f64;
        let hidden = f64::from(u8::from(self.hidden_gradient.is_some()));
        let weight = f64::from(u8::from(self.weight_gradient.is_some()));
        let products = made * self.chunks() as f64 + hidden + weight;
        // A gradient that adds up is both read and written.
        let of_weight = made + hidden + 2.0 * weight;
        let of_hidden = made + weight + 2.0 * hidden;
        let again = |extent: u64, times: f64, all: u64| {
            if extent < all { times / extent.max(1) as f64 } else { 0.0 }
        };
        let moved = again(rows, of_weight, self.rows) + again(classes, of_hidden, self.classes);
        let scores = 2.0 * made + hidden + weight + 1.0;
        products + 4.0 * PRODUCTS_A_BYTE * moved + self.scores_cost(scores)
    }

    /// The modelled cost of going through the scores this many times.
    fn scores_cost(&self, times: f64) -> f64 {
        4.0 * PRODUCTS_A_BYTE * times / self.depth.max(1) as f64
    }

    /// Chooses how the scores are made: in one chunk of whole rows where the budget holds them all, and otherwise in
    /// the cheaper of whole rows and blocks of classes.
    pub fn walk(
        &self,
        rows: &mut Rows,
        windows: &[Range<u64>],
        passes: ScorePasses,
    ) -> Result<Schedule> {
        let path = self.path(rows, passes)?;
        self.walk_of(rows, windows, passes, &path)
    }

    /// Which of the two paths is taken, and the size of its chunk.
    fn path(&self, rows: &Rows, passes: ScorePasses) -> Result<Path> {
        self.profile.cooperative.check(self.profile.workgroup_size)?;
        let [whole, block] = [[self.whole_rows(rows.short()), self.classes], self.block(rows)];
        let blocks_can = block[0] > 0 && block[1] < self.classes && !self.needs_whole_rows;
        let cheaper = self.blocks_are_cheaper(whole, block, passes);
        let (cut, made, why) = if whole[0] == self.rows {
            (whole, passes.whole, "the budget holds all rows of scores")
        } else if blocks_can && whole[0] == 0 {
            (block, passes.blocks, "the budget holds no row of scores")
        } else if blocks_can && cheaper {
            (block, passes.blocks, "by the model cheaper than chunks of whole rows")
        } else if whole[0] > 0 {
            (whole, passes.whole, "by the model cheaper than blocks of classes")
        } else {
            return Err(self.too_little(rows, block[1]));
        };
        let [rows, classes] = cut;
        let whole_rows = classes >= self.classes;
        Ok(Path { rows, classes, whole_rows, passes: made, kept_rows: 0, why: why.into() })
    }

    fn blocks_are_cheaper(&self, whole: [u64; 2], block: [u64; 2], passes: ScorePasses) -> bool {
        let worth = if passes.blocks > 1 { WORTH_BLOCKS } else { 1.0 };
        self.cost(block, passes.blocks) < self.cost(whole, passes.whole) * worth
    }

    /// The schedule of a path: the stretches of rows of every window, and the blocks of classes.
    fn walk_of(
        &self,
        rows: &mut Rows,
        windows: &[Range<u64>],
        passes: ScorePasses,
        path: &Path,
    ) -> Result<Schedule> {
        let (step, classes) = (path.rows, path.classes);
        let chunk = rows.shared("chunk", chunk_layout(path));
        let most = step.min(self.rows);
        let mut parts = Vec::new();
        for (index, window) in windows.iter().enumerate() {
            for part in stretches(window.end - window.start, step)? {
                let rows = window.start + part.start..window.start + part.end;
                parts.push(RowBlock { number: parts.len(), index, rows, most });
            }
            check_parts(parts.len() as u64)?;
        }
        let blocks = stretches(self.classes, classes.max(1))?;
        let walk = Schedule { chunk, parts, blocks, kept: None };
        let made = if walk.is_held() { passes.held } else { path.passes };
        rows.planner.path(Path { passes: made, ..path.clone() });
        Ok(walk)
    }

    /// The schedules of a call: first that of the rows whose scores stay in the weight's gradient, then that of the
    /// others.
    pub(super) fn walks(
        &self,
        rows: &mut Rows,
        windows: &[Range<u64>],
        passes: ScorePasses,
    ) -> Result<Vec<Schedule>> {
        let Some((mut first, gradient)) = self.keep(rows, windows, passes) else {
            return Ok(vec![self.walk(rows, windows, passes)?]);
        };
        let count = first.rows;
        let mut rest = Self { rows: self.rows - count, ..self.clone() };
        // Both schedules share one chunk and one table of the states that rows have between blocks.
        let [unit, waiting] = Self::block_needs(rows);
        rest.options.chunk_bytes =
            self.options.chunk_bytes.map(|bytes| bytes.saturating_sub(count * waiting));
        let path = (rest.rows > 0).then(|| rest.path(rows, passes)).transpose()?;
        let states = path.as_ref().filter(|path| !path.whole_rows).map_or(0, |path| path.rows);
        let states = states.max(count);
        let left = (first.classes * count * 4).saturating_sub((states - count) * waiting);
        let classes = left / (4 * count);
        first.classes = first.classes.min((classes - classes % unit).max(unit));
        let largest = |path: &&Path| chunk_layout(path).end();
        if let Some(larger) =
            [Some(&first), path.as_ref()].into_iter().flatten().max_by_key(largest)
        {
            rows.shared("chunk", chunk_layout(larger));
        }
        rows.waiting(&(0..states));
        let kept = Some(HeldScores { gradient, weight_layout: self.options.weight_layout });
        let own = 0..count;
        let walk = self.walk_of(rows, std::slice::from_ref(&own), passes, &first)?;
        let mut walks = vec![Schedule { kept, ..walk }];
        if let Some(path) = path {
            let after: Vec<_> = windows.iter().map(|w| w.start.max(count)..w.end).collect();
            let path = Path { kept_rows: count, ..path };
            let mut walk = rest.walk_of(rows, &after, passes, &path)?;
            walk.parts.iter_mut().for_each(|part| part.number += 1);
            walks.push(walk);
        }
        Ok(walks)
    }

    /// The path of the rows whose scores stay in the weight's gradient until it is written, and this gradient; none
    /// where that does not pay. The gradient must be f32, must not have gaps (they belong to the caller), and must
    /// hold nothing yet.
    fn keep(
        &self,
        rows: &Rows,
        windows: &[Range<u64>],
        passes: ScorePasses,
    ) -> Option<(Path, View)> {
        let gradient = self.weight_gradient.clone().filter(|g| g.layout.dtype == Dtype::F32)?;
        let whole = self.whole_rows(rows.short());
        let holds_all = whole == self.rows;
        if self.options.accumulate.shared() || rows.closes() || holds_all || !self.others.is_empty()
        {
            return None;
        }
        let stride = gradient.layout.row_stride;
        let most = match self.options.weight_layout {
            WeightLayout::ClassesHidden if stride > self.depth => 0,
            WeightLayout::ClassesHidden => self.depth,
            WeightLayout::HiddenClasses => self.depth.min(self.room() / (4 * stride.max(1))),
        };
        let [unit, waiting] = Self::block_needs(rows);
        let bytes = self.budget(self.profile.block_bytes).min(self.room());
        // A gradient of the hidden states that cannot add up in its output needs a sum in scratch.
        let apart = self.hidden_gradient.as_ref();
        let apart = apart.is_some_and(|g| self.in_place || g.layout.dtype != Dtype::F32);
        let beside = waiting + if apart { 4 * self.depth } else { 0 };
        let most = most
            .min(bytes / (4 * unit + beside))
            .min(self.profile.dispatch_elements / unit)
            .min(self.most_rows)
            .min(windows.first()?.end);
        let (chunks, block) = ([whole, self.classes], self.block(rows));
        let rest_is_whole = whole > 0 && !self.blocks_are_cheaper(chunks, block, passes);
        let count = if most == self.rows {
            most
        } else if rest_is_whole {
            // The other rows then fill all their chunks, the last one too.
            self.rows.saturating_sub((self.rows - most).next_multiple_of(whole))
        } else {
            self.whole_tiles(most)
        };
        if count <= whole {
            return None;
        }
        let classes = self.width(rows, count, bytes - count * (beside - waiting));
        let kept = self.cost([count, classes], 1) + self.scores_cost(KEPT_PASSES);
        let chunks = self.cost([whole.max(1), self.classes], passes.whole);
        let blocks = self.cost([block[0].max(1), block[1]], passes.blocks);
        let why = "the gradient of the weight keeps the scores until it is written";
        let path = Path {
            rows: count,
            classes: classes.min(self.classes),
            whole_rows: false,
            passes: 1,
            kept_rows: count,
            why: why.into(),
        };
        (kept < WORTH_BLOCKS * chunks && kept < blocks).then_some((path, gradient))
    }

    /// The error for a budget that holds neither a row of scores nor a block of one row.
    fn too_little(&self, rows: &Rows, unit: u64) -> Error {
        let whole = stride(self.classes) * 4 * self.chunks();
        let [_, waiting] = Self::block_needs(rows);
        let block =
            if self.needs_whole_rows { whole } else { (unit * 4 + waiting) * self.chunks() };
        let found = self.budget(self.profile.chunk_bytes) * self.chunks();
        let reason = format!("a row of a chunk takes at least {} bytes", whole.min(block));
        Error::option(rows.planner.loss(), "chunk_bytes", found, reason)
    }
}

/// The row stride of a chunk, in elements.
fn stride(classes: u64) -> u64 {
    classes.next_multiple_of(4).max(4)
}

/// The chunk of a path.
fn chunk_layout(path: &Path) -> Layout {
    let stride = stride(path.classes);
    Layout::matrix(Dtype::F32, path.rows.max(1), path.classes).row_stride(stride)
}
