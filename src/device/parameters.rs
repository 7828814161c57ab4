//! The parameters of a prepared call.

use crate::{
    data::error::{Error, Result},
    device::{gpu::Gpu, memory::Counted},
    plan::{Dispatch, Plan},
};

/// A buffer of slots, each of which holds the parameter blocks of all dispatches of a call.
///
/// A slot is written once. Commands that were recorded with it may be submitted at any later time, so an update takes
/// the next slot, and no bind group changes: dispatches reach their block by a dynamic offset.
#[derive(Debug)]
pub(crate) struct Parameters {
    buffer: Counted,
    slot_bytes: u64,
    slot: u64,
}

/// The bytes of a buffer for a call that is updated, and the least number of its slots. Each new buffer costs a bind
/// group for every group of dispatches.
const UPDATED_BYTES: u64 = 65_536;
const UPDATED_SLOTS: u64 = 16;

impl Parameters {
    /// A buffer with one slot, which holds the parameters of a plan. A refusal goes to the error scopes around the
    /// call.
    pub fn of(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        Self::with_slots(gpu, plan, 1)
    }

    /// A buffer with room for later updates.
    pub fn to_update(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        let bytes = plan.params_bytes().max(1);
        let slots = (UPDATED_BYTES / bytes).max(UPDATED_SLOTS);
        let room = gpu.profile().buffer_bytes / bytes;
        Self::with_slots(gpu, plan, slots.min(room).max(1))
    }

    fn with_slots(gpu: &Gpu, plan: &Plan, slots: u64) -> Result<Self> {
        fits(plan)?;
        let bytes = plan.parameter_bytes();
        let slot_bytes = bytes.len() as u64;
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("surprisal.parameters"),
            size: slots * slot_bytes,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: true,
        });
        let written = buffer
            .get_mapped_range_mut(..slot_bytes)
            .map(|mut view| view.copy_from_slice(&bytes))
            .map_err(Error::lost);
        buffer.unmap();
        written?;
        Ok(Self { buffer: Counted::new(buffer, &gpu.0.tally), slot_bytes, slot: 0 })
    }

    /// Writes the parameters of a plan of as many dispatches into the next slot. False if every slot is used.
    pub fn update(&mut self, gpu: &Gpu, plan: &Plan) -> Result<bool> {
        fits(plan)?;
        let next = self.slot + 1;
        if (next + 1) * self.slot_bytes > self.buffer.size() {
            return Ok(false);
        }
        gpu.queue().write_buffer(&self.buffer, next * self.slot_bytes, &plan.parameter_bytes());
        self.slot = next;
        Ok(true)
    }

    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Where the parameters of a dispatch begin.
    pub fn offset(&self, dispatch: usize) -> u32 {
        (self.slot * self.slot_bytes + dispatch as u64 * Plan::PARAMS_STRIDE) as u32
    }
}

/// Checks that the parameters of each dispatch fit their block.
fn fits(plan: &Plan) -> Result<()> {
    let (limit, words) = (Plan::PARAMS_STRIDE, |d: &Dispatch| d.params.len() as u64 * 4);
    match plan.dispatches.iter().map(words).find(|bytes| *bytes > limit) {
        Some(found) => Err(Error::Limit { what: "bytes of parameters".into(), found, limit }),
        None => Ok(()),
    }
}
