//! The linear skeleton: it computes the scores A·Bᵀ a chunk at a time and hands them to a row loss. The whole matrix
//! of scores is never stored.
//!
//! The first path takes chunks of whole rows. The row kernels stream the scores of a chunk and replace them by their
//! gradient, which is then multiplied with both operands: three products in all. The gradient of B adds up in f32 over
//! the chunks, in row order, and each element has one owner. Therefore neither the size of a chunk nor the way a
//! product is cut into dispatches changes a bit.
//!
//! The second path takes chunks of many rows and a block of classes. A first pass over the blocks closes the rows, a
//! second pass makes the scores again for their gradient: four products, but each pass over the operands serves many
//! rows, and no budget is too small for a row. Rows that can be closed from what is given (a saved lse, the statistics
//! of shards) need no first pass, which leaves three products. Both paths give the same bits, and `Layer::walk` takes
//! the cheaper one.
//!
//! Before either path, some rows need neither a second product nor memory for their scores: until a block of ∂W is
//! written, its memory can hold the scores of the block's classes for as many rows as W is deep. The scores of these
//! rows are made once, block by block (`Layer::keep`).
//!
//! Where rows may be ignored, those that count come first (`shaders/row/order.wgsl`). A stretch then consists of slots in
//! that order: its hidden states are gathered next to each other, its scores lie at slots, the row kernels and the
//! gradient of the hidden states find the rows of slots, and tiles past the last row that counts end at once.
//!
//! A loss may read the scores of other layers beside those that it is computed from (`RowLoss::heads`): a teacher's, say.
//! Their chunks are made next to the first one, and are never kept.

mod normalize;
mod options;
mod order;
mod product;
mod reference;
mod sampled;
mod walk;

use std::ops::Range;

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{Plan, View, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        row::{self, Columns, Gradient, Head, LabelScore, RowLoss, Rows, Scores},
    },
    spec::{
        about::{About, Dim, Signature},
        arguments as arg,
        call::Call,
        options::{Accumulate, WeightLayout},
    },
};

pub(crate) use options::{OPTIONS_OF_LAYER, options_of_layer};
pub(crate) use walk::{RowBlock, Schedule, ScorePasses};

use normalize::Units;
use product::{Along, Product, Start};

/// A row loss on the scores of a linear layer, hidden·Wᵀ + bias. The scores are never stored whole.
///
/// Any [`RowLoss`] can be used; [`crate::LinearCrossEntropy`] is `Linear<CrossEntropy>`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Linear<L> {
    /// The loss of the scores.
    pub loss: L,
    /// How the weight lies in memory.
    pub weight_layout: WeightLayout,
    /// The most bytes of the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
    /// Which gradients are added to what their tensors hold.
    pub accumulate: Accumulate,
    /// Divide the hidden states, and the weight's vector of each class, by their norms.
    pub normalize: bool,
}

impl<L> Linear<L> {
    /// The given row loss on the scores of a linear layer.
    pub fn new(loss: L) -> Self {
        let weight_layout = WeightLayout::default();
        let accumulate = Accumulate::Nothing;
        Self { loss, weight_layout, chunk_bytes: None, accumulate, normalize: false }
    }

    /// Sets how the weight lies in memory.
    #[must_use]
    pub fn weight_layout(mut self, layout: WeightLayout) -> Self {
        self.weight_layout = layout;
        self
    }

    /// Sets the most bytes of the chunk of scores.
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = Some(bytes);
        self
    }

    /// Sets which gradients are added to what their tensors hold, instead of overwriting it.
    #[must_use]
    pub fn accumulate(mut self, accumulate: Accumulate) -> Self {
        self.accumulate = accumulate;
        self
    }

    /// Sets whether the hidden states, and the weight's vector of each class, are divided by their norms.
    #[must_use]
    pub fn normalize(mut self, normalize: bool) -> Self {
        self.normalize = normalize;
        self
    }
}

impl<L: RowLoss> Signature for Linear<L> {
    fn about(&self) -> &'static About {
        self.loss.linear_about().unwrap_or(&ABOUT)
    }

    fn is_per_row(&self) -> bool {
        self.loss.is_per_row()
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        self.loss.extents()
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate().map_err(|error| self.outside(error))
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        check_weights(self.weight_layout, self.loss.heads(), call)?;
        if self.accumulate.rows() && call.is_in_place("grad.hidden") {
            return Err(Error::InPlace {
                operation: self.about().name.into(),
                output: "grad.hidden".into(),
                reason: "it is added to what its tensor holds, and there are the hidden states"
                    .into(),
            });
        }
        if self.loss.program(call).columns == Columns::Sampled {
            sampled::check(self.about().name, self.accumulate, self.normalize)?;
        }
        let mut scores = scores_call(&self.loss, call);
        // Every gradient of the layer is computed from the gradient of its scores.
        let own = ["grad.hidden", "grad.weight", "grad.bias"];
        if let Some(gradient) = own.iter().find_map(|name| call.outputs.get(*name)) {
            scores.outputs.insert("grad.logits".to_owned(), gradient.clone());
        }
        let name = |inside: &str| {
            let outside = match inside {
                "weight" => "class_weight",
                // The scores have as many columns as the weight has classes.
                "logits" => "weight",
                _ => return None,
            };
            Some(outside.to_owned())
        };
        let accepted = row::accepts(&self.loss, &scores);
        accepted.map_err(|error| error.outside(self.about().name, &name))
    }
}

impl<L: RowLoss> Linear<L> {
    /// An error of the loss of the scores as one of the whole operation.
    fn outside(&self, error: Error) -> Error {
        error.outside(self.about().name, &|_| None)
    }
}

impl<L: RowLoss> Operation for Linear<L> {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(&(self.weight_layout, self.chunk_bytes, self.accumulate, self.normalize));
        self.loss.compared_by(part)
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        let Self { weight_layout, chunk_bytes, accumulate, normalize, .. } = *self;
        let options = LinearOptions { weight_layout, chunk_bytes, accumulate, normalize };
        let name = self.about().name;
        plan(name, &self.loss, options, call, profile).map_err(|error| self.outside(error))
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        let kind = reference::Kind {
            layout: self.weight_layout,
            normalize: self.normalize,
            heads: self.loss.heads(),
        };
        reference::run(&self.loss, kind, inputs, wanted, arithmetic)
            .map_err(|error| self.outside(error))
    }
}

/// The options that a linear loss adds to those of the row loss on its scores.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinearOptions {
    pub weight_layout: WeightLayout,
    pub chunk_bytes: Option<u64>,
    pub accumulate: Accumulate,
    pub normalize: bool,
}

/// The description of a row loss on the scores of a linear layer, for losses without one of their own.
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
    let inner = scores_call(loss, call);
    let mut rows = Rows::new(loss, &inner, profile)?;
    rows.planner.rename(name);
    if rows.is_sampled() {
        return sampled::plan(rows, options, call, profile);
    }
    rows.adds_sums = options.accumulate.shared();
    let mut layer = Layer::new(options, loss.heads(), call, profile)?;
    layer.needs_whole_rows = rows.needs_whole_rows();
    let others = layer.others.iter().map(|(_, other)| &other.hidden);
    let matrices = std::iter::once(&layer.hidden).chain(&layer.hidden_gradient).chain(others);
    // Chunks of rows keep the dispatches short, so windows need not.
    let windows = rows.windows(matrices, u64::MAX)?;
    let units = options.normalize.then(|| layer.normalize(&mut rows)).transpose()?;
    if layer.can_gather() {
        let chunks: Vec<_> = layer.others.iter().map(|(name, _)| *name).collect();
        rows.put_in_order(&chunks, &windows);
    }
    rows.begin(&windows)?;
    rows.planner.unstored(layer.rows * layer.classes * 4 * layer.chunks());
    let ahead = u64::from(rows.label_score() == LabelScore::Streaming);
    let closing = if rows.closes_unseen() { 0 } else { u64::from(rows.rounds()) + ahead };
    let blocks = (closing + u64::from(rows.writes(&layer.gradient()))).max(1);
    let walks = layer.walks(&mut rows, &windows, ScorePasses { held: 1, whole: 1, blocks })?;
    if let Some(units) = &units {
        layer.raw_rows(&mut rows, units, &walks);
    }
    layer.make_slots(&mut rows, &walks);
    let sums = layer.sums(&mut rows, walks.iter().map(|walk| walk.parts.len()).sum());
    for walk in &walks {
        layer.go(&mut rows, walk, &sums, units.as_ref())?;
    }
    if let Some(units) = &units {
        layer.end_weight(&mut rows, units)?;
    }
    rows.end(&windows)
}

/// The call as the row loss on the scores sees it.
fn scores_call(loss: &dyn RowLoss, call: &Call) -> Call {
    let mut inner = call.clone();
    let heads = loss.heads().iter().flat_map(|head| [head.hidden, head.weight, head.bias]);
    for name in ["hidden", "weight", "bias"].into_iter().chain(heads) {
        inner.inputs.remove(name);
        inner.outputs.remove(&format!("grad.{name}"));
    }
    if let Some(weight) = inner.inputs.remove("class_weight") {
        inner.inputs.insert("weight".to_owned(), weight);
    }
    // Every input keeps its binding mode: an input that shares a buffer with an output here also shares it in the
    // inner call.
    inner.siblings.extend(call.outputs.values().map(|output| output.allocation));
    inner
}

/// Checks that the weights of all layers, and the gradient of the one that has one, have the shape that the option says.
fn check_weights(layout: WeightLayout, heads: &[Head], call: &Call) -> Result<()> {
    let classes = call.dim(Dim::Classes);
    let depth = |hidden: &str| call.inputs.get(hidden).map_or(0, |hidden| hidden.layout.columns());
    let own = [call.inputs.get("weight"), call.outputs.get("grad.weight")];
    let own = own.into_iter().flatten().map(|operand| (operand, depth(OWN.hidden)));
    let of_head = |head: &Head| Some((call.inputs.get(head.weight)?, depth(head.hidden)));
    for (operand, depth) in own.chain(heads.iter().filter_map(of_head)) {
        let expected = match layout {
            WeightLayout::ClassesHidden => [classes, depth],
            WeightLayout::HiddenClasses => [depth, classes],
        };
        if operand.layout.shape != expected {
            return Err(Error::WrongShape {
                argument: operand.name.clone().into(),
                found: operand.layout.shape.clone().into(),
                expected: format!("{expected:?} with this weight_layout").into(),
            });
        }
    }
    Ok(())
}

/// The layer whose scores have the loss, which does not see the layer's inputs.
const OWN: Head = Head { scores: "logits", hidden: "hidden", weight: "weight", bias: "bias" };

/// The operands of a linear loss.
#[derive(Clone)]
pub(crate) struct Layer<'a> {
    pub options: LinearOptions,
    pub profile: &'a Profile,
    pub rows: u64,
    pub classes: u64,
    /// The most classes of a block; all of them without blocks.
    pub most_classes: u64,
    pub depth: u64,
    /// Multiply-adds of a product over all rows and all classes.
    pub multiply_adds: u64,
    /// Elements of the whole weight, also where `classes` is only a block of its classes.
    pub weight_elements: u64,
    pub hidden: View,
    pub weight: View,
    pub bias: Option<View>,
    pub hidden_gradient: Option<View>,
    /// Where the gradient of a chunk's hidden states is made, if it is not made in its output.
    pub raw_hidden_gradient: Option<View>,
    pub weight_gradient: Option<View>,
    pub bias_gradient: Option<View>,
    /// The gradient of the bias is added to what its tensor holds.
    pub adds_bias: bool,
    /// The gradient of the hidden states is written over them.
    pub in_place: bool,
    /// Layers without gradients, whose scores the loss reads as the streams of these names.
    pub others: Vec<(&'static str, Self)>,
    /// Where the hidden states of a stretch of slots are, if rows are in order.
    pub slots: Option<View>,
    /// Bytes beside the chunk that count as a part of it where the caller sets no budget.
    pub beside: u64,
    /// The most rows of a chunk, and whether a row of scores must be whole.
    pub most_rows: u64,
    pub needs_whole_rows: bool,
}

/// A gradient that adds up over steps: its output, and an f32 sum in scratch where the steps cannot add up in the
/// output.
#[derive(Clone)]
struct Sum {
    output: View,
    wide: Option<View>,
    steps: usize,
}

impl Sum {
    /// The start and the destination of the product of a step.
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

    /// The same sum for some rows or columns.
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

/// The gradient of the hidden states of a stretch of rows, which adds up over blocks of classes.
pub(crate) struct RowsSum(Sum);

impl<'a> Layer<'a> {
    fn new(
        options: LinearOptions,
        heads: &[Head],
        call: &Call,
        profile: &'a Profile,
    ) -> Result<Self> {
        check_weights(options.weight_layout, heads, call)?;
        let of_head = |head: &Head| Ok((head.scores, Self::of(options, head, call, profile)?));
        Ok(Self {
            hidden_gradient: call.output("grad.hidden"),
            weight_gradient: call.output("grad.weight"),
            bias_gradient: call.output("grad.bias").map(View::for_every_row),
            in_place: call.is_in_place("grad.hidden"),
            others: heads.iter().map(of_head).collect::<Result<_>>()?,
            ..Self::of(options, &OWN, call, profile)?
        })
    }

    /// The layer with these inputs, without gradients.
    fn of(options: LinearOptions, head: &Head, call: &Call, profile: &'a Profile) -> Result<Self> {
        let input = |name: &str| {
            call.input(name).ok_or_else(|| Error::MissingInput {
                operation: "linear".into(),
                argument: name.into(),
                reason: "this call needs it".into(),
            })
        };
        let (hidden, weight) = (input(head.hidden)?, input(head.weight)?);
        let (rows, classes) = (call.dim(Dim::Rows), call.dim(Dim::Classes));
        let depth = hidden.layout.columns();
        Ok(Self {
            options,
            profile,
            rows,
            classes,
            most_classes: classes,
            depth,
            multiply_adds: (rows * classes).saturating_mul(depth),
            weight_elements: classes.saturating_mul(depth),
            hidden,
            weight,
            bias: call.input(head.bias).map(View::for_every_row),
            hidden_gradient: None,
            raw_hidden_gradient: None,
            weight_gradient: None,
            bias_gradient: None,
            adds_bias: options.accumulate.shared(),
            in_place: false,
            others: Vec::new(),
            slots: None,
            beside: 0,
            most_rows: u64::MAX,
            needs_whole_rows: false,
        })
    }

    /// The number of chunks of scores: one a layer.
    pub(super) fn chunks(&self) -> u64 {
        1 + self.others.len() as u64
    }

    /// The sums for this many stretches of rows.
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

    /// Where the gradient of a chunk's scores goes.
    pub fn gradient(&self) -> Gradient {
        let Self { hidden_gradient, weight_gradient, bias_gradient, .. } = self;
        let wanted =
            [hidden_gradient, weight_gradient, bias_gradient].into_iter().any(Option::is_some);
        if wanted { Gradient::InPlace } else { Gradient::Nowhere }
    }

    /// Plans the losses and all gradients of the rows of a walk.
    fn go(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        sums: &Sums,
        units: Option<&Units>,
    ) -> Result<()> {
        if walk.parts.is_empty() {
            // Without rows the gradients of weight and bias are sums over nothing.
            return self.columns_step(rows, sums, &RowBlock::NONE, &walk.chunk);
        }
        for part in &walk.parts {
            self.gather(rows, part)?;
            if walk.is_whole() && walk.kept.is_none() {
                self.step(rows, walk, sums, part)?;
            } else {
                self.close(rows, walk, part, |_, _, _| Ok(()))?;
                self.gradients(rows, walk, sums, part)?;
            }
            if let Some(units) = units {
                self.end_rows(rows, units, part)?;
            }
        }
        Ok(())
    }

    /// Where products make the gradient of the hidden states of a stretch of rows.
    fn rows_gradient(&self, rows: &Rows, part: &RowBlock) -> Option<View> {
        let output = self.hidden_gradient.clone()?;
        if rows.are_ordered() {
            return Some(output.rows(&rows.window(part.index)).by_row());
        }
        let output = output.rows(&part.rows);
        let raw = self.raw_hidden_gradient.clone();
        Some(raw.map_or(output, |raw| raw.rows(&(0..part.rows.end - part.rows.start))))
    }

    // --- blocks ---

    /// Makes the scores of a stretch of rows block by block, passes each block to `see`, and closes the rows.
    pub fn close(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
        mut see: impl FnMut(&mut Rows, &Range<u64>, &View) -> Result<()>,
    ) -> Result<()> {
        let RowBlock { index, rows: stretch, .. } = part;
        if rows.closes_unseen() {
            return rows.close(*index, stretch, None);
        }
        let waiting = rows.waiting(stretch);
        let ahead = rows.label_score() == LabelScore::Streaming;
        for block in walk.blocks.iter().filter(|_| ahead) {
            let scores = self.block_scores(rows, walk, part, block)?;
            rows.label_scores(*index, stretch, block, &scores)?;
        }
        for round in 0..rows.rounds() {
            for block in &walk.blocks {
                let first = round == 0;
                let scores = self.scores_again(rows, walk, part, block, ahead || !first)?;
                if first && rows.label_score() == LabelScore::Closing {
                    rows.label_scores(*index, stretch, block, &scores)?;
                }
                rows.block(*index, stretch, block, &scores, &waiting, round)?;
                if first {
                    see(rows, block, &scores)?;
                }
            }
            rows.end_blocks(*index, stretch, &waiting, round)?;
        }
        Ok(())
    }

    /// Makes the scores of a block. The view that is returned has them at their columns among all classes.
    pub fn block_scores(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
        block: &Range<u64>,
    ) -> Result<View> {
        let (scores, layer) = (walk.scores(part, block), self.classes(walk, block));
        layer.scores(rows, part, &scores)?;
        layer.other_scores(rows, walk, part, block)?;
        Ok(scores.placed_at_column(block.start))
    }

    /// Makes the scores of the other layers, which the kernels then find.
    fn other_scores(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
        block: &Range<u64>,
    ) -> Result<()> {
        for (name, other) in &self.others {
            let chunk = Schedule::part_of(rows.shared(name, walk.chunk_layout()), part, block);
            other.scores(rows, part, &chunk)?;
            rows.give_chunk(name, chunk.placed_at_column(block.start));
        }
        Ok(())
    }

    /// The scores of a block, which are made only where they are not kept from before.
    fn scores_again(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
        block: &Range<u64>,
        made: bool,
    ) -> Result<View> {
        if made && walk.kept.is_some() {
            return Ok(walk.scores(part, block).placed_at_column(block.start));
        }
        self.block_scores(rows, walk, part, block)
    }

    /// The gradients of closed rows, one block of classes after another.
    fn gradients(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        sums: &Sums,
        part: &RowBlock,
    ) -> Result<()> {
        let hidden = self.rows_sum(rows, walk, part, self.rows_gradient(rows, part).as_ref());
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

    /// The gradient of a stretch of rows, which adds up over the blocks. Where it is written in place, its sum lies in
    /// scratch until the last block has read the rows.
    pub fn rows_sum(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        part: &RowBlock,
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

    /// The gradients of both operands from the gradient of a block's scores.
    pub fn block_gradients(
        &self,
        rows: &mut Rows,
        walk: &Schedule,
        (part, number): (&RowBlock, usize),
        sums: &Sums,
        hidden: Option<&RowsSum>,
    ) -> Result<()> {
        let Some(block) = walk.blocks.get(number) else { return Ok(()) };
        let (chunk, layer) = (walk.block(part, block), self.classes(walk, block));
        layer.columns_step(rows, &self.sums_of(sums, block), part, &chunk)?;
        match hidden {
            Some(RowsSum(hidden)) => {
                let (start, output) = hidden.at(number, self.options.accumulate.rows());
                layer.rows_product(rows, part, &chunk, start, output)
            }
            None => Ok(()),
        }
    }

    /// The sums for a block of the classes.
    fn sums_of(&self, sums: &Sums, block: &Range<u64>) -> Sums {
        let weight = |sum: &Sum| sum.cut(|view| self.of_classes(view, block));
        let bias = |sum: &Sum| sum.cut(|view| view.columns(block));
        Sums { weight: sums.weight.as_ref().map(weight), bias: sums.bias.as_ref().map(bias) }
    }

    /// The part of a weight, or of its gradient, that belongs to a block of the classes.
    fn of_classes(&self, view: View, block: &Range<u64>) -> View {
        match self.options.weight_layout {
            WeightLayout::ClassesHidden => view.rows(block),
            WeightLayout::HiddenClasses => view.columns(block),
        }
    }

    /// The same layer with only a block of the classes.
    fn classes(&self, walk: &Schedule, block: &Range<u64>) -> Self {
        let weight = self.of_classes(self.weight.clone(), block);
        let bias = self.bias.clone().map(|view| view.columns(block));
        let most_classes =
            walk.blocks.first().map_or(self.classes, |first| first.end - first.start);
        let classes = block.end - block.start;
        let of_block = |(name, other): &(_, Self)| (*name, other.classes(walk, block));
        let others = self.others.iter().map(of_block).collect();
        Self { classes, most_classes, weight, bias, others, ..self.clone() }
    }

    /// Which index of a product runs over the weight's rows: first for a product that sums over the depth, then for
    /// one that sums over the classes.
    fn weight_along(&self) -> [Along; 2] {
        match self.options.weight_layout {
            WeightLayout::ClassesHidden => [Along::Owned, Along::Walked],
            WeightLayout::HiddenClasses => [Along::Walked, Along::Owned],
        }
    }

    /// One chunk of whole rows: makes the scores, replaces them by their gradient, and multiplies it with both
    /// operands.
    fn step(&self, rows: &mut Rows, walk: &Schedule, sums: &Sums, part: &RowBlock) -> Result<()> {
        let all = 0..self.classes;
        let chunk = walk.block(part, &all);
        let gradient = self.gradient();
        // Where rows are closed without a stream, only the gradient needs their scores.
        if rows.writes(&gradient) || !rows.closes_unseen() {
            self.scores(rows, part, &chunk)?;
            self.other_scores(rows, walk, part, &all)?;
        }
        rows.main(part.index, &part.rows, &Scores { scores: chunk.clone(), gradient })?;
        // The weight's gradient comes first: in place, the gradient of the hidden states overwrites the states.
        self.columns_step(rows, sums, part, &chunk)?;
        match self.rows_gradient(rows, part) {
            Some(output) => {
                let accumulate = self.options.accumulate.rows();
                let start = if accumulate { Start::There } else { Start::Zero };
                self.rows_product(rows, part, &chunk, start, output)
            }
            None => Ok(()),
        }
    }

    /// Makes the scores of a stretch of rows.
    pub fn scores(&self, rows: &mut Rows, part: &RowBlock, chunk: &View) -> Result<()> {
        let [weight_along, _] = self.weight_along();
        let product = Product {
            label: "scores",
            a: Some((self.states(part), Along::Owned)),
            b: Some((self.weight.clone(), weight_along)),
            start: Start::Zero,
            addend: self.bias.clone(),
            output: chunk.clone(),
            most: [part.most, self.most_classes],
            depth: self.depth,
            rows_along: Some(Along::Owned),
            skips: false,
            multiply_adds: self.multiply_adds,
            at: part,
        };
        self.product(rows, &product)
    }

    /// The gradient of the hidden states of a stretch of rows, from the gradient of its scores.
    fn rows_product(
        &self,
        rows: &mut Rows,
        part: &RowBlock,
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
            addend: None,
            output,
            most: [part.most, self.depth],
            depth: self.classes,
            rows_along: Some(Along::Owned),
            skips: true,
            multiply_adds: self.multiply_adds,
            at: part,
        };
        self.product(rows, &product)
    }

    /// The part of a stretch of rows in the gradients that add up over rows.
    pub fn columns_step(
        &self,
        rows: &mut Rows,
        sums: &Sums,
        part: &RowBlock,
        chunk: &View,
    ) -> Result<()> {
        let depth = part.rows.end - part.rows.start;
        let rows_along = (depth > 0).then_some(Along::Walked);
        let chunk = Some((chunk.clone(), Along::Walked));
        let (accumulate, multiply_adds) = (self.options.accumulate.shared(), self.multiply_adds);
        if let Some(sum) = &sums.weight {
            let (start, output) = sum.at(part.number, accumulate);
            let hidden = Some((self.states(part), Along::Walked));
            let (a, b, most) = match self.options.weight_layout {
                WeightLayout::ClassesHidden => {
                    (chunk.clone(), hidden, [self.most_classes, self.depth])
                }
                WeightLayout::HiddenClasses => {
                    (hidden, chunk.clone(), [self.depth, self.most_classes])
                }
            };
            let label = "weight_gradient";
            let product = Product {
                label,
                a,
                b,
                start,
                addend: None,
                output,
                most,
                depth,
                rows_along,
                skips: depth > 0,
                multiply_adds,
                at: part,
            };
            self.product(rows, &product)?;
        }
        if let Some(sum) = &sums.bias {
            let (start, output) = sum.at(part.number, self.adds_bias);
            let (label, a, b) = ("bias_gradient", None, chunk);
            let product = Product {
                label,
                a,
                b,
                start,
                addend: None,
                output,
                most: [1, self.most_classes],
                depth,
                rows_along,
                skips: depth > 0,
                multiply_adds,
                at: part,
            };
            self.product(rows, &product)?;
        }
        Ok(())
    }
}
