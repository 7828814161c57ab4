//! A batch whose last part is small: no compilation in the loop, and the mean of the whole.
//!
//! `cargo run --example last_batch`
//!
//! 273 rows in parts of 64 leave 17. A small part may need other kernels than the others, and a driver compiles each
//! for a third of a second. Which row counts need kernels of their own follows from plans alone, so `Gpu::warm_up`
//! compiles them all before the loop. Every part divides by the rows of the whole batch, so that the losses and the
//! gradients of the parts add up to those of it.

#[expect(dead_code, reason = "this example uses a part of it")]
mod common;

use std::time::Instant;

use surprisal::{
    Arrays, CrossEntropy, Dtype, Gpu, LinearCrossEntropy, LinearCrossEntropyInputs,
    LinearCrossEntropyOutputs, Reduction, Request, Tensor, wgpu,
};

const ALL: u64 = 273;
const PART: u64 = 64;
const CLASSES: u64 = 12_000;
const DEPTH: u64 = 96;

/// The tensors of a part, in the buffers of the whole batch.
struct Batch {
    hidden: wgpu::Buffer,
    weight: wgpu::Buffer,
    targets: wgpu::Buffer,
    losses: wgpu::Buffer,
    gradient: wgpu::Buffer,
}

impl Batch {
    /// The call for rows from `first` on, as part number `part`.
    fn request<'a>(
        &'a self,
        loss: &'a LinearCrossEntropy,
        first: u64,
        rows: u64,
        part: u64,
    ) -> Request<'a> {
        let of_rows =
            |buffer| Tensor::matrix(buffer, Dtype::F32, rows, DEPTH).offset(first * DEPTH);
        let inputs = LinearCrossEntropyInputs::default()
            .hidden(of_rows(&self.hidden))
            .weight(Tensor::matrix(&self.weight, Dtype::F32, CLASSES, DEPTH))
            .targets(Tensor::vector(&self.targets, Dtype::I32, rows).offset(first));
        let outputs = LinearCrossEntropyOutputs::default()
            .loss(Tensor::vector(&self.losses, Dtype::F32, 1).offset(part))
            .hidden_gradient(of_rows(&self.gradient));
        loss.request(inputs, outputs)
    }
}

fn main() -> common::Outcome {
    let gpu = Gpu::open_blocking(None)?;
    let hidden = common::numbers(1, ALL * DEPTH);
    let weight = common::numbers(2, CLASSES * DEPTH);
    let targets = common::classes(3, ALL, CLASSES);
    let parts = ALL.div_ceil(PART);
    let batch = Batch {
        hidden: common::upload(&gpu, &hidden),
        weight: common::upload(&gpu, &weight),
        targets: common::upload(&gpu, &targets),
        losses: common::buffer(&gpu, parts * 4),
        gradient: common::buffer(&gpu, ALL * DEPTH * 4),
    };
    let loss =
        LinearCrossEntropy::new(CrossEntropy::default().reduction(Reduction::Over(ALL as f64)));

    let begin = Instant::now();
    let compiled = gpu.warm_up(1..=PART, |rows| gpu.plan(&batch.request(&loss, 0, rows, 0)))?;
    println!("{compiled} kernels compiled in {:?}", begin.elapsed());

    for part in 0..parts {
        let (begin, first) = (Instant::now(), part * PART);
        let rows = PART.min(ALL - first);
        let call = gpu.prepare(&batch.request(&loss, first, rows, part))?;
        gpu.submit(&call)?;
        println!("{rows} rows: prepared and submitted in {:?}", begin.elapsed());
    }

    let inputs = Arrays::from([
        ("hidden".to_owned(), common::array(&[ALL, DEPTH], &hidden)),
        ("weight".to_owned(), common::array(&[CLASSES, DEPTH], &weight)),
        ("targets".to_owned(), common::indices(&targets)),
    ]);
    let whole = LinearCrossEntropy::new(CrossEntropy::default());
    let whole = gpu.run_arrays(&whole, &inputs, Dtype::F32, &["loss", "grad.hidden"])?;
    let whole = whole.read_blocking()?;
    let of_losses = Tensor::vector(&batch.losses, Dtype::F32, parts);
    let parts = gpu.read_blocking(&of_losses)?;
    let sum = common::array(&[1], &[parts.to_f64().iter().sum::<f64>() as f32]);
    common::check("loss", &sum, &whole["loss"], 1e-6)?;
    let found = gpu.read_blocking(&Tensor::matrix(&batch.gradient, Dtype::F32, ALL, DEPTH))?;
    common::check("∂hidden", &found, &whole["grad.hidden"], 1e-5)
}
