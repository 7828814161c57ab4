//! The linear skeleton: scores = A·Bᵀ a chunk of rows at a time, handed to a row loss, never stored
//! whole.
//!
//! A chunk is multiplied, streamed and turned into its gradient in place by the row kernels, and the
//! gradient is multiplied on: three products in all. Gradients of B add up over the chunks in row
//! order in f32, each element by its one owner, so neither the chunk's size nor the way a product is
//! cut into dispatches changes a bit.
//!
//! From a saved lse a chunk is all rows of a block of classes instead, wherever a row can be closed
//! without a look at its scores: the gradient of B is then written once, and the block stays in a cache.

use std::ops::Range;

use crate::{
    array::{Arithmetic, Arrays},
    cooperative, cpu,
    error::{Error, Result},
    kernel::{Source, shader, size},
    loss::{About, Dim, Loss, WeightLayout, arguments as arg},
    plan::{Call, Plan, View},
    profile::{Profile, previous_power_of_two},
    row::{self, Gradient, RowLoss, Rows, Scores, stretches},
    tensor::{Dtype, Layout},
};

/// Rows of a tile, and columns of one band of a lane.
const SHORT_ROWS: u64 = size::SHORT_ROWS as u64;
const TALL_ROWS: u64 = size::TALL_ROWS as u64;
const BAND_COLUMNS: u64 = 4;
/// Tiles side by side whose rows are gone through together: what they share of a row is then a page or
/// so, where a page is what a memory is quick at.
const RUN_TILES: u64 = 4;
/// Rows that stand for any number of them where a kernel is chosen.
const USUAL_ROWS: u64 = 256;
/// A block of classes is a multiple of this.
const BLOCK_CLASSES: u64 = 64;

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
    if let (Some(blocks), [window]) = (layer.blocks(&rows, call), &*windows) {
        layer.blockwise(&mut rows, window, &blocks)?;
        return rows.end(&windows);
    }
    let Chunks { chunk, parts } = layer.chunks(&mut rows, &windows);
    let mut sums = layer.sums(&mut rows, parts.len());
    if parts.is_empty() {
        // No rows: the gradients of weight and bias are sums over nothing.
        layer.columns_step(&mut rows, &mut sums, 0, &(0..0), &chunk)?;
    }
    for (index, part) in parts {
        layer.step(&mut rows, &mut sums, index, &part, &chunk)?;
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
    pub hidden: View,
    pub weight: View,
    pub bias: Option<View>,
    pub hidden_gradient: Option<View>,
    pub weight_gradient: Option<View>,
    pub bias_gradient: Option<View>,
}

/// The chunk of scores, and the stretches of rows that use it one after another, each with its
/// window.
pub(crate) struct Chunks {
    pub chunk: View,
    pub parts: Vec<(usize, Range<u64>)>,
}

/// A gradient that adds up over chunks: where it goes, and an f32 sum beside it where that is 16-bit.
struct Sum {
    output: View,
    wide: Option<View>,
    left: usize,
    begun: bool,
}

impl Sum {
    /// The start and the destination of the next chunk's product.
    fn next(&mut self, accumulate: bool) -> (Start, View) {
        let first = !self.begun;
        self.begun = true;
        self.left = self.left.saturating_sub(1);
        let last = self.left == 0;
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
}

/// A gradient that adds up over this many chunks.
fn sum(rows: &mut Rows, output: Option<&View>, chunks: usize) -> Option<Sum> {
    let output = output.cloned()?;
    let narrow = output.layout.dtype != Dtype::F32 && chunks > 1;
    let dense = Layout::dense(Dtype::F32, &output.layout.shape);
    let wide = narrow.then(|| rows.planner.scratch(dense));
    Some(Sum { output, wide, left: chunks, begun: false })
}

/// The gradients that add up over chunks.
pub(crate) struct Sums {
    weight: Option<Sum>,
    bias: Option<Sum>,
}

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
    index: usize,
    part: &'v Range<u64>,
}

impl Product<'_> {
    fn multiply_adds(&self) -> u64 {
        self.output.layout.rows() * self.output.layout.columns() * self.depth
    }
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
            hidden: input("hidden")?,
            weight: input("weight")?,
            bias: call.input("bias").map(View::for_every_row),
            hidden_gradient: call.output("grad.hidden"),
            weight_gradient: call.output("grad.weight"),
            bias_gradient: call.output("grad.bias").map(View::for_every_row),
        })
    }

    /// Elements from one row of the chunk to the next.
    fn stride(&self) -> u64 {
        self.classes.next_multiple_of(4).max(4)
    }

    /// The most bytes of a chunk: the caller's, or else the device's.
    fn chunk_budget(&self, default: u64) -> u64 {
        let budget = self.options.chunk_bytes.unwrap_or(default);
        budget.min(self.profile.binding_bytes.saturating_sub(64))
    }

    /// Rows of a chunk: what the budget allows, whole tiles where it is more than one.
    fn chunk_rows(&self, short: u64) -> u64 {
        let rows =
            (self.chunk_budget(self.profile.chunk_bytes) / (self.stride() * 4)).clamp(1, short);
        let rows = if rows > TALL_ROWS { rows - rows % TALL_ROWS } else { rows };
        rows.min(self.rows.max(1))
    }

    /// Makes the chunk, and cuts the windows by it.
    pub fn chunks(&self, rows: &mut Rows, windows: &[Range<u64>]) -> Chunks {
        let step = self.chunk_rows(rows.short());
        let chunk = Layout::matrix(Dtype::F32, step, self.classes).row_stride(self.stride());
        let chunk = rows.planner.scratch(chunk);
        let cut = |(index, window): (usize, &Range<u64>)| {
            let start = window.start;
            let parts = stretches(window.end - start, step);
            parts.into_iter().map(move |part| (index, start + part.start..start + part.end))
        };
        Chunks { chunk, parts: windows.iter().enumerate().flat_map(cut).collect() }
    }

    /// The gradients that add up over this many chunks.
    pub fn sums(&self, rows: &mut Rows, chunks: usize) -> Sums {
        let mut sum = |output: &Option<View>| sum(rows, output.as_ref(), chunks);
        Sums { weight: sum(&self.weight_gradient), bias: sum(&self.bias_gradient) }
    }

    /// Blocks of classes, where a saved lse (or the statistics of all shards) lets all rows of a block go
    /// at once: ∂W is then written once, and what adds up is ∂hidden, which is small.
    fn blocks(&self, rows: &Rows, call: &Call) -> Option<Vec<Range<u64>>> {
        let bytes = self.chunk_budget(self.profile.block_bytes);
        let elements = (bytes / 4).min(self.profile.dispatch_elements);
        let most = elements / self.rows.max(1);
        let step = most - most % BLOCK_CLASSES;
        // In place, ∂hidden would overwrite what later blocks are made from.
        let able = step > 0 && rows.closes_unseen() && !call.in_place;
        (able && self.chunk_rows(rows.short()) < self.rows).then(|| stretches(self.classes, step))
    }

    fn wants_gradients(&self) -> bool {
        let Self { hidden_gradient, weight_gradient, bias_gradient, .. } = self;
        hidden_gradient.is_some() || weight_gradient.is_some() || bias_gradient.is_some()
    }

    /// The gradients of rows that are closed from what is given, a block of classes after another.
    fn blockwise(&self, rows: &mut Rows, all: &Range<u64>, blocks: &[Range<u64>]) -> Result<()> {
        rows.close(0, all, None)?;
        let widest = blocks.first().map_or(0, |block| block.end - block.start);
        let chunk = Layout::matrix(Dtype::F32, self.rows, widest);
        let chunk = rows.planner.scratch(chunk.row_stride(widest.next_multiple_of(4)));
        let mut hidden = sum(rows, self.hidden_gradient.as_ref(), blocks.len());
        for block in blocks.iter().filter(|_| self.wants_gradients()) {
            let layer = self.classes(block);
            let chunk = chunk.clone().columns(&(0..block.end - block.start));
            layer.scores(rows, 0, all, &chunk)?;
            let seen = chunk.clone().placed_at_column(block.start);
            let scores = Scores { scores: seen, gradient: Gradient::InPlace };
            rows.gradient_of(0, all, block, &scores)?;
            let mut sums = layer.sums(rows, 1);
            layer.columns_step(rows, &mut sums, 0, all, &chunk)?;
            if let Some(hidden) = &mut hidden {
                let (start, output) = hidden.next(false);
                layer.rows_product(rows, (0, all), &chunk, start, output)?;
            }
        }
        Ok(())
    }

    /// The layer of some of the classes.
    fn classes(&self, block: &Range<u64>) -> Self {
        let of_weight = |view: View| match self.options.weight_layout {
            WeightLayout::ClassesHidden => view.rows(block),
            WeightLayout::HiddenClasses => view.columns(block),
        };
        let of_bias = |view: View| view.columns(block);
        Self {
            classes: block.end - block.start,
            weight: of_weight(self.weight.clone()),
            bias: self.bias.clone().map(of_bias),
            weight_gradient: self.weight_gradient.clone().map(of_weight),
            bias_gradient: self.bias_gradient.clone().map(of_bias),
            ..self.clone()
        }
    }

    /// Which index of a product over the depth, and of one over the classes, runs over the weight's
    /// rows.
    fn weight_along(&self) -> [Along; 2] {
        match self.options.weight_layout {
            WeightLayout::ClassesHidden => [Along::Owned, Along::Walked],
            WeightLayout::HiddenClasses => [Along::Walked, Along::Owned],
        }
    }

    /// One chunk of rows: scores, their loss and gradient in place, and the gradient multiplied on.
    fn step(
        &self,
        rows: &mut Rows,
        sums: &mut Sums,
        index: usize,
        part: &Range<u64>,
        chunk: &View,
    ) -> Result<()> {
        let chunk = chunk.clone().rows(&(0..part.end - part.start));
        let wanted = self.wants_gradients();
        // Rows that are closed without a stream have no use for scores but their gradient.
        if wanted || !rows.closes() {
            self.scores(rows, index, part, &chunk)?;
        }
        let gradient = if wanted { Gradient::InPlace } else { Gradient::Nowhere };
        rows.main(index, part, &Scores { scores: chunk.clone(), gradient })?;
        // In place, the hidden states are gone once their gradient is there.
        self.columns_step(rows, sums, index, part, &chunk)?;
        match &self.hidden_gradient {
            Some(output) => self.rows_step(rows, index, part, &chunk, output.clone().rows(part)),
            None => Ok(()),
        }
    }

    /// The scores of a stretch of rows.
    pub fn scores(
        &self,
        rows: &mut Rows,
        index: usize,
        part: &Range<u64>,
        chunk: &View,
    ) -> Result<()> {
        let [weight_along, _] = self.weight_along();
        let product = Product {
            label: "scores",
            a: Some((self.hidden.clone().rows(part), Along::Owned)),
            b: Some((self.weight.clone(), weight_along)),
            start: self.bias.clone().map_or(Start::Zero, Start::From),
            output: chunk.clone(),
            depth: self.depth,
            rows_along: None,
            index,
            part,
        };
        self.product(rows, &product)
    }

    /// The gradient of a stretch of rows, from that of its scores.
    pub fn rows_step(
        &self,
        rows: &mut Rows,
        index: usize,
        part: &Range<u64>,
        chunk: &View,
        output: View,
    ) -> Result<()> {
        self.rows_product(rows, (index, part), chunk, Start::Zero, output)
    }

    /// The same, added to what the sums start from.
    fn rows_product(
        &self,
        rows: &mut Rows,
        (index, part): (usize, &Range<u64>),
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
            index,
            part,
        };
        self.product(rows, &product)
    }

    /// The chunk's part of the gradients that add up over rows.
    pub fn columns_step(
        &self,
        rows: &mut Rows,
        sums: &mut Sums,
        index: usize,
        part: &Range<u64>,
        chunk: &View,
    ) -> Result<()> {
        let depth = part.end - part.start;
        let rows_along = (depth > 0).then_some(Along::Walked);
        let chunk = Some((chunk.clone(), Along::Walked));
        if let Some(sum) = &mut sums.weight {
            let (start, output) = sum.next(self.options.accumulate);
            let hidden = Some((self.hidden.clone().rows(part), Along::Walked));
            let (a, b) = match self.options.weight_layout {
                WeightLayout::ClassesHidden => (chunk.clone(), hidden),
                WeightLayout::HiddenClasses => (hidden, chunk.clone()),
            };
            let label = "weight_gradient";
            self.product(
                rows,
                &Product { label, a, b, start, output, depth, rows_along, index, part },
            )?;
        }
        if let Some(sum) = &mut sums.bias {
            let (start, output) = sum.next(self.options.accumulate);
            let label = "bias_gradient";
            self.product(
                rows,
                &Product {
                    label,
                    a: None,
                    b: chunk,
                    start,
                    output,
                    depth,
                    rows_along,
                    index,
                    part,
                },
            )?;
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
            Some(_) => cooperative::MOST_STEPS,
            None => row::MOST_ITERATIONS,
        };
        let walked = product.depth.clamp(1, most);
        let mut steps = [outputs.max(1), columns.max(1), walked];
        let room = self.profile.binding_bytes.saturating_sub(self.profile.offset_alignment + 64);
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
        let tile = [TALL_ROWS, u64::from(self.profile.tile_lanes) * BAND_COLUMNS, 64];
        while steps.iter().product::<u64>() > self.profile.dispatch_products {
            let largest = (0..3).filter(|&s| steps[s] > tile[s]).max_by_key(|&s| steps[s]);
            let Some(s) = largest else { break };
            steps[s] = steps[s].div_ceil(2).next_multiple_of(tile[s]);
        }
        steps
    }

    /// What multiplies outputs i and columns j of a product.
    fn kernel(&self, product: &Product, i: &Range<u64>, j: &Range<u64>) -> Tile {
        if let Some(matrices) = self.matrices(product) {
            return Tile::cooperative(matrices);
        }
        let large = product.multiply_adds() >= self.profile.tall_products;
        Tile::plain(self.profile, large && i.end - i.start > SHORT_ROWS, j.end - j.start)
    }

    /// The cooperative matrices for a product, where they are chosen and it is large enough: whatever
    /// the number of rows is, so that a row's bits do not depend on those beside it.
    fn matrices(&self, product: &Product) -> Option<cooperative::Matrices> {
        let dtype = |factor: &Factor| Some(factor.as_ref()?.0.layout.dtype);
        let (a, b) = (dtype(&product.a)?, dtype(&product.b)?);
        let large = self.classes * self.depth * USUAL_ROWS >= self.profile.tall_products;
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
        let tile_rows = (i.end - i.start).div_ceil(tile.rows);
        let tile_columns = (j.end - j.start).div_ceil(tile.columns);
        // The larger operand's tiles are held while the other's go by.
        let wide = i.end - i.start <= j.end - j.start;
        let run = if wide { tile_columns.clamp(1, RUN_TILES) } else { tile_columns };
        // Without rows there are no records, and nothing that would look at them.
        let (records, first_row) = rows.records(product.index, product.part).unzip();
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

/// What multiplies: a kernel, and the outputs that one of its workgroups owns.
struct Tile {
    entry: &'static str,
    sources: Vec<Source>,
    shapes: Vec<(&'static str, u32)>,
    rows: u64,
    columns: u64,
}

impl Tile {
    /// In registers: a lane owns bands of rows and of four columns.
    fn plain(profile: &Profile, tall: bool, columns: u64) -> Self {
        let lanes = profile.tile_lanes.min(profile.workgroup_size);
        let band = u64::from(lanes) * BAND_COLUMNS;
        let bands = if tall { u64::from(profile.tile_bands) } else { 1 };
        let bands = previous_power_of_two(columns.div_ceil(band).min(bands) as u32);
        Self {
            entry: "product",
            sources: vec![shader!("record.wgsl"), shader!("linear.wgsl")],
            shapes: vec![("WORKGROUP", lanes), ("BANDS", bands), ("TALL", tall.into())],
            rows: if tall { TALL_ROWS } else { SHORT_ROWS },
            columns: band * u64::from(bands),
        }
    }

    /// On cooperative matrices, two by two of them.
    fn cooperative(matrices: cooperative::Matrices) -> Self {
        let entry =
            [shader!("record.wgsl"), shader!("linear.wgsl"), shader!("linear/cooperative.wgsl")];
        let side = matrices.side.extent();
        Self {
            entry: "product_cooperative",
            sources: entry.into_iter().chain(matrices.sources()).collect(),
            shapes: vec![("WORKGROUP", matrices.lanes), ("SIDE", side)],
            rows: u64::from(2 * side),
            columns: u64::from(2 * side),
        }
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
