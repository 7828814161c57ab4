//! A training loop of your own on wgpu: your device, your encoder, one pooled buffer.
//!
//! `cargo run --example raw_wgpu_training_loop`
//!
//! Softmax regression with two heads on the same features. A step is one compute pass in one submission: the logits of
//! both heads, a cross-entropy with row weights on the first head, a cross-entropy with an upstream gradient for every
//! row on the second head, and the update of both heads. Losses and status words come back through [`Gpu::watch`] while
//! later steps run. When the ring is full, the loop awaits the oldest watch.

use std::{collections::VecDeque, error::Error};

use surprisal::{
    CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Denominator, Dtype, Gpu, Prepared,
    Reduction, Report, Status, Tensor, Watch, adapter, wgpu,
};

const ROWS: u64 = 512;
const FEATURES: u64 = 32;
const CLASSES: u64 = 10;
const STEPS: usize = 60;
const RATE: f32 = 0.5;
/// The weight of the second head's loss.
const SHARE: f32 = 0.25;

/// Both kernels of a head; every tensor is a slice of one buffer, and a parameter holds its first word.
const WGSL: &str = "
struct Head { features: u32, weight: u32, logits: u32, gradient: u32, classes: u32, rate: f32 }
const ROWS = 512u;
const FEATURES = 32u;
@group(0) @binding(0) var<uniform> head: Head;
@group(0) @binding(1) var<storage, read_write> pool: array<f32>;

@compute @workgroup_size(64)
fn logits(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / head.classes;
    let class_ = id.x % head.classes;
    if (row >= ROWS) { return; }
    var sum = 0.0;
    for (var f = 0u; f < FEATURES; f += 1u) {
        sum += pool[head.features + row * FEATURES + f] * pool[head.weight + f * head.classes + class_];
    }
    pool[head.logits + id.x] = sum;
}

@compute @workgroup_size(64)
fn update(@builtin(global_invocation_id) id: vec3<u32>) {
    let f = id.x / head.classes;
    let class_ = id.x % head.classes;
    if (f >= FEATURES) { return; }
    var sum = 0.0;
    for (var row = 0u; row < ROWS; row += 1u) {
        sum += pool[head.features + row * FEATURES + f] * pool[head.gradient + row * head.classes + class_];
    }
    pool[head.weight + id.x] -= head.rate * sum;
}
";

/// Hands out slices of the pooled buffer. They start at multiples of 256 bytes, the alignment that every device
/// accepts, so no two of them share such a block.
#[derive(Default)]
struct Pool {
    words: u64,
}

impl Pool {
    fn slice(&mut self, words: u64) -> u64 {
        let start = self.words;
        self.words = (start + words).next_multiple_of(64);
        start
    }
}

/// Where one head's tensors lie in the pool, in words.
struct Head {
    classes: u64,
    weight: u64,
    logits: u64,
    gradient: u64,
    targets: u64,
    /// Row weights for the first head, upstream gradients for the second.
    rows: u64,
    loss: u64,
    status: u64,
}

impl Head {
    fn new(pool: &mut Pool, classes: u64) -> Self {
        Self {
            classes,
            weight: pool.slice(FEATURES * classes),
            logits: pool.slice(ROWS * classes),
            gradient: pool.slice(ROWS * classes),
            targets: pool.slice(ROWS),
            rows: pool.slice(ROWS),
            loss: pool.slice(1),
            status: pool.slice(Status::WORDS),
        }
    }

    fn inputs<'a>(&self, pool: &'a wgpu::Buffer) -> CrossEntropyInputs<'a> {
        let logits = Tensor::matrix(pool, Dtype::F32, ROWS, self.classes).offset(self.logits);
        let targets = Tensor::vector(pool, Dtype::I32, ROWS).offset(self.targets);
        CrossEntropyInputs::default().logits(logits).targets(targets)
    }

    fn outputs<'a>(&self, pool: &'a wgpu::Buffer) -> CrossEntropyOutputs<'a> {
        let gradient = Tensor::matrix(pool, Dtype::F32, ROWS, self.classes).offset(self.gradient);
        CrossEntropyOutputs::default().gradient(gradient).status(self.status(pool))
    }

    fn per_row<'a>(&self, pool: &'a wgpu::Buffer) -> Tensor<'a> {
        Tensor::vector(pool, Dtype::F32, ROWS).offset(self.rows)
    }

    fn loss<'a>(&self, pool: &'a wgpu::Buffer) -> Tensor<'a> {
        Tensor::vector(pool, Dtype::F32, 1).offset(self.loss)
    }

    fn status<'a>(&self, pool: &'a wgpu::Buffer) -> Tensor<'a> {
        Tensor::vector(pool, Dtype::U32, Status::WORDS).offset(self.status)
    }

    /// The parameters of this head's own kernels.
    fn words(&self, features: u64) -> [u32; 6] {
        let words = [features, self.weight, self.logits, self.gradient, self.classes];
        let [a, b, c, d, e] = words.map(|word| word as u32);
        [a, b, c, d, e, RATE.to_bits()]
    }
}

/// Features around one centre per class, and the classes; the same numbers every time.
fn data() -> (Vec<f32>, Vec<i32>) {
    let mut state = 1u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let centres: Vec<f32> = (0..CLASSES * FEATURES).map(|_| random()).collect();
    let classes: Vec<i32> = (0..ROWS).map(|row| (row % CLASSES) as i32).collect();
    let features = classes.iter().flat_map(|&class| {
        let start = class as usize * FEATURES as usize;
        centres[start..start + FEATURES as usize].iter().map(|c| c + random()).collect::<Vec<_>>()
    });
    (features.collect(), classes)
}

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(train())
}

async fn train() -> Result<(), Box<dyn Error>> {
    // An ordinary device; `recommended_device` returns features and limits worth asking for, none of which is required.
    let wanted = std::env::var(adapter::ADAPTER_VARIABLE).unwrap_or_default().to_lowercase();
    let adapters = adapter::adapters().await;
    let adapter = adapters
        .iter()
        .find(|a| adapter::describe(&a.get_info()).to_lowercase().contains(&wanted))
        .ok_or("no such adapter")?;
    let (required_features, required_limits) = Gpu::recommended_device(adapter);
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            required_features,
            required_limits,
            ..wgpu::DeviceDescriptor::default()
        })
        .await?;
    let gpu = Gpu::from_wgpu(&device, &queue);
    println!("adapter: {}", adapter::describe(gpu.info()));

    // One buffer for everything.
    let mut pool = Pool::default();
    let features = pool.slice(ROWS * FEATURES);
    let classes = Head::new(&mut pool, CLASSES);
    let parity = Head::new(&mut pool, 2);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("pool"),
        size: pool.words * 4,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let (values, mut targets) = data();
    let parities: Vec<i32> = targets.iter().map(|class| class % 2).collect();
    // Every 16th label is wrong and known to be wrong: its row weight is 0.
    targets.iter_mut().step_by(16).for_each(|class| *class = (*class + 1) % CLASSES as i32);
    let trust: Vec<f32> = (0..ROWS).map(|row| f32::from(row % 16 != 0)).collect();
    queue.write_buffer(&buffer, features * 4, bytemuck::cast_slice(&values));
    queue.write_buffer(&buffer, classes.targets * 4, bytemuck::cast_slice(&targets));
    queue.write_buffer(&buffer, classes.rows * 4, bytemuck::cast_slice(&trust));
    queue.write_buffer(&buffer, parity.targets * 4, bytemuck::cast_slice(&parities));
    let upstream = vec![SHARE / ROWS as f32; ROWS as usize];
    queue.write_buffer(&buffer, parity.rows * 4, bytemuck::cast_slice(&upstream));

    // The losses, checked and compiled once. The outputs that are given decide what is computed.
    let weighted = CrossEntropy::default().denominator(Denominator::Weights);
    let main: Prepared = gpu.prepare(&weighted.request(
        classes.inputs(&buffer).row_weight(classes.per_row(&buffer)),
        classes.outputs(&buffer).loss(classes.loss(&buffer)),
    ))?;
    // A loss per row takes an upstream gradient per row; only the sum of the losses is wanted here.
    let of_rows = CrossEntropy::default().reduction(Reduction::None);
    let auxiliary: Prepared = gpu.prepare(&of_rows.request(
        parity.inputs(&buffer).upstream(parity.per_row(&buffer)),
        parity.outputs(&buffer).sum(parity.loss(&buffer)),
    ))?;

    let kernels = Kernels::new(&device);
    let heads = [&classes, &parity]
        .map(|head| (kernels.bind(&device, &queue, &head.words(features), &buffer), head.classes));

    let mut watches: VecDeque<Watch<[Report; 2]>> = VecDeque::new();
    let mut reports: Vec<[Report; 2]> = Vec::new();
    for _ in 0..STEPS {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            encode(&mut pass, &kernels.logits, &heads, ROWS);
            // The calls change the pipeline and bind group 0 of an open pass.
            main.encode(&mut pass);
            auxiliary.encode(&mut pass);
            encode(&mut pass, &kernels.update, &heads, FEATURES);
        }
        let [main, auxiliary] =
            [&classes, &parity].map(|head| (head.loss(&buffer), head.status(&buffer)));
        let losses = [(&main.0, &main.1), (&auxiliary.0, &auxiliary.1)];
        let watch = loop {
            match gpu.watch(&mut encoder, losses) {
                Err(surprisal::Error::RingFull { .. }) => match watches.pop_front() {
                    Some(oldest) => reports.push(oldest.await?),
                    None => return Err("a full ring with nothing in it".into()),
                },
                watch => break watch?,
            }
        };
        watches.push_back(watch);
        queue.submit([encoder.finish()]);
    }
    for watch in watches {
        reports.push(watch.await?);
    }
    check(&reports)
}

/// Prints the losses; fails if they did not fall, or if something went wrong on the way.
fn check(reports: &[[Report; 2]]) -> Result<(), Box<dyn Error>> {
    let mut losses = Vec::new();
    for (step, [main, auxiliary]) in reports.iter().enumerate() {
        main.status.checked()?;
        auxiliary.status.checked()?;
        let of_rows = auxiliary.loss / ROWS as f32;
        if step % 10 == 0 || step + 1 == STEPS {
            println!("step {step:2}: class loss {:.4}, parity loss {of_rows:.4}", main.loss);
        }
        losses.push([main.loss, of_rows]);
    }
    match (losses.first(), losses.last()) {
        (Some(first), Some(last)) if losses.len() == STEPS => {
            let improved = first.iter().zip(last).all(|(first, last)| *last < first / 2.0);
            if improved { Ok(()) } else { Err("a loss did not fall to its half".into()) }
        }
        _ => Err("a step has no report".into()),
    }
}

/// The loop's own kernels.
struct Kernels {
    layout: wgpu::BindGroupLayout,
    logits: wgpu::ComputePipeline,
    update: wgpu::ComputePipeline,
}

impl Kernels {
    fn new(device: &wgpu::Device) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("softmax regression"),
            source: wgpu::ShaderSource::Wgsl(WGSL.into()),
        });
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[
                entry(0, wgpu::BufferBindingType::Uniform),
                entry(1, wgpu::BufferBindingType::Storage { read_only: false }),
            ],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            bind_group_layouts: &[Some(&layout)],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        let pipeline = |entry_point| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry_point),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry_point),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        };
        let (logits, update) = (pipeline("logits"), pipeline("update"));
        Self { layout, logits, update }
    }

    fn bind(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        words: &[u32],
        pool: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        let head = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("head"),
            size: 32,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        queue.write_buffer(&head, 0, bytemuck::cast_slice(words));
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &[entry(0, head.as_entire_binding()), entry(1, pool.as_entire_binding())],
        })
    }
}

/// One kernel for both heads, with one lane per row and class of the head.
fn encode(
    pass: &mut wgpu::ComputePass<'_>,
    pipeline: &wgpu::ComputePipeline,
    heads: &[(wgpu::BindGroup, u64)],
    rows: u64,
) {
    pass.set_pipeline(pipeline);
    for (bindings, classes) in heads {
        pass.set_bind_group(0, bindings, &[]);
        pass.dispatch_workgroups((rows * classes).div_ceil(64) as u32, 1, 1);
    }
}
