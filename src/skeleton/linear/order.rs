//! Leaves ignored rows out of the products: the hidden states of a stretch of slots are gathered next to each other.

use super::{Layer, RowBlock, Schedule};
use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    plan::{
        View,
        kernel::{Label, shader},
    },
    skeleton::row::Rows,
};

impl Layer<'_> {
    /// Whether the hidden states of all layers can be gathered: they are floats, and have no factors of their own.
    pub(super) fn can_gather(&self) -> bool {
        let is_float = matches!(self.hidden.layout.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        let plain = is_float && self.hidden.factors().is_none();
        plain && self.others.iter().all(|(_, other)| other.can_gather())
    }

    /// Makes room for the hidden states of a stretch of slots, where rows are in order.
    pub(super) fn make_slots(&mut self, rows: &mut Rows, walks: &[Schedule]) {
        if !rows.are_ordered() {
            return;
        }
        let parts = walks.iter().flat_map(|walk| &walk.parts);
        let most = parts.map(|part| part.rows.end - part.rows.start).max().unwrap_or(0);
        let stride = self.depth.next_multiple_of(4).max(4);
        let layout = Layout::matrix(self.hidden.layout.dtype, most, self.depth).row_stride(stride);
        self.slots = Some(rows.planner.scratch(layout));
        for (_, other) in &mut self.others {
            other.make_slots(rows, walks);
        }
    }

    /// The hidden states of a stretch of rows.
    pub(super) fn states(&self, part: &RowBlock) -> View {
        match &self.slots {
            Some(slots) => slots.clone().rows(&(0..part.rows.end - part.rows.start)),
            None => self.hidden.clone().rows(&part.rows),
        }
    }

    /// Gathers the hidden states of a stretch of slots, in all layers.
    pub(super) fn gather(&self, rows: &mut Rows, part: &RowBlock) -> Result<()> {
        let Some(order) = rows.order_of(part.index) else { return Ok(()) };
        let window = rows.window(part.index);
        let count = part.rows.end - part.rows.start;
        let lanes = self.profile.tally_lanes();
        let dtype = Some(self.hidden.layout.dtype);
        let label = Label { skeleton: "linear", kernel: "gather", loss: None, dtype };
        rows.planner
            .dispatch(label, "gather", [shader!("linear/gather.wgsl")])
            .overriding("WORKGROUP", lanes)
            .uniform("rows", count)
            .uniform("classes", self.depth)
            .uniform("first_row", part.rows.start - window.start)
            .words("order", Some(order))
            .read("hidden", Some(self.hidden.clone().rows(&window)), 0.0)
            .write("slots", Some(self.states(part)))
            .groups((count * self.depth.div_ceil(4)).div_ceil(u64::from(lanes)))?;
        self.others.iter().try_for_each(|(_, other)| other.gather(rows, part))
    }
}
