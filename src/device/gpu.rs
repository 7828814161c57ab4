//! The handle on a device, and what it does with a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    ops::Range,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use super::limits;
use crate::{
    data::{
        array::{Array, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Layout, Named, Tensor},
    },
    device::{
        encode::{self, Prepared, ScratchFrom},
        guard::{guarded, lock, usable},
        memory::{self, Counted, Tally},
        pipeline::{Module, Pipeline},
        run::Run,
        watch::Ring,
    },
    plan::{Plan, kernel::Kernel, profile::Profile},
    skeleton::operation::Operation,
    spec::{
        about::About,
        call::{Call, Operand},
        check, in_place,
    },
};

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
    /// Pipelines by kernel, whatever profile chose the kernel.
    pipelines: Arc<Mutex<HashMap<Kernel, Arc<Pipeline>>>>,
    scratch: Mutex<Option<Arc<Counted>>>,
    pub tally: Arc<Tally>,
}

/// What a call on the GPU is given and asked for.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    inputs: Named<'a>,
    outputs: Named<'a>,
    host: Arrays,
    in_place: BTreeSet<String>,
    gradient_in_place: bool,
    scratch: Option<Scratch<'a>>,
    in_parts: bool,
    accumulates_status: bool,
}

/// Scratch of the caller: a range of a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Scratch<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub bytes: Range<u64>,
}

impl<'a> Request<'a> {
    /// A call with these inputs and outputs (the typed ones of a loss, or [`Named`] tensors).
    pub fn new(inputs: impl Into<Named<'a>>, outputs: impl Into<Named<'a>>) -> Self {
        Self { inputs: inputs.into(), outputs: outputs.into(), ..Self::default() }
    }

    /// Gives a host input: one that the plan is made from, such as the tree of a hierarchy. The plan holds a copy of
    /// its numbers.
    pub fn host(mut self, input: impl Into<String>, array: Array) -> Self {
        self.host.insert(input.into(), array);
        self
    }

    /// Writes an output over the input for which the output is declared
    /// ([`Argument::over`](crate::loss::Argument::over)): `grad.logits` over `logits`, `parameters` over `parameters`.
    /// The name of a list stands for all of its tensors.
    ///
    /// Any other output, and one that also has a tensor of its own, is refused with [`Error::InPlace`].
    pub fn in_place(mut self, output: impl Into<String>) -> Self {
        self.in_place.insert(output.into());
        self
    }

    /// Writes the gradient of the first input over this input: [`Request::in_place`] with `grad.logits` for losses of
    /// logits, with `grad.hidden` for losses of a linear layer.
    pub fn gradient_in_place(mut self) -> Self {
        self.gradient_in_place = true;
        self
    }

    /// The outputs that are written over an input.
    fn outputs_in_place(&self, about: &About) -> BTreeSet<String> {
        let first = about.inputs.first().filter(|_| self.gradient_in_place);
        let gradient = first.map(|input| format!("grad.{}", input.name));
        self.in_place.iter().cloned().chain(gradient).collect()
    }

    /// Uses scratch of the caller: these bytes of a buffer with usage `STORAGE`. There must be at least
    /// [`Plan::scratch_bytes`] bytes, and the first must be at a multiple of the device's
    /// `min_storage_buffer_offset_alignment`.
    ///
    /// The tensors of the call may lie in the same buffer, outside of these bytes. Calls with the same scratch must be
    /// recorded one after another: between the parts of one call, no other may use it.
    pub fn scratch(mut self, buffer: &'a wgpu::Buffer, bytes: Range<u64>) -> Self {
        self.scratch = Some(Scratch { buffer, bytes });
        self
    }

    /// Lets the call be recorded in parts ([`Prepared::encode_part`]) with other calls between the parts: the call
    /// gets scratch of its own, where calls otherwise share one. A call that [`Plan::submissions`] cuts on this device
    /// always has scratch of its own.
    pub fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    /// Adds what the call finds to the status words instead of overwriting them: counts add up, and the first bad
    /// target of all calls is kept. The calls of several micro-batches can share one status this way. Its words must
    /// be zero before the first call.
    ///
    /// Without this, the words hold only what this call finds, whatever they held before.
    pub fn accumulate_status(mut self) -> Self {
        self.accumulates_status = true;
        self
    }
}

impl Gpu {
    /// A handle on the caller's device and queue.
    pub fn from_wgpu(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let info = device.adapter_info();
        let profile = limits::profile(&info, &device.limits(), device.features());
        Self(Arc::new(Inner {
            device: device.clone(),
            queue: queue.clone(),
            info,
            profile,
            ring: Ring::default(),
            pipelines: Arc::default(),
            scratch: Mutex::default(),
            tally: Arc::default(),
        }))
    }

    /// The same device with another profile: other windows, workgroups and budgets. Kernels that both profiles need
    /// are compiled once.
    pub fn with_profile(&self, profile: Profile) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            device: inner.device.clone(),
            queue: inner.queue.clone(),
            info: inner.info.clone(),
            profile,
            ring: Ring::default(),
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
    pub fn plan(&self, loss: &dyn Operation, request: &Request) -> Result<Plan> {
        loss.plan(&self.call(loss, request)?.0, &self.0.profile)
    }

    /// Checks a call, compiles the kernels it needs, and binds its tensors. The result can be encoded any number of
    /// times.
    ///
    /// Each preparation has its own parameters, so another option (such as another temperature) is another cheap
    /// preparation and never changes a recording in flight.
    pub fn prepare(&self, loss: &dyn Operation, request: &Request) -> Result<Prepared> {
        let (call, buffers) = self.call(loss, request)?;
        let plan = loss.plan(&call, &self.0.profile)?;
        let scratch = match &request.scratch {
            Some(scratch) => ScratchFrom::Caller(scratch),
            None if request.in_parts => ScratchFrom::Own,
            None => ScratchFrom::Pool,
        };
        encode::prepare(self, plan, &buffers, &scratch)
    }

    /// Records a call on the caller's encoder or open compute pass, without submitting it or reading anything back.
    ///
    /// On an open pass, the call replaces the pipeline and bind group 0.
    pub fn encode<'a>(
        &self,
        record: &mut impl encode::Record,
        loss: &dyn Operation,
        inputs: impl Into<Named<'a>>,
        outputs: impl Into<Named<'a>>,
    ) -> Result<()> {
        self.prepare(loss, &Request::new(inputs, outputs))?.encode(record);
        Ok(())
    }

    /// Runs a call by itself and allocates its outputs: the one-line form for scripts and tests.
    pub fn run<'a>(
        &self,
        loss: &dyn Operation,
        inputs: impl Into<Named<'a>>,
        wanted: &[&str],
    ) -> Result<Run> {
        Run::start(self, loss, inputs.into(), Arrays::new(), wanted)
    }

    /// Checks a request. The buffers that are returned have the names that the plan's bindings use.
    fn call<'a>(&self, loss: &dyn Operation, request: &Request<'a>) -> Result<(Call, Buffers<'a>)> {
        on_device(loss)?;
        let about = loss.about();
        let mut outputs = request.outputs.clone();
        let asked = request.outputs_in_place(about);
        let in_place = in_place::give_tensors(about, &asked, &request.inputs, &mut outputs)?;
        let mut allocations: Vec<&wgpu::Buffer> = Vec::new();
        let inputs_of = operands(&request.inputs, &mut allocations)?;
        let outputs_of = operands(&outputs, &mut allocations)?;
        let alignment = self.0.profile.offset_alignment;
        let host = request.host.clone();
        let call = Call { host, in_place, ..Call::new(inputs_of, outputs_of) };
        let mut call = call.checked(loss, alignment)?;
        call.accumulates_status = request.accumulates_status;
        if let Some(Scratch { buffer, bytes }) = &request.scratch {
            let length = bytes.end.saturating_sub(bytes.start);
            let layout = Layout::vector(Dtype::U8, length).offset(bytes.start);
            let scratch = operand(check::SCRATCH, buffer, layout, &mut allocations)?;
            check::scratch(&mut call, &scratch, alignment)?;
        }
        let buffer = |(name, tensor): (String, Tensor<'a>)| (name, tensor.buffer);
        Ok((
            call,
            Buffers {
                inputs: request.inputs.clone().into_iter().map(buffer).collect(),
                outputs: outputs.into_iter().map(buffer).collect(),
            },
        ))
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

    /// The compiled form of a kernel. It is compiled at its first use.
    pub(crate) fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        dump(kernel);
        if let Some(pipeline) = lock(&self.0.pipelines).get(kernel) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.compiled(kernel, Module::from(kernel))?);
        lock(&self.0.pipelines).insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    #[cfg(not(feature = "cases"))]
    fn compiled(&self, _: &Kernel, module: Module<'_>) -> Result<Pipeline> {
        Pipeline::compile(self.device(), module)
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

/// The buffers of a call, by the names of their operands.
pub(crate) struct Buffers<'a> {
    pub inputs: HashMap<String, &'a wgpu::Buffer>,
    pub outputs: HashMap<String, &'a wgpu::Buffer>,
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
    let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(kernel);
    let path = folder.join(format!("{}.{number:016x}.wgsl", kernel.label));
    if !lock(&WRITTEN).insert(path.clone()) {
        return;
    }
    let overrides: Vec<String> =
        kernel.overrides.iter().map(|(name, value)| format!("// {name} = {value}\n")).collect();
    // A dump is for looking at: that it cannot be written stops nothing.
    let _ = std::fs::create_dir_all(folder);
    let _ = std::fs::write(path, overrides.concat() + &kernel.wgsl());
}

/// Checks that an operation can be planned at all, before the tensors of a call are checked: wrong options may be the
/// only cause of wrong shapes.
pub(crate) fn on_device(operation: &dyn Operation) -> Result<()> {
    operation.validate()?;
    if operation.is_host() {
        return Err(Error::HostOnly { operation: operation.about().name.to_owned() });
    }
    Ok(())
}
