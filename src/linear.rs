//! The linear skeleton: scores = A·Bᵀ a chunk of rows at a time, handed to a row loss, never stored
//! whole.
//!
//! A chunk of whole rows is multiplied, streamed and turned into its gradient in place by the row kernels,
//! and the gradient is multiplied on: three products in all. Gradients of B add up over the chunks in row
//! order in f32, each element by its one owner, so neither the chunk's size nor the way a product is
//! cut into dispatches changes a bit.
//!
//! The other way is a chunk of many rows of a block of classes. One pass over the blocks closes the rows,
//! a second one makes the scores again for their gradient: four products, but the operands are gone
//! through once for many rows, and no budget is too small for a row. What is given may close rows without
//! the first pass (a saved lse, the statistics of shards): then it is three products. Neither way changes
//! a bit, and `Layer::walk` takes the cheaper one.
//!
//! Before both comes what costs neither products nor memory: until a block of ∂W is written, its place is
//! as good as any for the scores of its classes, for as many rows as W is deep. Those rows go by in
//! blocks whose scores are made once (`Layer::lend`).

use std::ops::Range;

use crate::{
    array::{Arithmetic, Arrays},
    cooperative, cpu,
    error::{Error, Result},
    loss::{About, Dim, Loss, WeightLayout, arguments as arg},
    plan::{Call, Path, Plan, View},
    profile::Profile,
    row::{Gradient, RowLoss, Rows, Scores, stretches},
    tensor::{Dtype, Layout},
    tile::TileKernel,
};

/// Tiles side by side whose rows are gone through together: what they share of a row is then a page or
/// so, where a page is what a memory is quick at.
const RUN_TILES: u64 = 4;
/// Rows that stand for any number of them where a kernel is chosen.
const USUAL_ROWS: u64 = 256;
/// A block of classes is a multiple of this.
const BLOCK_CLASSES: u64 = 64;
/// Multiply-adds that take as long as a byte to and from memory: 3 were measured on lavapipe, physical
/// GPUs have 4 to 12.
const PRODUCTS_A_BYTE: f64 = 3.0;
/// Blocks that make the scores twice have to be this much cheaper: they are more dispatches.
const WORTH_BLOCKS: f64 = 0.9;
/// How often scores that are kept go through memory beyond those of a chunk: their gradient is written
/// elsewhere.
const KEPT_PASSES: f64 = 2.0;

/// A row loss on the scores of a linear layer, hidden·Wᵀ + bias, which are never stored whole.
///
/// Any [`RowLoss`] will do; [`crate::LinearCrossEntropy`] is `Linear<CrossEntropy>`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Linear<L> {
    /// What is done with the scores.
    pub loss: L,
    /// How the weight lies in memory.
    pub weight_layout: WeightLayout,
    /// The most bytes for the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
    /// Add into the gradients of weight and bias instead of overwriting them (micro-batches).
    pub accumulate: bool,
}

impl<L> Linear<L> {
    /// This row loss on the scores of a linear layer.
    pub fn new(loss: L) -> Self {
        let weight_layout = WeightLayout::default();
        Self { loss, weight_layout, chunk_bytes: None, accumulate: false }
    }

    /// Sets how the weight lies in memory.
    pub fn weight_layout(mut self, layout: WeightLayout) -> Self {
        self.weight_layout = layout;
        self
    }

    /// Sets the most bytes for the chunk of scores.
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = Some(bytes);
        self
    }

    /// Adds into the gradients of weight and bias instead of overwriting them.
    pub fn accumulate(mut self, accumulate: bool) -> Self {
        self.accumulate = accumulate;
        self
    }
}

impl<L: RowLoss> Loss for Linear<L> {
    fn about(&self) -> &'static About {
        self.loss.linear_about()
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate()
    }

    fn is_per_row(&self) -> bool {
        self.loss.is_per_row()
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        self.loss.extents()
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        let Self { weight_layout, chunk_bytes, accumulate, .. } = *self;
        let options = LinearOptions { weight_layout, chunk_bytes, accumulate };
        plan(self.about().name, &self.loss, options, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        cpu::linear::run(&self.loss, self.weight_layout, inputs, wanted, arithmetic)
    }
}

/// What a linear loss adds to the row loss on its scores.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinearOptions {
    pub weight_layout: WeightLayout,
    pub chunk_bytes: Option<u64>,
    pub accumulate: bool,
}

/// What a row loss takes and gives on the scores of a linear layer, where it says nothing else.
pub(crate) static ABOUT: About = About {
    name: "linear",
    summary: "A row loss on the scores of a linear layer, which are never stored.",
    formula: "scores = hidden·Wᵀ + bias; then the row loss",
    pytorch: "the row loss of torch.nn.functional.linear(hidden, weight, bias)",
    inputs: &[
        arg::HIDDEN,
        arg::WEIGHT,
        arg::BIAS,
        arg::TARGETS,
        arg::ROW_WEIGHT,
        arg::UPSTREAM,
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        arg::LOSS,
        arg::HIDDEN_GRADIENT,
        arg::WEIGHT_GRADIENT,
        arg::BIAS_GRADIENT,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &[],
};

/// The plan of a row loss on the scores of a linear layer.
fn plan(
    name: &'static str,
    loss: &dyn RowLoss,
    options: LinearOptions,
    call: &Call,
    profile: &Profile,
) -> Result<Plan> {
    let inner = scores_call(call);
    let mut rows = Rows::new(loss, &inner, profile)?;
    rows.planner.rename(name);
    let layer = Layer::new(options, call, profile)?;
    let matrices = [Some(&layer.hidden), layer.hidden_gradient.as_ref()];
    // Chunks of rows, not windows, keep the dispatches short.
    let windows = rows.windows(matrices.into_iter().flatten(), u64::MAX)?;
    rows.begin(&windows)?;
    rows.planner.unstored(layer.rows * layer.classes * 4);
    let closing = if rows.closes_unseen() { 0 } else { 1 + u64::from(rows.looks_ahead()) };
    let blocks = (closing + u64::from(rows.writes(&layer.gradient()))).max(1);
    let walks = layer.walks(&mut rows, &windows, Passes { held: 1, whole: 1, blocks })?;
    let sums = layer.sums(&mut rows, walks.iter().map(|walk| walk.parts.len()).sum());
    for walk in &walks {
        layer.go(&mut rows, walk, &sums)?;
    }
    rows.end(&windows)
}

/// The call as the row loss on the scores sees it.
fn scores_call(call: &Call) -> Call {
    let mut inner = call.clone();
    for name in ["hidden", "weight", "bias"] {
        inner.inputs.remove(name);
        inner.outputs.remove(&format!("grad.{name}"));
    }
    if let Some(weight) = inner.inputs.remove("class_weight") {
        inner.inputs.insert("weight".to_owned(), weight);
    }
    // Every input keeps its binding mode: what shares a buffer here shares it there.
    inner.siblings = call.outputs.values().map(|output| output.allocation).collect();
    inner
}

/// The operands of a linear loss.
#[derive(Clone)]
pub(crate) struct Layer<'a> {
    pub options: LinearOptions,
    pub profile: &'a Profile,
    pub rows: u64,
    pub classes: u64,
    pub depth: u64,
    /// Of a product over all rows and all classes.
    pub multiply_adds: u64,
    /// Of the whole weight, also where the classes are a block of it.
    pub weight_elements: u64,
    pub hidden: View,
    pub weight: View,
    pub bias: Option<View>,
    pub hidden_gradient: Option<View>,
    pub weight_gradient: Option<View>,
    pub bias_gradient: Option<View>,
    /// The gradient of the hidden states is written over them.
    pub in_place: bool,
    /// Bytes beside the chunk that count as a part of it where the caller names no budget.
    pub beside: u64,
    /// The most rows of a chunk, and whether a row of scores must be whole.
    pub most_rows: u64,
    pub needs_whole_rows: bool,
}

/// How often the scores are made: all in one chunk, in chunks of whole rows, and in blocks of classes.
#[derive(Clone, Copy)]
pub(crate) struct Passes {
    pub held: u64,
    pub whole: u64,
    pub blocks: u64,
}

/// A stretch of rows: its number, its window, and the rows.
#[derive(Clone)]
pub(crate) struct Part {
    pub number: usize,
    pub index: usize,
    pub rows: Range<u64>,
}

impl Part {
    /// No rows.
    pub const NONE: Self = Self { number: 0, index: 0, rows: 0..0 };
}

/// How the scores go by: stretches of rows one after another, of each one block of classes after another,
/// all of them in one chunk.
pub(crate) struct Walk {
    pub chunk: View,
    pub parts: Vec<Part>,
    pub blocks: Vec<Range<u64>>,
    /// Where the scores stay between the passes; without it they are made for each.
    kept: Option<Lent>,
}

/// The gradient of the weight, which holds the scores of its classes until it is written.
struct Lent {
    gradient: View,
    weight_layout: WeightLayout,
}

impl Lent {
    /// The place of a block's scores, none of which is that of another block's gradient.
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

impl Walk {
    /// Whether a block has all classes.
    pub fn is_whole(&self) -> bool {
        self.blocks.len() < 2
    }

    /// Whether one chunk has all scores, for as long as it takes.
    pub fn is_held(&self) -> bool {
        self.is_whole() && self.parts.len() < 2
    }

    /// The place of a block's scores.
    fn scores(&self, part: &Part, block: &Range<u64>) -> View {
        match &self.kept {
            Some(lent) => lent.block(part.rows.end - part.rows.start, block),
            None => self.block(part, block),
        }
    }

    /// The chunk's part that holds a block of some rows.
    pub fn block(&self, part: &Part, block: &Range<u64>) -> View {
        let (rows, columns) = (part.rows.end - part.rows.start, block.end - block.start);
        self.chunk.clone().rows(&(0..rows)).columns(&(0..columns))
    }
}

/// A gradient that adds up over steps: where it goes, and an f32 sum beside it where the steps cannot add up
/// there.
#[derive(Clone)]
struct Sum {
    output: View,
    wide: Option<View>,
    steps: usize,
}

impl Sum {
    /// The start and the destination of a step's product.
    fn at(&self, step: usize, accumulate: bool) -> (Start, View) {
        let (first, last) = (step == 0, step + 1 >= self.steps);
        let target = match &self.wide {
            Some(sum) if !last => sum.clone(),
            _ => self.output.clone(),
        };
        let start = match (&self.wide, first) {
            (_, true) if !accumulate => Start::Zero,
            (Some(_), true) => Start::From(self.output.clone()),
            (Some(sum), false) if last => Start::From(sum.clone()),
            _ => Start::There,
        };
        (start, target)
    }

    /// Some rows or columns of it.
    fn cut(&self, cut: impl Fn(View) -> View) -> Self {
        let wide = self.wide.clone().map(&cut);
        Self { output: cut(self.output.clone()), wide, ..*self }
    }
}

/// The gradients that add up over stretches of rows.
#[derive(Clone)]
pub(crate) struct Sums {
    weight: Option<Sum>,
    bias: Option<Sum>,
}

/// The gradient of a stretch of rows, which adds up over blocks of classes.
pub(crate) struct RowsSum(Sum);

/// What a product's sums start from.
#[derive(Clone)]
enum Start {
    Zero,
    /// What the output holds.
    There,
    /// Another tensor of the output's shape, or one row for all.
    From(View),
}

/// Which index of a product runs over the rows of an operand in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    Owned,
    Walked,
}

/// An operand of a product; `None` reads as 1.
type Factor = Option<(View, Along)>;

/// output[i, j] = start[i, j] + Σ_k a(i, k)·b(j, k).
struct Product<'v> {
    label: &'static str,
    a: Factor,
    b: Factor,
    start: Start,
    output: View,
    depth: u64,
    /// Whether i or k runs over rows of the loss, some of which count for nothing.
    rows_along: Option<Along>,
    /// Those of the product over all rows and classes, of which this may be a chunk's: neither a last chunk
    /// nor a small one falls back to small tiles.
    multiply_adds: u64,
    at: &'v Part,
}

impl<'a> Layer<'a> {
    fn new(options: LinearOptions, call: &Call, profile: &'a Profile) -> Result<Self> {
        let (classes, depth) = (call.dim(Dim::Classes), call.dim(Dim::Hidden));
        let expected = match options.weight_layout {
            WeightLayout::ClassesHidden => [classes, depth],
            WeightLayout::HiddenClasses => [depth, classes],
        };
        for (name, operand) in [
            ("weight", call.inputs.get("weight")),
            ("grad.weight", call.outputs.get("grad.weight")),
        ] {
            if let Some(operand) = operand
                && operand.layout.shape != expected
            {
                return Err(Error::WrongShape {
                    argument: name.to_owned(),
                    found: operand.layout.shape.clone(),
                    expected: format!("{expected:?} with this weight_layout"),
                });
            }
        }
        let input = |name: &str| {
            call.input(name).ok_or_else(|| Error::MissingInput {
                loss: "linear".to_owned(),
                argument: name.to_owned(),
                reason: "this call needs it".to_owned(),
            })
        };
        Ok(Self {
            options,
            profile,
            rows: call.dim(Dim::Rows),
            classes,
            depth,
            multiply_adds: (call.dim(Dim::Rows) * classes).saturating_mul(depth),
            weight_elements: classes.saturating_mul(depth),
            hidden: input("hidden")?,
            weight: input("weight")?,
            bias: call.input("bias").map(View::for_every_row),
            hidden_gradient: call.output("grad.hidden"),
            weight_gradient: call.output("grad.weight"),
            bias_gradient: call.output("grad.bias").map(View::for_every_row),
            in_place: call.in_place,
            beside: 0,
            most_rows: u64::MAX,
            needs_whole_rows: false,
        })
    }

    /// Elements from one row of the chunk to the next.
    fn stride(&self) -> u64 {
        self.classes.next_multiple_of(4).max(4)
    }

    /// The most bytes of a chunk: the caller's, or else the device's.
    fn budget(&self, default: u64) -> u64 {
        let default = default.saturating_sub(self.beside).max(default / 2);
        let budget = self.options.chunk_bytes.unwrap_or(default);
        budget.min(self.profile.binding_bytes.saturating_sub(64))
    }

    /// Whole tiles, where there are more than one.
    fn whole_tiles(&self, rows: u64) -> u64 {
        let tile = self.profile.tile().height();
        if rows > tile { rows - rows % tile } else { rows }
    }

    /// The most rows of a chunk of whole rows: whole tiles where it is more than one; 0 where the budget
    /// holds no row.
    fn whole_rows(&self, short: u64) -> u64 {
        let rows = self.budget(self.profile.chunk_bytes) / (self.stride() * 4);
        let rows = rows.min(short).min(self.most_rows);
        if rows >= self.rows {
            return self.rows;
        }
        self.whole_tiles(rows)
    }

    /// Rows and classes of a chunk that holds a block, as square as may be, so that both operands are gone
    /// through seldom; no rows where the budget holds no block.
    fn block(&self, rows: &Rows) -> [u64; 2] {
        let [unit, waiting] = Self::block_needs(rows);
        let bytes = self.budget(self.profile.block_bytes);
        let fit = |classes: u64| {
            let elements = self.profile.dispatch_elements / classes;
            (bytes / (4 * classes + waiting)).min(elements).min(self.most_rows).min(self.rows)
        };
        // 16-bit gradients of the weight that rows add up to would want a sum of their own.
        let narrow = self.weight_gradient.as_ref().is_some_and(|g| g.layout.dtype != Dtype::F32);
        let square = if narrow { self.rows } else { (bytes / 4).isqrt() };
        let height = fit(unit).min(square.next_multiple_of(self.profile.tile().height()));
        let height = if height < self.rows { self.whole_tiles(height) } else { height };
        if height == 0 { [0, unit] } else { [height, self.width(rows, height, bytes)] }
    }

    /// Classes of a block of this many rows.
    fn width(&self, rows: &Rows, height: u64, bytes: u64) -> u64 {
        let [unit, waiting] = Self::block_needs(rows);
        let width = (bytes / height).saturating_sub(waiting) / 4;
        let width = width.min(self.profile.dispatch_elements / height).min(rows.block_most());
        (width - width % unit).max(unit)
    }

    /// What the classes of a block are a multiple of, and the bytes of a row's states between blocks.
    fn block_needs(rows: &Rows) -> [u64; 2] {
        if rows.closes_unseen() {
            [BLOCK_CLASSES, 0]
        } else {
            [rows.block_unit().max(BLOCK_CLASSES), rows.waiting_bytes()]
        }
    }

    /// The modelled cost of chunks of so many rows and classes, per multiply-add of one product: the
    /// products, the operands that are gone through anew for each chunk, and the scores.
    fn cost(&self, [rows, classes]: [u64; 2], passes: u64) -> f64 {
        let made = passes.max(1) as f64;
        let hidden = f64::from(u8::from(self.hidden_gradient.is_some()));
        let weight = f64::from(u8::from(self.weight_gradient.is_some()));
        let products = made + hidden + weight;
        // A gradient that adds up is read and written.
        let of_weight = made + hidden + 2.0 * weight;
        let of_hidden = made + weight + 2.0 * hidden;
        let again = |extent: u64, times: f64, all: u64| {
            if extent < all { times / extent.max(1) as f64 } else { 0.0 }
        };
        let moved = again(rows, of_weight, self.rows) + again(classes, of_hidden, self.classes);
        let scores = 2.0 * made + hidden + weight + 1.0;
        products + 4.0 * PRODUCTS_A_BYTE * moved + self.scores_cost(scores)
    }

    /// The same of going through the scores so often.
    fn scores_cost(&self, times: f64) -> f64 {
        4.0 * PRODUCTS_A_BYTE * times / self.depth.max(1) as f64
    }

    /// How the scores go by: whole rows where the budget holds them all, and otherwise the cheaper of whole
    /// rows and blocks of classes.
    pub fn walk(&self, rows: &mut Rows, windows: &[Range<u64>], passes: Passes) -> Result<Walk> {
        self.profile.cooperative.check(self.profile.workgroup_size)?;
        let [whole, block] = [[self.whole_rows(rows.short()), self.classes], self.block(rows)];
        let blocks_can = block[0] > 0 && block[1] < self.classes && !self.needs_whole_rows;
        let worth = if passes.blocks > 1 { WORTH_BLOCKS } else { 1.0 };
        let cheaper = self.cost(block, passes.blocks) < self.cost(whole, passes.whole) * worth;
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
        let [step, classes] = cut;
        let stride = classes.next_multiple_of(4).max(4);
        let chunk = Layout::matrix(Dtype::F32, step.max(1), classes).row_stride(stride);
        let chunk = rows.shared("chunk", chunk);
        let cut = |(index, window): (usize, &Range<u64>)| {
            let start = window.start;
            let parts = stretches(window.end - start, step);
            parts.into_iter().map(move |part| (index, start + part.start..start + part.end))
        };
        let parts = windows.iter().enumerate().flat_map(cut).enumerate();
        let parts = parts.map(|(number, (index, rows))| Part { number, index, rows }).collect();
        let blocks = stretches(self.classes, classes.max(1));
        let walk = Walk { chunk, parts, blocks, kept: None };
        rows.planner.path(Path {
            rows: step,
            classes,
            whole_rows: classes >= self.classes,
            passes: if walk.is_held() { passes.held } else { made },
            lent_rows: 0,
            why,
        });
        Ok(walk)
    }

    /// The rows whose scores the gradient of the weight holds until it is written, and then the others.
    fn walks(&self, rows: &mut Rows, windows: &[Range<u64>], passes: Passes) -> Result<Vec<Walk>> {
        let Some((count, gradient)) = self.lend(rows, windows, passes) else {
            return Ok(vec![self.walk(rows, windows, passes)?]);
        };
        let rest = Self { rows: self.rows - count, ..self.clone() };
        let after: Vec<_> = windows.iter().map(|w| w.start.max(count)..w.end).collect();
        let mut walks = Vec::new();
        let mut bytes = self.budget(self.profile.block_bytes);
        if rest.rows > 0 {
            let mut walk = rest.walk(rows, &after, passes)?;
            walk.parts.iter_mut().for_each(|part| part.number += 1);
            // Both have the same chunk.
            bytes = bytes.min(walk.chunk.layout.len() * 4);
            walks.push(walk);
        }
        let width = self.width(rows, count, bytes);
        let chunk = rows.shared("chunk", Layout::matrix(Dtype::F32, count, width));
        let weight_layout = self.options.weight_layout;
        let kept = Some(Lent { gradient, weight_layout });
        let parts = vec![Part { number: 0, index: 0, rows: 0..count }];
        walks.insert(0, Walk { chunk, parts, blocks: stretches(self.classes, width), kept });
        rows.planner.lent(count, width);
        Ok(walks)
    }

    /// How many rows' scores the gradient of the weight holds until it is written, where that is worth
    /// it, and that gradient. It has to be f32 without gaps, which are the caller's, and hold nothing yet.
    fn lend(&self, rows: &Rows, windows: &[Range<u64>], passes: Passes) -> Option<(u64, View)> {
        let gradient = self.weight_gradient.clone().filter(|g| g.layout.dtype == Dtype::F32)?;
        let whole = self.whole_rows(rows.short());
        if self.options.accumulate || rows.closes() || whole == self.rows {
            return None;
        }
        let stride = gradient.layout.row_stride;
        let most = match self.options.weight_layout {
            WeightLayout::ClassesHidden if stride > self.depth => 0,
            WeightLayout::ClassesHidden => self.depth,
            WeightLayout::HiddenClasses => self.depth.min(self.room() / (4 * stride.max(1))),
        };
        let [unit, waiting] = Self::block_needs(rows);
        let bytes = self.budget(self.profile.block_bytes);
        let most = most.min(bytes / (4 * unit + waiting)).min(windows.first()?.end);
        let count = if most < self.rows && whole > 0 {
            // The chunks of the other rows are full, the last one too.
            self.rows.saturating_sub((self.rows - most).next_multiple_of(whole))
        } else {
            most
        };
        if count <= whole {
            return None;
        }
        let [height, width] = self.block(rows);
        let blocks = self.cost([height.max(1), width], passes.blocks);
        let chunks = self.cost([whole.max(1), self.classes], passes.whole);
        let lent = self.cost([count, self.width(rows, count, bytes)], 1);
        let lent = lent + self.scores_cost(KEPT_PASSES);
        (lent < WORTH_BLOCKS * chunks && lent < blocks).then_some((count, gradient))
    }

    /// Bytes that a binding has for sure, wherever it has to begin.
    fn room(&self) -> u64 {
        self.profile.binding_bytes.saturating_sub(self.profile.offset_alignment + 64)
    }

    /// A budget that holds neither a row of scores nor a block of one row.
    fn too_little(&self, rows: &Rows, unit: u64) -> Error {
        let whole = self.stride() * 4;
        let waiting = if rows.closes_unseen() { 0 } else { rows.waiting_bytes() };
        let block = if self.needs_whole_rows { whole } else { unit * 4 + waiting };
        let found = self.budget(self.profile.chunk_bytes);
        let reason = format!("a row of a chunk takes at least {} bytes", whole.min(block));
        Error::option(rows.planner.loss(), "chunk_bytes", found, reason)
    }

    /// The gradients that add up over this many stretches of rows.
    pub fn sums(&self, rows: &mut Rows, steps: usize) -> Sums {
        let mut sum = |output: &Option<View>| {
            let output = output.clone()?;
            let narrow = output.layout.dtype != Dtype::F32 && steps > 1;
            let dense = Layout::dense(Dtype::F32, &output.layout.shape);
            let wide = narrow.then(|| rows.planner.scratch(dense));
            Some(Sum { output, wide, steps })
        };
        Sums { weight: sum(&self.weight_gradient), bias: sum(&self.bias_gradient) }
    }

    /// Where the gradient of scores in a chunk goes.
    pub fn gradient(&self) -> Gradient {
        let Self { hidden_gradient, weight_gradient, bias_gradient, .. } = self;
        let wanted =
            [hidden_gradient, weight_gradient, bias_gradient].into_iter().any(Option::is_some);
        if wanted { Gradient::InPlace } else { Gradient::Nowhere }
    }

    /// Everything of some stretches of rows.
    fn go(&self, rows: &mut Rows, walk: &Walk, sums: &Sums) -> Result<()> {
        if walk.parts.is_empty() {
            // No rows: the gradients of weight and bias are sums over nothing.
            return self.columns_step(rows, sums, &Part::NONE, &walk.chunk);
        }
        for part in &walk.parts {
            if walk.is_whole() && walk.kept.is_none() {
                self.step(rows, walk, sums, part)?;
            } else {
                self.close(rows, walk, part, |_, _, _| Ok(()))?;
                self.gradients(rows, walk, sums, part)?;
            }
        }
        Ok(())
    }

    // --- blocks ---

    /// Makes the scores of some rows block by block, shows each to `see`, and closes the rows.
    pub fn close(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        part: &Part,
        mut see: impl FnMut(&mut Rows, &Range<u64>, &View) -> Result<()>,
    ) -> Result<()> {
        let Part { index, rows: stretch, .. } = part;
        if rows.closes_unseen() {
            return rows.close(*index, stretch, None);
        }
        let waiting = rows.waiting(stretch);
        let ahead = rows.looks_ahead();
        for block in walk.blocks.iter().filter(|_| ahead) {
            let scores = self.block_scores(rows, walk, part, block)?;
            rows.beside(*index, stretch, block, &scores)?;
        }
        for block in &walk.blocks {
            let scores = self.scores_again(rows, walk, part, block, ahead)?;
            if !ahead {
                rows.beside(*index, stretch, block, &scores)?;
            }
            rows.block(*index, stretch, block, &scores, &waiting)?;
            see(rows, block, &scores)?;
        }
        rows.close_blocks(*index, stretch, &waiting)
    }

    /// The scores of a block, at their place among all classes.
    pub fn block_scores(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        part: &Part,
        block: &Range<u64>,
    ) -> Result<View> {
        let scores = walk.scores(part, block);
        self.classes(block).scores(rows, part, &scores)?;
        Ok(scores.placed_at_column(block.start))
    }

    /// The same where they may have been made before, and kept.
    fn scores_again(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        part: &Part,
        block: &Range<u64>,
        made: bool,
    ) -> Result<View> {
        if made && walk.kept.is_some() {
            return Ok(walk.scores(part, block).placed_at_column(block.start));
        }
        self.block_scores(rows, walk, part, block)
    }

    /// The gradients of rows that are closed, a block of classes after another.
    fn gradients(&self, rows: &mut Rows, walk: &Walk, sums: &Sums, part: &Part) -> Result<()> {
        let hidden = self.hidden_gradient.clone().map(|view| view.rows(&part.rows));
        let hidden = self.rows_sum(rows, walk, part, hidden.as_ref());
        let writes = rows.writes(&self.gradient());
        for (number, block) in walk.blocks.iter().enumerate().filter(|_| writes) {
            let scores = self.scores_again(rows, walk, part, block, true)?;
            let gradient = match walk.kept {
                Some(_) => Gradient::To(walk.block(part, block).placed_at_column(block.start)),
                None => self.gradient(),
            };
            let scores = Scores { scores, gradient };
            rows.gradient_of(part.index, &part.rows, block, &scores)?;
            self.block_gradients(rows, walk, (part, number), sums, hidden.as_ref())?;
        }
        Ok(())
    }

    /// The gradient of some rows, which adds up over the blocks: in place its sum lies elsewhere until the
    /// last block has read the rows.
    pub fn rows_sum(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        part: &Part,
        output: Option<&View>,
    ) -> Option<RowsSum> {
        let output = output?.clone();
        let apart = output.layout.dtype != Dtype::F32 || self.in_place;
        let wide = (apart && !walk.is_whole()).then(|| {
            let count = part.rows.end - part.rows.start;
            rows.shared("hidden_sum", Layout::matrix(Dtype::F32, count, self.depth))
        });
        Some(RowsSum(Sum { output, wide, steps: walk.blocks.len() }))
    }

    /// The gradients of both operands from that of a block's scores.
    pub fn block_gradients(
        &self,
        rows: &mut Rows,
        walk: &Walk,
        (part, number): (&Part, usize),
        sums: &Sums,
        hidden: Option<&RowsSum>,
    ) -> Result<()> {
        let Some(block) = walk.blocks.get(number) else { return Ok(()) };
        let (chunk, layer) = (walk.block(part, block), self.classes(block));
        layer.columns_step(rows, &self.sums_of(sums, block), part, &chunk)?;
        match hidden {
            Some(RowsSum(hidden)) => {
                let (start, output) = hidden.at(number, false);
                layer.rows_product(rows, part, &chunk, start, output)
            }
            None => Ok(()),
        }
    }

    /// The sums of some of the classes.
    fn sums_of(&self, sums: &Sums, block: &Range<u64>) -> Sums {
        let weight = |sum: &Sum| sum.cut(|view| self.of_classes(view, block));
        let bias = |sum: &Sum| sum.cut(|view| view.columns(block));
        Sums { weight: sums.weight.as_ref().map(weight), bias: sums.bias.as_ref().map(bias) }
    }

    /// The part of a weight, or of its gradient, that belongs to some of the classes.
    fn of_classes(&self, view: View, block: &Range<u64>) -> View {
        match self.options.weight_layout {
            WeightLayout::ClassesHidden => view.rows(block),
            WeightLayout::HiddenClasses => view.columns(block),
        }
    }

    /// The layer of some of the classes.
    fn classes(&self, block: &Range<u64>) -> Self {
        let weight = self.of_classes(self.weight.clone(), block);
        let bias = self.bias.clone().map(|view| view.columns(block));
        Self { classes: block.end - block.start, weight, bias, ..self.clone() }
    }

    /// Which index of a product over the depth, and of one over the classes, runs over the weight's
    /// rows.
    fn weight_along(&self) -> [Along; 2] {
        match self.options.weight_layout {
            WeightLayout::ClassesHidden => [Along::Owned, Along::Walked],
            WeightLayout::HiddenClasses => [Along::Walked, Along::Owned],
        }
    }

    /// One chunk of whole rows: scores, their loss and gradient in place, and the gradient multiplied on.
    fn step(&self, rows: &mut Rows, walk: &Walk, sums: &Sums, part: &Part) -> Result<()> {
        let all = 0..self.classes;
        let chunk = walk.block(part, &all);
        let gradient = self.gradient();
        // Rows that are closed without a stream have no use for scores but their gradient.
        if rows.writes(&gradient) || !rows.closes() {
            self.scores(rows, part, &chunk)?;
        }
        rows.main(part.index, &part.rows, &Scores { scores: chunk.clone(), gradient })?;
        // In place, the hidden states are gone once their gradient is there.
        self.columns_step(rows, sums, part, &chunk)?;
        match &self.hidden_gradient {
            Some(output) => {
                let output = output.clone().rows(&part.rows);
                self.rows_product(rows, part, &chunk, Start::Zero, output)
            }
            None => Ok(()),
        }
    }

    /// The scores of a stretch of rows.
    pub fn scores(&self, rows: &mut Rows, part: &Part, chunk: &View) -> Result<()> {
        let [weight_along, _] = self.weight_along();
        let product = Product {
            label: "scores",
            a: Some((self.hidden.clone().rows(&part.rows), Along::Owned)),
            b: Some((self.weight.clone(), weight_along)),
            start: self.bias.clone().map_or(Start::Zero, Start::From),
            output: chunk.clone(),
            depth: self.depth,
            rows_along: None,
            multiply_adds: self.multiply_adds,
            at: part,
        };
        self.product(rows, &product)
    }

    /// The gradient of a stretch of rows, from that of its scores.
    fn rows_product(
        &self,
        rows: &mut Rows,
        part: &Part,
        chunk: &View,
        start: Start,
        output: View,
    ) -> Result<()> {
        let [_, weight_across] = self.weight_along();
        let product = Product {
            label: "hidden_gradient",
            a: Some((chunk.clone(), Along::Owned)),
            b: Some((self.weight.clone(), weight_across)),
            start,
            output,
            depth: self.classes,
            rows_along: Some(Along::Owned),
            multiply_adds: self.multiply_adds,
            at: part,
        };
        self.product(rows, &product)
    }

    /// A stretch's part of the gradients that add up over rows.
    pub fn columns_step(
        &self,
        rows: &mut Rows,
        sums: &Sums,
        part: &Part,
        chunk: &View,
    ) -> Result<()> {
        let depth = part.rows.end - part.rows.start;
        let rows_along = (depth > 0).then_some(Along::Walked);
        let chunk = Some((chunk.clone(), Along::Walked));
        let (accumulate, multiply_adds) = (self.options.accumulate, self.multiply_adds);
        if let Some(sum) = &sums.weight {
            let (start, output) = sum.at(part.number, accumulate);
            let hidden = Some((self.hidden.clone().rows(&part.rows), Along::Walked));
            let (a, b) = match self.options.weight_layout {
                WeightLayout::ClassesHidden => (chunk.clone(), hidden),
                WeightLayout::HiddenClasses => (hidden, chunk.clone()),
            };
            let label = "weight_gradient";
            let product =
                Product { label, a, b, start, output, depth, rows_along, multiply_adds, at: part };
            self.product(rows, &product)?;
        }
        if let Some(sum) = &sums.bias {
            let (start, output) = sum.at(part.number, accumulate);
            let (label, a, b) = ("bias_gradient", None, chunk);
            let product =
                Product { label, a, b, start, output, depth, rows_along, multiply_adds, at: part };
            self.product(rows, &product)?;
        }
        Ok(())
    }

    /// Plans a product, cut so that every operand fits a binding and every dispatch stays short.
    fn product(&self, rows: &mut Rows, product: &Product) -> Result<()> {
        let (outputs, columns) = (product.output.layout.rows(), product.output.layout.columns());
        let [i_step, j_step, k_step] = self.steps(product, outputs, columns);
        let walks = stretches(product.depth, k_step);
        let wide = product.output.layout.dtype == Dtype::F32 || walks.len() < 2;
        let sum =
            (!wide).then(|| rows.shared("product", Layout::matrix(Dtype::F32, outputs, columns)));
        for i in stretches(outputs, i_step) {
            for j in stretches(columns, j_step) {
                if walks.is_empty() {
                    self.tile(rows, product, &product.start, &product.output, [&i, &j, &(0..0)])?;
                }
                for (n, k) in walks.iter().enumerate() {
                    let last = n + 1 == walks.len();
                    let start = match (&sum, n) {
                        (Some(_), 0) if matches!(product.start, Start::There) => {
                            Start::From(product.output.clone())
                        }
                        (_, 0) => product.start.clone(),
                        (Some(sum), _) if last => Start::From(sum.clone()),
                        _ => Start::There,
                    };
                    let output = sum.as_ref().filter(|_| !last).unwrap_or(&product.output);
                    self.tile(rows, product, &start, output, [&i, &j, k])?;
                }
            }
        }
        Ok(())
    }

    /// How far i, j and k run in one dispatch.
    fn steps(&self, product: &Product, outputs: u64, columns: u64) -> [u64; 3] {
        let most = match self.matrices(product) {
            Some(matrices) => matrices.most_steps(),
            None => self.profile.tile().most_steps(),
        };
        let walked = product.depth.clamp(1, most);
        let mut steps = [outputs.max(1), columns.max(1), walked];
        let room = self.room();
        let mut fit = |view: &View, index: usize| {
            // A 16-bit sum may be held in f32 meanwhile.
            let row = view.layout.row_stride * view.layout.dtype.bytes().max(4);
            steps[index] = steps[index].min((room / row.max(1)).max(1));
        };
        fit(&product.output, 0);
        for (factor, owned) in [(&product.a, 0), (&product.b, 1)] {
            if let Some((view, along)) = factor {
                fit(view, if *along == Along::Owned { owned } else { 2 });
            }
        }
        let tile = self.profile.tile();
        let tile = [tile.height(), tile.width(), 64];
        while steps.iter().product::<u64>() > self.profile.dispatch_products {
            let largest = (0..3).filter(|&s| steps[s] > tile[s]).max_by_key(|&s| steps[s]);
            let Some(s) = largest else { break };
            steps[s] = steps[s].div_ceil(2).next_multiple_of(tile[s]);
        }
        steps
    }

    /// What multiplies outputs i and columns j of a product.
    fn kernel(&self, product: &Product, i: &Range<u64>, j: &Range<u64>) -> TileKernel {
        if let Some(matrices) = self.matrices(product) {
            return TileKernel::cooperative(matrices);
        }
        let large = product.multiply_adds >= self.profile.large_products;
        self.profile.tile().fitted(i.end - i.start, j.end - j.start, large).kernel()
    }

    /// The cooperative matrices for a product, where they are chosen and it is large enough: whatever
    /// the number of rows is, so that a row's bits do not depend on those beside it.
    fn matrices(&self, product: &Product) -> Option<cooperative::Matrices> {
        let dtype = |factor: &Factor| Some(factor.as_ref()?.0.layout.dtype);
        let (a, b) = (dtype(&product.a)?, dtype(&product.b)?);
        let large = self.weight_elements.saturating_mul(USUAL_ROWS) >= self.profile.large_products;
        self.profile.cooperative.matrices(a, b).filter(|_| large)
    }

    /// One dispatch: outputs i, columns j, summed over k.
    fn tile(
        &self,
        rows: &mut Rows,
        product: &Product,
        start: &Start,
        output: &View,
        [i, j, k]: [&Range<u64>; 3],
    ) -> Result<()> {
        let tile = self.kernel(product, i, j);
        let tile_rows = (i.end - i.start).div_ceil(tile.height);
        let tile_columns = (j.end - j.start).div_ceil(tile.width);
        // The larger operand's tiles are held while the other's go by.
        let wide = i.end - i.start <= j.end - j.start;
        let run = if wide { tile_columns.clamp(1, RUN_TILES) } else { tile_columns };
        // Without rows there are no records, and nothing that would look at them.
        let (records, first_row) = rows.records(product.at.index, &product.at.rows).unzip();
        let first_row = first_row.unwrap_or(0);
        let first_row = first_row
            + match product.rows_along {
                Some(Along::Owned) => i.start,
                Some(Along::Walked) => k.start,
                None => 0,
            };
        let (a, a_walks) = cut(&product.a, i, k);
        let (b, b_walks) = cut(&product.b, j, k);
        let skips_walked = product.rows_along == Some(Along::Walked);
        let masked = skips_walked || !(k.end - k.start).is_multiple_of(4);
        let place = |view: &View| view.clone().rows(i).columns(j);
        let label = format!("surprisal.linear.{}.{}", product.label, self.hidden.layout.dtype);
        let step = rows
            .planner
            .dispatch(label, tile.entry, &tile.sources)
            .shapes(tile.shapes)
            .shape("A_WALKS", a_walks)
            .shape("B_WALKS", b_walks)
            .shape("MASKED", masked)
            .shape("SKIPS_WALKED", skips_walked)
            .shape("SKIPS_OWNED", product.rows_along == Some(Along::Owned))
            .number("outputs", i.end - i.start)
            .number("classes", j.end - j.start)
            .number("depth", k.end - k.start)
            .number("tile_rows", tile_rows)
            .number("tile_columns", tile_columns)
            .number("run", run)
            .number("first_row", first_row)
            .words("records", records)
            .read_operand("a", if a_walks { "depth" } else { "outputs" }, a, 1.0)
            .read_operand("b", if b_walks { "depth" } else { "classes" }, b, 1.0);
        let step = match start {
            Start::Zero => step.read("initial", None, 0.0).write("output", Some(place(output))),
            Start::There => step.read_write("initial", "output", place(output)),
            Start::From(view) => {
                let same = view.layout.rows() > 1 || output.layout.rows() == 1;
                let view = if same { place(view) } else { view.clone().columns(j) };
                step.read("initial", Some(view), 0.0).write("output", Some(place(output)))
            }
        };
        step.groups(tile_rows * tile_columns)
    }
}

/// The stretch of a factor that a dispatch needs, and whether its columns run along the walked index.
fn cut(factor: &Factor, owned: &Range<u64>, walked: &Range<u64>) -> (Option<View>, bool) {
    match factor {
        None => (None, true),
        Some((view, Along::Owned)) => (Some(view.clone().rows(owned).columns(walked)), true),
        Some((view, Along::Walked)) => (Some(view.clone().rows(walked).columns(owned)), false),
    }
}
