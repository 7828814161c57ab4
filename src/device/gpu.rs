//! The handle on a device, and what is done with a plan on it.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    ops::Range,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use super::limits;
use crate::{
    data::{
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
        call::{Call, Operand},
        check,
    },
};

/// A handle on the caller's device and queue, or on one opened for them.
///
/// It is cheap to clone, `Send` and `Sync`; pipelines and scratch are shared between clones. It never
/// submits, reads back or installs a callback unless it is asked to ([`Gpu::run`], [`Gpu::watch`]).
#[derive(Clone, Debug)]
pub struct Gpu(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub profile: Profile,
    pub ring: Ring,
    /// By kernel, whatever the profile that chose it.
    pipelines: Arc<Mutex<HashMap<Kernel, Arc<Pipeline>>>>,
    scratch: Mutex<Option<Arc<Counted>>>,
    pub tally: Arc<Tally>,
}

/// What a call is given and asked for, on the GPU.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    inputs: Named<'a>,
    outputs: Named<'a>,
    in_place: bool,
    scratch: Option<Scratch<'a>>,
    in_parts: bool,
    accumulates_status: bool,
}

/// A caller's scratch: a range of a buffer.
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

    /// Writes the gradient of the logits over the logits.
    pub fn gradient_in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// Uses the caller's scratch: these bytes of a buffer with usage `STORAGE`, at least
    /// [`Plan::scratch_bytes`] of them, from a multiple of the device's
    /// `min_storage_buffer_offset_alignment` on.
    ///
    /// The call's tensors may lie in the same buffer, apart from these bytes. Calls that are given the same
    /// scratch are recorded one after another: while one of them is half done, no other may use it.
    pub fn scratch(mut self, buffer: &'a wgpu::Buffer, bytes: Range<u64>) -> Self {
        self.scratch = Some(Scratch { buffer, bytes });
        self
    }

    /// Lets the call be recorded in parts ([`Prepared::encode_part`]), with other calls between them: it gets
    /// scratch of its own, where calls otherwise share one. A call that [`Plan::submissions`] cuts on this device
    /// has it anyway.
    pub fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    /// Adds what the call finds to the status words instead of overwriting them: counts add up, the first bad
    /// target of all calls stays. So the calls of several micro-batches share one status, whose words have to be
    /// zero before the first of them.
    ///
    /// Otherwise the words are this call's alone, whatever they held.
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

    /// The same device with another profile: other windows, workgroups, budgets. Kernels that both need are
    /// compiled once.
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

    /// The adapter's name, driver and kind.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.0.info
    }

    /// What the planner goes by on this device.
    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    /// Which choices were made for this device, and why, a line each.
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

    /// The plan of a call on this device: scratch bytes and dispatches, before anything runs.
    pub fn plan(&self, loss: &dyn Operation, request: &Request) -> Result<Plan> {
        loss.plan(&self.call(loss, request)?.0, &self.0.profile)
    }

    /// Checks a call, compiles what it needs, and binds it: to be encoded any number of times.
    ///
    /// Each preparation has parameters of its own, so a change of options (another temperature)
    /// is another cheap preparation and never touches a recording in flight.
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

    /// Records a call on the caller's encoder or open compute pass. Nothing is submitted or read.
    ///
    /// An open pass keeps neither its pipeline nor its bind group 0.
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

    /// Runs a call by itself, with outputs of its own: the one-line form for scripts and tests.
    pub fn run<'a>(
        &self,
        loss: &dyn Operation,
        inputs: impl Into<Named<'a>>,
        wanted: &[&str],
    ) -> Result<Run> {
        Run::start(self, loss, inputs.into(), wanted)
    }

    /// Checks a request; the buffers come back by the names that a plan's bindings have.
    fn call<'a>(&self, loss: &dyn Operation, request: &Request<'a>) -> Result<(Call, Buffers<'a>)> {
        on_device(loss)?;
        let about = loss.about();
        let mut outputs = request.outputs.clone();
        if request.in_place
            && let Some(first) = about.inputs.first()
            && let Some(tensor) = request.inputs.get(first.name)
        {
            outputs.insert(format!("grad.{}", first.name), tensor.clone());
        }
        let mut allocations: Vec<&wgpu::Buffer> = Vec::new();
        let inputs_of = operands(&request.inputs, &mut allocations)?;
        let outputs_of = operands(&outputs, &mut allocations)?;
        let alignment = self.0.profile.offset_alignment;
        let mut call = check::call(loss, inputs_of, outputs_of, request.in_place, alignment)?;
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

    /// A call with these inputs and no outputs yet: the extents that they agree on.
    pub(crate) fn checked_inputs(&self, loss: &dyn Operation, inputs: &Named<'_>) -> Result<Call> {
        let operands = operands(inputs, &mut Vec::new())?;
        let alignment = self.0.profile.offset_alignment;
        check::call(loss, operands, std::collections::BTreeMap::new(), false, alignment)
    }

    /// The compiled form of a kernel, compiled at its first use.
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

    /// A scratch buffer of at least this size. Whole recordings share it: on one queue they run in order.
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

    /// A scratch buffer that is nobody else's.
    pub(crate) fn own_scratch(&self, bytes: u64) -> Result<Arc<Counted>> {
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(Arc::new(memory::buffer(self, "scratch", bytes.max(1), usage)?))
    }

    /// A tensor's buffer filled with bytes from the host.
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

    /// A buffer for a dense tensor of this type and shape, for outputs.
    pub fn output_buffer(&self, dtype: Dtype, shape: &[u64]) -> Result<wgpu::Buffer> {
        memory::uncounted(self, "output", output_bytes(&Layout::dense(dtype, shape)), OUTPUT)
    }

    /// [`Gpu::output_buffer`] for an output of this crate's own.
    pub(crate) fn own_output(&self, layout: &Layout) -> Result<Counted> {
        memory::buffer(self, "output", output_bytes(layout), OUTPUT)
    }
}

/// What a tensor made here can be used for.
const OUTPUT: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn output_bytes(layout: &Layout) -> u64 {
    // Planes reach further than their elements count.
    let bytes = layout.byte_range().map_or(u64::MAX >> 8, |range| range.end);
    bytes.max(1)
}

/// A call's buffers by the names its operands have.
pub(crate) struct Buffers<'a> {
    pub inputs: HashMap<String, &'a wgpu::Buffer>,
    pub outputs: HashMap<String, &'a wgpu::Buffer>,
}

fn operands<'a>(
    tensors: &Named<'a>,
    allocations: &mut Vec<&'a wgpu::Buffer>,
) -> Result<std::collections::BTreeMap<String, Operand>> {
    let mut operands = std::collections::BTreeMap::new();
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

/// Writes an assembled module to the folder that `SURPRISAL_DUMP` names, once for every label that it is used under.
/// Labels that share one compiled kernel have the same number behind them.
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

/// Whether an operation can be planned at all: before anything of a call is looked at. What is wrong with the options
/// may be all that is wrong with the shapes.
pub(crate) fn on_device(operation: &dyn Operation) -> Result<()> {
    operation.validate()?;
    if operation.is_host() {
        return Err(Error::HostOnly { operation: operation.about().name.to_owned() });
    }
    Ok(())
}
