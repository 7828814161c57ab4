//! Everything in one buffer: inputs, outputs, status and scratch, as an allocator of one's own hands them out.
//!
//! `cargo run --example arena`
//!
//! An allocator gives out bindings (buffer, first byte, bytes), and `Tensor::from_binding` takes them. The gradient is
//! written over the logits. The plan says how many bytes of scratch the call needs before anything runs; these lie in
//! the same buffer. What is left for the library to allocate are the call's parameters, 256 bytes a dispatch.

#[expect(dead_code, reason = "this example uses a part of it")]
mod common;

use surprisal::{
    Arrays, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Gpu, Status, Tensor, wgpu,
};

const ROWS: u64 = 100;
const CLASSES: u64 = 3001;

/// Hands out parts of one buffer, one after another.
struct Arena {
    buffer: wgpu::Buffer,
    used: u64,
    alignment: u64,
}

impl Arena {
    fn new(gpu: &Gpu, bytes: u64) -> Self {
        let alignment = gpu.profile().offset_alignment;
        Self { buffer: common::buffer(gpu, bytes), used: 0, alignment }
    }

    /// The first byte of the next free part. Parts begin at multiples of the device's alignment, because what is
    /// written may not share such a block with anything else.
    fn take(&mut self, bytes: u64) -> u64 {
        let start = self.used;
        self.used = (start + bytes).next_multiple_of(self.alignment);
        start
    }

    fn binding(&self, offset: u64, bytes: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.buffer, offset, size: wgpu::BufferSize::new(bytes) }
    }
}

fn main() -> common::Outcome {
    let gpu = Gpu::open_blocking(None)?;
    let mut arena = Arena::new(&gpu, 4 << 20);
    let loss = CrossEntropy::default();
    let (values, targets) = (common::numbers(1, ROWS * CLASSES), common::classes(2, ROWS, CLASSES));

    let sizes = [ROWS * CLASSES * 4, ROWS * 4, 4, Status::WORDS * 4];
    let [logits_at, targets_at, loss_at, status_at] = sizes.map(|bytes| arena.take(bytes));
    gpu.queue().write_buffer(&arena.buffer, logits_at, bytemuck::cast_slice(&values));
    gpu.queue().write_buffer(&arena.buffer, targets_at, bytemuck::cast_slice(&targets));
    let behind = arena.take(0);

    let tensor = |at, nth: usize, dtype, shape: &[u64]| {
        Tensor::from_binding(arena.binding(at, sizes[nth]), dtype, shape)
    };
    let logits = tensor(logits_at, 0, Dtype::F32, &[ROWS, CLASSES])?;
    let value = tensor(loss_at, 2, Dtype::F32, &[1])?;
    let status = tensor(status_at, 3, Dtype::U32, &[Status::WORDS])?;
    let inputs = CrossEntropyInputs::default().logits(logits.clone()).targets(tensor(
        targets_at,
        1,
        Dtype::I32,
        &[ROWS],
    )?);
    let outputs = CrossEntropyOutputs::default().loss(value.clone()).status(status.clone());
    let request = loss.request(inputs, outputs).gradient_in_place();
    let bytes = gpu.plan(&request)?.scratch_bytes;
    let request = request.scratch(&arena.buffer, behind..behind + bytes);
    println!("tensors: {behind} bytes, scratch behind them: {bytes} bytes");

    let before = gpu.memory().held;
    let call = gpu.prepare(&request)?;
    println!("allocated beside the arena: {} bytes", gpu.memory().held - before);
    common::submit(&gpu, |encoder| {
        call.encode(encoder);
        Ok(())
    })?;

    let inputs = Arrays::from([
        ("logits".to_owned(), common::array(&[ROWS, CLASSES], &values)),
        ("targets".to_owned(), common::indices(&targets)),
    ]);
    let wanted = ["loss", "grad.logits"];
    let alone = gpu.run_arrays(&loss, &inputs, Dtype::F32, &wanted)?.read_blocking()?;
    gpu.read_status_blocking(&status)?.checked()?;
    common::check("loss", &gpu.read_blocking(&value)?, &alone["loss"], 0.0)?;
    common::check("gradient", &gpu.read_blocking(&logits)?, &alone["grad.logits"], 0.0)
}
