//! A task's tensors and call, and the bytes that it moves.

use super::{task::Task, timer::wait};
use surprisal::{
    Gpu, Layout, Named, Operation, Plan, Prepared, Request, Result, Tensor,
    loss::{Dim, Domain},
    low_level::uncounted,
    plan::{
        Dispatch,
        kernel::{Kernel, Storage},
    },
    wgpu,
};

/// The tensors of a call, and the call itself, ready to be recorded.
#[derive(Debug)]
pub struct Workload {
    gpu: Gpu,
    inputs: Vec<(String, wgpu::Buffer, Layout)>,
    outputs: Vec<(String, wgpu::Buffer, Layout)>,
    prepared: Prepared,
    peak_bytes: u64,
}

impl Workload {
    /// Makes the tensors of a task, fills the inputs, and prepares the call.
    pub fn new(gpu: &Gpu, loss: &dyn Operation, task: &Task) -> Result<Self> {
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
        // Wait, so that the staging memory of the numbers is freed before the call needs memory.
        wait(gpu)?;
        let request = Request::new(loss, named(&inputs), named(&outputs));
        let prepared = gpu.prepare(&request)?;
        let tensors = inputs.iter().chain(&outputs).map(|(_, buffer, _)| buffer.size());
        let peak_bytes = tensors.sum::<u64>() + gpu.memory().peak;
        Ok(Self { gpu: gpu.clone(), inputs, outputs, prepared, peak_bytes })
    }

    /// The call.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The same tensors with another loss value (other options).
    pub fn variant(&self, loss: &dyn Operation) -> Result<Prepared> {
        self.gpu.prepare(&self.request(loss))
    }

    /// A request of these tensors.
    pub fn request<'a>(&'a self, loss: &'a dyn Operation) -> Request<'a> {
        Request::new(loss, named(&self.inputs), named(&self.outputs))
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

    /// Bytes of inputs and outputs, and of the most memory that the device's handle held beside them until the call was
    /// ready.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// Floating-point operations of the products of a linear loss. The scores (also where a backward pass makes them
    /// again) and each matrix gradient count two operations for each of the rows·classes·hidden multiply-adds. 0 for
    /// losses without products.
    pub fn flops(&self, task: &Task) -> f64 {
        let scores = self.prepared.plan().unstored_bytes as f64 / 4.0;
        let depth = task.extent(Dim::Hidden).unwrap_or(0) as f64;
        let matrix =
            |(name, layout): &(&str, &Layout)| name.starts_with("grad.") && layout.shape.len() == 2;
        2.0 * scores * depth * (1 + self.outputs().filter(matrix).count()) as f64
    }
}

/// Fills the input for a saved lse, if there is one, with the lse of a forward pass. Waits for that pass, so that its
/// scratch and parameters are freed.
fn save_lse(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &[(String, wgpu::Buffer, Layout)],
) -> Result<()> {
    let has = loss.about().outputs.iter().any(|output| output.name == "lse");
    let mut given = named(inputs);
    let Some(lse) = given.remove("lse").filter(|_| has) else { return Ok(()) };
    let outputs = Named::from([("lse".to_owned(), lse)]);
    let request = Request::new(loss, given, outputs);
    let bytes = gpu.plan(&request)?.scratch_bytes.max(256);
    let scratch = uncounted(gpu, "forward_scratch", bytes, wgpu::BufferUsages::STORAGE)?;
    let prepared = gpu.prepare(&request.scratch(&scratch, 0..bytes))?;
    let mut encoder =
        gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    prepared.encode(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    drop((prepared, scratch));
    Ok(())
}

fn named(tensors: &[(String, wgpu::Buffer, Layout)]) -> Named<'_> {
    tensors
        .iter()
        .map(|(name, buffer, layout)| (name.clone(), Tensor::new(buffer, layout.clone())))
        .collect()
}

/// Bytes that a plan streams. A range that a dispatch binds counts once, and twice if the dispatch writes in place.
/// What the fused row kernel reads a second time for the gradient counts once more. The scores of a kernel that closes
/// rows from saved states count nothing, because it reads only single elements.
///
/// So a cross-entropy counts its logits once forward, twice backward (read, written) and three times fused. A product's
/// operands count once per dispatch, however often its tiles read them.
pub fn streamed_bytes(plan: &Plan) -> u64 {
    let dispatch = |dispatch: &Dispatch| -> u64 {
        let Some(kernel) = plan.kernels.get(dispatch.kernel) else { return 0 };
        let bound = kernel.storage.iter().zip(&dispatch.bindings);
        bound.map(|(stream, binding)| binding.size * uses(kernel, stream)).sum()
    };
    plan.dispatches.iter().map(dispatch).sum()
}

/// How often a kernel reads or writes all that is bound.
fn uses(kernel: &Kernel, storage: &Storage) -> u64 {
    let written = storage.stored_as.as_ref();
    let reads = storage.floats.is_some() && written != Some(&storage.name);
    let written_over = u64::from(reads && written.is_some());
    match &*kernel.entry {
        "merge" | "close_unstreamed" if reads => 0,
        "fused" if reads && kernel.value_of("WRITES_GRADIENT") == Some(1) => 2 + written_over,
        _ => 1 + written_over,
    }
}

/// Bytes that the device holds for calls besides their tensors (scratch and parameters), as its allocator counts them,
/// if the backend tells. They equal what the plans say, unless a buffer that the caller made in between ends away from
/// a multiple of 256 bytes: the gap behind it counts as the next buffer's.
pub fn allocated_bytes(gpu: &Gpu) -> Option<u64> {
    let report = gpu.device().generate_allocator_report()?;
    let ours = ["surprisal.scratch", "surprisal.parameters"];
    let held = report.allocations.iter().filter(|held| ours.contains(&held.name.as_str()));
    Some(held.map(|held| held.size).sum())
}
