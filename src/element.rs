//! The element skeleton: losses of one score at a time, read once, with their gradients and sums.
//!
//! Its plan walks all elements, row after row, whatever their layout: a tensor without gaps is loaded
//! quad by quad across its rows, one with gaps or a broadcast one by row and column. A workgroup
//! takes a fixed block of elements, so offsets, strides and windows of whole blocks do not change the
//! order of a sum. Planes are walked in another order; `windows` says where blocks are cut.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    kernel::{Reach, Source, shader},
    loss::{Empty, Loss, Padding, Reduction},
    plan::{Call, Operand, Plan, Planner, Reached, Step, View},
    profile::Profile,
    row::{check_reduction, least_multiple, stretches},
    tensor::{Dtype, Layout},
    total::{self, Ending, TALLY_WORDS, Totals},
};

pub use crate::plan::Number;

/// Elements of a word of a mask of bits, and the least that a window begins at a multiple of.
const BITS: u64 = 32;

/// Elements that a window, or a plane of a walk along planes, has fewer of: together one word counts
/// them.
const HALF_WORD: u64 = 1 << 31;

/// What all element losses share: which elements count, and how they are reduced.
#[derive(Clone, Copy, Debug, Default)]
pub struct ElementOptions {
    /// How losses become one number.
    pub reduction: Reduction,
    /// What a mean over nothing is.
    pub empty: Empty,
    /// What a masked mean divides by.
    pub denominator: MaskedMean,
    /// A target that stands for an unknown one.
    pub unknown: Option<f64>,
    /// What happens to gradient columns between the columns and the row stride.
    pub padding: Padding,
}

/// What a mean divides by where elements are masked or their targets unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum MaskedMean {
    /// Σ mask over the elements whose target is known.
    #[default]
    Mask,
    /// The number of all elements.
    All,
}

/// A tensor that the functor reads.
#[derive(Clone, Copy, Debug)]
pub struct ElementStream {
    /// Its name in WGSL, where `NAME_take` reaches it, and the input that it is.
    pub name: &'static str,
    /// What an input that is not given reads as.
    pub default: f32,
}

/// A loss of one score at a time: what the element skeleton needs beside [`Loss`].
///
/// The WGSL contract is at the top of `shaders/element.wgsl`; `shaders/loss/mse.wgsl` is a short
/// example. The first input is a matrix or a vector, and every other one has its shape, that of its
/// last axis, `[rows, 1]`, or one element. The inputs `weight`, `mask`, `upstream` and `denominator`
/// are the skeleton's.
pub trait ElementLoss: Loss {
    /// The functor's WGSL.
    fn sources(&self) -> Vec<Source>;

    /// Which elements count, and how they are reduced.
    fn options(&self) -> ElementOptions;

    /// The functor's tensors; its derivatives are by the first and by the second one.
    fn streams(&self) -> &'static [ElementStream];

    /// Values of its overrides: what shapes the code, the inputs that are there included.
    fn shapes(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// Its parameters: what changes without a new pipeline.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The output that is the mean of what the functor watches, where its options have it watch.
    fn watched(&self) -> Option<&'static str> {
        None
    }

    /// Whether these inputs, told by their names, go with its options.
    fn agrees(&self, _given: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
}

/// Whether a call's inputs and outputs go with a loss's options.
pub(crate) fn check_names<'n>(
    loss: &dyn ElementLoss,
    given: &dyn Fn(&str) -> bool,
    mut wanted: impl Iterator<Item = &'n str>,
) -> Result<()> {
    let known = |name: &str| SCALARS.contains(&name) || name.starts_with("grad.");
    if let Some(name) = wanted.find(|&name| !known(name) && loss.watched() != Some(name)) {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: name.to_owned(),
            other: "the options".to_owned(),
            reason: "they leave nothing to watch".to_owned(),
        });
    }
    let has_targets = loss.streams().iter().any(|stream| stream.name == TARGETS);
    match loss.options().unknown {
        Some(unknown) if !has_targets => {
            let reason = "this loss has no targets";
            Err(Error::option(loss.about().name, "unknown_target", unknown, reason))
        }
        _ => loss.agrees(given),
    }
}

/// The stream in which an unknown one is looked for.
const TARGETS: &str = "targets";

/// The outputs of one element that all such losses have.
const SCALARS: [&str; 5] = ["loss", "sum", "denominator", "count", "status"];

/// Checks the options that all element losses share.
pub(crate) fn check_options(loss: &str, options: ElementOptions) -> Result<()> {
    match options.reduction {
        Reduction::Multilabel => Ok(()),
        other => check_reduction(loss, other),
    }
}

/// The rows and columns of the elements: those of the first input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub rows: u64,
    pub columns: u64,
    matrix: bool,
}

/// Over what a tensor extends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Elements,
    Columns,
    Rows,
    One,
}

impl Extents {
    /// Those of a tensor of this shape.
    pub fn of(shape: &[u64]) -> Self {
        match *shape {
            [rows, columns] => Self { rows, columns, matrix: true },
            [rows, ..] => Self { rows, columns: 1, matrix: false },
            [] => Self { rows: 1, columns: 1, matrix: false },
        }
    }

    pub fn count(self) -> u64 {
        self.rows * self.columns
    }

    /// Over what a tensor of this shape extends. A vector of as many elements as there are rows and
    /// columns lies along the last axis, as in PyTorch.
    pub fn span(self, name: &str, shape: &[u64]) -> Result<Span> {
        let Self { rows, columns, matrix } = self;
        match *shape {
            [r, c] if matrix && (r, c) == (rows, columns) => Ok(Span::Elements),
            [n] if !matrix && n == rows => Ok(Span::Elements),
            [n] if matrix && n == columns => Ok(Span::Columns),
            [r, 1] if matrix && r == rows => Ok(Span::Rows),
            [1] => Ok(Span::One),
            _ => Err(Error::WrongShape {
                argument: name.to_owned(),
                found: shape.to_vec(),
                expected: if matrix {
                    format!("[{rows}, {columns}], [{columns}], [{rows}, 1] or [1]")
                } else {
                    format!("[{rows}] or [1]")
                },
            }),
        }
    }
}

/// The plan of an element loss.
pub(crate) fn plan(loss: &dyn ElementLoss, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut elements = Elements::new(loss, call, profile)?;
    elements.header()?;
    for index in 0..elements.windows.len() {
        elements.main(index)?;
        if loss.options().padding == Padding::Zero {
            elements.pad(index)?;
        }
    }
    elements.finish()
}

/// Plans the passes over the elements, what comes before them and what comes after.
struct Elements<'a> {
    planner: Planner<'a>,
    loss: &'a dyn ElementLoss,
    call: &'a Call,
    extents: Extents,
    /// Rows of an image whose columns are planes, if the walk goes along them; otherwise 1.
    plane: u64,
    totals: Totals,
    windows: Vec<Range<u64>>,
    tallies: View,
    blocks: u64,
}

impl<'a> Elements<'a> {
    fn new(loss: &'a dyn ElementLoss, call: &'a Call, profile: &'a Profile) -> Result<Self> {
        loss.validate()?;
        let Some(first) = loss.streams().first().and_then(|s| call.inputs.get(s.name)) else {
            return Err(Error::MissingInput {
                loss: loss.about().name.to_owned(),
                argument: loss.streams().first().map_or("", |s| s.name).to_owned(),
                reason: "the elements are its".to_owned(),
            });
        };
        let extents = Extents::of(&first.layout.shape);
        check_names(loss, &|name| call.has(name), call.outputs.keys().map(String::as_str))?;
        check(loss, call, extents)?;
        let mut planner = Planner::new(loss.about().name, profile);
        let plane = plane(call, extents);
        let windows = windows(call, extents, plane, profile);
        planner.windows(windows.len() as u64);
        let block = u64::from(profile.element_block);
        let blocks: u64 = windows.iter().map(|w| (w.end - w.start).div_ceil(block)).sum();
        // Tallies with room to fold into; behind them the one that the header keeps, and its factor.
        let words = (2 * blocks + 4) * TALLY_WORDS;
        let tallies = planner.scratch(Layout::vector(Dtype::U32, words));
        let totals =
            Totals { skeleton: "element", loss: loss.about().name, dtype: first.layout.dtype };
        Ok(Self { planner, loss, call, extents, plane, totals, windows, tallies, blocks })
    }

    /// Where the header leaves what it found; the factor of the gradients is behind it.
    fn kept_tally(&self) -> u64 {
        2 * self.blocks + 1
    }

    /// Whether some elements may count for nothing.
    fn counted(&self) -> bool {
        self.call.has("mask") || self.loss.options().unknown.is_some()
    }

    /// The output that is the mean of what the functor watches, if it is asked for.
    fn watched(&self) -> Option<&'static str> {
        self.loss.watched().filter(|name| self.call.wants(name))
    }

    fn per_element(&self) -> bool {
        self.loss.options().reduction == Reduction::None
    }

    /// Begins a dispatch over a window with what all passes have.
    fn pass(&mut self, entry: &'static str, index: usize, sources: &[Source]) -> Step<'_, 'a> {
        let window = self.windows[index].clone();
        let (Extents { columns, .. }, plane) = (self.extents, self.plane);
        let block = self.planner.profile.element_block;
        let before = self.windows[..index].iter().map(|w| w.end - w.start);
        let first_tally: u64 = before.map(|count| count.div_ceil(u64::from(block))).sum();
        let unknown = self.loss.options().unknown;
        let lanes = self.planner.profile.element_lanes();
        let kept = self.kept_tally();
        let label = self.totals.label(entry);
        self.planner
            .dispatch(label, entry, sources)
            .shape("WORKGROUP", lanes)
            .shape("ELEMENTS", block)
            .shape("HAS_UNKNOWN", unknown.is_some())
            .number("classes", window.end - window.start)
            .number("columns", columns)
            .number("plane", plane)
            .number("phase", window.start % plane)
            .number("first_column", window.start / plane % columns)
            .number("first_row", window.start / (columns * plane) * plane)
            .number("unknown", (unknown.unwrap_or(0.0) as f32).to_bits())
            .number("kept", kept)
            .number("first_tally", first_tally)
    }

    /// A tensor of a window, and how a quad finds its elements there.
    fn reached(&self, view: View, index: usize) -> Result<Reached> {
        let window = &self.windows[index];
        let Extents { columns, .. } = self.extents;
        if self.plane > 1 {
            // As it lies in memory.
            let image = columns * self.plane;
            let first = window.start / image * self.plane;
            let rows = first..(window.end.div_ceil(image) * self.plane).min(self.extents.rows);
            return Ok(match self.extents.span("", &view.layout.shape)? {
                Span::One => Reached { view, reach: Reach::One },
                Span::Rows => Reached { view: view.rows(&rows), reach: Reach::Pixels },
                Span::Columns => Reached { view: view.for_every_row(), reach: Reach::Channels },
                Span::Elements => Reached { view: view.flat(window), reach: Reach::Flat },
            });
        }
        let rows = window.start / columns..window.end.div_ceil(columns);
        let in_row = if columns.is_multiple_of(4) { Reach::Row } else { Reach::Each };
        Ok(match self.extents.span("", &view.layout.shape)? {
            Span::One => Reached { view, reach: Reach::One },
            Span::Rows => Reached { view: view.rows(&rows), reach: Reach::Rows },
            Span::Columns => Reached { view: view.for_every_row(), reach: in_row },
            Span::Elements if view.layout.has_gaps() => {
                Reached { view: view.rows(&rows), reach: in_row }
            }
            Span::Elements => Reached { view: view.flat(window), reach: Reach::Flat },
        })
    }

    /// The mask of a window; one of bits lies as the elements are walked.
    fn mask(&self, index: usize) -> Result<Option<Reached>> {
        match self.call.input("mask") {
            Some(mut view) if view.layout.dtype == Dtype::U32 => {
                let window = &self.windows[index];
                view = view.flat(&(window.start / BITS..window.end.div_ceil(BITS)));
                Ok(Some(Reached { view, reach: Reach::Flat }))
            }
            Some(view) => self.reached(view, index).map(Some),
            None => Ok(None),
        }
    }

    fn input(&self, name: &str, index: usize) -> Result<Option<Reached>> {
        self.call.input(name).map(|view| self.reached(view, index)).transpose()
    }

    fn output(&self, name: &str, index: usize) -> Result<Option<Reached>> {
        self.call.output(name).map(|view| self.reached(view, index)).transpose()
    }

    /// The denominator, and the factor of the gradients.
    fn header(&mut self) -> Result<()> {
        let options = self.loss.options();
        let Extents { rows, .. } = self.extents;
        let (first, count) = if self.counted() { self.measure()? } else { (0, 0) };
        let known = match options.reduction {
            Reduction::Multilabel => Some(rows),
            _ if !self.counted() || options.denominator == MaskedMean::All => {
                Some(self.extents.count())
            }
            _ => None,
        };
        let (reduction, over) = total::divisor(options.reduction);
        let (call, tallies, kept) = (self.call, self.tallies.clone(), self.kept_tally());
        let (counted, elements) = (self.counted(), self.extents.count());
        let upstream = call.input("upstream").filter(|_| !self.per_element());
        let denominator = call.input("denominator");
        self.totals
            .around(
                &mut self.planner,
                "header",
                &[shader!("tally.wgsl"), shader!("divisor.wgsl"), shader!("element/header.wgsl")],
            )
            .shape("COUNTED", counted)
            .shape("KNOWN_DENOMINATOR", known.is_some())
            .shape("HAS_DENOMINATOR", denominator.is_some())
            .number("classes", 1u32)
            .number("first", first)
            .number("tallies", count)
            .number("kept", kept)
            .number("count_low", elements)
            .number("count_high", elements >> 32)
            .number("denominator", known.unwrap_or(0) as f64)
            .number("reduction", reduction)
            .number("over", over)
            .read_elements("upstream", upstream, 1.0)
            .read_elements("denominator", denominator, 1.0)
            .table("tallies", &tallies, "Tally")
            .groups(1)
    }

    /// Counts the elements that are kept.
    fn measure(&mut self) -> Result<(u64, u64)> {
        let unknown = self.loss.options().unknown.is_some();
        for index in 0..self.windows.len() {
            let mask = self.mask(index)?;
            let targets = self.input("targets", index)?.filter(|_| unknown);
            let (tallies, groups) = (self.tallies.clone(), self.groups(index));
            let places = self.places([&mask, &targets]);
            let sources = [
                shader!("tally.wgsl"),
                shader!("element/place.wgsl"),
                shader!("element/measure.wgsl"),
            ];
            self.pass("measure", index, &sources)
                .shape("PLACES", places)
                .take_mask("mask", mask)
                .take("targets", targets, 0.0)
                .table("tallies", &tallies, "Tally")
                .groups(groups)?;
        }
        self.totals.fold(&mut self.planner, &self.tallies, 0, self.blocks)
    }

    fn groups(&self, index: usize) -> u64 {
        let window = &self.windows[index];
        (window.end - window.start).div_ceil(u64::from(self.planner.profile.element_block))
    }

    /// What `element/place.wgsl` has to find: nothing, the quad's row, or every element's.
    fn places<'r>(&self, tensors: impl IntoIterator<Item = &'r Option<Reached>>) -> u32 {
        let flat = |r: &Reached| matches!(r.reach, Reach::Flat | Reach::One);
        // Along planes rows and columns are found where they are needed.
        if self.plane > 1 || tensors.into_iter().flatten().all(flat) {
            0
        } else if self.extents.columns.is_multiple_of(4) {
            1
        } else {
            2
        }
    }

    /// The losses and the gradients of a window: in one pass, or in two where one would need more
    /// buffers than a dispatch may bind.
    fn main(&mut self, index: usize) -> Result<()> {
        let tensors = Tensors::new(self, index)?;
        if tensors.bindings() < self.planner.profile.storage_buffers {
            return self.forward(index, tensors);
        }
        let (losses, gradients) = tensors.split();
        self.forward(index, losses)?;
        self.backward(index, gradients)
    }

    fn forward(&mut self, index: usize, tensors: Tensors) -> Result<()> {
        let (tallies, groups) = (self.tallies.clone(), self.groups(index));
        let tally = [shader!("tally.wgsl"), shader!("element/forward.wgsl")];
        let step = self.functor("forward", index, tally.into(), &tensors);
        tensors.bind(step).table("tallies", &tallies, "Tally").groups(groups)
    }

    fn backward(&mut self, index: usize, tensors: Tensors) -> Result<()> {
        let groups = self.groups(index);
        let step =
            self.functor("backward", index, vec![shader!("element/backward.wgsl")], &tensors);
        tensors.bind(step).groups(groups)
    }

    /// Begins a pass that calls the functor.
    fn functor(
        &mut self,
        entry: &'static str,
        index: usize,
        mut sources: Vec<Source>,
        tensors: &Tensors,
    ) -> Step<'_, 'a> {
        sources.extend([shader!("element/place.wgsl"), shader!("element.wgsl")]);
        sources.extend(self.loss.sources());
        let places = self.places(tensors.all());
        let (loss, call, watches) = (self.loss, self.call, self.watched().is_some());
        let number = |(name, value): (&str, f64)| (name.to_owned(), Number::from(value));
        self.pass(entry, index, &sources)
            .shape("PLACES", places)
            .shape("WATCHES", watches)
            .shapes(loss.shapes(&|name| call.has(name)))
            .numbers(loss.numbers().into_iter().map(number))
    }

    /// Zeroes the gradients' columns between the columns and the row stride.
    fn pad(&mut self, index: usize) -> Result<()> {
        let window = &self.windows[index];
        let columns = self.extents.columns;
        // Rows that end in this window.
        let rows = window.start / columns..window.end / columns;
        for stream in self.loss.streams() {
            let gradient = self.call.output(&format!("grad.{}", stream.name));
            let gradient = gradient.filter(|view| view.layout.shape.len() == 2);
            self.totals.pad(&mut self.planner, gradient.map(|view| view.rows(&rows)), columns)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Plan> {
        let watched = self.watched();
        let reduced = !self.per_element();
        let mut scalars = SCALARS.into_iter().chain(watched);
        if scalars.any(|name| self.call.wants(name) && (reduced || name != "loss")) {
            let folded = self.totals.fold(&mut self.planner, &self.tallies, 0, self.blocks)?;
            let ElementOptions { reduction, empty, .. } = self.loss.options();
            let kept = self.kept_tally();
            let ending = Ending { reduction, empty, float_targets: true, watched, kept };
            self.totals.finish(&mut self.planner, self.call, ending, &self.tallies, folded)?;
        }
        Ok(self.planner.finish())
    }
}

/// The tensors of a pass.
struct Tensors {
    streams: Vec<(ElementStream, Option<Reached>)>,
    weight: Option<Reached>,
    mask: Option<Reached>,
    upstream: Option<Reached>,
    loss: Option<Reached>,
    gradients: [Option<Reached>; 2],
    in_place: bool,
}

impl Tensors {
    fn new(elements: &Elements<'_>, index: usize) -> Result<Self> {
        let streams = elements.loss.streams();
        let gradient = |nth: usize| match streams.get(nth) {
            Some(stream) => elements.output(&format!("grad.{}", stream.name), index),
            None => Ok(None),
        };
        let each = elements.per_element();
        Ok(Self {
            streams: streams
                .iter()
                .map(|stream| Ok((*stream, elements.input(stream.name, index)?)))
                .collect::<Result<_>>()?,
            weight: elements.input("weight", index)?,
            mask: elements.mask(index)?,
            upstream: elements.input("upstream", index)?.filter(|_| each),
            loss: if each { elements.output("loss", index)? } else { None },
            gradients: [gradient(0)?, gradient(1)?],
            in_place: elements.call.in_place,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Option<Reached>> {
        self.streams
            .iter()
            .map(|(_, tensor)| tensor)
            .chain([&self.weight, &self.mask, &self.upstream, &self.loss])
            .chain(&self.gradients)
    }

    /// Buffers that a pass with all of them binds, the tallies aside.
    fn bindings(&self) -> u32 {
        let shared = u32::from(self.in_place && self.gradients[0].is_some());
        self.all().flatten().count() as u32 - shared
    }

    /// What the losses need, and what the gradients need.
    fn split(self) -> (Self, Self) {
        let gradients = Self {
            streams: self.streams.clone(),
            weight: self.weight.clone(),
            mask: self.mask.clone(),
            upstream: self.upstream,
            loss: None,
            gradients: self.gradients,
            in_place: self.in_place,
        };
        (Self { upstream: None, gradients: [None, None], in_place: false, ..self }, gradients)
    }

    fn bind<'p, 'a>(self, step: Step<'p, 'a>) -> Step<'p, 'a> {
        let [first, second] = self.gradients;
        let over = self.in_place && first.is_some();
        let mut step = step;
        if !self.streams.iter().any(|(stream, _)| stream.name == TARGETS) {
            step = step.take(TARGETS, None, 0.0);
        }
        for (nth, (stream, tensor)) in self.streams.into_iter().enumerate() {
            step = match tensor {
                Some(tensor) if nth == 0 && over => step.take_give(stream.name, "first", tensor),
                tensor => step.take(stream.name, tensor, stream.default),
            };
        }
        if !over {
            step = step.give("first", first);
        }
        step.give("second", second)
            .take("weight", self.weight, 1.0)
            .take_mask("mask", self.mask)
            .take("upstream", self.upstream, 1.0)
            .give("loss", self.loss)
    }
}

/// The class stride that all tensors of elements share, where their images lie one behind the other:
/// then the walk goes along the planes, as memory does. Otherwise 1.
fn plane(call: &Call, extents: Extents) -> u64 {
    let mut planes = call.inputs.values().chain(call.outputs.values()).filter_map(|operand| {
        let Layout { shape, class_stride, row_stride, .. } = &operand.layout;
        let dense = extents.rows.is_multiple_of(*class_stride)
            && (extents.rows == *class_stride || *row_stride == class_stride * extents.columns);
        match extents.span("", shape) {
            Ok(Span::Elements) => Some(if dense { *class_stride } else { 1 }),
            // One element a pixel is cut where the walk's images are.
            Ok(Span::Rows) if operand.layout.has_planes() => Some(*class_stride),
            _ => None,
        }
    });
    let first = planes.next().unwrap_or(1);
    if first < HALF_WORD && planes.all(|plane| plane == first) { first } else { 1 }
}

/// Stretches of elements whose every tensor fits one binding and one short dispatch.
fn windows(call: &Call, extents: Extents, plane: u64, profile: &Profile) -> Vec<Range<u64>> {
    // A window's binding begins up to one alignment block early and ends inside a quad.
    let room = profile.binding_bytes.saturating_sub(profile.offset_alignment + 64);
    let is_bits = |operand: &Operand| operand.name == "mask" && operand.layout.dtype == Dtype::U32;
    let most = |operand: &Operand| {
        let layout = &operand.layout;
        let elements = room / layout.dtype.bytes();
        if is_bits(operand) {
            return elements * BITS;
        }
        match extents.span("", &layout.shape) {
            Ok(Span::Elements) if plane > 1 || !layout.has_gaps() => elements,
            Ok(Span::Elements | Span::Rows) => {
                // Rows, or images; one more where the first and the last one are there in part.
                let rows = plane.max(layout.class_stride);
                let image = layout.class_stride.saturating_mul(layout.columns());
                let image = layout.row_stride.max(image).max(1);
                let image = image.saturating_mul(rows / layout.class_stride.max(1));
                let images = (elements / image).saturating_sub(1).max(1);
                images.saturating_mul(rows).saturating_mul(extents.columns)
            }
            _ => elements,
        }
    };
    let operands = || call.inputs.values().chain(call.outputs.values());
    let fits = operands().map(most).min().unwrap_or(u64::MAX);
    let fits = fits.min(profile.dispatch_elements).min(HALF_WORD);
    // Blocks are tallied whole where they fit, so that an element's place in a sum does not move.
    let block = u64::from(profile.element_block);
    let apart = operands().map(|operand| operand.layout.class_stride).fold(1, least_multiple);
    if apart > 1 && plane == 1 {
        // Whole images: within one, rows are found from its first one.
        let image = apart.saturating_mul(extents.columns).max(1);
        let bits = if operands().any(is_bits) { BITS } else { 1 };
        let image = least_multiple(image, bits);
        // Between blocks where that is so many: then windows may change a sum's last bits.
        let whole = least_multiple(image, block);
        let unit = if fits >= whole { whole } else { image };
        return stretches(extents.count(), (fits - fits % unit).max(unit));
    }
    let unit = if fits >= block { block } else { BITS };
    stretches(extents.count(), (fits - fits % unit).max(BITS))
}

/// What every element loss refuses.
fn check(loss: &dyn ElementLoss, call: &Call, extents: Extents) -> Result<()> {
    let spanned = loss.streams().iter().map(|stream| stream.name).chain(["weight", "mask"]);
    for name in spanned {
        match call.inputs.get(name) {
            Some(mask) if name == "mask" && mask.layout.dtype == Dtype::U32 => {
                check_bits(mask, extents)?;
                check_order(loss, call, extents)?;
            }
            Some(operand) => {
                extents.span(name, &operand.layout.shape)?;
            }
            None => {}
        }
        let gradient = format!("grad.{name}");
        if let Some(operand) = call.outputs.get(&gradient)
            && extents.span(&gradient, &operand.layout.shape)? != Span::Elements
        {
            return Err(wrong(&gradient, operand, extents));
        }
    }
    let per_element = loss.options().reduction == Reduction::None;
    let spans = [("loss", call.outputs.get("loss")), ("upstream", call.inputs.get("upstream"))];
    for (name, operand) in spans {
        let Some(operand) = operand else { continue };
        let span = extents.span(name, &operand.layout.shape)?;
        let one = span == Span::One || operand.layout.len() == 1;
        let fits = match (per_element, name) {
            (true, "loss") => span == Span::Elements,
            (true, _) => one || span == Span::Elements,
            (false, _) => operand.layout.shape == [1],
        };
        if !fits {
            return Err(wrong(name, operand, extents));
        }
    }
    if per_element && call.has("denominator") {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "denominator".to_owned(),
            other: "reduction".to_owned(),
            reason: "nothing is divided with reduction `none`".to_owned(),
        });
    }
    Ok(())
}

/// Bits lie as the elements do, so those have to lie in one order; broadcasts lie as they like.
fn check_order(loss: &dyn ElementLoss, call: &Call, extents: Extents) -> Result<()> {
    let planes = |operand: &&Operand| {
        let elements = matches!(extents.span("", &operand.layout.shape), Ok(Span::Elements));
        elements && operand.layout.has_planes()
    };
    match call.inputs.values().chain(call.outputs.values()).find(planes) {
        Some(operand) if plane(call, extents) == 1 => Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "mask".to_owned(),
            other: operand.name.clone(),
            reason: "bits need all tensors of elements in one order, images without gaps"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// One bit an element, in as many words as that takes.
fn check_bits(mask: &Operand, extents: Extents) -> Result<()> {
    let words = extents.count().div_ceil(BITS);
    if mask.layout.shape == [words] && !mask.layout.has_gaps() {
        return Ok(());
    }
    Err(Error::WrongShape {
        argument: mask.name.clone(),
        found: mask.layout.shape.clone(),
        expected: format!("[{words}] words of {BITS} elements"),
    })
}

fn wrong(name: &str, operand: &Operand, extents: Extents) -> Error {
    let Extents { rows, columns, matrix } = extents;
    let elements = if matrix { format!("[{rows}, {columns}]") } else { format!("[{rows}]") };
    Error::WrongShape {
        argument: name.to_owned(),
        found: operand.layout.shape.clone(),
        expected: format!("{elements}, or [1] where the loss is reduced"),
    }
}

/// Declares a loss of elements: its options and tensors with those that all such losses have, its
/// description, and how it hangs together. What it computes is its [`Formula`](crate::cpu::element::Formula)
/// and its WGSL.
macro_rules! element_loss {
    (
        $(#[$doc:meta])*
        $name:ident = $key:literal, $source:literal;
        summary: $summary:literal, formula: $formula:literal, pytorch: $pytorch:literal;
        inputs $inputs:ident { $($input:ident = $input_key:literal, $reads:literal: $argument:expr;)* }
        outputs $outputs:ident { $($gradient:ident = $gradient_key:literal: $gradient_about:literal;)* }
        $(watches $watched:ident = $watched_key:literal: $watched_about:literal;)?
        options { $($option:ident: $type:ty = $default:expr, $json:literal, $about:literal;)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        #[non_exhaustive]
        pub struct $name {
            /// How losses become one number.
            pub reduction: $crate::Reduction,
            /// What a mean over nothing is.
            pub empty: $crate::Empty,
            /// What a mean divides by where elements are masked or their targets unknown.
            pub denominator: $crate::element::MaskedMean,
            /// A target that stands for an unknown one: its element counts for nothing.
            pub unknown_target: Option<f64>,
            /// What happens to gradient columns between the last one and the row stride.
            pub padding: $crate::Padding,
            $(#[doc = $about] pub $option: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    reduction: $crate::Reduction::Mean,
                    empty: $crate::Empty::Nan,
                    denominator: $crate::element::MaskedMean::Mask,
                    unknown_target: None,
                    padding: $crate::Padding::Keep,
                    $($option: $default,)*
                }
            }
        }

        impl $name {
            $crate::loss::setters! {
                reduction: $crate::Reduction,
                empty: $crate::Empty,
                denominator: $crate::element::MaskedMean,
                unknown_target: Option<f64>,
                padding: $crate::Padding,
                $($option: $type,)*
            }
        }

        $crate::loss::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] takes; see there for the shapes.")]
            $inputs {
                $(#[doc = concat!("The input `", $input_key, "`.")] $input = $input_key,)*
                /// Multiplies losses and gradients.
                weight = "weight",
                /// Multiplies losses, gradients and what a mean divides by; 0 takes an element out.
                mask = "mask",
                /// The gradient from above, `[1]`, or one value an element with reduction `none`.
                upstream = "upstream",
                /// The caller's denominator `[1]` on the GPU; overrides the reduction's.
                denominator = "denominator",
            }
        }

        $crate::loss::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] can hand back; which of them are given decides what is computed.")]
            $outputs {
                /// The loss, `[1]`, or one value an element with reduction `none`.
                loss = "loss",
                $(#[doc = concat!("The ", $gradient_about, ".")] $gradient = $gradient_key,)*
                $(#[doc = concat!("The ", $watched_about, ", `[1]`.")] $watched = $watched_key,)?
                /// Σ of the losses.
                sum = "sum",
                /// What a mean divides by.
                denominator = "denominator",
                /// The number of elements kept.
                count = "count",
                /// The status words.
                status = "status",
            }
        }

        static ABOUT: $crate::loss::About = {
            use $crate::loss::arguments as arg;
            $crate::loss::About {
                name: $key,
                summary: $summary,
                formula: $formula,
                pytorch: $pytorch,
                inputs: &[
                    $($argument,)*
                    arg::ELEMENT_WEIGHT,
                    arg::MASK,
                    arg::ELEMENT_UPSTREAM,
                    arg::DENOMINATOR_IN,
                ],
                outputs: &[
                    arg::ELEMENT_LOSS,
                    $(arg::optional_elements($gradient_key, $gradient_about),)*
                    $(arg::watched($watched_key, $watched_about),)?
                    arg::SUM,
                    arg::DENOMINATOR,
                    arg::COUNT,
                    arg::STATUS,
                ],
                options: &[
                    arg::ELEMENT_REDUCTION,
                    arg::EMPTY,
                    arg::MASKED_MEAN,
                    arg::UNKNOWN_TARGET,
                    arg::PADDING,
                    $($crate::loss::OptionAbout { name: stringify!($option), default: $json, about: $about },)*
                ],
            }
        };

        pub(super) const ENTRY: $crate::loss::Entry = $crate::loss::Entry {
            about: &ABOUT,
            #[cfg(feature = "serde")]
            parse: |options| $crate::loss::parse::<$name>($key, options),
            default: || Box::new($name::default()),
        };

        impl $crate::Loss for $name {
            fn about(&self) -> &'static $crate::loss::About {
                &ABOUT
            }

            fn validate(&self) -> $crate::Result<()> {
                use $crate::{cpu::element::Formula, element::ElementLoss};
                $crate::element::check_options($key, self.options())?;
                self.check()
            }

            fn is_per_row(&self) -> bool {
                self.reduction == $crate::Reduction::None
            }

            fn takes_planes(&self) -> bool {
                true
            }

            fn plan(
                &self,
                call: &$crate::plan::Call,
                profile: &$crate::Profile,
            ) -> $crate::Result<$crate::Plan> {
                $crate::element::plan(self, call, profile)
            }

            fn reference(
                &self,
                inputs: &$crate::Arrays,
                wanted: &[&str],
                arithmetic: $crate::Arithmetic,
            ) -> $crate::Result<$crate::Arrays> {
                $crate::cpu::element::run(self, inputs, wanted, arithmetic)
            }
        }

        impl $crate::element::ElementLoss for $name {
            fn sources(&self) -> Vec<$crate::kernel::Source> {
                vec![$crate::kernel::shader!($source)]
            }

            fn options(&self) -> $crate::element::ElementOptions {
                $crate::element::ElementOptions {
                    reduction: self.reduction,
                    empty: self.empty,
                    denominator: self.denominator,
                    unknown: self.unknown_target,
                    padding: self.padding,
                }
            }

            fn streams(&self) -> &'static [$crate::element::ElementStream] {
                &[$($crate::element::ElementStream { name: $input_key, default: $reads },)*]
            }

            fn shapes(&self, given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
                $crate::cpu::element::Formula::code(self, given)
            }

            fn numbers(&self) -> Vec<(&'static str, f64)> {
                $crate::cpu::element::Formula::constants(self)
            }

            fn watched(&self) -> Option<&'static str> {
                let names: &[&'static str] = &[$($watched_key,)?];
                names.first().copied().filter(|_| $crate::cpu::element::Formula::watches(self))
            }

            fn agrees(&self, given: &dyn Fn(&str) -> bool) -> $crate::Result<()> {
                $crate::cpu::element::Formula::agrees(self, given)
            }
        }
    };
}
pub(crate) use element_loss;
