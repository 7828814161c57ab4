//! Where rows are cut, so that every tensor of a stretch fits one binding.

use std::ops::Range;

use super::{Broadcast, rows::Rows};
use crate::{
    data::error::{Error, Result},
    plan::{
        View,
        stretches::{least_multiple, stretches},
    },
    skeleton::sums::BLOCK,
    spec::call::Operand,
};

impl<'a> Rows<'a> {
    /// Stretches of at most `most` rows whose every tensor fits one binding.
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
            .chain([self.record_words() * 4])
            .max()
            .unwrap_or(64);
        // A window's binding begins up to one alignment block early and ends inside a quad.
        let room = profile.binding_bytes.saturating_sub(profile.offset_alignment + 64);
        let fits = (room / widest).max(1);
        self.images_fit(room)?;
        // Blocks of rows are tallied whole, so that a row's place in a sum does not move.
        let step = fits.min(most);
        let step = if step > BLOCK { step - step % BLOCK } else { step };
        let image = self.image();
        if image <= 1 {
            return Ok(stretches(self.count, step));
        }
        if step >= image {
            return Ok(stretches(self.count, step - step % image));
        }
        if step < self.count {
            self.same_images()?;
        }
        // Rows of one image at a time: a stretch lies within one.
        let images = stretches(self.count, image).into_iter();
        let within = |image: Range<u64>| {
            let parts = stretches(image.end - image.start, step).into_iter();
            parts.map(move |part| image.start + part.start..image.start + part.end)
        };
        Ok(images.flat_map(within).collect())
    }

    /// Rows after which every tensor whose columns are planes begins anew.
    fn image(&self) -> u64 {
        self.planes().map(|operand| operand.layout.class_stride).fold(1, least_multiple)
    }

    /// The tensors whose columns are planes.
    fn planes(&self) -> impl Iterator<Item = &'a Operand> {
        let operands = self.call.inputs.values().chain(self.call.outputs.values());
        operands.filter(|operand| operand.layout.has_planes())
    }

    /// Whether a binding holds an image: fewer of its rows reach as far, over all planes but the last.
    fn images_fit(&self, room: u64) -> Result<()> {
        for Operand { name, layout, .. } in self.planes().filter(|o| !o.layout.is_empty()) {
            let rows = layout.rows().min(layout.class_stride);
            let before = (layout.columns() - 1).saturating_mul(layout.class_stride);
            let found = before.saturating_add(rows).saturating_mul(layout.dtype.bytes());
            if found > room {
                let what =
                    format!("bytes of an image of `{name}`, all its channels in one binding,");
                return Err(Error::Limit { what, found, limit: room });
            }
        }
        Ok(())
    }

    /// Whether a part of one tensor's image is a part of every other's.
    fn same_images(&self) -> Result<()> {
        let Some(first) = self.planes().next() else {
            return Ok(());
        };
        let plane = first.layout.class_stride;
        match self.planes().find(|other| other.layout.class_stride != plane) {
            None => Ok(()),
            Some(other) => Err(Error::Conflict {
                loss: self.loss.about().name.to_owned(),
                argument: first.name.clone(),
                other: other.name.clone(),
                reason: format!(
                    "so many rows are taken in parts, which class strides {plane} and {} do not share",
                    other.layout.class_stride
                ),
            }),
        }
    }
}
