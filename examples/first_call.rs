//! What the first call of a program costs, and how it costs less.
//!
//! `cargo run --release --example first_call`
//! `cargo run --release --example first_call -- --warm-up`
//! `cargo run --release --example first_call -- --cache kernels.bin` (twice: the first run writes the file)
//!
//! A driver compiles a kernel at its first use. `Gpu::warm_up` does that before the first step, on all cores. A pipeline
//! cache keeps what the driver compiled for the next run of the program, where wgpu has one for the driver (Vulkan).

mod common;

use std::{fs, path::PathBuf, time::Instant};

use clap::Parser;
use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Gpu, GpuOptions, LinearCrossEntropy,
    LinearCrossEntropyInputs, LinearCrossEntropyOutputs, Request, Tensor, adapter, cpu, wgpu,
};

const ROWS: u64 = 64;
const CLASSES: u64 = 1000;
const DEPTH: u64 = 64;

/// Times the first call of a program.
#[derive(Parser)]
struct Arguments {
    /// Compile for all batches up to the largest before the first call.
    #[arg(long)]
    warm_up: bool,
    /// Begin with the compiled code in this file, and write it back.
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
}

fn main() -> common::Outcome {
    let Arguments { warm_up, cache: file } = Arguments::parse();
    let gpu = open(file.as_ref())?;
    println!("adapter: {}", adapter::describe(gpu.info()));

    let tensors = Tensors::new(&gpu);
    let loss = LinearCrossEntropy::new(CrossEntropy::default());
    if warm_up {
        let begin = Instant::now();
        let compiled = gpu.warm_up(1..=ROWS, |rows| gpu.plan(&tensors.request(&loss, rows)))?;
        println!("warm-up for 1 to {ROWS} rows: {compiled} kernels in {:?}", begin.elapsed());
    }
    let mut found = Array::float(&[0], Vec::new());
    for step in ["first call", "second call"] {
        let begin = Instant::now();
        common::submit(&gpu, |encoder| gpu.encode(encoder, &tensors.request(&loss, ROWS)))?;
        found = gpu.read_blocking(&Tensor::vector(&tensors.loss, Dtype::F32, 1))?;
        println!("{step}: {:?}", begin.elapsed());
    }
    common::check("loss", &found, &cpu::run(&loss, &arrays(), &["loss"])?["loss"], 1e-5)?;
    match (file, gpu.pipeline_cache_bytes()) {
        (Some(file), Some(bytes)) => {
            println!("{} bytes of compiled code in {}", bytes.len(), file.display());
            fs::write(file, bytes)?;
        }
        (Some(_), None) => println!("this adapter has no pipeline cache"),
        (None, _) => {}
    }
    Ok(())
}

/// Opens a device, with a pipeline cache that begins with the bytes of a file.
fn open(file: Option<&PathBuf>) -> Result<Gpu, Box<dyn std::error::Error>> {
    let adapters = pollster::block_on(adapter::adapters());
    let adapter = &adapters[adapter::choose(&adapters, None)?];
    let (mut features, limits) = Gpu::recommended_device(adapter);
    features |= adapter.features() & wgpu::Features::PIPELINE_CACHE;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits,
        ..Default::default()
    }))?;
    let wanted = file.filter(|_| features.contains(wgpu::Features::PIPELINE_CACHE));
    let cache = wanted.map(|file| cache(&device, fs::read(file).ok().as_deref()));
    Ok(Gpu::with_options(&device, &queue, GpuOptions::default().pipeline_cache(cache)))
}

#[expect(unsafe_code, reason = "a driver trusts the bytes that its cache begins with")]
fn cache(device: &wgpu::Device, bytes: Option<&[u8]>) -> wgpu::PipelineCache {
    let label = Some("surprisal");
    let descriptor = wgpu::PipelineCacheDescriptor { label, data: bytes, fallback: true };
    // SAFETY: the file is one that this program wrote. The driver checks that it comes from the same version.
    unsafe { device.create_pipeline_cache(&descriptor) }
}

/// The inputs of the largest call on the host.
fn arrays() -> Arrays {
    Arrays::from([
        ("hidden".to_owned(), common::array(&[ROWS, DEPTH], &common::numbers(1, ROWS * DEPTH))),
        (
            "weight".to_owned(),
            common::array(&[CLASSES, DEPTH], &common::numbers(2, CLASSES * DEPTH)),
        ),
        ("targets".to_owned(), common::indices(&common::classes(3, ROWS, CLASSES))),
    ])
}

/// The tensors of the largest call.
struct Tensors {
    hidden: wgpu::Buffer,
    weight: wgpu::Buffer,
    targets: wgpu::Buffer,
    loss: wgpu::Buffer,
    gradients: [wgpu::Buffer; 2],
}

impl Tensors {
    fn new(gpu: &Gpu) -> Self {
        Self {
            hidden: common::upload(gpu, &common::numbers(1, ROWS * DEPTH)),
            weight: common::upload(gpu, &common::numbers(2, CLASSES * DEPTH)),
            targets: common::upload(gpu, &common::classes(3, ROWS, CLASSES)),
            loss: common::buffer(gpu, 4),
            gradients: [ROWS, CLASSES].map(|rows| common::buffer(gpu, rows * DEPTH * 4)),
        }
    }

    fn request<'a>(&'a self, loss: &'a LinearCrossEntropy, rows: u64) -> Request<'a> {
        let [hidden_gradient, weight_gradient] = &self.gradients;
        let matrix = |buffer, rows| Tensor::matrix(buffer, Dtype::F32, rows, DEPTH);
        let inputs = LinearCrossEntropyInputs::default()
            .hidden(matrix(&self.hidden, rows))
            .weight(matrix(&self.weight, CLASSES))
            .targets(Tensor::vector(&self.targets, Dtype::I32, rows));
        let outputs = LinearCrossEntropyOutputs::default()
            .loss(Tensor::vector(&self.loss, Dtype::F32, 1))
            .hidden_gradient(matrix(hidden_gradient, rows))
            .weight_gradient(matrix(weight_gradient, CLASSES));
        loss.request(inputs, outputs)
    }
}
