//! The walk over all elements, row after row, for any layout. A tensor without gaps is loaded quad by quad across its
//! rows; a tensor with gaps or a broadcast is loaded element by element, by row and column. A workgroup takes a fixed
//! block of elements, so offsets, strides and windows of whole blocks do not change the order of a sum. Tensors whose
//! columns are planes are walked along the planes instead; `windows` decides where blocks are cut.

use std::ops::Range;

use super::{
    BITS, ElementLoss, ElementOptions, ElementStream, SCALARS, TARGETS, accepts, broadcast_of,
    summed::{QUAD, Summed},
};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        Addressed, Number, Plan, Planner, Step, View,
        kernel::{Addressing, Source, shader},
        profile::Profile,
        stretches::{least_multiple, stretches},
    },
    skeleton::sums::{self, Ending, TALLY_WORDS, Totals},
    spec::{
        broadcast::{Broadcast, Extents},
        call::{Call, Operand},
        options::{MaskedMean, Padding, Reduction},
    },
};

/// A window, or a plane in a walk along planes, has fewer elements than this, so that the sum of two such numbers fits
/// one word.
const HALF_WORD: u64 = 1 << 31;

/// The plan of an element loss, for the [`Operation::plan`](crate::Operation::plan) of one's own.
///
/// # Errors
///
/// Everything that the loss and its skeleton refuse of the call.
pub fn plan(loss: &dyn ElementLoss, call: &Call, profile: &Profile) -> Result<Plan> {
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

/// Plans the passes over the elements, the dispatches before them and those after them.
struct Elements<'a> {
    planner: Planner<'a>,
    loss: &'a dyn ElementLoss,
    call: &'a Call,
    extents: Extents,
    /// The class stride where the walk goes along planes (the pixels of one plane); otherwise 1.
    plane: u64,
    totals: Totals,
    windows: Vec<Range<u64>>,
    tallies: View,
    blocks: u64,
    /// The gradients of inputs that broadcast.
    summed: [Option<Summed>; 2],
}

impl<'a> Elements<'a> {
    fn new(loss: &'a dyn ElementLoss, call: &'a Call, profile: &'a Profile) -> Result<Self> {
        loss.validate()?;
        accepts(loss, call)?;
        let first = loss.streams().first().and_then(|stream| call.inputs.get(stream.name));
        let layout = first.map(|first| &first.layout);
        let extents = Extents::of(layout.map_or(&[], |layout| &layout.shape));
        let dtype = layout.map_or(Dtype::F32, |layout| layout.dtype);
        let mut planner = Planner::new(loss.about().name, call, profile);
        let plane = plane(loss, call, &extents);
        let gradient = |nth: usize| Summed::of(loss, call, &extents, nth);
        let gradients = [gradient(0)?, gradient(1)?];
        let windows = windows(loss, call, &extents, plane, profile)?;
        planner.windows(windows.len() as u64);
        let block = u64::from(profile.element_block);
        let blocks: u64 = windows.iter().map(|w| (w.end - w.start).div_ceil(block)).sum();
        // The tallies with room to fold into. Behind them lie the two tallies of the header.
        let words = (2 * blocks + 4) * TALLY_WORDS;
        let tallies = planner.scratch(Layout::vector(Dtype::U32, words));
        let totals = Totals { skeleton: "element", loss: loss.about().name, dtype };
        let summed = gradients.map(|gradient| {
            gradient.map(|unplaced| unplaced.placed(&mut planner, extents.count()))
        });
        Ok(Self { planner, loss, call, extents, plane, totals, windows, tallies, blocks, summed })
    }

    /// The tally in which the header leaves what it found; what multiplies the gradients lies behind it.
    fn kept_tally(&self) -> u64 {
        2 * self.blocks + 1
    }

    /// Whether some elements may count for nothing.
    fn counted(&self) -> bool {
        self.call.has("mask") || self.loss.options().unknown.is_some()
    }

    /// The output that is the mean of what the functor monitors, if the call asks for it.
    fn monitor(&self) -> Option<&'static str> {
        self.loss.monitor().filter(|name| self.call.wants(name))
    }

    fn per_element(&self) -> bool {
        self.loss.options().reduction == Reduction::None
    }

    /// Begins a dispatch over a window, with the constants and uniforms that all passes have.
    fn pass(&mut self, entry: &'static str, index: usize, sources: &[Source]) -> Step<'_, 'a> {
        let window = self.windows[index].clone();
        let (columns, plane) = (self.extents.columns, self.plane);
        let block = self.planner.profile.element_block;
        let before = self.windows[..index].iter().map(|w| w.end - w.start);
        let first_tally: u64 = before.map(|count| count.div_ceil(u64::from(block))).sum();
        let unknown = self.loss.options().unknown;
        let lanes = self.planner.profile.element_lanes();
        let kept = self.kept_tally();
        let label = self.totals.label(entry);
        self.planner
            .dispatch(label, entry, sources.iter().copied())
            .overriding("WORKGROUP", lanes)
            .overriding("ELEMENTS", block)
            .overriding("HAS_UNKNOWN", unknown.is_some())
            .uniform("classes", window.end - window.start)
            .uniform("columns", columns)
            .uniform("plane", plane)
            .uniform("phase", window.start % plane)
            .uniform("first_column", window.start / plane % columns)
            .uniform("first_row", window.start / (columns * plane) * plane)
            .uniform("unknown", (unknown.unwrap_or(0.0) as f32).to_bits())
            .uniform("kept", kept)
            .uniform("first_tally", first_tally)
    }

    /// A tensor of a window, and how a quad finds its elements in it.
    fn reached(&self, name: &str, view: View, index: usize) -> Result<Addressed> {
        let window = &self.windows[index];
        let columns = self.extents.columns;
        let broadcast = broadcast_of(self.loss, &self.extents, name, &view.layout.shape)?;
        let view = in_rows(name, view, broadcast)?;
        if self.plane > 1 {
            // Along planes, the walk takes tensors in the order of memory.
            let image = columns * self.plane;
            let first = window.start / image * self.plane;
            let rows = first..(window.end.div_ceil(image) * self.plane).min(self.extents.rows);
            return Ok(match broadcast {
                Broadcast::One => Addressed::new(view, Addressing::One),
                Broadcast::Rows => Addressed::new(view.rows(&rows), Addressing::Pixels),
                Broadcast::Columns => Addressed::new(view.for_every_row(), Addressing::Channels),
                Broadcast::Elements => Addressed::new(view.flat(window), Addressing::Flat),
                Broadcast::Axes(axes) => Addressed::along(view, axes, first, true),
            });
        }
        let rows = window.start / columns..window.end.div_ceil(columns);
        let in_row = if columns.is_multiple_of(4) { Addressing::Row } else { Addressing::Each };
        Ok(match broadcast {
            Broadcast::One => Addressed::new(view, Addressing::One),
            Broadcast::Rows => Addressed::new(view.rows(&rows), Addressing::Rows),
            Broadcast::Columns => Addressed::new(view.for_every_row(), in_row),
            Broadcast::Elements if view.layout.has_gaps() => {
                Addressed::new(view.rows(&rows), in_row)
            }
            Broadcast::Elements => Addressed::new(view.flat(window), Addressing::Flat),
            Broadcast::Axes(axes) => Addressed::along(view, axes, rows.start, false),
        })
    }

    /// The mask of a window. A bit mask lies in the order in which the elements are walked.
    fn mask(&self, index: usize) -> Result<Option<Addressed>> {
        match self.call.input("mask") {
            Some(mut view) if view.layout.dtype == Dtype::U32 => {
                let window = &self.windows[index];
                view = view.flat(&(window.start / BITS..window.end.div_ceil(BITS)));
                Ok(Some(Addressed::new(view, Addressing::Flat)))
            }
            Some(view) => self.reached("mask", view, index).map(Some),
            None => Ok(None),
        }
    }

    fn input(&self, name: &str, index: usize) -> Result<Option<Addressed>> {
        self.call.input(name).map(|view| self.reached(name, view, index)).transpose()
    }

    fn output(&self, name: &str, index: usize) -> Result<Option<Addressed>> {
        self.call.output(name).map(|view| self.reached(name, view, index)).transpose()
    }

    /// Plans the kernel that finds the denominator, and what multiplies and divides the gradients.
    fn header(&mut self) -> Result<()> {
        let options = self.loss.options();
        let rows = self.extents.rows;
        let (first, count) = if self.counted() { self.measure()? } else { (0, 0) };
        let known = match options.reduction {
            Reduction::Multilabel => Some(rows),
            _ if !self.counted() || options.denominator == MaskedMean::All => {
                Some(self.extents.count())
            }
            _ => None,
        };
        let (call, tallies, kept) = (self.call, self.tallies.clone(), self.kept_tally());
        let (counted, elements) = (self.counted(), self.extents.count());
        let upstream = call.input("upstream").filter(|_| !self.per_element());
        let denominator = call.input("denominator");
        let (reduction, over) = sums::divisor(options.reduction, denominator.is_some());
        self.totals
            .around(
                &mut self.planner,
                "header",
                &[shader!("tally.wgsl"), shader!("divisor.wgsl"), shader!("element/header.wgsl")],
            )
            .uniform("counted", u32::from(counted))
            .uniform("known_denominator", u32::from(known.is_some()))
            .uniform("classes", 1u32)
            .uniform("first", first)
            .uniform("tallies", count)
            .uniform("kept", kept)
            .uniform("count_low", elements)
            .uniform("count_high", elements >> 32)
            .uniform("denominator", known.unwrap_or(0) as f64)
            .uniform("reduction", reduction)
            .uniform("over", over)
            .read_elements("upstream", upstream, 1.0)
            .read_elements("denominator", denominator, 1.0)
            .table("tallies", &tallies, "Tally")
            .groups(1)
    }

    /// Counts the elements that are not masked and whose targets are known.
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
                .overriding("PLACES", places)
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

    /// Which places `element/place.wgsl` has to compute: none, that of the quad, or that of every element.
    fn places<'r>(&self, tensors: impl IntoIterator<Item = &'r Option<Addressed>>) -> u32 {
        let flat = |r: &Addressed| matches!(r.addressing, Addressing::Flat | Addressing::One);
        // In a walk along planes, rows and columns are computed where they are needed.
        if self.plane > 1 || tensors.into_iter().flatten().all(flat) {
            0
        } else if self.extents.columns.is_multiple_of(4) {
            1
        } else {
            2
        }
    }

    /// The losses and the gradients of a window: in one pass, or in several where one pass would need more buffers than
    /// a dispatch may bind.
    fn main(&mut self, index: usize) -> Result<()> {
        let tensors = Tensors::new(self, index)?;
        if tensors.bindings() < self.planner.profile.storage_buffers {
            return self.forward(index, tensors);
        }
        self.sums_and_losses(index, tensors.clone().losses())?;
        if tensors.gradients.iter().all(Option::is_none) {
            return Ok(());
        }
        let gradients = Tensors { loss: None, ..tensors };
        // Nothing divides the gradient of a loss an element.
        let most = self.planner.profile.storage_buffers;
        if self.per_element() && gradients.bindings() <= most {
            return self.each(index, gradients);
        }
        let shares = self.weigh(index, &gradients)?;
        self.each(index, gradients.weighed(shares))
    }

    fn sums_and_losses(&mut self, index: usize, losses: Tensors) -> Result<()> {
        if losses.bindings() < self.planner.profile.storage_buffers {
            return self.forward(index, losses);
        }
        self.forward(index, Tensors { loss: None, ..losses.clone() })?;
        self.each(index, losses)
    }

    /// Writes what multiplies the gradient of each element into scratch, in the order of the walk.
    fn weigh(&mut self, index: usize, tensors: &Tensors) -> Result<Addressed> {
        let window = &self.windows[index];
        let count = (window.end - window.start).next_multiple_of(QUAD);
        let shares = self.planner.scratch(Layout::vector(Dtype::F32, count));
        let shares = Addressed::new(shares, Addressing::Flat);
        let Tensors { weight, mask, upstream, .. } = tensors.clone();
        let unknown = self.loss.options().unknown.is_some();
        let targets = self.input(TARGETS, index)?.filter(|_| unknown);
        let places = self.places([&weight, &mask, &upstream, &targets]);
        let (tallies, groups) = (self.tallies.clone(), self.groups(index));
        let sources = [
            shader!("tally.wgsl"),
            shader!("element/place.wgsl"),
            shader!("element/share.wgsl"),
            shader!("element/scaling.wgsl"),
            shader!("element/weigh.wgsl"),
        ];
        self.pass("weigh", index, &sources)
            .overriding("PLACES", places)
            .take("weight", weight, 1.0)
            .take_mask("mask", mask)
            .take("upstream", upstream, 1.0)
            .take(TARGETS, targets, 0.0)
            .give("shares", Some(shares.clone()))
            .table("tallies", &tallies, "Tally")
            .groups(groups)?;
        Ok(shares)
    }

    fn forward(&mut self, index: usize, tensors: Tensors) -> Result<()> {
        let (tallies, groups) = (self.tallies.clone(), self.groups(index));
        let tally = [
            shader!("tally.wgsl"),
            shader!("element/scaling.wgsl"),
            shader!("element/forward.wgsl"),
        ];
        let profile = self.planner.profile;
        let has_tiles = profile.has_tiles(self.extents.count(), profile.element_lanes());
        let step = self.functor("forward", index, tally.into(), &tensors);
        tensors
            .bind(step)
            .overriding("HAS_TILES", has_tiles)
            .table("tallies", &tallies, "Tally")
            .groups(groups)
    }

    fn each(&mut self, index: usize, tensors: Tensors) -> Result<()> {
        let groups = self.groups(index);
        let step = self.functor("each", index, vec![shader!("element/each.wgsl")], &tensors);
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
        sources.extend([
            shader!("element/place.wgsl"),
            shader!("element/share.wgsl"),
            shader!("element.wgsl"),
        ]);
        sources.extend(self.loss.sources());
        let places = self.places(tensors.all());
        let (loss, call, monitors) = (self.loss, self.call, self.monitor().is_some());
        let number = |(name, value)| (name, Number::from(value));
        self.pass(entry, index, &sources)
            .overriding("PLACES", places)
            .overriding("MONITORS", monitors)
            .overrides(loss.overrides(&|name| call.has(name)))
            .uniforms(loss.uniforms().into_iter().map(number))
    }

    /// Zeroes the gradients' columns between the last column and the row stride.
    fn pad(&mut self, index: usize) -> Result<()> {
        let window = &self.windows[index];
        let columns = self.extents.columns;
        // The rows that end in this window.
        let rows = window.start / columns..window.end / columns;
        for (nth, stream) in self.loss.streams().iter().enumerate() {
            if self.summed.get(nth).is_some_and(Option::is_some) {
                continue;
            }
            let gradient = self.call.output(&format!("grad.{}", stream.name));
            let gradient = gradient.map(View::folded).filter(|view| view.layout.shape.len() == 2);
            self.totals.pad(&mut self.planner, gradient.map(|view| view.rows(&rows)), columns)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Plan> {
        let padding = self.loss.options().padding;
        for summed in std::mem::take(&mut self.summed).into_iter().flatten() {
            summed.sum_up(&mut self.planner, &self.totals, &self.extents, self.plane)?;
            if padding == Padding::Zero {
                summed.pad(&mut self.planner, &self.totals)?;
            }
        }
        let monitored = self.monitor();
        let reduced = !self.per_element();
        let mut scalars = SCALARS.into_iter().chain(monitored);
        if scalars.any(|name| self.call.wants(name) && (reduced || name != "loss")) {
            let folded = self.totals.fold(&mut self.planner, &self.tallies, 0, self.blocks)?;
            let ElementOptions { reduction, empty, .. } = self.loss.options();
            let kept = self.kept_tally();
            let (float_targets, counted) = (true, None);
            let ending = Ending { reduction, empty, float_targets, monitored, counted, kept };
            self.totals.finish(&mut self.planner, self.call, ending, &self.tallies, folded)?;
        }
        Ok(self.planner.finish())
    }
}

/// The tensors of a pass over the elements.
#[derive(Clone)]
struct Tensors {
    streams: Vec<(ElementStream, Option<Addressed>)>,
    weight: Option<Addressed>,
    mask: Option<Addressed>,
    upstream: Option<Addressed>,
    loss: Option<Addressed>,
    gradients: [Option<Addressed>; 2],
    /// For each of the two gradients: whether it is written over its stream.
    in_place: [bool; 2],
}

/// The names in WGSL of the gradients of a loss's first two streams.
const GRADIENTS: [&str; 2] = ["first", "second"];

impl Tensors {
    fn new(elements: &Elements<'_>, index: usize) -> Result<Self> {
        let streams = elements.loss.streams();
        let gradient = |nth: usize| match (&elements.summed[nth], streams.get(nth)) {
            (Some(summed), _) => Ok(summed.terms(&elements.windows[index])),
            (None, Some(stream)) => elements.output(&format!("grad.{}", stream.name), index),
            (None, None) => Ok(None),
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
            in_place: [0, 1].map(|nth| {
                let stream = streams.get(nth).filter(|_| elements.summed[nth].is_none());
                stream.is_some_and(|s| elements.call.is_in_place(&format!("grad.{}", s.name)))
            }),
        })
    }

    fn all(&self) -> impl Iterator<Item = &Option<Addressed>> {
        self.streams
            .iter()
            .map(|(_, tensor)| tensor)
            .chain([&self.weight, &self.mask, &self.upstream, &self.loss])
            .chain(&self.gradients)
    }

    /// The number of buffers that a pass with all these tensors binds, without the tallies.
    fn bindings(&self) -> u32 {
        let shared = self.in_place.iter().filter(|in_place| **in_place).count() as u32;
        self.all().flatten().count() as u32 - shared
    }

    /// What the losses need.
    fn losses(self) -> Self {
        Self { upstream: None, gradients: [None, None], in_place: [false; 2], ..self }
    }

    /// The same with what multiplies the gradient of each element instead of weight, mask and upstream gradient.
    fn weighed(self, shares: Addressed) -> Self {
        Self { weight: Some(shares), mask: None, upstream: None, ..self }
    }

    fn bind<'p, 'a>(self, step: Step<'p, 'a>) -> Step<'p, 'a> {
        let mut step = step;
        if !self.streams.iter().any(|(stream, _)| stream.name == TARGETS) {
            step = step.take(TARGETS, None, 0.0);
        }
        for (nth, (stream, tensor)) in self.streams.into_iter().enumerate() {
            step = match tensor {
                Some(tensor) if self.in_place.get(nth) == Some(&true) => {
                    step.take_give(stream.name, GRADIENTS[nth], tensor)
                }
                tensor => step.take(stream.name, tensor, stream.default),
            };
        }
        for (nth, gradient) in self.gradients.into_iter().enumerate() {
            if !self.in_place[nth] {
                step = step.give(GRADIENTS[nth], gradient);
            }
        }
        step.take("weight", self.weight, 1.0)
            .take_mask("mask", self.mask)
            .take("upstream", self.upstream, 1.0)
            .give("loss", self.loss)
    }
}

/// A tensor with its rows as one axis. A tensor of one element a row may be a vector or a matrix.
pub(super) fn in_rows(name: &str, view: View, broadcast: Broadcast) -> Result<View> {
    let layout = &view.layout;
    if broadcast != Broadcast::Rows || layout.columns() == 1 {
        return Ok(view.folded());
    }
    let (found, least) = (layout.row_stride, layout.columns());
    let flat = layout.clone().flattened();
    let flat = flat.ok_or_else(|| Error::WrongStride { argument: name.into(), found, least })?;
    Ok(view.reshaped(flat))
}

/// The class stride that all tensors of elements share, where their images lie one behind the other. The walk then
/// goes along the planes, in the order of memory. Otherwise 1.
pub(super) fn plane(loss: &dyn ElementLoss, call: &Call, extents: &Extents) -> u64 {
    let mut planes = call.inputs.values().chain(call.outputs.values()).filter_map(|operand| {
        let Layout { shape, class_stride, row_stride, .. } = &operand.layout;
        let dense = extents.rows.is_multiple_of(*class_stride)
            && (extents.rows == *class_stride || *row_stride == class_stride * extents.columns);
        match broadcast_of(loss, extents, &operand.name, shape) {
            Ok(Broadcast::Elements) => Some(if dense { *class_stride } else { 1 }),
            // A tensor of one element a pixel is cut at the images of the walk.
            Ok(Broadcast::Rows) if operand.layout.has_planes() => Some(*class_stride),
            _ => None,
        }
    });
    let first = planes.next().unwrap_or(1);
    if first < HALF_WORD && planes.all(|plane| plane == first) { first } else { 1 }
}

/// Stretches of elements for which every tensor fits one binding and every pass is one short dispatch.
fn windows(
    loss: &dyn ElementLoss,
    call: &Call,
    extents: &Extents,
    plane: u64,
    profile: &Profile,
) -> Result<Vec<Range<u64>>> {
    // A window's binding may begin up to one alignment block early and end inside a quad.
    let room = profile.binding_bytes.saturating_sub(profile.offset_alignment + 64);
    let is_bits = |operand: &Operand| operand.name == "mask" && operand.layout.dtype == Dtype::U32;
    let most = |operand: &Operand| {
        let layout = &operand.layout;
        let elements = room / layout.dtype.bytes();
        if is_bits(operand) {
            return elements * BITS;
        }
        match broadcast_of(loss, extents, &operand.name, &layout.shape) {
            Ok(Broadcast::Elements) if plane > 1 || !layout.has_gaps() => elements,
            // A summed gradient has one f32 term an element, whatever its own type is.
            Ok(other) if other != Broadcast::Elements && operand.name.starts_with("grad.") => {
                room / Dtype::F32.bytes()
            }
            Ok(Broadcast::Elements | Broadcast::Rows) => {
                // Rows, or images; one more because the first and the last one may be there only in part.
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
    // Windows hold whole blocks where possible, so that an element keeps its place in a sum.
    let block = u64::from(profile.element_block);
    let apart = operands().map(|operand| operand.layout.class_stride).fold(1, least_multiple);
    if apart > 1 && plane == 1 {
        // Windows hold whole images, because kernels compute rows from the first row of an image.
        let image = apart.saturating_mul(extents.columns).max(1);
        let bits = if operands().any(is_bits) { BITS } else { 1 };
        let image = least_multiple(image, bits);
        // Where a multiple of both does not fit, windows cut blocks and may change the last bits of a sum.
        let whole = least_multiple(image, block);
        let unit = if fits >= whole { whole } else { image };
        return stretches(extents.count(), (fits - fits % unit).max(unit));
    }
    let unit = if fits >= block { block } else { BITS };
    stretches(extents.count(), (fits - fits % unit).max(BITS))
}
