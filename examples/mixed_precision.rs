//! Mixed precision with a loss scale: a gradient in f16 that loses nothing.
//!
//! `cargo run --example mixed_precision`
//!
//! The smallest number of f16 is 6e-8, and most elements of a gradient of logits are not far above it here. The loss scale
//! multiplies the gradient in f32, before it is rounded. It is the input `upstream`, one f32 on the GPU, so that a loop
//! can change it without another preparation. It begins too large here and is halved until nothing overflows.

mod common;

use surprisal::{
    Array, Arrays, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Gpu, Tensor, cpu,
};

const ROWS: u64 = 64;
const CLASSES: u64 = 20_000;

fn main() -> common::Outcome {
    let gpu = Gpu::open_blocking(None)?;
    let values = common::array(&[ROWS, CLASSES], &common::numbers(1, ROWS * CLASSES));
    let values = values.rounded(Dtype::F16);
    let targets = common::classes(2, ROWS, CLASSES);

    let logits = common::upload(&gpu, &values.to_bytes(Dtype::F16));
    let labels = common::upload(&gpu, &targets);
    let scale = common::buffer(&gpu, 4);
    let gradient = common::buffer(&gpu, ROWS * CLASSES * 2);
    let of_logits = |buffer| Tensor::matrix(buffer, Dtype::F16, ROWS, CLASSES);
    let inputs = CrossEntropyInputs::default()
        .logits(of_logits(&logits))
        .targets(Tensor::vector(&labels, Dtype::I32, ROWS))
        .upstream(Tensor::vector(&scale, Dtype::F32, 1));
    let outputs = CrossEntropyOutputs::default().gradient(of_logits(&gradient));
    let loss = CrossEntropy::default();
    let call = gpu.prepare(&loss.request(inputs, outputs))?;

    let inputs = Arrays::from([
        ("logits".to_owned(), values),
        ("targets".to_owned(), common::indices(&targets)),
    ]);
    let expected = &cpu::run(&CrossEntropy::default(), &inputs, &["grad.logits"])?["grad.logits"];

    // The gradient of a step, divided by the scale again; `None` if it overflows.
    let step = |factor: f32| -> surprisal::Result<Option<Array>> {
        gpu.queue().write_buffer(&scale, 0, bytemuck::bytes_of(&factor));
        common::submit(&gpu, |encoder| {
            call.encode(encoder);
            Ok(())
        })?;
        let scaled = gpu.read_blocking(&of_logits(&gradient))?.to_f64();
        let is_finite = scaled.iter().all(|value| value.is_finite());
        let values = scaled.into_iter().map(|value| value / f64::from(factor)).collect();
        Ok(is_finite.then(|| Array::float(&[ROWS, CLASSES], values)))
    };

    let plain = step(1.0)?.ok_or("a gradient of a mean never overflows")?;
    println!(
        "without a scale: elements are off by {:.1}% on average",
        lost(&plain, expected) * 100.0
    );
    let mut factor = (1u32 << 24) as f32;
    let scaled = loop {
        match step(factor)? {
            Some(gradient) => break gradient,
            None => println!("scale {factor}: overflow"),
        }
        factor /= 2.0;
    };
    println!(
        "scale {factor}: elements are off by {:.3}% on average",
        lost(&scaled, expected) * 100.0
    );
    common::check("gradient", &scaled, expected, 1e-3)?;
    if lost(&scaled, expected) > 1e-3 || lost(&plain, expected) < 1e-2 {
        return Err("the scale keeps what f16 loses without it".into());
    }
    Ok(())
}

/// The mean error of the elements, each relative to itself.
fn lost(found: &Array, expected: &Array) -> f64 {
    let errors =
        found.to_f64().into_iter().zip(expected.to_f64()).map(|(a, b)| ((a - b) / b).abs());
    errors.sum::<f64>() / expected.len() as f64
}
