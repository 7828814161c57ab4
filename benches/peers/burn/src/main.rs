//! surprisal and Burn on one wgpu device, in turn in one run. The score tile is compared with Burn's autotuned matmul,
//! and linear cross-entropy (loss and both gradients) with Burn's linear, `CrossEntropyLoss` and `backward`.
//!
//! Both sides get the same numbers, and their losses are compared before anything is timed. Times are wall-clock times,
//! from the call until the device is done.

use std::{cell::RefCell, time::Instant};

use burn::{
    nn::loss::CrossEntropyLossConfig,
    tensor::{
        Device, Int, Tensor as BurnTensor, TensorData,
        wgpu::{WgpuSetup, wgpu},
    },
};
use clap::Parser;
use surprisal::{
    CrossEntropy, Dtype, Gpu, Linear, LinearCrossEntropyInputs, LinearCrossEntropyOutputs,
    Prepared, Similarity, SimilarityInputs, SimilarityOutputs, Tensor, WeightLayout,
    adapter, bench::Spread,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// surprisal beside Burn on one device.
#[derive(Parser)]
struct Options {
    /// A part of the adapter's name, as in every command of surprisal.
    #[arg(long)]
    adapter: Option<String>,
    /// Counted rounds a shape.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Rounds before them, in which Burn tunes itself.
    #[arg(long, default_value_t = 3)]
    warm_up: usize,
    /// Shapes of the matrix product, ROWSxCOLUMNSxDEPTH, each with rounds of its own as `:WARM_UP+RUNS` if
    /// that is added.
    #[arg(long, default_value = "1024x8192x256", value_delimiter = ',')]
    products: Vec<Shape>,
    /// Shapes of linear cross-entropy, ROWSxCLASSESxDEPTH, likewise; the second one takes Burn minutes.
    #[arg(long, default_value = "512x32768x256,256x128256x256:1+2", value_delimiter = ',')]
    steps: Vec<Shape>,
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    columns: usize,
    depth: usize,
    /// The shape's own numbers of warm-up rounds and of counted rounds, if it has its own.
    rounds: Option<[usize; 2]>,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is not ROWSxCOLUMNSxDEPTH or ROWSxCOLUMNSxDEPTH:WARM_UP+RUNS");
        let numbers = |text: &str, between| -> Result<Vec<usize>, String> {
            text.split(between).map(|number| number.parse().map_err(|_| bad())).collect()
        };
        let (extents, rounds) = text.split_once(':').unwrap_or((text, ""));
        let rounds = match (rounds, numbers(rounds, '+').as_deref()) {
            ("", _) => None,
            (_, Ok(&[warm_up, runs])) if runs > 0 => Some([warm_up, runs]),
            _ => return Err(bad()),
        };
        match numbers(extents, 'x')?[..] {
            [rows, columns, depth] => Ok(Self { rows, columns, depth, rounds }),
            _ => Err(bad()),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {} × {}", self.rows, self.columns, self.depth)
    }
}

/// One device for both sides.
struct Bench {
    options: Options,
    gpu: Gpu,
    device: Device,
    errors: RefCell<Vec<String>>,
}

fn main() -> Outcome<()> {
    let bench = Bench::new(Options::parse())?;
    println!("- {}", adapter::describe(bench.gpu.info()));
    println!("- Burn 0.22.1, wgpu with fusion and autotune, on the same device; f32");
    println!("- wall clock, medians (10th to 90th percentile) of n rounds in turn");
    println!(
        "\n| | rows × columns × depth | n | Burn, ms | surprisal, ms | Burn, GFLOP/s | surprisal, GFLOP/s | times as fast |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &shape in &bench.options.products {
        bench.product(shape)?;
    }
    for &shape in &bench.options.steps {
        bench.step(shape)?;
    }
    println!();
    bench.errors.borrow().iter().for_each(|line| println!("{line}"));
    Ok(())
}

impl Bench {
    fn new(options: Options) -> Outcome<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        let index = adapter::choose(&adapters, options.adapter.as_deref())?;
        let adapter = adapters.into_iter().nth(index).ok_or("no adapter")?;
        // Burn wants all features of the adapter, except experimental ones.
        let descriptor = wgpu::DeviceDescriptor {
            required_features: adapter.features() - wgpu::Features::all_experimental_mask(),
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
        let gpu = Gpu::from_wgpu(&device, &queue);
        let backend = adapter.get_info().backend;
        let setup = WgpuSetup { instance, adapter, device, queue, backend };
        let device = Device::wgpu_options().setup(setup).init()?;
        Ok(Self { options, gpu, device, errors: RefCell::default() })
    }

    fn buffer(&self, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Outcome<wgpu::Buffer> {
        let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
        let buffer = self.gpu.output_buffer(dtype, &shape)?;
        self.gpu.queue().write_buffer(&buffer, 0, bytes);
        Ok(buffer)
    }

    fn floats(&self, shape: &[usize], numbers: &[f32]) -> Outcome<wgpu::Buffer> {
        self.buffer(Dtype::F32, shape, bytemuck::cast_slice(numbers))
    }

    fn zeros(&self, shape: &[usize]) -> Outcome<wgpu::Buffer> {
        self.buffer(Dtype::F32, shape, &[])
    }

    /// Submits a prepared call and waits for it.
    fn run(&self, call: &Prepared) -> Outcome<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        call.encode(&mut encoder);
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    /// Times both sides in turn; their order rotates from round to round.
    fn compare(
        &self,
        name: &str,
        shape: Shape,
        products: f64,
        sides: &mut [&mut dyn FnMut() -> Outcome<()>],
    ) -> Outcome<()> {
        let mut times = vec![Vec::new(); sides.len()];
        let [warm_up, runs] = shape.rounds.unwrap_or([self.options.warm_up, self.options.runs]);
        for round in 0..warm_up + runs {
            for turn in 0..sides.len() {
                let index = (round + turn) % sides.len();
                let start = Instant::now();
                sides[index]()?;
                if round >= warm_up {
                    times[index].push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let spreads: Vec<Spread> = times.into_iter().map(Spread::of).collect();
        let (ours, peers) = spreads.split_last().ok_or("no sides")?;
        // Burn has several ways to express the same computation; the fastest one counts.
        let best = peers.iter().min_by(|a, b| a.median.total_cmp(&b.median)).ok_or("no peer")?;
        let text = |s: &Spread| format!("{:.1} ({:.1} to {:.1})", s.median, s.p10, s.p90);
        let flops = 2.0 * products * (shape.rows * shape.columns * shape.depth) as f64;
        let rate = |s: &Spread| flops / s.median / 1e6;
        println!(
            "| {name} | {shape} | {runs} | {} | {} | {:.1} | {:.1} | {:.2} |",
            text(best),
            text(ours),
            rate(best),
            rate(ours),
            best.median / ours.median
        );
        Ok(())
    }

    /// A matrix product: Burn's, with its second operand stored by rows and by columns, and the tile.
    fn product(&self, shape: Shape) -> Outcome<()> {
        let Shape { rows, columns, depth, .. } = shape;
        let mut random = fastrand::Rng::with_seed(1);
        let (a, b) = (numbers(&mut random, rows * depth), numbers(&mut random, columns * depth));
        let burn_a = self.burn(&a, [rows, depth], &self.device);
        let walked = self.burn(&b, [columns, depth], &self.device);
        let across = self.burn(&turned(&b, columns, depth), [depth, columns], &self.device);
        let queries = self.floats(&[rows, depth], &a)?;
        let keys = self.floats(&[columns, depth], &b)?;
        let scores = self.zeros(&[rows, columns])?;
        let matrix = |buffer, rows: usize, columns: usize| {
            Tensor::matrix(buffer, Dtype::F32, rows as u64, columns as u64)
        };
        let inputs = SimilarityInputs::default()
            .queries(matrix(&queries, rows, depth))
            .keys(matrix(&keys, columns, depth));
        let outputs = SimilarityOutputs::default().scores(matrix(&scores, rows, columns));
        let call = self.gpu.prepare(&Similarity::default().request(inputs, outputs))?;
        self.run(&call)?;
        let mine =
            self.gpu.read_blocking(&matrix(&scores, rows, columns))?;
        let theirs = burn_a.clone().matmul(across.clone()).into_data().try_to_vec::<f32>()?;
        agree("scores", &mine.to_f64(), &theirs)?;
        let sync = || self.device.sync().map_err(|error| format!("{error:?}"));
        self.compare(
            "matrix product",
            shape,
            1.0,
            &mut [
                &mut || {
                    let _held = burn_a.clone().matmul(across.clone());
                    Ok(sync()?)
                },
                &mut || {
                    let _held = burn_a.clone().matmul(walked.clone().transpose());
                    Ok(sync()?)
                },
                &mut || self.run(&call),
            ],
        )
    }

    /// The loss and the gradients of a training step, on the scores of a linear layer.
    fn step(&self, shape: Shape) -> Outcome<()> {
        let Shape { rows, columns: classes, depth, .. } = shape;
        let mut random = fastrand::Rng::with_seed(2);
        let hidden = numbers(&mut random, rows * depth);
        let scale = 1.0 / (depth as f32).sqrt();
        let weight: Vec<f32> =
            numbers(&mut random, depth * classes).into_iter().map(|w| w * scale).collect();
        let targets: Vec<i32> = (0..rows).map(|_| random.i32(0..classes as i32)).collect();

        let device = self.device.clone().autodiff();
        let burn_hidden = self.burn(&hidden, [rows, depth], &device).require_grad();
        let burn_weight = self.burn(&weight, [depth, classes], &device).require_grad();
        let burn_targets =
            BurnTensor::<1, Int>::from_data(TensorData::new(targets.clone(), [rows]), &device);
        let criterion = CrossEntropyLossConfig::new().init(&device);
        let burn_loss = || {
            let logits = burn_hidden.clone().matmul(burn_weight.clone());
            criterion.forward(logits, burn_targets.clone())
        };

        let buffers = [
            self.floats(&[rows, depth], &hidden)?,
            self.floats(&[depth, classes], &weight)?,
            self.buffer(Dtype::I32, &[rows], bytemuck::cast_slice(&targets))?,
            self.zeros(&[1])?,
            self.zeros(&[rows, depth])?,
            self.zeros(&[depth, classes])?,
        ];
        let matrix = |index: usize, rows: usize, columns: usize| {
            Tensor::matrix(&buffers[index], Dtype::F32, rows as u64, columns as u64)
        };
        let inputs = LinearCrossEntropyInputs::default()
            .hidden(matrix(0, rows, depth))
            .weight(matrix(1, depth, classes))
            .targets(Tensor::vector(&buffers[2], Dtype::I32, rows as u64));
        let loss_tensor = Tensor::vector(&buffers[3], Dtype::F32, 1);
        let outputs = LinearCrossEntropyOutputs::default()
            .loss(loss_tensor.clone())
            .hidden_gradient(matrix(4, rows, depth))
            .weight_gradient(matrix(5, depth, classes));
        let loss = Linear::new(CrossEntropy::default()).weight_layout(WeightLayout::HiddenClasses);
        let call = self.gpu.prepare(&loss.request(inputs, outputs))?;

        self.run(&call)?;
        let mine = self.gpu.read_blocking(&loss_tensor)?.to_f64();
        let theirs = burn_loss().into_data().try_to_vec::<f32>()?;
        agree("loss", &mine, &theirs)?;
        let gradients = burn_loss().backward();
        let theirs = burn_hidden.grad(&gradients).ok_or("Burn has no gradient")?;
        let theirs = theirs.into_data().try_to_vec::<f32>()?;
        drop(gradients);
        let mine = self.gpu.read_blocking(&matrix(4, rows, depth))?;
        let mine: Vec<f32> = mine.to_f64().into_iter().map(|v| v as f32).collect();
        let exact = first_row(shape, &hidden, &weight, targets[0] as usize);
        self.errors.borrow_mut().push(format!(
            "- {shape}: a row of ∂hidden is {:.0e} (Burn) and {:.0e} (surprisal) of its largest element from f64",
            error(&exact, &theirs),
            error(&exact, &mine)
        ));
        self.compare(
            "linear cross-entropy, loss and gradients",
            shape,
            3.0,
            &mut [
                &mut || {
                    let gradients = burn_loss().backward();
                    let _held = (burn_hidden.grad(&gradients), burn_weight.grad(&gradients));
                    Ok(device.sync().map_err(|error| format!("{error:?}"))?)
                },
                &mut || self.run(&call),
            ],
        )
    }

    fn burn(&self, numbers: &[f32], shape: [usize; 2], device: &Device) -> BurnTensor<2> {
        BurnTensor::from_data(TensorData::new(numbers.to_vec(), shape), device)
    }
}

/// Numbers in (-1, 1).
fn numbers(random: &mut fastrand::Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// The transpose of a matrix of `rows` rows.
fn turned(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| matrix[r * columns + c])).collect()
}

/// The gradient of the first row of the hidden states, in f64, by the textbook formula.
fn first_row(shape: Shape, hidden: &[f32], weight: &[f32], target: usize) -> Vec<f64> {
    let Shape { rows, columns: classes, depth, .. } = shape;
    let at = |d: usize, class: usize| f64::from(weight[d * classes + class]);
    let score = |class| (0..depth).map(|d| f64::from(hidden[d]) * at(d, class)).sum::<f64>();
    let scores: Vec<f64> = (0..classes).map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let share =
        |class: usize| (scores[class] - top).exp() / sum - f64::from(u8::from(class == target));
    let shares: Vec<f64> = (0..classes).map(share).collect();
    let slope = |d| (0..classes).map(|class| shares[class] * at(d, class)).sum::<f64>();
    (0..depth).map(|d| slope(d) / rows as f64).collect()
}

/// The largest error, relative to the largest exact number.
fn error(exact: &[f64], found: &[f32]) -> f64 {
    let most = exact.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    let apart = exact.iter().zip(found).map(|(a, b)| (a - f64::from(*b)).abs());
    apart.fold(0.0_f64, f64::max) / most
}

/// Fails if the two sides do not compute the same.
fn agree(what: &str, mine: &[f64], theirs: &[f32]) -> Outcome<()> {
    let apart = error(mine, theirs);
    if mine.len() == theirs.len() && apart <= 1e-4 {
        return Ok(());
    }
    Err(format!("{what}: surprisal and Burn are {apart} of the largest number apart").into())
}
