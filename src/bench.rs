//! Timing a call beside a copy of the same bytes: what `surprisal bench` and `cargo bench` share.
//!
//! A [`Workload`] is made from a loss's description alone, so it works for every loss of the
//! registry. A [`Timer`] runs one recording and waits for it. A [`CopyKernel`] is the roof.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    array::Array,
    encode::Prepared,
    error::{Error, Result},
    gpu::{Gpu, Request, guarded},
    kernel::{Form, Kernel, Stream, shader},
    loss::{About, Argument, Dim, Domain, Kind, Loss},
    plan::{Call, Dispatch, Operand, Plan},
    profile::Profile,
    read::{stored_dtype, tensor_blocking},
    row::STATE_WORDS,
    status::Status,
    tensor::{Dtype, Layout, Named, Tensor},
    testing,
};

/// Which part of a training step is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The loss, and the lse that a later backward pass starts from.
    Forward,
    /// The gradients, from a saved lse where the loss takes one.
    Backward,
    /// The loss and the gradients in one recording.
    Fused,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Backward, Self::Fused];

    /// The name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Fused => "fused",
        }
    }

    /// Whether a loss has it: a metric has no gradient.
    pub fn is_of(self, about: &About) -> bool {
        self == Self::Forward || gradients(about).next().is_some()
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("`{name}` is not one of forward, backward, fused"))
    }
}

/// The gradients of what a call of this loss is always given.
fn gradients(about: &About) -> impl Iterator<Item = &'static str> {
    let required = about.inputs.iter().filter(|input| input.required);
    let names: Vec<&str> = required.map(|input| input.name).collect();
    about
        .outputs
        .iter()
        .map(|output| output.name)
        .filter(move |name| name.strip_prefix("grad.").is_some_and(|input| names.contains(&input)))
}

/// What is timed, beside the loss and its options.
#[derive(Clone, Debug)]
pub struct Task {
    /// Rows, classes and whatever other extents the loss has.
    pub extents: BTreeMap<Dim, u64>,
    /// The type of float inputs and gradients.
    pub dtype: Dtype,
    /// The part of a step.
    pub mode: Mode,
    /// Optional inputs to give on top of what the call cannot do without.
    pub with: Vec<String>,
    /// Outputs to ask for on top of the mode's.
    pub want: Vec<String>,
}

impl Task {
    /// A task with what the mode needs and nothing more.
    pub fn new(extents: impl IntoIterator<Item = (Dim, u64)>, dtype: Dtype, mode: Mode) -> Self {
        let extents = extents.into_iter().collect();
        Self { extents, dtype, mode, with: Vec::new(), want: Vec::new() }
    }

    /// The plan of the call, before anything is made on the device.
    pub fn plan(&self, loss: &dyn Loss, profile: &Profile) -> Result<Plan> {
        Ok(self.known(loss).layouts(loss, profile)?.1)
    }

    fn extent(&self, dim: Dim) -> Option<u64> {
        match dim {
            Dim::One => Some(1),
            Dim::State => Some(STATE_WORDS),
            Dim::StatusWords => Some(Status::WORDS),
            _ => self.extents.get(&dim).copied(),
        }
    }

    fn shape(&self, dims: &[Dim]) -> Option<Vec<u64>> {
        dims.iter().map(|&dim| self.extent(dim)).collect()
    }

    /// The shapes that an argument can have here.
    fn shapes(&self, argument: &Argument) -> Vec<Vec<u64>> {
        argument.shapes.iter().filter_map(|dims| self.shape(dims)).collect()
    }

    /// The same with the extents that a loss knows by itself.
    fn known(&self, loss: &dyn Loss) -> Self {
        let mut task = self.clone();
        task.extents.extend(loss.extents());
        task
    }

    /// The layouts of a call that the loss accepts: what it says is missing is given, and a shape
    /// that it refuses is replaced by the argument's next one.
    fn layouts(&self, loss: &dyn Loss, profile: &Profile) -> Result<([Layouts; 2], Plan)> {
        let about = loss.about();
        let mut given: Vec<&str> = about
            .inputs
            .iter()
            .filter(|input| {
                let saved = self.mode == Mode::Backward && input.name == "lse";
                input.required || saved || self.with.iter().any(|name| name == input.name)
            })
            .map(|input| input.name)
            .collect();
        if let Some(name) = self.with.iter().find(|name| !given.contains(&name.as_str())) {
            return Err(unknown(about, "input", name, about.inputs));
        }
        let wanted = self.wanted(about)?;
        let mut choices: BTreeMap<&str, usize> = BTreeMap::new();
        loop {
            let inputs = self.inputs(loss, &given, &choices)?;
            let outputs = self.outputs(loss, &wanted, &inputs)?;
            let error = match planned(loss, profile, &inputs, &outputs) {
                Ok(plan) => return Ok(([inputs, outputs], plan)),
                Err(error) => error,
            };
            let find = |name: &str| about.inputs.iter().find(|input| input.name == name);
            match &error {
                Error::MissingInput { argument, .. } => match find(argument) {
                    Some(input) if !given.contains(&input.name) => given.push(input.name),
                    _ => return Err(error),
                },
                Error::WrongShape { argument, .. } => {
                    let name = argument.strip_prefix("grad.").unwrap_or(argument);
                    let Some(input) = find(name) else { return Err(error) };
                    let choice = choices.entry(input.name).or_default();
                    *choice += 1;
                    if *choice >= self.shapes(input).len() {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// The outputs of the mode, and those asked for.
    fn wanted(&self, about: &'static About) -> Result<Vec<&'static str>> {
        let has = |name: &&str| about.outputs.iter().any(|output| output.name == *name);
        let forward = ["loss", "lse"].into_iter().filter(has);
        let mut wanted: Vec<&'static str> = match self.mode {
            Mode::Forward if !has(&"loss") => {
                about.outputs.iter().map(|output| output.name).take(1).collect()
            }
            Mode::Forward => forward.collect(),
            Mode::Backward => gradients(about).collect(),
            Mode::Fused => forward.take(1).chain(gradients(about)).collect(),
        };
        if wanted.is_empty() || !self.mode.is_of(about) {
            return Err(unknown(about, "output", "grad.…", about.outputs));
        }
        for name in &self.want {
            let Some(output) = about.outputs.iter().find(|output| output.name == name) else {
                return Err(unknown(about, "output", name, about.outputs));
            };
            if !wanted.contains(&output.name) {
                wanted.push(output.name);
            }
        }
        Ok(wanted)
    }

    fn inputs(
        &self,
        loss: &dyn Loss,
        given: &[&str],
        choices: &BTreeMap<&str, usize>,
    ) -> Result<Layouts> {
        let arguments = loss.about().inputs.iter().filter(|input| given.contains(&input.name));
        let layout = |input: &Argument| {
            let choice = choices.get(input.name).copied().unwrap_or(0);
            let shape = self.shapes(input).into_iter().nth(choice);
            let shape = shape.ok_or_else(|| self.missing_extent(loss, input))?;
            let dtype = stored_dtype(loss, input.name, self.dtype);
            Ok((input.name.to_owned(), Layout::dense(dtype, &shape)))
        };
        arguments.map(layout).collect()
    }

    fn outputs(&self, loss: &dyn Loss, wanted: &[&str], inputs: &Layouts) -> Result<Layouts> {
        let arguments = loss.about().outputs.iter().filter(|o| wanted.contains(&o.name));
        let layout = |output: &Argument| {
            let like = output.name.strip_prefix("grad.").and_then(|input| inputs.get(input));
            if let Some(layout) = like {
                return Ok((output.name.to_owned(), layout.clone()));
            }
            let first = loss.about().inputs.first().and_then(|first| inputs.get(first.name));
            let rank = first.map_or(1, |layout| layout.shape.len());
            let shape = self.shape(output.shape_in(loss, rank));
            let shape = shape.ok_or_else(|| self.missing_extent(loss, output))?;
            let dtype = match output.kind {
                Kind::Float | Kind::F32 | Kind::Mask => Dtype::F32,
                Kind::U32 => Dtype::U32,
                Kind::Index | Kind::Label | Kind::I64 => Dtype::I64,
            };
            Ok((output.name.to_owned(), Layout::dense(dtype, &shape)))
        };
        arguments.map(layout).collect()
    }

    fn missing_extent(&self, loss: &dyn Loss, argument: &Argument) -> Error {
        let mut dims = argument.shapes.iter().copied().flatten();
        let dim = dims.find(|dim| self.extent(**dim).is_none());
        Error::MissingInput {
            loss: loss.about().name.to_owned(),
            argument: dim.map_or("extent", |dim| dim.name()).to_owned(),
            reason: format!("it is an extent of tensor `{}`", argument.name),
        }
    }

    /// The numbers of an input: what a training step would give, seeded.
    fn fill(
        &self,
        gpu: &Gpu,
        (argument, domain): (&str, Domain),
        layout: &Layout,
        buffer: &wgpu::Buffer,
    ) {
        let classes = self.extent(Dim::Classes).or(self.extent(Dim::Rows)).unwrap_or(1);
        let rows = self.extent(Dim::Rows).unwrap_or(1);
        let count = layout.len().min(BLOCK) as usize;
        // Another seed for every input.
        let seed = argument.bytes().fold(1, |seed, byte| seed * 31 % 65_537 + u64::from(byte));
        let block = if layout.dtype.is_float() {
            let numbers = match argument {
                _ if domain != Domain::Any => testing::numbers(domain, seed, count),
                "upstream" => vec![1.0; count],
                "denominator" => vec![rows as f64; count],
                name if name.contains("prob") => vec![1.0 / classes as f64; count],
                name if name.contains("weight") && layout.shape.len() == 1 => {
                    testing::gaussian(seed, count).into_iter().map(|v| v.abs() + 0.5).collect()
                }
                // A score is then about as large as a logit: √depth numbers add up to one.
                "weight" => {
                    let scale = (self.extent(Dim::Hidden).unwrap_or(1).max(1) as f64).sqrt();
                    testing::gaussian(seed, count).into_iter().map(|v| v / scale).collect()
                }
                _ => testing::gaussian(seed, count),
            };
            Array::float(&[], numbers).to_bytes(layout.dtype)
        } else {
            Array::int(&[], testing::targets(seed, count, classes)).to_bytes(layout.dtype)
        };
        fill(gpu, buffer, &block, layout.len() * layout.dtype.bytes());
    }
}

/// Layouts by name.
type Layouts = BTreeMap<String, Layout>;

fn unknown(about: &About, kind: &'static str, name: &str, known: &[Argument]) -> Error {
    Error::UnknownName {
        loss: about.name.to_owned(),
        kind,
        name: name.to_owned(),
        known: known.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", "),
    }
}

/// The plan of a call with these layouts, every tensor in a buffer of its own.
fn planned(
    loss: &dyn Loss,
    profile: &Profile,
    inputs: &Layouts,
    outputs: &Layouts,
) -> Result<Plan> {
    let operands = |layouts: &Layouts, first: usize| -> BTreeMap<String, Operand> {
        let operand = |(index, (name, layout)): (usize, (&String, &Layout))| {
            let allocation_bytes = (layout.len() * layout.dtype.bytes()).next_multiple_of(16);
            let (name, layout) = (name.clone(), layout.clone());
            let operand =
                Operand { name: name.clone(), layout, allocation: first + index, allocation_bytes };
            (name, operand)
        };
        layouts.iter().enumerate().map(operand).collect()
    };
    let (inputs, outputs) = (operands(inputs, 0), operands(outputs, inputs.len()));
    let call = Call::checked(loss, inputs, outputs, false, profile)?;
    loss.plan(&call, profile)
}

/// Numbers that are drawn for an input; a longer one repeats them. Even, so that two 16-bit ones
/// make a word, and no multiple of a power of two, so that rows differ.
const BLOCK: u64 = 1_000_002;

/// Fills `bytes` bytes of a buffer with a block over and over.
fn fill(gpu: &Gpu, buffer: &wgpu::Buffer, block: &[u8], bytes: u64) {
    let padded: Vec<u8>;
    let block = if block.len().is_multiple_of(4) {
        block
    } else {
        padded = [block, &[0, 0]].concat();
        &padded
    };
    let mut start = 0;
    while start < bytes && !block.is_empty() {
        let take = (bytes - start).next_multiple_of(4).min(block.len() as u64);
        gpu.queue().write_buffer(buffer, start, &block[..take as usize]);
        start += take;
        // Else everything is staged twice before the first byte moves.
        gpu.queue().submit([]);
    }
}

/// The tensors of a call, and the call itself, ready to be recorded.
#[derive(Debug)]
pub struct Workload {
    gpu: Gpu,
    inputs: Vec<(String, wgpu::Buffer, Layout)>,
    outputs: Vec<(String, wgpu::Buffer, Layout)>,
    prepared: Prepared,
}

impl Workload {
    /// Makes the tensors of a task, fills the inputs, and prepares the call.
    pub fn new(gpu: &Gpu, loss: &dyn Loss, task: &Task) -> Result<Self> {
        loss.validate()?;
        let ([inputs, outputs], _) = task.known(loss).layouts(loss, gpu.profile())?;
        let buffer = |(name, layout): (String, Layout)| {
            let buffer = gpu.output_buffer(layout.dtype, &layout.shape)?;
            Ok((name, buffer, layout))
        };
        let inputs = inputs.into_iter().map(buffer).collect::<Result<Vec<_>>>()?;
        let outputs = outputs.into_iter().map(buffer).collect::<Result<Vec<_>>>()?;
        for (name, buffer, layout) in &inputs {
            let input = loss.about().inputs.iter().find(|input| input.name == name);
            let domain = input.map_or(Domain::Any, |input| input.domain);
            task.fill(gpu, (name, domain), layout, buffer);
        }
        save_lse(gpu, loss, &inputs)?;
        let request = Request::new(named(&inputs), named(&outputs));
        let prepared = gpu.prepare(loss, &request)?;
        Ok(Self { gpu: gpu.clone(), inputs, outputs, prepared })
    }

    /// The call.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// Another loss value (other options) on the same tensors.
    pub fn variant(&self, loss: &dyn Loss) -> Result<Prepared> {
        self.gpu.prepare(loss, &Request::new(named(&self.inputs), named(&self.outputs)))
    }

    /// Names, types and shapes of the inputs.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.inputs.iter().map(|(name, _, layout)| (name.as_str(), layout))
    }

    /// Names, types and shapes of the outputs.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.outputs.iter().map(|(name, _, layout)| (name.as_str(), layout))
    }

    /// Bytes of all inputs and all outputs, each counted once.
    pub fn distinct_bytes(&self) -> u64 {
        let layouts = self.inputs().chain(self.outputs());
        layouts.map(|(_, layout)| layout.len() * layout.dtype.bytes()).sum()
    }

    /// Bytes of inputs, outputs, scratch and parameters together.
    pub fn peak_bytes(&self, plan: &Plan) -> u64 {
        let buffers = self.inputs.iter().chain(&self.outputs);
        let tensors: u64 = buffers.map(|(_, buffer, _)| buffer.size()).sum();
        tensors + plan.scratch_bytes + plan.params_bytes()
    }

    /// Floating-point operations of the products of a linear loss: two for each of the
    /// rows·classes·hidden multiply-adds of the scores (also where a backward pass makes them again)
    /// and of each matrix gradient. 0 for losses without products.
    pub fn flops(&self, task: &Task) -> f64 {
        let scores = self.prepared.plan().unstored_bytes as f64 / 4.0;
        let depth = task.extent(Dim::Hidden).unwrap_or(0) as f64;
        let matrix =
            |(name, layout): &(&str, &Layout)| name.starts_with("grad.") && layout.shape.len() == 2;
        2.0 * scores * depth * (1 + self.outputs().filter(matrix).count()) as f64
    }
}

/// Makes a saved lse, where the inputs have one, what a forward pass would have left there.
fn save_lse(gpu: &Gpu, loss: &dyn Loss, inputs: &[(String, wgpu::Buffer, Layout)]) -> Result<()> {
    let has = loss.about().outputs.iter().any(|output| output.name == "lse");
    let mut given = named(inputs);
    let Some(lse) = given.remove("lse").filter(|_| has) else { return Ok(()) };
    let outputs = Named::from([("lse".to_owned(), lse)]);
    let mut encoder =
        gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    gpu.encode(&mut encoder, loss, given, outputs)?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

fn named(tensors: &[(String, wgpu::Buffer, Layout)]) -> Named<'_> {
    tensors
        .iter()
        .map(|(name, buffer, layout)| (name.clone(), Tensor::new(buffer, layout.clone())))
        .collect()
}

/// Bytes that a plan streams: every range that a dispatch binds once, one that it writes in place
/// twice, and what the fused row kernel reads a second time for the gradient once more; a kernel
/// that closes rows from saved states picks single elements of the scores, which count nothing.
///
/// So a cross-entropy counts its logits once forward, twice backward (read, written) and three times
/// fused. A product's operands count once a dispatch, however often its tiles read them.
pub fn streamed_bytes(plan: &Plan) -> u64 {
    let dispatch = |dispatch: &Dispatch| -> u64 {
        let Some(kernel) = plan.kernels.get(dispatch.kernel) else { return 0 };
        let bound = kernel.bound().zip(&dispatch.bindings);
        bound.map(|(stream, binding)| binding.size * uses(kernel, stream)).sum()
    };
    plan.dispatches.iter().map(dispatch).sum()
}

/// How often a kernel goes over a stream.
fn uses(kernel: &Kernel, stream: &Stream) -> u64 {
    let read = matches!(stream.form, Form::Quads(_) | Form::Elements(_)) && !stream.stored;
    let writes_gradient = kernel.overrides.contains(&("WRITES_GRADIENT", 1));
    let written_over = kernel.streams.iter().any(|other| other.in_place_of == Some(stream.name));
    match kernel.entry {
        "merge" | "saved" if read => 0,
        "fused" if read && writes_gradient => 2 + u64::from(written_over),
        _ => 1 + u64::from(written_over),
    }
}

/// How long one recording took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Sample {
    /// From before it was recorded until the device had done it, in milliseconds.
    pub wall_ms: f64,
    /// Between the timestamps at the ends of its compute pass, where the device has them.
    pub gpu_ms: Option<f64>,
}

impl Sample {
    /// By timestamps where there are some, else by the clock on the wall.
    pub fn best(&self) -> f64 {
        self.gpu_ms.unwrap_or(self.wall_ms)
    }
}

/// Runs recordings, one at a time.
#[derive(Debug)]
pub struct Timer {
    gpu: Gpu,
    timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl Timer {
    /// A timer on this device, by timestamps too where it has the feature `TIMESTAMP_QUERY`.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let device = gpu.device();
        let timestamps = if device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let buffer = gpu.buffer("timestamps", 16, usage)?;
            let descriptor = wgpu::QuerySetDescriptor {
                label: Some("surprisal.timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            };
            let set = guarded(device, "timestamps", 16, || device.create_query_set(&descriptor))?;
            Some((set, buffer))
        } else {
            None
        };
        Ok(Self { gpu: gpu.clone(), timestamps })
    }

    /// Whether it has timestamps.
    pub fn has_timestamps(&self) -> bool {
        self.timestamps.is_some()
    }

    /// Records commands in a compute pass, submits them alone and waits for them.
    ///
    /// The wall clock runs from before the recording until the wait is over; timestamps are read
    /// back after that.
    pub fn time(&self, commands: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Sample> {
        let (device, queue) = (self.gpu.device(), self.gpu.queue());
        let start = Instant::now();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let writes =
                self.timestamps.as_ref().map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
                    query_set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                });
            let descriptor = wgpu::ComputePassDescriptor {
                label: Some("surprisal.bench"),
                timestamp_writes: writes,
            };
            commands(&mut encoder.begin_compute_pass(&descriptor));
        }
        queue.submit([encoder.finish()]);
        wait(&self.gpu)?;
        let wall_ms = start.elapsed().as_secs_f64() * 1e3;
        let gpu_ms = self.between()?;
        Ok(Sample { wall_ms, gpu_ms })
    }

    /// [`Timer::time`] for a prepared call.
    pub fn time_call(&self, call: &Prepared) -> Result<Sample> {
        self.time(|pass| call.encode(pass))
    }

    /// Milliseconds between the two timestamps.
    fn between(&self) -> Result<Option<f64>> {
        let Some((set, buffer)) = &self.timestamps else { return Ok(None) };
        let (device, queue) = (self.gpu.device(), self.gpu.queue());
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(set, 0..2, buffer, 0);
        queue.submit([encoder.finish()]);
        let tensor = Tensor::vector(buffer, Dtype::I64, 2);
        let ticks = tensor_blocking(&self.gpu, "timestamps", &tensor)?.to_i64();
        let [first, last] = ticks[..] else { return Ok(None) };
        let nanoseconds = last.wrapping_sub(first) as f64 * f64::from(queue.get_timestamp_period());
        Ok(Some(nanoseconds / 1e6))
    }
}

/// Waits until the device has done everything submitted so far.
pub fn wait(gpu: &Gpu) -> Result<()> {
    let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
    waited.map(drop).map_err(|error| Error::DeviceLost(error.to_string()))
}

/// A copy from one buffer to another: the fastest over several workgroup sizes.
#[derive(Debug)]
pub struct CopyKernel {
    bytes: u64,
    source: wgpu::Buffer,
    destination: wgpu::Buffer,
    shapes: Vec<CopyShape>,
    fastest: usize,
}

#[derive(Debug)]
struct CopyShape {
    workgroup: u32,
    quads: u32,
    pipeline: wgpu::ComputePipeline,
    windows: Vec<(wgpu::BindGroup, [u32; 3])>,
    best_ms: f64,
}

/// Workgroup sizes that the copy is tried with.
const COPY_WORKGROUPS: [u32; 6] = [8, 16, 32, 64, 128, 256];
/// Quads a lane that each of them is tried with.
const COPY_QUADS: [u32; 2] = [1, 8];

impl CopyKernel {
    /// A copy of `bytes` bytes (so twice as many are moved), in windows that fit a binding. Every
    /// shape is run a few times, and the one with the fastest run is kept.
    pub fn new(gpu: &Gpu, timer: &Timer, bytes: u64) -> Result<Self> {
        let profile = gpu.profile();
        let step = profile.offset_alignment.max(256);
        let bytes = bytes.next_multiple_of(16).max(16);
        // More than a buffer holds is copied in rounds over the same buffer.
        let held = bytes.min(profile.buffer_bytes - profile.buffer_bytes % step);
        let source = gpu.output_buffer(Dtype::U32, &[held / 4])?;
        let destination = gpu.output_buffer(Dtype::U32, &[held / 4])?;
        let block = Array::float(&[], testing::gaussian(1, BLOCK.min(held / 4) as usize));
        fill(gpu, &source, &block.to_bytes(Dtype::F32), held);
        let window = profile.binding_bytes.min(held);
        let window = if window < held { window - window % step } else { window };
        let mut ranges = Vec::new();
        let mut left = bytes;
        while left > 0 {
            for start in (0..held).step_by(window.max(1) as usize) {
                let size = window.min(held - start).min(left);
                if size > 0 {
                    ranges.push((start, size));
                }
                left -= size;
            }
        }
        let mut shapes = Vec::new();
        for workgroup in COPY_WORKGROUPS.into_iter().filter(|w| *w <= profile.workgroup_size) {
            for quads in COPY_QUADS {
                let shape = (workgroup, quads);
                shapes.push(CopyShape::new(gpu, shape, &source, &destination, &ranges)?);
            }
        }
        let mut copy = Self { bytes, source, destination, shapes, fastest: 0 };
        copy.tune(timer)?;
        Ok(copy)
    }

    /// Times every shape and keeps the fastest: in rounds, so that a slow moment is nobody's own.
    fn tune(&mut self, timer: &Timer) -> Result<()> {
        for round in 0..4 {
            for shape in &mut self.shapes {
                let sample = timer.time(|pass| shape.record(pass))?;
                if round > 0 {
                    shape.best_ms = shape.best_ms.min(sample.best());
                }
            }
        }
        let times = self.shapes.iter().map(|shape| shape.best_ms).enumerate();
        self.fastest = times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        Ok(())
    }

    /// Records the fastest copy.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(shape) = self.shapes.get(self.fastest) {
            shape.record(pass);
        }
    }

    /// The buffers: what is read, and what is written.
    pub fn buffers(&self) -> [&wgpu::Buffer; 2] {
        [&self.source, &self.destination]
    }

    /// Bytes that are read; as many are written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lanes a workgroup, quads a lane and best milliseconds of every shape that was tried.
    pub fn tried(&self) -> impl Iterator<Item = (u32, u32, f64)> {
        self.shapes.iter().map(|shape| (shape.workgroup, shape.quads, shape.best_ms))
    }

    /// Lanes a workgroup and quads a lane of the fastest shape.
    pub fn fastest(&self) -> (u32, u32) {
        let shape = self.shapes.get(self.fastest);
        shape.map_or((0, 0), |shape| (shape.workgroup, shape.quads))
    }
}

impl CopyShape {
    fn new(
        gpu: &Gpu,
        (workgroup, quads): (u32, u32),
        source: &wgpu::Buffer,
        destination: &wgpu::Buffer,
        ranges: &[(u64, u64)],
    ) -> Result<Self> {
        let device = gpu.device();
        let label = Some("surprisal.bench.copy");
        guarded(device, "the copy kernel", 0, || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl(shader!("bench/copy.wgsl").text.into()),
            });
            let constants = [("WORKGROUP", f64::from(workgroup)), ("QUADS", f64::from(quads))];
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("copy"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            let layout = pipeline.get_bind_group_layout(0);
            let window = |&(offset, size): &(u64, u64)| {
                let entry = |binding, buffer| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset,
                        size: std::num::NonZeroU64::new(size),
                    }),
                };
                let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label,
                    layout: &layout,
                    entries: &[entry(0, source), entry(1, destination)],
                });
                let groups = (size / 16).div_ceil(u64::from(workgroup * quads));
                (bindings, gpu.profile().grid(groups).unwrap_or([1, 1, 1]))
            };
            let windows = ranges.iter().map(window).collect();
            Self { workgroup, quads, pipeline, windows, best_ms: f64::INFINITY }
        })
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        for (bindings, [x, y, z]) in &self.windows {
            pass.set_bind_group(0, bindings, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

/// Median and spread of some times.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// One run in ten was faster.
    pub p10: f64,
    /// One run in ten was slower.
    pub p90: f64,
}

impl Spread {
    /// Of these numbers; NaN of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * values.len().saturating_sub(1) as f64;
            let value = |index: f64| values.get(index as usize).copied().unwrap_or(f64::NAN);
            let (low, high) = (value(place.floor()), value(place.ceil()));
            low + (high - low) * place.fract()
        };
        Self { median: at(0.5), p10: at(0.1), p90: at(0.9) }
    }
}

/// Times several recordings in turn: a round runs each of them once, in an order that moves on by
/// one from round to round. It ends after `runs` rounds, or after `budget` and at least three.
pub fn interleave<K: Copy>(
    keys: &[K],
    runs: usize,
    budget: Duration,
    mut time: impl FnMut(K) -> Result<Sample>,
) -> Result<Vec<Vec<Sample>>> {
    let start = Instant::now();
    let mut samples = vec![Vec::new(); keys.len()];
    for round in 0..runs.max(1) {
        if round >= 3 && start.elapsed() > budget {
            break;
        }
        for turn in 0..keys.len() {
            let index = (round + turn) % keys.len();
            samples[index].push(time(keys[index])?);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::loss;

    const ROWS: u64 = 64;
    const CLASSES: u64 = 4096;
    const HIDDEN: u64 = 32;

    fn task(mode: Mode) -> Task {
        let extents = [(Dim::Rows, ROWS), (Dim::Classes, CLASSES), (Dim::Hidden, HIDDEN)];
        Task::new(extents, Dtype::F32, mode)
    }

    fn plan(name: &str, options: &serde_json::Value, task: &Task) -> Result<Plan> {
        let entry = loss::find(name).ok_or_else(|| Error::Incomplete(name.to_owned()))?;
        task.plan((entry.parse)(options)?.as_ref(), &Profile::default())
    }

    #[test]
    fn every_loss_has_a_task_from_its_description_alone() -> Result<()> {
        for entry in loss::REGISTRY {
            for mode in Mode::ALL.into_iter().filter(|mode| mode.is_of(entry.about)) {
                let plan = plan(entry.about.name, &json!({}), &task(mode))?;
                assert!(!plan.dispatches.is_empty(), "{} {mode}", entry.about.name);
            }
        }
        Ok(())
    }

    #[test]
    fn a_refused_shape_gives_way_to_the_next_one() -> Result<()> {
        let options = json!({"weight_layout": "hidden_classes"});
        plan("linear_cross_entropy", &options, &task(Mode::Fused)).map(drop)
    }

    #[test]
    fn inputs_and_outputs_can_be_added_and_unknown_ones_are_refused() -> Result<()> {
        let with = |with: &str, want: &str| {
            let mut task = task(Mode::Fused);
            task.with = vec![with.to_owned()];
            task.want = vec![want.to_owned()];
            plan("cross_entropy", &json!({}), &task)
        };
        with("row_weight", "entropy")?;
        assert!(matches!(with("row_wait", "entropy"), Err(Error::UnknownName { .. })));
        assert!(matches!(with("row_weight", "entrophy"), Err(Error::UnknownName { .. })));
        Ok(())
    }

    #[test]
    fn an_extent_that_is_missing_is_named() {
        let task = Task::new([(Dim::Rows, ROWS), (Dim::Classes, CLASSES)], Dtype::F32, Mode::Fused);
        let error = plan("linear_cross_entropy", &json!({}), &task).err();
        assert!(
            matches!(&error, Some(Error::MissingInput { argument, .. }) if argument == "hidden"),
            "{error:?}"
        );
    }

    #[test]
    fn logits_are_streamed_once_forward_twice_backward_and_three_times_fused() -> Result<()> {
        let logits = ROWS * CLASSES * 4;
        for (mode, times) in [(Mode::Forward, 1), (Mode::Backward, 2), (Mode::Fused, 3)] {
            let bytes = super::streamed_bytes(&plan("cross_entropy", &json!({}), &task(mode))?);
            let rest = bytes - times * logits;
            assert!(rest < logits / 20, "{mode}: {rest} bytes beside the logits");
        }
        Ok(())
    }

    #[test]
    fn every_copy_copies_everything_through_windows() -> Result<()> {
        let gpu = match Gpu::open_blocking(None) {
            Ok(gpu) => gpu,
            Err(error) if std::env::var("SURPRISAL_GPU").as_deref() == Ok("require") => {
                return Err(error);
            }
            Err(error) => {
                eprintln!("skipped: {error}");
                return Ok(());
            }
        };
        eprintln!("on {}", crate::adapter::describe(gpu.info()));
        // Three windows and a bit, and a grid with more than one row.
        let profile = Profile { binding_bytes: 5000, workgroups: 7, ..gpu.profile().clone() };
        let gpu = gpu.with_profile(profile);
        let timer = Timer::new(&gpu)?;
        let words = 3700;
        let copy = CopyKernel::new(&gpu, &timer, 4 * words)?;
        let read = |buffer| {
            tensor_blocking(&gpu, "copy", &Tensor::vector(buffer, Dtype::U32, words))
                .map(|array| array.to_i64())
        };
        let source = read(&copy.source)?;
        assert!(source.iter().filter(|word| **word != 0).count() as u64 > words - 10);
        for shape in &copy.shapes {
            gpu.queue().write_buffer(&copy.destination, 0, &vec![0; 4 * words as usize]);
            timer.time(|pass| shape.record(pass))?;
            let lanes = (shape.workgroup, shape.quads);
            assert!(read(&copy.destination)? == source, "{lanes:?} lanes and quads");
        }
        Ok(())
    }

    #[test]
    fn a_spread_lies_between_its_numbers() {
        let spread = Spread::of((0..=10).rev().map(f64::from));
        assert_eq!((spread.p10, spread.median, spread.p90), (1.0, 5.0, 9.0));
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn rounds_interleave_and_end_early_after_three() -> Result<()> {
        let mut order = Vec::new();
        let samples = super::interleave(&['a', 'b'], 5, Duration::ZERO, |key| {
            order.push(key);
            Ok(Sample { wall_ms: 1.0, gpu_ms: None })
        })?;
        assert_eq!(order.iter().collect::<String>(), "abbaab");
        assert!(samples.iter().all(|samples| samples.len() == 3));
        Ok(())
    }
}
