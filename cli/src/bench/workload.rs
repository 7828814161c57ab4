//! A call and its tensors, and the bytes that it moves.

use super::{
    fill::{Ignored, Numbers},
    timer::wait,
};
use crate::draft::Draft;
use surprisal::{
    Arrays, Gpu, Layout, Named, Operation, Plan, Prepared, Request, Result, Tensor,
    loss::{Dim, Domain},
    low_level::uncounted,
    plan::{
        Dispatch, Operand,
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
    host: Arrays,
    prepared: Prepared,
    peak_bytes: u64,
    /// The length of the vectors whose products are the scores; 0 if there are none.
    depth: u64,
}

impl Workload {
    /// Makes the tensors of a draft, fills the inputs, and prepares the call.
    pub fn new(gpu: &Gpu, loss: &dyn Operation, draft: &Draft) -> Result<Self> {
        Self::ignoring(gpu, loss, draft, None)
    }

    /// [`Workload::new`] with some rows ignored.
    pub fn ignoring(
        gpu: &Gpu,
        loss: &dyn Operation,
        draft: &Draft,
        ignored: Option<Ignored>,
    ) -> Result<Self> {
        loss.validate()?;
        let (call, _) = draft.plan(loss, gpu.profile())?;
        let buffer = |(name, operand): (String, Operand)| {
            let layout = operand.layout;
            let buffer = gpu.output_buffer(layout.dtype, &layout.shape)?;
            Ok((name, buffer, layout))
        };
        let host = call.host;
        let tensors = call.inputs.into_iter().filter(|(name, _)| !host.contains_key(name));
        let inputs = tensors.map(buffer).collect::<Result<Vec<_>>>()?;
        let outputs = call.outputs.into_iter().map(buffer).collect::<Result<Vec<_>>>()?;
        let numbers = Numbers { extents: &draft.extents, ignored };
        for (name, buffer, layout) in &inputs {
            let input = loss.about().inputs.iter().find(|input| input.name == name);
            let domain = input.map_or(Domain::Any, |input| input.domain);
            numbers.fill(gpu, (name, domain), layout, buffer);
        }
        save_lse(gpu, loss, &inputs)?;
        // Wait, so that the staging memory of the numbers is freed before the call needs memory.
        wait(gpu)?;
        let request = request_of(loss, &inputs, &outputs, &host);
        let prepared = gpu.prepare(&request)?;
        let tensors = inputs.iter().chain(&outputs).map(|(_, buffer, _)| buffer.size());
        let peak_bytes = tensors.sum::<u64>() + gpu.memory().peak;
        let depth = call.dims.get(&Dim::Hidden).copied().unwrap_or(0);
        Ok(Self { gpu: gpu.clone(), inputs, outputs, host, prepared, peak_bytes, depth })
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
        request_of(loss, &self.inputs, &self.outputs, &self.host)
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
    pub fn flops(&self) -> f64 {
        let scores = self.prepared.plan().unstored_bytes as f64 / 4.0;
        let matrix =
            |(name, layout): &(&str, &Layout)| name.starts_with("grad.") && layout.shape.len() == 2;
        2.0 * scores * self.depth as f64 * (1 + self.outputs().filter(matrix).count()) as f64
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

fn request_of<'a>(
    loss: &'a dyn Operation,
    inputs: &'a [(String, wgpu::Buffer, Layout)],
    outputs: &'a [(String, wgpu::Buffer, Layout)],
    host: &Arrays,
) -> Request<'a> {
    let request = Request::new(loss, named(inputs), named(outputs));
    host.iter().fold(request, |request, (name, array)| request.host(name, array.clone()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use surprisal::{CrossEntropy, Dtype, Profile};

    use crate::draft::Mode;

    #[test]
    fn logits_are_streamed_once_forward_twice_backward_and_three_times_fused() -> Result<()> {
        let (rows, classes) = (64, 4096);
        let logits = rows * classes * 4;
        for (mode, times) in [(Mode::Forward, 1), (Mode::Backward, 2), (Mode::Fused, 3)] {
            let extents = [(Dim::Rows, rows), (Dim::Classes, classes)];
            let draft = Draft::new(extents, Dtype::F32, mode);
            let (_, plan) = draft.plan(&CrossEntropy::default(), &Profile::default())?;
            let bytes = streamed_bytes(&plan);
            let rest = bytes - times * logits;
            assert!(rest < logits / 20, "{mode}: {rest} bytes beside the logits");
        }
        Ok(())
    }
}
