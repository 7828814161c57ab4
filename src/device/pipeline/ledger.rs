//! A ledger of the kernels that a process compiles. Compiling is most of the work of the GPU tests, so they count
//! compilations and compare them with a budget.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Mutex,
    time::Instant,
};

use super::{Bound, Module, Pipeline};
use crate::{
    data::error::Result,
    device::{
        gpu::Gpu,
        guard::{guarded, lock},
    },
    plan::kernel::Kernel,
};

/// A kernel that was compiled.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// The label under which it was first used on its device.
    pub label: String,
    /// A hash of the kernel's code: WGSL, entry point and values of overrides.
    pub code: u64,
    /// The seconds that the driver took, including what it does at the first dispatch.
    pub seconds: f64,
}

static LEDGER: Mutex<Option<Vec<Compilation>>> = Mutex::new(None);

/// Starts to record what is compiled, on any device.
pub fn open() {
    lock(&LEDGER).get_or_insert_default();
}

/// What was compiled since [`open`].
pub fn entries() -> Vec<Compilation> {
    lock(&LEDGER).clone().unwrap_or_default()
}

/// Compiles a kernel, and records that if the ledger is open.
pub(crate) fn compiled(gpu: &Gpu, kernel: &Kernel, module: Module<'_>) -> Result<Pipeline> {
    let counts = lock(&LEDGER).is_some();
    if !counts {
        return Pipeline::compile(gpu.device(), module);
    }
    let code = code(kernel);
    let bindings = module.bindings.len();
    let begun = Instant::now();
    let pipeline = Pipeline::compile(gpu.device(), module)?;
    dispatch_nothing(gpu, &pipeline, bindings)?;
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(entries) = lock(&LEDGER).as_mut() {
        entries.push(Compilation { label: kernel.label.clone(), code, seconds });
    }
    Ok(pipeline)
}

fn code(kernel: &Kernel) -> u64 {
    let code = (&kernel.wgsl, &kernel.entry, &kernel.overrides);
    BuildHasherDefault::<DefaultHasher>::default().hash_one(code)
}

/// Dispatches no workgroup and waits for it, because Mesa's drivers compile at the first dispatch and not before.
fn dispatch_nothing(gpu: &Gpu, pipeline: &Pipeline, bindings: usize) -> Result<()> {
    let device = gpu.device();
    guarded(device, "a first dispatch", 0, || {
        // Each binding gets its own buffer: one buffer cannot be bound for reading and for writing at once.
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: BYTES,
                usage,
                mapped_at_creation: false,
            })
        };
        let parameters = buffer(wgpu::BufferUsages::UNIFORM);
        let tensors: Vec<wgpu::Buffer> =
            (0..bindings).map(|_| buffer(wgpu::BufferUsages::STORAGE)).collect();
        let whole = |buffer| -> Bound<'_> { (buffer, 0, BYTES) };
        let ranges: Vec<Bound<'_>> =
            std::iter::once(&parameters).chain(&tensors).map(whole).collect();
        let group = pipeline.bind(device, "a first dispatch", &ranges)?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pipeline.dispatch(&mut pass, &group, [0; 3]);
        drop(pass);
        let submission = gpu.queue().submit([encoder.finish()]);
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        // The next use of a lost device reports the loss.
        let _ = device.poll(wait);
        Ok(())
    })?
}

/// More bytes than the parameters of any kernel and the element of any table need.
const BYTES: u64 = 256;
