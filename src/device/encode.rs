//! Replays a plan. Only this code turns dispatches into commands.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use crate::{
    data::error::{Error, Result},
    device::{gpu::Gpu, guard::guarded, memory::Counted, recall::Planned},
    plan::{Binding, Dispatch, Plan, Role, kernel::Kernel},
    skeleton::{
        operation::Operation,
        request::{Request, Scratch},
    },
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
/// It keeps its parameters and scratch alive, and works on the tensors that it was prepared with, or was last
/// [bound to](Prepared::rebind).
#[derive(Debug)]
pub struct Prepared {
    gpu: Gpu,
    planned: Arc<Planned>,
    /// The plan with the places of the tensors that are bound, where they are not those of `planned`.
    moved: OnceLock<Plan>,
    tensors: Vec<Bound>,
    bindings: Vec<wgpu::BindGroup>,
    params: Counted,
    constants: Vec<Counted>,
    scratch: HeldScratch,
}

/// A tensor that a call is bound to.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub role: Role,
    pub buffer: wgpu::Buffer,
    /// The first byte of the tensor, rounded down to the alignment of bindings.
    pub first_byte: u64,
}

/// The scratch of a prepared call.
#[derive(Clone, Debug)]
pub(crate) enum HeldScratch {
    /// Other calls use it too.
    Pooled(Arc<Counted>),
    /// Nothing else uses it.
    Own(Arc<Counted>),
    /// The caller keeps it apart: the buffer, and the first byte of the scratch in it.
    Callers(wgpu::Buffer, u64),
}

impl HeldScratch {
    /// The buffer, and the first byte of the scratch in it.
    fn place(&self) -> (&wgpu::Buffer, u64) {
        match self {
            Self::Pooled(held) | Self::Own(held) => (held, 0),
            Self::Callers(buffer, first_byte) => (buffer, *first_byte),
        }
    }
}

impl Prepared {
    /// Records the call, without submitting it or reading anything back.
    pub fn encode(&self, record: &mut impl Record) {
        self.encode_steps(record, 0..self.bindings.len());
    }

    /// Records a range of the call's dispatches, for callers that cut a long call into several submissions. All ranges
    /// of [`Plan::submissions`], in their order, make the call.
    ///
    /// A part of a call that shares its scratch is [`Error::SharedScratch`]: another call might be recorded between
    /// two parts and overwrite what they keep there. [`Request::in_parts`](crate::Request::in_parts) gives a call
    /// scratch of its own. An empty range records nothing.
    pub fn encode_part(&self, record: &mut impl Record, dispatches: Range<usize>) -> Result<()> {
        let all = self.bindings.len();
        if dispatches.is_empty() || dispatches.start >= all {
            return Ok(());
        }
        let shares_scratch = matches!(self.scratch, HeldScratch::Pooled(_));
        if shares_scratch && (dispatches.start > 0 || dispatches.end < all) {
            let loss = self.planned.plan.loss.clone();
            return Err(Error::SharedScratch { operation: loss.into(), part: dispatches, all });
        }
        self.encode_steps(record, dispatches);
        Ok(())
    }

    fn encode_steps(&self, record: &mut impl Record, dispatches: Range<usize>) {
        record.with_pass(&self.planned.plan.loss, &mut |pass| {
            for index in dispatches.clone() {
                self.encode_step(pass, index);
            }
        });
    }

    fn encode_step(&self, pass: &mut wgpu::ComputePass<'_>, index: usize) {
        let Planned { plan, pipelines, .. } = &*self.planned;
        let parts = (pipelines.get(index), self.bindings.get(index), plan.dispatches.get(index));
        if let (Some(pipeline), Some(bindings), Some(dispatch)) = parts {
            pipeline.dispatch(pass, bindings, dispatch.workgroups);
        }
    }

    /// Records only the dispatches of some kernels, to time the parts of a call.
    pub fn encode_kernels(&self, record: &mut impl Record, keep: impl Fn(&Kernel) -> bool) {
        let plan = &self.planned.plan;
        record.with_pass(&plan.loss, &mut |pass| {
            for (index, dispatch) in plan.dispatches.iter().enumerate() {
                if plan.kernels.get(dispatch.kernel).is_some_and(|kernel| keep(kernel)) {
                    self.encode_step(pass, index);
                }
            }
        });
    }

    /// The plan that the call replays.
    pub fn plan(&self) -> &Plan {
        let Planned { plan, places, .. } = &*self.planned;
        let stays = |tensor: &Bound| {
            places.iter().all(|(role, byte)| *role != tensor.role || *byte == tensor.first_byte)
        };
        if self.tensors.iter().all(stays) {
            return plan;
        }
        self.moved.get_or_init(|| {
            let mut plan = plan.clone();
            for binding in plan.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings) {
                if let Some(tensor) = self.tensors.iter().find(|t| t.role == binding.role) {
                    binding.offset = self.planned.moved(binding, tensor);
                }
            }
            plan
        })
    }

    /// Takes the numbers of another loss value: the same loss with another temperature, smoothing or weight of a term,
    /// as a loop changes them. It is quicker than preparing the call again, and what was recorded before keeps its
    /// numbers.
    ///
    /// An option that changes the code or the shapes is [`Error::NeedsPreparation`]; the call then stays as it is. Some
    /// numbers change the code too: a temperature of exactly 1, and a smoothing or a focal exponent of exactly 0, have
    /// code of their own.
    ///
    /// ```no_run
    /// # fn train(gpu: &surprisal::Gpu, encoder: &mut wgpu::CommandEncoder, inputs: surprisal::CrossEntropyInputs,
    /// #     outputs: surprisal::CrossEntropyOutputs) -> surprisal::Result<()> {
    /// use surprisal::CrossEntropy;
    /// let loss = |temperature| CrossEntropy::default().temperature(temperature);
    /// let mut call = gpu.prepare(&loss(2.0).request(inputs, outputs))?;
    /// for step in 1..100 {
    ///     call.update(&loss(2.0 - 0.01 * f64::from(step)))?;
    ///     call.encode(encoder);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn update(&mut self, operation: &dyn Operation) -> Result<()> {
        let planned = Arc::new(self.planned.with_numbers_of(operation, self.gpu.profile())?);
        let scratch = self.scratch.place();
        let (params, bindings) =
            bind(&self.gpu, &planned, &self.tensors, &self.constants, scratch)?;
        (self.planned, self.params, self.bindings) = (planned, params, bindings);
        self.moved = OnceLock::new();
        Ok(())
    }

    /// Binds the call to the tensors of another request of the same operation and shapes: other buffers, or other
    /// places in them. It is quicker than preparing the call again where the tensors begin at the same distances from
    /// multiples of the device's `min_storage_buffer_offset_alignment`, and it keeps the call's scratch. What was
    /// recorded before keeps its tensors.
    ///
    /// Other shapes, and another operation, are [`Error::NeedsPreparation`]; the call then stays as it is.
    pub fn rebind(&mut self, request: &Request) -> Result<()> {
        let (planned, tensors) = self.gpu.planned(request)?;
        planned.has_shapes_of(&self.planned)?;
        let wanted = (request.scratch.as_ref(), request.in_parts);
        *self = prepare(&self.gpu, planned, tensors, wanted, Some(&self.scratch))?;
        Ok(())
    }
}

impl Gpu {
    /// Submits a prepared call by itself, in the submissions of [`Plan::submissions`], and does not wait for it.
    pub fn submit(&self, call: &Prepared) -> Result<()> {
        let plan = &call.planned.plan;
        for dispatches in plan.submissions(self.profile()) {
            guarded(self.device(), &plan.loss, 0, || {
                let descriptor = wgpu::CommandEncoderDescriptor::default();
                let mut encoder = self.device().create_command_encoder(&descriptor);
                call.encode_steps(&mut encoder, dispatches);
                self.queue().submit([encoder.finish()]);
            })?;
        }
        Ok(())
    }
}

/// Binds what is planned to tensors. Scratch that a call of the same shapes held before is kept.
pub(crate) fn prepare(
    gpu: &Gpu,
    planned: Arc<Planned>,
    tensors: Vec<Bound>,
    (callers, in_parts): (Option<&Scratch<'_>>, bool),
    before: Option<&HeldScratch>,
) -> Result<Prepared> {
    let scratch = match callers {
        Some(scratch) => fitting(scratch, &planned.plan)?,
        None => held_scratch(gpu, &planned.plan, in_parts, before)?,
    };
    let constants = planned.plan.constants.iter().map(|bytes| gpu.upload("host input", bytes));
    let constants = constants.collect::<Result<Vec<_>>>()?;
    let (params, bindings) = bind(gpu, &planned, &tensors, &constants, scratch.place())?;
    let (gpu, moved) = (gpu.clone(), OnceLock::new());
    Ok(Prepared { gpu, planned, moved, tensors, bindings, params, constants, scratch })
}

fn held_scratch(
    gpu: &Gpu,
    plan: &Plan,
    in_parts: bool,
    before: Option<&HeldScratch>,
) -> Result<HeldScratch> {
    let bytes = plan.scratch_bytes;
    // Submissions of another thread may come between those of this call, so a call that is cut needs its own scratch.
    let is_cut = plan.submissions(gpu.profile()).nth(1).is_some();
    match before {
        Some(HeldScratch::Own(held)) if held.size() >= bytes => Ok(HeldScratch::Own(held.clone())),
        _ if is_cut || in_parts => Ok(HeldScratch::Own(gpu.own_scratch(bytes)?)),
        _ => Ok(HeldScratch::Pooled(gpu.scratch(bytes)?)),
    }
}

/// The caller's scratch, if it is large enough.
fn fitting(scratch: &Scratch<'_>, plan: &Plan) -> Result<HeldScratch> {
    let found = scratch.bytes.end.saturating_sub(scratch.bytes.start);
    if found >= plan.scratch_bytes {
        return Ok(HeldScratch::Callers(scratch.buffer.clone(), scratch.bytes.start));
    }
    let argument = check::SCRATCH.into();
    Err(Error::BufferTooSmall { argument, needed: plan.scratch_bytes, found })
}

/// Makes the parameters of a call and binds its tensors, inside one set of error scopes.
fn bind(
    gpu: &Gpu,
    planned: &Planned,
    tensors: &[Bound],
    constants: &[Counted],
    (scratch, first_byte): (&wgpu::Buffer, u64),
) -> Result<(Counted, Vec<wgpu::BindGroup>)> {
    let Planned { plan, pipelines, .. } = planned;
    parameters_fit(plan)?;
    let place = |binding: &Binding| match &binding.role {
        Role::Scratch => Some((scratch, first_byte + binding.offset, binding.size)),
        Role::Constant(index) => Some((&**constants.get(*index)?, binding.offset, binding.size)),
        role => {
            let tensor = tensors.iter().find(|tensor| tensor.role == *role)?;
            Some((&tensor.buffer, planned.moved(binding, tensor), binding.size))
        }
    };
    let device = gpu.device();
    let bytes = plan.params_bytes();
    guarded(device, &plan.loss, bytes, || {
        let params = parameters(gpu, plan)?;
        let groups = plan.dispatches.iter().zip(pipelines.iter()).zip((0..).step_by(256));
        let groups = groups.map(|((dispatch, pipeline), offset)| {
            let mut ranges = Vec::with_capacity(1 + dispatch.bindings.len());
            ranges.push((&*params, offset, Plan::PARAMS_STRIDE));
            for binding in &dispatch.bindings {
                ranges.push(place(binding).ok_or_else(|| unbound(plan, binding))?);
            }
            Ok(pipeline.bind(device, &plan.loss, &ranges))
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        Ok((params, groups))
    })?
}

fn unbound(plan: &Plan, binding: &Binding) -> Error {
    Error::MissingBuffer {
        operation: plan.loss.clone().into(),
        role: binding.role.to_string().into(),
    }
}

/// Checks that the parameters of each dispatch fit their block.
fn parameters_fit(plan: &Plan) -> Result<()> {
    let (limit, words) = (Plan::PARAMS_STRIDE, |d: &Dispatch| d.params.len() as u64 * 4);
    match plan.dispatches.iter().map(words).find(|bytes| *bytes > limit) {
        Some(found) => Err(Error::Limit { what: "bytes of parameters".into(), found, limit }),
        None => Ok(()),
    }
}

/// A buffer of the call with all parameter blocks, written before anything is recorded.
fn parameters(gpu: &Gpu, plan: &Plan) -> Result<Counted> {
    let bytes = plan.parameter_bytes();
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("surprisal.parameters"),
        size: bytes.len() as u64,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: true,
    });
    let written = buffer
        .get_mapped_range_mut(..)
        .map(|mut view| view.copy_from_slice(&bytes))
        .map_err(Error::lost);
    buffer.unmap();
    written.map(|()| Counted::new(buffer, &gpu.0.tally))
}
