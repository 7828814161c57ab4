//! The shortest use: arrays in, a loss and its gradient out, blocking and async.
//!
//! `cargo run --example one_liner`

use surprisal::{Array, Arrays, CrossEntropy, Dtype, Gpu};

const WANTED: [&str; 2] = ["loss", "grad.logits"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let inputs = Arrays::from([
        ("logits".to_owned(), Array::float(&[2, 3], vec![1.0, 2.0, 3.0, 0.0, 5.0, 0.0])),
        ("targets".to_owned(), Array::int(&[2], vec![2, 0])),
    ]);
    let gpu = Gpu::open_blocking(None)?;
    let loss = CrossEntropy::default();
    let outputs = gpu.run_arrays(&loss, &inputs, Dtype::F32, &WANTED)?.read_blocking()?;
    println!("blocking: {:?}", outputs.scalar("loss")?);
    println!("gradient: {:?}", outputs["grad.logits"].to_f64());

    // The same in an async function; any executor works.
    let outputs = pollster::block_on(smoothed(&inputs))?;
    println!("async, smoothed: {:?}", outputs.scalar("loss")?);
    Ok(())
}

async fn smoothed(inputs: &Arrays) -> surprisal::Result<Arrays> {
    let gpu = Gpu::open(None).await?;
    let loss = CrossEntropy::default().label_smoothing(0.1);
    gpu.run_arrays(&loss, inputs, Dtype::F32, &WANTED)?.read().await
}
