//! A ledger of the kernels that a process compiles. Compiling is most of the work of the GPU tests, so they count
//! compilations and compare them with a budget.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Mutex,
    time::Instant,
};

use super::{Module, Pipeline};
use crate::{
    data::error::Result,
    device::{gpu::Gpu, guard::lock},
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
        return Pipeline::compile(gpu.device(), gpu.0.cache.as_ref(), module);
    }
    let code = code(kernel);
    let bindings = module.bindings.len();
    let begun = Instant::now();
    let pipeline = Pipeline::compile(gpu.device(), gpu.0.cache.as_ref(), module)?;
    pipeline.dispatch_nothing(gpu, bindings, &[])?;
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
