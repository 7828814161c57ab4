//! The handle on a device, and what it does with a plan.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use super::limits;
use crate::{
    data::{
        array::Arrays,
        error::{Error, Result},
        tensor::{Dtype, Layout, Named},
    },
    device::{
        bind::{Bound, Groups},
        encode::{self, Prepared},
        guard::{guarded, lock, usable},
        memory::{self, Counted, Tally},
        pipeline::{Module, Pipeline},
        recall::{Asked, Planned, Recall, Spot, What},
        run::Run,
        watch::Ring,
    },
    plan::{Dispatch, Plan, kernel::Kernel, profile::Profile},
    skeleton::{
        operation::Operation,
        request::{Request, Scratch},
    },
    spec::{
        call::{Call, Operand},
        check,
    },
};

/// What a handle may be given beside its device.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GpuOptions {
    /// A cache of the driver's compiled code, made with `wgpu::Device::create_pipeline_cache`: kernels are compiled
    /// through it. [`Gpu::pipeline_cache_bytes`] gives back what the next run of the program begins with.
    pub pipeline_cache: Option<wgpu::PipelineCache>,
}

impl GpuOptions {
    /// Sets the cache of the driver's compiled code.
    #[must_use]
    pub fn pipeline_cache(mut self, cache: impl Into<Option<wgpu::PipelineCache>>) -> Self {
        self.pipeline_cache = cache.into();
        self
    }
}

/// A handle on the caller's device and queue, or on those of a device that was opened here.
///
/// The handle is cheap to clone, `Send` and `Sync`; clones share pipelines and scratch. It submits, reads back or
/// installs a callback only if it is asked to ([`Gpu::run`], [`Gpu::watch`]).
#[derive(Clone, Debug)]
pub struct Gpu(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub profile: Profile,
    pub ring: Ring,
    pub cache: Option<wgpu::PipelineCache>,
    recall: Recall,
    /// Pipelines by kernel, whatever profile chose the kernel.
    pipelines: Arc<Mutex<HashMap<Arc<Kernel>, Arc<Pipeline>>>>,
    scratch: Mutex<Option<Arc<Counted>>>,
    pub tally: Arc<Tally>,
}

impl Gpu {
    /// A handle on the caller's device and queue.
    pub fn from_wgpu(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_options(device, queue, GpuOptions::default())
    }

    /// [`Gpu::from_wgpu`] with options.
    pub fn with_options(device: &wgpu::Device, queue: &wgpu::Queue, options: GpuOptions) -> Self {
        let info = device.adapter_info();
        let profile = limits::profile(&info, &device.limits(), device.features());
        Self(Arc::new(Inner {
            device: device.clone(),
            queue: queue.clone(),
            info,
            profile,
            ring: Ring::default(),
            cache: options.pipeline_cache,
            recall: Recall::default(),
            pipelines: Arc::default(),
            scratch: Mutex::default(),
            tally: Arc::default(),
        }))
    }

    /// The same device with another profile: other windows, workgroups and budgets. Kernels that both profiles need
    /// are compiled once.
    #[must_use]
    pub fn with_profile(&self, profile: Profile) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            device: inner.device.clone(),
            queue: inner.queue.clone(),
            info: inner.info.clone(),
            profile,
            ring: Ring::default(),
            cache: inner.cache.clone(),
            recall: Recall::default(),
            pipelines: inner.pipelines.clone(),
            scratch: Mutex::default(),
            tally: Arc::default(),
        }))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// The name, driver and kind of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.0.info
    }

    /// The profile that plans for this device are made from.
    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    /// The bytes of the pipeline cache that the handle was given, with all kernels compiled since; `None` without a
    /// cache, and where the driver keeps nothing.
    pub fn pipeline_cache_bytes(&self) -> Option<Vec<u8>> {
        self.0.cache.as_ref()?.get_data()
    }

    /// The choices that were made for this device, with reasons, one line each.
    pub fn report(&self) -> Vec<String> {
        let p = &self.0.profile;
        let info = &self.0.info;
        vec![
            format!("adapter: {} ({:?}, {:?})", info.name, info.backend, info.device_type),
            format!("driver: {} {}", info.driver, info.driver_info),
            format!(
                "row kernels: {} lanes a workgroup, segments of {} columns",
                p.lanes(0),
                p.segment
            ),
            format!(
                "score tiles: {} lanes a workgroup ({} side by side), {} rows × {} columns a lane, loaded by {}, \
                 in words of {} bits",
                p.tile().lanes,
                p.tile().across,
                p.tile().rows,
                4 * p.tile().bands,
                p.tile().loads,
                if p.tile().wide { 64 } else { 32 }
            ),
            format!("score tiles on cooperative matrices: {}", p.cooperative),
            format!("windows: bindings up to {} bytes", p.binding_bytes),
            "16-bit types: decoded by integers, SHADER_F16 is not needed".to_owned(),
            "shader modules: checked (no unsafe)".to_owned(),
        ]
    }

    /// The plan of a call on this device: its scratch bytes and dispatches, before anything runs.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        request.operation.plan(&self.call(request)?, &self.0.profile)
    }

    /// Checks a call, compiles the kernels it needs, and binds its tensors. The result can be encoded any number of
    /// times.
    ///
    /// [`Prepared::update`] changes the numbers of a prepared call (such as its temperature), [`Prepared::rebind`] its
    /// buffers. Neither changes what was recorded before.
    pub fn prepare(&self, request: &Request) -> Result<Prepared> {
        let (planned, tensors) = self.planned(request)?;
        let Request { scratch, in_parts, .. } = request;
        encode::prepare(self, planned, tensors, (scratch.as_ref(), *in_parts), None)
    }

    /// Plans a call, or recalls its plan, and finds the buffers that its bindings are bound to.
    pub(crate) fn planned(&self, request: &Request) -> Result<(Arc<Planned>, Vec<Bound>)> {
        let operation = request.operation;
        on_device(operation)?;
        let alignment = self.0.profile.offset_alignment;
        let (outputs, in_place) = request.all_outputs()?;
        let scratch = request.scratch.as_ref().map(Scratch::layout);
        let mut spots = Vec::with_capacity(request.inputs.len() + outputs.len() + 1);
        let tensors = request.inputs.iter().map(|(name, tensor)| (name, What::Input, tensor));
        let written = outputs.iter().map(|(name, tensor)| (name, What::Output, tensor));
        for (name, what, tensor) in tensors.chain(written) {
            Spot::add(&mut spots, (name, what), (tensor.buffer, &tensor.layout), alignment);
        }
        if let (Some(scratch), Some(layout)) = (&request.scratch, &scratch) {
            let name = (check::SCRATCH, What::Scratch);
            Spot::add(&mut spots, name, (scratch.buffer, layout), alignment);
        }
        let asked = Asked { request, in_place: &in_place, spots: &spots };
        let bound: Vec<Bound> = spots.iter().filter_map(Spot::bound).collect();
        if let Some(planned) = self.0.recall.find(&asked, alignment) {
            return Ok((planned, bound));
        }
        let call = self.call(request)?;
        let plan = operation.plan(&call, &self.0.profile)?;
        let pipelines = self.pipelines(&plan)?;
        let planned = Arc::new(Planned {
            operation: operation.about().name,
            is_per_row: operation.is_per_row(),
            extents: operation.extents(),
            call: Arc::new(call),
            pipelines,
            groups: Arc::new(Groups::new(&plan)),
            tensors: spots.iter().filter_map(Spot::shaped).collect(),
            places: bound.iter().map(|tensor| (tensor.role.clone(), tensor.first_byte)).collect(),
            plan,
        });
        self.0.recall.keep(&asked, &planned);
        Ok((planned, bound))
    }

    /// Records a call on the caller's encoder or open compute pass, without submitting it or reading anything back.
    ///
    /// On an open pass, the call replaces the pipeline and bind group 0.
    pub fn encode(&self, record: &mut impl encode::Record, request: &Request) -> Result<()> {
        self.prepare(request)?.encode(record);
        Ok(())
    }

    /// Runs a call by itself. The `wanted` outputs are allocated for it, beside those that the request has tensors for:
    /// the one-line form for scripts and tests.
    pub fn run(&self, request: &Request, wanted: &[&str]) -> Result<Run> {
        Run::start(self, request, wanted)
    }

    /// Checks a request.
    fn call(&self, request: &Request<'_>) -> Result<Call> {
        let operation = request.operation;
        on_device(operation)?;
        let (outputs, in_place) = request.all_outputs()?;
        let mut allocations: Vec<&wgpu::Buffer> = Vec::new();
        let inputs_of = operands(&request.inputs, &mut allocations)?;
        let outputs_of = operands(&outputs, &mut allocations)?;
        let alignment = self.0.profile.offset_alignment;
        let host = request.host.clone();
        let call = Call { host, in_place, ..Call::new(inputs_of, outputs_of) };
        let mut call = call.checked(operation, alignment)?;
        check::some_output(operation.about(), call.outputs.len())?;
        call.accumulates_status = request.accumulates_status;
        if let Some(scratch) = &request.scratch {
            let scratch =
                operand(check::SCRATCH, scratch.buffer, scratch.layout(), &mut allocations)?;
            check::scratch(&mut call, &scratch, alignment)?;
        }
        Ok(call)
    }

    /// A call with these inputs and no outputs yet, and with the extents that the inputs agree on.
    pub(crate) fn checked_inputs(
        &self,
        loss: &dyn Operation,
        inputs: &Named<'_>,
        host: &Arrays,
    ) -> Result<Call> {
        let operands = operands(inputs, &mut Vec::new())?;
        let call = Call { host: host.clone(), ..Call::new(operands, BTreeMap::new()) };
        call.checked(loss, self.0.profile.offset_alignment)
    }

    /// The compiled kernel of each dispatch.
    pub(crate) fn pipelines(&self, plan: &Plan) -> Result<Arc<[Arc<Pipeline>]>> {
        let kernel = |(index, dispatch): (usize, &Dispatch)| {
            let kernel = plan.kernels.get(dispatch.kernel).ok_or_else(|| Error::BadPlan {
                operation: plan.loss.clone().into(),
                dispatch: index,
                reason: "there is no such kernel".into(),
            })?;
            self.pipeline(kernel)
        };
        plan.dispatches.iter().enumerate().map(kernel).collect()
    }

    /// Whether a kernel is compiled.
    pub(crate) fn has_compiled(&self, kernel: &Arc<Kernel>) -> bool {
        lock(&self.0.pipelines).contains_key(kernel)
    }

    /// The compiled form of a kernel. It is compiled at its first use.
    pub(crate) fn pipeline(&self, kernel: &Arc<Kernel>) -> Result<Arc<Pipeline>> {
        dump(kernel);
        if let Some(pipeline) = lock(&self.0.pipelines).get(kernel) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.compiled(kernel, Module::from(&**kernel))?);
        lock(&self.0.pipelines).insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    #[cfg(not(feature = "cases"))]
    fn compiled(&self, _: &Kernel, module: Module<'_>) -> Result<Pipeline> {
        Pipeline::compile(self.device(), self.0.cache.as_ref(), module)
    }

    #[cfg(feature = "cases")]
    fn compiled(&self, kernel: &Kernel, module: Module<'_>) -> Result<Pipeline> {
        crate::device::pipeline::ledger::compiled(self, kernel, module)
    }

    /// A scratch buffer of at least this size. Recordings share it, because a queue runs them one after another.
    pub(crate) fn scratch(&self, bytes: u64) -> Result<Arc<Counted>> {
        let mut slot = lock(&self.0.scratch);
        if let Some(buffer) = slot.as_ref()
            && buffer.size() >= bytes
        {
            return Ok(buffer.clone());
        }
        let buffer = self.own_scratch(bytes)?;
        *slot = Some(buffer.clone());
        Ok(buffer)
    }

    /// Gives back the scratch that the calls of this handle share. Its bytes leave [`Gpu::memory`] as soon as no prepared
    /// call holds it any more; the next call makes scratch as large as it needs.
    ///
    /// This is for a loop that has made its largest call, such as a last evaluation over a longer context.
    pub fn trim(&self) {
        *lock(&self.0.scratch) = None;
    }

    /// A scratch buffer that nothing else uses.
    pub(crate) fn own_scratch(&self, bytes: u64) -> Result<Arc<Counted>> {
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(Arc::new(memory::buffer(self, "scratch", bytes.max(1), usage)?))
    }

    /// A buffer for a tensor, filled with bytes of the host.
    pub(crate) fn upload(&self, what: &str, bytes: &[u8]) -> Result<Counted> {
        let size = (bytes.len() as u64).max(1);
        let buffer = memory::buffer(self, what, size, OUTPUT)?;
        let whole = bytes.len() - bytes.len() % 4;
        let (words, rest) = bytes.split_at(whole);
        guarded(&self.0.device, what, size, || {
            self.0.queue.write_buffer(&buffer, 0, words);
            if !rest.is_empty() {
                let mut word = [0; 4];
                word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                self.0.queue.write_buffer(&buffer, whole as u64, &word);
            }
        })?;
        Ok(buffer)
    }

    /// A buffer for an output: a dense tensor of this type and shape.
    pub fn output_buffer(&self, dtype: Dtype, shape: &[u64]) -> Result<wgpu::Buffer> {
        memory::uncounted(self, "output", output_bytes(&Layout::dense(dtype, shape)), OUTPUT)
    }

    /// [`Gpu::output_buffer`] for an output that this crate allocates for itself.
    pub(crate) fn own_output(&self, layout: &Layout) -> Result<Counted> {
        memory::buffer(self, "output", output_bytes(layout), OUTPUT)
    }
}

/// The usages of a tensor that is made here.
const OUTPUT: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn output_bytes(layout: &Layout) -> u64 {
    // With planes, the last byte lies further away than the number of elements says.
    let bytes = layout.byte_range().map_or(u64::MAX >> 8, |range| range.end);
    bytes.max(1)
}

fn operands<'a>(
    tensors: &Named<'a>,
    allocations: &mut Vec<&'a wgpu::Buffer>,
) -> Result<BTreeMap<String, Operand>> {
    let mut operands = BTreeMap::new();
    for (name, tensor) in tensors {
        let operand = operand(name, tensor.buffer, tensor.layout.clone(), allocations)?;
        operands.insert(name.clone(), operand);
    }
    Ok(operands)
}

fn operand<'a>(
    name: &str,
    buffer: &'a wgpu::Buffer,
    layout: Layout,
    allocations: &mut Vec<&'a wgpu::Buffer>,
) -> Result<Operand> {
    usable(name, buffer, wgpu::BufferUsages::STORAGE)?;
    let known = allocations.iter().position(|other| *other == buffer);
    let allocation = known.unwrap_or_else(|| {
        allocations.push(buffer);
        allocations.len() - 1
    });
    Ok(Operand { name: name.to_owned(), layout, allocation, allocation_bytes: buffer.size() })
}

/// Writes an assembled module to the folder that `SURPRISAL_DUMP` names, once for each label of the kernel. Labels that
/// share one compiled kernel have the same number in the file's name.
fn dump(kernel: &Kernel) {
    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("SURPRISAL_DUMP").map(PathBuf::from));
    static WRITTEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let Some(folder) = &*FOLDER else { return };
    let number = BuildHasherDefault::<DefaultHasher>::default().hash_one((kernel, &kernel.wgsl));
    let path = folder.join(format!("{}.{number:016x}.wgsl", kernel.label));
    if !lock(&WRITTEN).insert(path.clone()) {
        return;
    }
    let overrides: Vec<String> =
        kernel.overrides.iter().map(|(name, value)| format!("// {name} = {value}\n")).collect();
    // A dump is for looking at: that it cannot be written stops nothing.
    let _ = std::fs::create_dir_all(folder);
    let _ = std::fs::write(path, overrides.concat() + &kernel.wgsl);
}

/// Checks that an operation can be planned at all, before the tensors of a call are checked: wrong options may be the
/// only cause of wrong shapes.
pub(crate) fn on_device(operation: &dyn Operation) -> Result<()> {
    operation.validate()?;
    if operation.is_host() {
        return Err(Error::HostOnly { operation: operation.about().name.into() });
    }
    Ok(())
}
