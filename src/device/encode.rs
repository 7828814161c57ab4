//! Replays a plan. Only this code turns dispatches into commands.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use crate::{
    data::error::{Error, Result},
    device::{
        bind::{Bound, Places},
        gpu::Gpu,
        guard::guarded,
        memory::Counted,
        parameters::Parameters,
        recall::Planned,
    },
    plan::{Plan, kernel::Kernel},
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
    groups: Vec<wgpu::BindGroup>,
    params: Parameters,
    constants: Vec<Counted>,
    scratch: HeldScratch,
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
        self.encode_steps(record, 0..self.planned.plan.dispatches.len());
    }

    /// Records a range of the call's dispatches, for callers that cut a long call into several submissions. All ranges
    /// of [`Plan::submissions`], in their order, make the call.
    ///
    /// A part of a call that shares its scratch is [`Error::SharedScratch`]: another call might be recorded between
    /// two parts and overwrite what they keep there. [`Request::in_parts`](crate::Request::in_parts) gives a call
    /// scratch of its own. An empty range records nothing.
    pub fn encode_part(&self, record: &mut impl Record, dispatches: Range<usize>) -> Result<()> {
        let all = self.planned.plan.dispatches.len();
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
        let Planned { plan, pipelines, groups, .. } = &*self.planned;
        let group = groups.of(index).and_then(|group| self.groups.get(group));
        let parts = (pipelines.get(index), group, plan.dispatches.get(index));
        if let (Some(pipeline), Some(group), Some(dispatch)) = parts {
            pipeline.dispatch(pass, (group, self.params.offset(index)), dispatch.workgroups);
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
    /// An option that changes the code or the shapes is [`Error::NeedsPreparation`]; the call then stays as it is, and
    /// [`Gpu::prepare`] makes one with this option. Some numbers change the code too: a temperature of exactly 1, and a
    /// smoothing or a focal exponent of exactly 0, have code of their own.
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
        let planned = self.planned.with_numbers_of(operation, self.gpu.profile())?;
        self.take_numbers(Arc::new(planned))
    }

    /// Takes the numbers of a plan of the same call, whose code and bindings are the same.
    fn take_numbers(&mut self, planned: Arc<Planned>) -> Result<()> {
        let Self { gpu, params, .. } = self;
        let plan = &planned.plan;
        let bytes = plan.params_bytes();
        if !guarded(gpu.device(), &plan.loss, bytes, || params.update(gpu, plan))?? {
            let params = || Parameters::to_update(&self.gpu, plan);
            (self.params, self.groups) = bound(&self.gpu, self.places(), params)?;
        }
        self.planned = planned;
        self.moved = OnceLock::new();
        Ok(())
    }

    fn places(&self) -> Places<'_> {
        Places {
            planned: &self.planned,
            tensors: &self.tensors,
            constants: &self.constants,
            scratch: self.scratch.place(),
        }
    }

    /// Binds the call to the tensors of another request of the same operation and shapes: other buffers, or other
    /// places in them. It is quicker than preparing the call again where the tensors begin at the same distances from
    /// multiples of the device's `min_storage_buffer_offset_alignment`, and it keeps the call's scratch. What was
    /// recorded before keeps its tensors.
    ///
    /// The request's options count too: they replace those of an earlier [`Prepared::update`]. A loop that changes both
    /// is quickest if it binds first, always with the loss that the call was prepared with, and updates afterwards:
    ///
    /// ```no_run
    /// # fn train(gpu: &surprisal::Gpu, encoder: &mut wgpu::CommandEncoder,
    /// #     tensors: [(surprisal::CrossEntropyInputs, surprisal::CrossEntropyOutputs); 2]) -> surprisal::Result<()> {
    /// use surprisal::CrossEntropy;
    /// let first = CrossEntropy::default().temperature(2.0);
    /// let requests = tensors.map(|(inputs, outputs)| first.request(inputs, outputs));
    /// let mut call = gpu.prepare(&requests[0])?;
    /// for step in 1..100 {
    ///     call.rebind(&requests[step % 2])?;
    ///     call.update(&CrossEntropy::default().temperature(2.0 - 0.01 * step as f64))?;
    ///     call.encode(encoder);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Other shapes, and another operation, are [`Error::NeedsPreparation`]; the call then stays as it is.
    pub fn rebind(&mut self, request: &Request) -> Result<()> {
        self.planned.has_shapes_of(request)?;
        let (planned, tensors) = self.gpu.planned(request)?;
        let wanted = (request.scratch.as_ref(), request.in_parts);
        // Updates share the groups of the call that they began with.
        if !Arc::ptr_eq(&planned.groups, &self.planned.groups) {
            *self = prepare(&self.gpu, planned, tensors, wanted, Some(&self.scratch))?;
            return Ok(());
        }
        let scratch = scratch_for(&self.gpu, &planned.plan, wanted, Some(&self.scratch))?;
        let places = Places { tensors: &tensors, scratch: scratch.place(), ..self.places() };
        let groups = guarded(self.gpu.device(), &planned.plan.loss, 0, || {
            places.bind_moved(&self.gpu, &self.params, (self.places(), &self.groups))
        })??;
        (self.tensors, self.scratch, self.groups) = (tensors, scratch, groups);
        self.moved = OnceLock::new();
        if Arc::ptr_eq(&planned, &self.planned) { Ok(()) } else { self.take_numbers(planned) }
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
    wanted: (Option<&Scratch<'_>>, bool),
    before: Option<&HeldScratch>,
) -> Result<Prepared> {
    let plan = &planned.plan;
    let scratch = scratch_for(gpu, plan, wanted, before)?;
    let constants = plan.constants.iter().map(|bytes| gpu.upload("host input", bytes));
    let constants = constants.collect::<Result<Vec<_>>>()?;
    let places = Places {
        planned: &planned,
        tensors: &tensors,
        constants: &constants,
        scratch: scratch.place(),
    };
    let (params, groups) = bound(gpu, places, || Parameters::of(gpu, plan))?;
    let (gpu, moved) = (gpu.clone(), OnceLock::new());
    Ok(Prepared { gpu, planned, moved, tensors, groups, params, constants, scratch })
}

/// Makes the parameters and the bind groups of a call, inside one set of error scopes.
fn bound(
    gpu: &Gpu,
    places: Places<'_>,
    params: impl FnOnce() -> Result<Parameters>,
) -> Result<(Parameters, Vec<wgpu::BindGroup>)> {
    let plan = &places.planned.plan;
    guarded(gpu.device(), &plan.loss, plan.params_bytes(), || {
        let params = params()?;
        let groups = places.bind(gpu, &params)?;
        Ok((params, groups))
    })?
}

/// The scratch of a call: the caller's, or that which it held `before`, or another one.
fn scratch_for(
    gpu: &Gpu,
    plan: &Plan,
    (callers, in_parts): (Option<&Scratch<'_>>, bool),
    before: Option<&HeldScratch>,
) -> Result<HeldScratch> {
    match callers {
        Some(scratch) => fitting(scratch, plan),
        None => held_scratch(gpu, plan, in_parts, before),
    }
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
pub(crate) fn fitting(scratch: &Scratch<'_>, plan: &Plan) -> Result<HeldScratch> {
    let found = scratch.bytes.end.saturating_sub(scratch.bytes.start);
    if found >= plan.scratch_bytes {
        return Ok(HeldScratch::Callers(scratch.buffer.clone(), scratch.bytes.start));
    }
    let argument = check::SCRATCH.into();
    Err(Error::BufferTooSmall { argument, needed: plan.scratch_bytes, found })
}
