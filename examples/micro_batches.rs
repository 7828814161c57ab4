//! Gradient accumulation: micro-batches whose gradient is that of the whole batch.
//!
//! `cargo run --example micro_batches`
//!
//! Sequences have different lengths, so micro-batches have different numbers of tokens, and the mean of their means is
//! not the mean of the batch. Here every micro-batch divides by one denominator, the tokens of the whole batch. The
//! gradients of the weight add up in one tensor (`Accumulate::Shared`), and so do the counts of one status.

mod common;

use surprisal::{
    Accumulate, Arrays, CrossEntropy, Dtype, Gpu, LinearCrossEntropy, LinearCrossEntropyInputs,
    LinearCrossEntropyOutputs, Reduction, Status, Tensor,
};

const ROWS: u64 = 24;
const CLASSES: u64 = 500;
const DEPTH: u64 = 32;
/// The tokens of each micro-batch; the rest of its rows is padding.
const TOKENS: [usize; 4] = [24, 7, 16, 1];
const PADDING: i32 = -100;

fn main() -> common::Outcome {
    let gpu = Gpu::open_blocking(None)?;
    let all = ROWS * TOKENS.len() as u64;
    let hidden = common::numbers(1, all * DEPTH);
    let weight = common::numbers(2, CLASSES * DEPTH);
    let mut targets = common::classes(3, all, CLASSES);
    for (rows, tokens) in targets.chunks_mut(ROWS as usize).zip(TOKENS) {
        rows.iter_mut().skip(tokens).for_each(|target| *target = PADDING);
    }

    let [hiddens, weights] = [&hidden, &weight].map(|values| common::upload(&gpu, values));
    let labels = common::upload(&gpu, &targets);
    let hidden_gradient = common::buffer(&gpu, all * DEPTH * 4);
    // These two are zero, and every micro-batch adds to them.
    let weight_gradient = common::buffer(&gpu, CLASSES * DEPTH * 4);
    let status = common::buffer(&gpu, Status::WORDS * 4);
    let losses = common::buffer(&gpu, TOKENS.len() as u64 * 4);

    let tokens: usize = TOKENS.iter().sum();
    let cross_entropy = CrossEntropy::default().reduction(Reduction::Over(tokens as f64));
    let loss = LinearCrossEntropy::new(cross_entropy).accumulate(Accumulate::Shared);
    for batch in 0..TOKENS.len() as u64 {
        let rows =
            |buffer| Tensor::matrix(buffer, Dtype::F32, ROWS, DEPTH).offset(batch * ROWS * DEPTH);
        let inputs = LinearCrossEntropyInputs::default()
            .hidden(rows(&hiddens))
            .weight(Tensor::matrix(&weights, Dtype::F32, CLASSES, DEPTH))
            .targets(Tensor::vector(&labels, Dtype::I32, ROWS).offset(batch * ROWS));
        let outputs = LinearCrossEntropyOutputs::default()
            .loss(Tensor::vector(&losses, Dtype::F32, 1).offset(batch))
            .hidden_gradient(rows(&hidden_gradient))
            .weight_gradient(Tensor::matrix(&weight_gradient, Dtype::F32, CLASSES, DEPTH))
            .status(Tensor::vector(&status, Dtype::U32, Status::WORDS));
        let call = gpu.prepare(&loss.request(inputs, outputs).accumulate_status())?;
        common::submit(&gpu, |encoder| {
            call.encode(encoder);
            Ok(())
        })?;
    }

    // The same in one call over all rows.
    let inputs = Arrays::from([
        ("hidden".to_owned(), common::array(&[all, DEPTH], &hidden)),
        ("weight".to_owned(), common::array(&[CLASSES, DEPTH], &weight)),
        ("targets".to_owned(), common::indices(&targets)),
    ]);
    let whole = LinearCrossEntropy::new(CrossEntropy::default());
    let wanted = ["loss", "grad.weight", "grad.hidden"];
    let whole = gpu.run_arrays(&whole, &inputs, Dtype::F32, &wanted)?.read_blocking()?;

    let found = gpu.read_status_blocking(&Tensor::vector(&status, Dtype::U32, Status::WORDS))?;
    println!("{} micro-batches, {} bad targets", found.completed, found.checked()?.bad_targets);
    let parts = gpu.read_blocking(&Tensor::vector(&losses, Dtype::F32, TOKENS.len() as u64))?;
    let sum = common::array(&[1], &[parts.to_f64().iter().sum::<f64>() as f32]);
    common::check("loss", &sum, &whole["loss"], 1e-6)?;
    let read = |buffer, rows| gpu.read_blocking(&Tensor::matrix(buffer, Dtype::F32, rows, DEPTH));
    common::check("∂weight", &read(&weight_gradient, CLASSES)?, &whole["grad.weight"], 1e-5)?;
    common::check("∂hidden", &read(&hidden_gradient, all)?, &whole["grad.hidden"], 1e-5)
}
