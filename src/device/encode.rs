//! Replays a plan. Only this code turns dispatches into commands.

use std::{ops::Range, sync::Arc};

use crate::{
    data::error::{Error, Result},
    device::{
        gpu::{Buffers, Gpu, Scratch},
        guard::guarded,
        memory::Counted,
        pipeline::Pipeline,
    },
    plan::{Binding, Dispatch, Plan, Role, kernel::Kernel},
    spec::check,
};

/// Something that records compute commands: a command encoder or an open compute pass.
pub trait Record {
    /// Hands a compute pass to `commands`.
    fn with_pass(&mut self, label: &str, commands: &mut dyn FnMut(&mut wgpu::ComputePass<'_>));
}

impl Record for wgpu::CommandEncoder {
    fn with_pass(&mut self, label: &str, commands: &mut dyn FnMut(&mut wgpu::ComputePass<'_>)) {
        let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
        commands(&mut self.begin_compute_pass(&descriptor));
    }
}

impl Record for wgpu::ComputePass<'_> {
    fn with_pass(&mut self, _label: &str, commands: &mut dyn FnMut(&mut wgpu::ComputePass<'_>)) {
        commands(self);
    }
}

/// A call that is checked, compiled and bound, and can be encoded any number of times.
///
/// It keeps its parameters and scratch alive, and works on the tensors that it was prepared with.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    steps: Vec<Step>,
    /// Whether other calls use the same scratch.
    shares_scratch: bool,
    /// Parameters, constants and scratch. The bindings keep them alive; these handles count their bytes.
    _counted: (Counted, Vec<Counted>, Option<Arc<Counted>>),
}

/// Where a call's scratch comes from.
#[derive(Debug)]
pub(crate) enum ScratchFrom<'a> {
    /// The scratch of the handle, which all its calls share.
    Pool,
    /// A buffer of the call's own.
    Own,
    /// The scratch that the caller passed.
    Caller(&'a Scratch<'a>),
}

#[derive(Debug)]
struct Step {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.pipeline.dispatch(pass, &self.bindings, self.workgroups);
    }
}

impl Prepared {
    /// Records the call, without submitting it or reading anything back.
    pub fn encode(&self, record: &mut impl Record) {
        self.encode_steps(record, 0..self.steps.len());
    }

    /// Records a range of the call's dispatches, for callers that cut a long call into several submissions. All ranges
    /// of [`Plan::submissions`], in their order, make the call.
    ///
    /// A part of a call that shares its scratch is [`Error::SharedScratch`]: another call might be recorded between
    /// two parts and overwrite what they keep there. [`Request::in_parts`](crate::Request::in_parts) gives a call
    /// scratch of its own. An empty range records nothing.
    pub fn encode_part(&self, record: &mut impl Record, dispatches: Range<usize>) -> Result<()> {
        let all = self.steps.len();
        if dispatches.is_empty() || dispatches.start >= all {
            return Ok(());
        }
        if self.shares_scratch && (dispatches.start > 0 || dispatches.end < all) {
            let loss = self.plan.loss.clone();
            return Err(Error::SharedScratch { loss, part: dispatches, all });
        }
        self.encode_steps(record, dispatches);
        Ok(())
    }

    fn encode_steps(&self, record: &mut impl Record, dispatches: Range<usize>) {
        let end = dispatches.end.min(self.steps.len());
        record.with_pass(&self.plan.loss, &mut |pass| {
            for step in self.steps.get(dispatches.start..end).unwrap_or_default() {
                step.encode(pass);
            }
        });
    }

    /// Records only the dispatches of some kernels, to time the parts of a call.
    pub fn encode_kernels(&self, record: &mut impl Record, keep: impl Fn(&Kernel) -> bool) {
        record.with_pass(&self.plan.loss, &mut |pass| {
            for (step, dispatch) in self.steps.iter().zip(&self.plan.dispatches) {
                if self.plan.kernels.get(dispatch.kernel).is_some_and(&keep) {
                    step.encode(pass);
                }
            }
        });
    }

    /// The plan that the call replays.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Gpu {
    /// Submits a prepared call by itself, in the submissions of [`Plan::submissions`], and does not wait for it.
    pub fn submit(&self, call: &Prepared) -> Result<()> {
        for dispatches in call.plan.submissions(self.profile()) {
            guarded(self.device(), &call.plan.loss, 0, || {
                let descriptor = wgpu::CommandEncoderDescriptor::default();
                let mut encoder = self.device().create_command_encoder(&descriptor);
                call.encode_steps(&mut encoder, dispatches);
                self.queue().submit([encoder.finish()]);
            })?;
        }
        Ok(())
    }
}

pub(crate) fn prepare(
    gpu: &Gpu,
    plan: Plan,
    buffers: &Buffers<'_>,
    scratch: &ScratchFrom<'_>,
) -> Result<Prepared> {
    // Submissions of another thread may come between those of this call, so a call that is cut needs its own scratch.
    let is_cut = plan.submissions(gpu.profile()).nth(1).is_some();
    let shares_scratch = matches!(scratch, ScratchFrom::Pool) && !is_cut;
    let (scratch, first_byte, held) = if let ScratchFrom::Caller(scratch) = scratch {
        let Scratch { buffer, bytes } = fitting(scratch, &plan)?;
        ((*buffer).clone(), bytes.start, None)
    } else {
        let bytes = plan.scratch_bytes;
        let held = if shares_scratch { gpu.scratch(bytes)? } else { gpu.own_scratch(bytes)? };
        ((**held).clone(), 0, Some(held))
    };
    let params = parameters(gpu, &plan)?;
    let constants = plan.constants.iter().map(|bytes| gpu.upload("host input", bytes));
    let constants = constants.collect::<Result<Vec<_>>>()?;
    let scratch = (&scratch, first_byte);
    let mut steps = Vec::with_capacity(plan.dispatches.len());
    for (index, dispatch) in plan.dispatches.iter().enumerate() {
        let Some(kernel) = plan.kernels.get(dispatch.kernel) else {
            continue;
        };
        let pipeline = gpu.pipeline(kernel)?;
        let offset = index as u64 * Plan::PARAMS_STRIDE;
        let made = Made { params: &params, constants: &constants, scratch };
        let bindings = bind(gpu, &kernel.label, &pipeline, dispatch, offset, &made, buffers)?;
        steps.push(Step { pipeline, bindings, workgroups: dispatch.workgroups });
    }
    Ok(Prepared { plan, steps, shares_scratch, _counted: (params, constants, held) })
}

/// The caller's scratch, if it is large enough.
fn fitting<'a>(scratch: &'a Scratch<'a>, plan: &Plan) -> Result<&'a Scratch<'a>> {
    let found = scratch.bytes.end.saturating_sub(scratch.bytes.start);
    if found >= plan.scratch_bytes {
        return Ok(scratch);
    }
    let argument = check::SCRATCH.to_owned();
    Err(Error::BufferTooSmall { argument, needed: plan.scratch_bytes, found })
}

/// A buffer of the call with all parameter blocks, written before anything is recorded.
fn parameters(gpu: &Gpu, plan: &Plan) -> Result<Counted> {
    if let Some(dispatch) =
        plan.dispatches.iter().find(|d| d.params.len() as u64 * 4 > Plan::PARAMS_STRIDE)
    {
        return Err(Error::Limit {
            what: "bytes of parameters".to_owned(),
            found: dispatch.params.len() as u64 * 4,
            limit: Plan::PARAMS_STRIDE,
        });
    }
    let bytes = plan.parameter_bytes();
    let size = bytes.len() as u64;
    let buffer = guarded(gpu.device(), "parameters", size, || {
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("surprisal.parameters"),
            size,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        let written = buffer
            .get_mapped_range_mut(..)
            .map(|mut view| view.copy_from_slice(&bytes))
            .map_err(|error| Error::DeviceLost(error.to_string()));
        buffer.unmap();
        written.map(|()| buffer)
    })??;
    Ok(Counted::new(buffer, &gpu.0.tally))
}

/// The buffers that a call makes for itself.
struct Made<'a> {
    params: &'a wgpu::Buffer,
    constants: &'a [Counted],
    /// The buffer with the scratch, and the first byte of the scratch in it.
    scratch: (&'a wgpu::Buffer, u64),
}

fn bind(
    gpu: &Gpu,
    label: &str,
    pipeline: &Pipeline,
    dispatch: &Dispatch,
    params_offset: u64,
    made: &Made<'_>,
    buffers: &Buffers<'_>,
) -> Result<wgpu::BindGroup> {
    let mut ranges = vec![(made.params, params_offset, Plan::PARAMS_STRIDE)];
    let (scratch, first_byte) = made.scratch;
    for Binding { role, offset, size, .. } in &dispatch.bindings {
        let buffer = match role {
            Role::Scratch => Some(scratch),
            Role::Input(name) => buffers.inputs.get(name).copied(),
            Role::Output(name) => buffers.outputs.get(name).copied(),
            Role::Constant(index) => made.constants.get(*index).map(|buffer| &**buffer),
        };
        let Some(buffer) = buffer else {
            return Err(Error::Refused {
                what: label.to_owned(),
                message: format!("no buffer for {role:?}"),
            });
        };
        let first_byte = if *role == Role::Scratch { first_byte } else { 0 };
        ranges.push((buffer, first_byte + *offset, *size));
    }
    pipeline.bind(gpu.device(), label, &ranges)
}
