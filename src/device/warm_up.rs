//! Compiles kernels ahead of their first use, on several threads.

#[cfg(not(target_arch = "wasm32"))]
use std::thread;
use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    data::error::Result,
    device::{gpu::Gpu, guard::lock},
    plan::{Plan, kernel::Kernel, row_counts},
};

impl Gpu {
    /// Compiles every kernel that calls with these numbers of rows need, so that no later step waits for a compiler: a
    /// last batch with fewer rows may need other kernels than the batches before it. Returns how many were compiled.
    ///
    /// `plan` makes the plan of a call with so many rows ([`Gpu::plan`], with tensors of the largest batch). The
    /// kernels are compiled on as many threads as the machine has cores, on OpenGL on one. Each is dispatched once
    /// without a workgroup, because some drivers compile at the first dispatch. This submits to the queue and waits.
    ///
    /// ```no_run
    /// # use surprisal::{CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Gpu, Tensor};
    /// # fn warm(gpu: &Gpu, logits: &wgpu::Buffer, targets: &wgpu::Buffer, loss: &wgpu::Buffer)
    /// #     -> surprisal::Result<()> {
    /// let cross_entropy = CrossEntropy::default();
    /// gpu.warm_up(1..=256, |rows| {
    ///     let inputs = CrossEntropyInputs::default()
    ///         .logits(Tensor::matrix(logits, Dtype::F32, rows, 50_257))
    ///         .targets(Tensor::vector(targets, Dtype::U32, rows));
    ///     let outputs = CrossEntropyOutputs::default().loss(Tensor::vector(loss, Dtype::F32, 1));
    ///     gpu.plan(&cross_entropy.request(inputs, outputs))
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn warm_up(
        &self,
        rows: RangeInclusive<u64>,
        mut plan: impl FnMut(u64) -> Result<Plan>,
    ) -> Result<usize> {
        let mut params = HashMap::new();
        for rows in row_counts(rows, &mut plan)? {
            let Plan { kernels, dispatches, .. } = plan(rows)?;
            for dispatch in dispatches {
                if let Some(kernel) = kernels.get(dispatch.kernel) {
                    params.entry(kernel.clone()).or_insert(dispatch.params);
                }
            }
        }
        params.retain(|kernel, _| !self.has_compiled(kernel));
        let waiting: Vec<_> = params.into_iter().collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some((kernel, params)) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.compile_now(kernel, params) {
                    *lock(&failed) = Some(error);
                    return;
                }
            }
        };
        on_threads(self, waiting.len(), &work);
        let failed = lock(&failed).take();
        failed.map_or(Ok(waiting.len()), Err)
    }

    fn compile_now(&self, kernel: &Arc<Kernel>, params: &[u32]) -> Result<()> {
        self.pipeline(kernel)?.dispatch_nothing(self, kernel.storage.len(), params)
    }
}

/// Does the same work on as many threads as can take a part of it. On OpenGL, threads that use one device wait for each
/// other, so there is one.
#[cfg(not(target_arch = "wasm32"))]
fn on_threads(gpu: &Gpu, parts: usize, work: &(impl Fn() + Sync)) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = if gpu.info().backend == wgpu::Backend::Gl { 1 } else { cores.min(parts) };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

/// A browser compiles without threads of ours.
#[cfg(target_arch = "wasm32")]
fn on_threads(_gpu: &Gpu, _parts: usize, work: &impl Fn()) {
    work();
}
