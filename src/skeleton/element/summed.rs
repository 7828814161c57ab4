//! The gradient of an input that broadcasts: the sum over the elements that share one element of the input.
//!
//! The pass over the elements writes one term an element into scratch, in the order of its walk. Further dispatches
//! then sum over the axes that the input lacks, one axis after another, at most 32 terms at a time. The order of a sum
//! depends on the shapes alone, so the same call always gives the same bits.

use std::ops::Range;

use super::{ElementLoss, broadcast_of};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        Addressed, Planner, View,
        kernel::{Addressing, shader},
        stretches::stretches,
    },
    skeleton::sums::Totals,
    spec::{
        broadcast::{Axis, Broadcast, Extents, row_axes},
        call::Call,
    },
};

/// The most terms of one sum.
const MOST_TERMS: u64 = 32;
/// The last quad of a window may write up to this many terms past the window; see [`Planner::scratch`] for the room.
pub(super) const QUAD: u64 = 4;

/// A gradient that has to be summed.
pub(super) struct Summed {
    gradient: View,
    broadcast: Broadcast,
    /// One term an element.
    terms: Option<View>,
}

/// Where a step writes its sums.
#[derive(Clone, Copy)]
enum Into<'v> {
    /// Into scratch, for the next step.
    Scratch(&'v View),
    /// Into the gradient. The number of a sum gives the row within one plane, and the column.
    Gradient { pixels: u64, columns: u64 },
}

/// A step of summing: terms `[outer, length, inner]` become `[outer, parts, inner]`.
struct Fold {
    outer: u64,
    length: u64,
    inner: u64,
    /// The most terms of one sum.
    most: u64,
    parts: u64,
}

impl Summed {
    /// The gradient of the stream, if the call asks for it and the input broadcasts.
    pub fn of(
        loss: &dyn ElementLoss,
        call: &Call,
        extents: &Extents,
        nth: usize,
    ) -> Result<Option<Self>> {
        let Some(name) = loss.streams().get(nth).map(|stream| format!("grad.{}", stream.name))
        else {
            return Ok(None);
        };
        let Some(gradient) = call.output(&name) else {
            return Ok(None);
        };
        let broadcast = broadcast_of(loss, extents, &name, &gradient.layout.shape)?;
        if broadcast == Broadcast::Elements {
            return Ok(None);
        }
        let gradient = super::elements::in_rows(&name, gradient, broadcast)?;
        let gradient = match broadcast {
            Broadcast::Columns => gradient.for_every_row(),
            _ => gradient,
        };
        Ok(Some(Self { gradient, broadcast, terms: None }))
    }

    /// The same gradient with scratch for one term an element.
    pub fn placed(self, planner: &mut Planner<'_>, count: u64) -> Self {
        let layout = Layout::vector(Dtype::F32, count.next_multiple_of(QUAD));
        Self { terms: Some(planner.scratch(layout)), ..self }
    }

    /// Where the pass over a window writes its terms: whole quads, of which nothing reads the end.
    pub fn terms(&self, window: &Range<u64>) -> Option<Addressed> {
        let end = window.start + (window.end - window.start).next_multiple_of(QUAD);
        let view = self.terms.clone()?.flat(&(window.start..end));
        Some(Addressed::new(view, Addressing::Flat))
    }

    /// Sums the terms into the gradient.
    pub fn sum_up(
        &self,
        planner: &mut Planner<'_>,
        totals: &Totals,
        extents: &Extents,
        plane: u64,
    ) -> Result<()> {
        let Some(mut terms) = self.terms.clone() else {
            return Ok(());
        };
        let (mut axes, end) = self.walked(extents, plane)?;
        loop {
            let at = axes.iter().rposition(|axis| !axis.kept);
            let fold = Fold::new(&axes, at, planner)?;
            if let Some(axis) = at.and_then(|at| axes.get_mut(at)) {
                axis.extent = fold.parts;
            }
            axes.retain(|axis| axis.kept || axis.extent != 1);
            if axes.iter().all(|axis| axis.kept) {
                return self.step(planner, totals, &fold, &terms, end);
            }
            let sums = planner.scratch(Layout::vector(Dtype::F32, fold.sums()));
            self.step(planner, totals, &fold, &terms, Into::Scratch(&sums))?;
            terms = sums;
        }
    }

    /// Zeroes the gradient's columns between its last one and the row stride.
    pub fn pad(&self, planner: &mut Planner<'_>, totals: &Totals) -> Result<()> {
        let columns = self.gradient.layout.columns();
        totals.pad(planner, Some(self.gradient.clone()), columns)
    }

    /// The axes of the elements in the order of the walk, and where the last step writes its sums.
    fn walked(&self, extents: &Extents, plane: u64) -> Result<(Vec<Axis>, Into<'static>)> {
        let has_columns = match self.broadcast {
            Broadcast::Axes(axes) => axes.has_columns(),
            other => matches!(other, Broadcast::Elements | Broadcast::Columns),
        };
        let columns = Axis { extent: extents.columns, kept: has_columns };
        let rows = row_axes(self.broadcast, extents.rows);
        let (images, pixels) = split(rows, plane)
            .ok_or_else(|| Error::ClassStride { argument: "gradient".into(), found: plane })?;
        let kept = |axes: &[Axis]| {
            axes.iter().filter(|axis| axis.kept).map(|axis| axis.extent).product::<u64>()
        };
        let end = Into::Gradient { pixels: kept(&pixels), columns: kept(&[columns]) };
        let axes = images.into_iter().chain([columns]).chain(pixels);
        Ok((axes.filter(|axis| axis.extent != 1).collect(), end))
    }

    fn step(
        &self,
        planner: &mut Planner<'_>,
        totals: &Totals,
        fold: &Fold,
        terms: &View,
        into: Into<'_>,
    ) -> Result<()> {
        let profile = planner.profile;
        let fits = room(planner).min(profile.dispatch_elements) / (fold.most * fold.inner).max(1);
        let lanes = u64::from(profile.tally_lanes());
        for window in stretches(fold.outer * fold.parts, fits.max(1))? {
            let first = window.start * fold.inner;
            let sums = (window.end - window.start) * fold.inner;
            if sums == 0 {
                continue;
            }
            let given = terms.clone().flat(&fold.terms(&window));
            let Written { sums: scratch, gradient, first, pixels, columns } =
                self.written(into, first..first + sums);
            totals
                .around(planner, "sum_terms", &[shader!("tally.wgsl"), shader!("element/sum.wgsl")])
                .uniform("classes", columns)
                .uniform("pixels", pixels)
                .uniform("first_sum", first)
                .uniform("sums", sums)
                .uniform("inner", fold.inner)
                .uniform("length", fold.length)
                .uniform("most", fold.most)
                .uniform("parts", fold.parts)
                .uniform("first_part", window.start % fold.parts)
                .words("terms", Some(given))
                .words("sums", scratch)
                .give("gradient", gradient.map(|view| Addressed::new(view, Addressing::Each)))
                .groups(sums.div_ceil(lanes))?;
        }
        Ok(())
    }

    /// Where a dispatch writes these sums.
    fn written(&self, into: Into<'_>, sums: Range<u64>) -> Written {
        let first = sums.start;
        let (pixels, columns) = match into {
            Into::Scratch(view) => {
                let sums = Some(view.clone().flat(&sums));
                return Written { sums, gradient: None, first, pixels: 1, columns: 1 };
            }
            Into::Gradient { pixels, columns } => (pixels, columns),
        };
        // A gradient of one sum a row may be longer than a binding, so each dispatch binds only its own rows.
        let layout = &self.gradient.layout;
        let (gradient, first) = if layout.columns() == 1 && !layout.has_planes() {
            (self.gradient.clone().rows(&sums), 0)
        } else {
            (self.gradient.clone(), first)
        };
        Written { sums: None, gradient: Some(gradient), first, pixels, columns }
    }
}

/// What one dispatch writes.
struct Written {
    sums: Option<View>,
    gradient: Option<View>,
    /// The number of the dispatch's first sum, counted in the tensor that the dispatch writes.
    first: u64,
    pixels: u64,
    columns: u64,
}

/// The number of terms that fit one binding. A window's binding may begin up to one alignment block early.
fn room(planner: &Planner<'_>) -> u64 {
    let profile = planner.profile;
    profile.binding_bytes.saturating_sub(profile.offset_alignment + 64) / Dtype::F32.bytes()
}

impl Fold {
    /// A step along axis `at`, or a plain copy where no axis is left to sum over.
    fn new(axes: &[Axis], at: Option<usize>, planner: &Planner<'_>) -> Result<Self> {
        let count = |axes: &[Axis]| axes.iter().map(|axis| axis.extent).product::<u64>();
        let Some((at, length)) = at.and_then(|at| Some((at, axes.get(at)?.extent))) else {
            return Ok(Self { outer: count(axes), length: 1, inner: 1, most: 1, parts: 1 });
        };
        let part = |range: Range<usize>| count(axes.get(range).unwrap_or_default());
        let (outer, inner) = (part(0..at), part(at + 1..axes.len()));
        // Take fewer terms a sum where the sums side by side are so many that more terms would not fit one binding.
        let room = room(planner);
        let mut most = MOST_TERMS;
        while most > 1 && most.saturating_mul(inner) > room {
            most /= 2;
        }
        if most == 1 && length > 1 {
            return Err(Error::Limit {
                what: "elements side by side of a gradient that is summed".into(),
                found: inner,
                limit: room / 2,
            });
        }
        Ok(Self { outer, length, inner, most, parts: length.div_ceil(most).max(1) })
    }

    fn sums(&self) -> u64 {
        self.outer * self.parts * self.inner
    }

    /// The terms of these parts, numbered over all of `outer`.
    fn terms(&self, parts: &Range<u64>) -> Range<u64> {
        let from = |part: u64| {
            let within = (part % self.parts * self.most).min(self.length);
            (part / self.parts * self.length + within) * self.inner
        };
        from(parts.start)..from(parts.end)
    }
}

/// Splits the axes of the rows into those over images and those over the pixels of one image.
fn split(mut rows: Vec<Axis>, plane: u64) -> Option<(Vec<Axis>, Vec<Axis>)> {
    let (mut pixels, mut inner) = (Vec::new(), 1);
    while inner < plane {
        let Axis { extent, kept } = rows.pop()?;
        let rest = plane / inner;
        if extent <= rest {
            inner *= extent.max(1);
            pixels.push(Axis { extent, kept });
        } else {
            if !extent.is_multiple_of(rest) {
                return None;
            }
            pixels.push(Axis { extent: rest, kept });
            rows.push(Axis { extent: extent / rest, kept });
            inner = plane;
        }
    }
    pixels.reverse();
    (inner == plane).then_some((rows, pixels))
}
