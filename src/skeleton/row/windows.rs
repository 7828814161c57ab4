//! Cuts the rows into windows, so that every tensor of a window fits one binding.

use std::ops::Range;

use super::{Broadcast, rows::Rows};
use crate::{
    data::error::{Error, Result},
    plan::{
        View,
        stretches::{check_parts, least_multiple, stretches},
    },
    skeleton::sums::BLOCK,
    spec::call::Operand,
};

impl<'a> Rows<'a> {
    /// Stretches of at most `most` rows for which every tensor fits one binding.
    pub fn windows<'v>(
        &self,
        matrices: impl Iterator<Item = &'v View>,
        most: u64,
    ) -> Result<Vec<Range<u64>>> {
        let profile = self.profile();
        let streams = self.program.streams.iter();
        let streams = streams.filter(|s| s.broadcast == Broadcast::Elements);
        let strides = streams
            .filter_map(|s| self.input(s.argument).or_else(|| self.call.output(s.argument)))
            .map(|view| view.layout.row_span() * view.layout.dtype.bytes());
        let widest = matrices
            .map(|view| view.layout.row_span() * view.layout.dtype.bytes())
            .chain(strides)
            .chain([self.record_words() * 4, self.target_bytes(), self.sampled_bytes()])
            .max()
            .unwrap_or(64);
        // A window's binding may begin up to one alignment block early and end inside a quad.
        let room = profile.binding_bytes.saturating_sub(profile.offset_alignment + 64);
        let fits = (room / widest).max(1);
        self.images_fit(room)?;
        // Windows hold whole blocks of tallied rows, so that a row keeps its place in a sum.
        let step = fits.min(most);
        let step = if step > BLOCK { step - step % BLOCK } else { step };
        let image = self.image();
        if image <= 1 {
            return stretches(self.count, step);
        }
        if step >= image {
            return stretches(self.count, step - step % image);
        }
        if step < self.count {
            self.same_images()?;
        }
        // A window with fewer rows than an image must lie within one image.
        let mut windows = Vec::new();
        for image in stretches(self.count, image)? {
            let parts = stretches(image.end - image.start, step)?.into_iter();
            windows.extend(parts.map(|part| image.start + part.start..image.start + part.end));
            check_parts(windows.len() as u64)?;
        }
        Ok(windows)
    }

    /// The number of rows after which every tensor whose columns are planes begins a new image.
    fn image(&self) -> u64 {
        self.planes().map(|operand| operand.layout.class_stride).fold(1, least_multiple)
    }

    /// The tensors whose columns are planes.
    fn planes(&self) -> impl Iterator<Item = &'a Operand> {
        let operands = self.call.inputs.values().chain(self.call.outputs.values());
        operands.filter(|operand| operand.layout.has_planes())
    }

    /// Checks that a binding holds an image. Even a few rows of an image extend over all its planes but the last.
    fn images_fit(&self, room: u64) -> Result<()> {
        for Operand { name, layout, .. } in self.planes().filter(|o| !o.layout.is_empty()) {
            let rows = layout.rows().min(layout.class_stride);
            let before = (layout.columns() - 1).saturating_mul(layout.class_stride);
            let found = before.saturating_add(rows).saturating_mul(layout.dtype.bytes());
            if found > room {
                let what =
                    format!("bytes of an image of `{name}`, all its channels in one binding,");
                return Err(Error::Limit { what: what.into(), found, limit: room });
            }
        }
        Ok(())
    }

    /// Checks that the images of all tensors have the same number of rows, so that the same parts of them can be
    /// taken.
    fn same_images(&self) -> Result<()> {
        let Some(first) = self.planes().next() else {
            return Ok(());
        };
        let plane = first.layout.class_stride;
        match self.planes().find(|other| other.layout.class_stride != plane) {
            None => Ok(()),
            Some(other) => Err(Error::Conflict {
                operation: self.loss.about().name.into(),
                argument: first.name.clone().into(),
                other: other.name.clone().into(),
                reason: format!(
                    "so many rows are taken in parts, which class strides {plane} and {} do not share",
                    other.layout.class_stride
                ).into(),
            }),
        }
    }
}
