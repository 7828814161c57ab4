//! Trains a small language model with a vocabulary of 100,277 tokens, whose logits are never stored.
//!
//! `cargo run --release --example language_model -- --help`
//!
//! The model (embedding, mixing, optimiser) is this example's own; the classifier's loss and its
//! gradients are the library's [`LinearCrossEntropy`]. A step is one submission; its loss and status
//! come back through [`Gpu::watch`] while the next step runs.

mod data;
mod gpu_model;
mod model;
mod reference;
mod report;

use std::{
    collections::VecDeque,
    error::Error,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use clap::{Parser, ValueEnum};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use surprisal::{
    CrossEntropy, Gpu, LinearCrossEntropy,
    adapter::{self, Kind},
    wgpu,
};

use data::{CLASSES, Corpus, Sample};
use gpu_model::{GpuModel, InFlight};
use model::{Batch, Parameters, Shape};
use reference::Reference;
use report::{Progress, Row};

/// Trains a small language model on real text with a real vocabulary of 100,277 tokens.
#[derive(Parser)]
struct Arguments {
    /// A file or a folder of text; the project's own sources and documents if not given.
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// `gpu`, or `cpu`: a few steps on the f64 reference, held against the GPU where there is one.
    #[arg(long, value_enum, default_value_t = Backend::Gpu)]
    backend: Backend,
    /// Steps of training [default: 240, or 3 with --backend cpu].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Tokens a step [default: 256, or 8 with --backend cpu].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Length of embeddings and hidden states.
    #[arg(long, default_value_t = DEPTH, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// How many tokens the model looks back.
    #[arg(long, default_value_t = CONTEXT, value_parser = clap::value_parser!(u32).range(1..=64))]
    context: u32,
    /// The optimiser's learning rate.
    #[arg(long, default_value_t = LEARNING_RATE)]
    learning_rate: f32,
    /// Seeds the first parameters and the order of the batches.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many held-out tokens are looked at, evenly spread over the held-out text.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    held_out: u32,
    /// A part of the adapter's name, driver or backend.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Where the loss curve goes (SVG); the build's folder if not given.
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Gpu,
    Cpu,
}

impl Arguments {
    /// Whether the README describes this run, except for the seed.
    fn is_usual(&self) -> bool {
        let shape = (self.batch, self.depth, self.context) == (None, DEPTH, CONTEXT);
        shape && self.text.is_none() && self.learning_rate.to_bits() == LEARNING_RATE.to_bits()
    }
}

/// The shape and the learning rate of the run that the README describes.
const DEPTH: u32 = 64;
const CONTEXT: u32 = 4;
const LEARNING_RATE: f32 = 0.1;
/// Steps of a full run: a software adapter on two cores needs some minutes for them.
const STEPS: u32 = 240;
/// How many times the held-out loss is computed during a run.
const LOOKS: u32 = 6;
/// Steps that were submitted and not reported yet, so that the GPU never waits for the host.
const IN_FLIGHT: usize = 2;
/// A full run on the project's own text ends at least this far below the held-out unigram's cross-entropy, in nats.
const LEAST_GAIN: f64 = 1.0;
/// The exit status that a shell shows for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let corpus = Corpus::read(arguments.text.as_deref(), arguments.context as usize)?;
    let (train, held_out) = (&corpus.train, &corpus.held_out);
    println!(
        "text: {} files, {} tokens to learn from, {} held out (every 10th block), {:.2} bytes a token",
        corpus.files,
        train.len(),
        held_out.len(),
        train.bytes_per_token(),
    );
    match arguments.backend {
        Backend::Gpu => train_on_gpu(arguments, &corpus),
        Backend::Cpu => compare(arguments, &corpus),
    }
}

/// Endless random batches: every token of the training split once, then all again in another order.
struct Batches<'a> {
    corpus: &'a Corpus,
    shape: Shape,
    rng: StdRng,
    left: Vec<Sample>,
}

impl<'a> Batches<'a> {
    fn new(corpus: &'a Corpus, shape: Shape, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(1));
        Self { corpus, shape, rng, left: Vec::new() }
    }

    fn next(&mut self) -> Batch {
        let mut samples = Vec::with_capacity(self.shape.rows);
        while samples.len() < self.shape.rows {
            if self.left.is_empty() {
                self.left.clone_from(&self.corpus.train.samples);
                self.left.shuffle(&mut self.rng);
            }
            samples.extend(self.left.pop());
        }
        Batch::new(&self.corpus.train, &samples, self.shape)
    }
}

fn shape(arguments: &Arguments, rows: u32) -> Shape {
    Shape {
        rows: arguments.batch.unwrap_or(rows) as usize,
        depth: arguments.depth as usize,
        context: arguments.context as usize,
    }
}

/// Opens the adapter and prints which one it is, so that nobody wonders why software is slow.
fn open(arguments: &Arguments) -> surprisal::Result<Gpu> {
    let adapters = pollster::block_on(adapter::adapters());
    let index = adapter::choose(&adapters, arguments.adapter.as_deref())?;
    let gpu = pollster::block_on(Gpu::open_on(&adapters[index]))?;
    let infos: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let kinds: Vec<Kind> = infos.iter().map(Kind::of).collect();
    let software = kinds[index] == Kind::Software;
    let kind = if software { ": SOFTWARE, on this machine's processor" } else { "" };
    println!("adapter: {}{kind}", adapter::describe(gpu.info()));
    if let Some(other) = adapter::overlooked(&kinds, index) {
        let name = adapter::describe(&infos[other]);
        eprintln!("WARNING: this machine has a GPU: {name} (use it with --adapter {other})");
    }
    Ok(gpu)
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn on_interrupt() -> Result<Arc<AtomicBool>, Box<dyn Error>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    Ok(interrupted)
}

fn train_on_gpu(arguments: &Arguments, corpus: &Corpus) -> Result<ExitCode, Box<dyn Error>> {
    let interrupted = on_interrupt()?;
    let started = Instant::now();
    let steps = arguments.steps.unwrap_or(STEPS);
    let shape = shape(arguments, 256);
    let gpu =
        open(arguments).map_err(|error| format!("{error}\n(--backend cpu needs no adapter)"))?;
    let first = Parameters::new(shape, arguments.seed, &corpus.log_unigram)?;
    let loss = LinearCrossEntropy::new(CrossEntropy::default());
    let model = GpuModel::new(&gpu, shape, &first, &loss)?;
    let samples = corpus.held_out.spread(arguments.held_out as usize);
    let unigram = corpus.unigram_loss(&samples);
    println!(
        "model: {} tokens back, depth {}, {CLASSES} classes, {:.1} M parameters; {steps} steps of {} tokens",
        shape.context,
        shape.depth,
        (2 * shape.table() + shape.mixing() + CLASSES as usize) as f64 / 1e6,
        shape.rows,
    );

    let bytes_per_token = corpus.train.bytes_per_token();
    let mut progress = Progress::new(steps, shape.rows, bytes_per_token, model.peak_bytes())?;
    let mut batches = Batches::new(corpus, shape, arguments.seed);
    let mut in_flight = VecDeque::new();
    let mut heard = 0;
    let mut table = Table::default();
    for step in 1..=steps {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let learning_rate = model::learning_rate(step - 1, arguments.learning_rate);
        in_flight.push_back(model.train(&batches.next(), learning_rate)?);
        let look = step == steps || (step * LOOKS / steps != (step - 1) * LOOKS / steps);
        let leave = if look { 0 } else { IN_FLIGHT - 1 };
        hear(&mut in_flight, leave, &mut heard, &mut progress)?;
        if look {
            let held_out = progress.aside(|| held_out(&model, corpus, &samples, &interrupted))?;
            table.look(step, progress.losses(), held_out);
        }
    }
    hear(&mut in_flight, 0, &mut heard, &mut progress)?;
    progress.finish();
    if table.seen < heard as usize {
        table.look(heard, progress.losses(), None);
    }

    println!("{}", report::table(&table.rows, corpus.held_out.bytes_per_token()));
    let curve = arguments.curve.clone().unwrap_or_else(report::default_curve);
    report::draw(&curve, progress.losses(), &table.rows, unigram)?;
    println!("curve: {}", curve.display());
    let seconds = progress.training_time().as_secs_f64();
    println!(
        "time: {:.0} s, {seconds:.0} s of them in {heard} steps: {:.0} tokens/s",
        started.elapsed().as_secs_f64(),
        f64::from(heard) * shape.rows as f64 / seconds,
    );
    let plan = model.plan();
    println!(
        "memory: storing the logits of a step would have cost {}, and as much again for their \
         gradient; the plan's scratch is {} (peak on the GPU, parameters and all: {})",
        report::megabytes(plan.unstored_bytes),
        report::megabytes(plan.scratch_bytes),
        report::megabytes(model.peak_bytes()),
    );
    print!("held-out unigram cross-entropy: {unigram:.4} nats");
    let last = table.rows.last().and_then(|row| row.held_out);
    if let Some(last) = last {
        print!("; held-out loss: {last:.4}; gain: {:.4} nats a token", unigram - last);
    }
    println!();
    if interrupted.load(Ordering::Relaxed) {
        println!("interrupted after step {heard} of {steps}");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    // A shorter run promises nothing. A full run on another text or of another shape must only beat the unigram.
    let least = if arguments.is_usual() { LEAST_GAIN } else { 0.0 };
    if steps >= STEPS && last.is_none_or(|last| unigram - last <= least) {
        let reason = format!("the held-out loss did not get {least} nats below the unigram's");
        return Err(reason.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows of the table, and the number of steps whose losses they include.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    seen: usize,
}

impl Table {
    fn look(&mut self, step: u32, losses: &[f64], held_out: Option<f64>) {
        let new = &losses[self.seen..];
        let train = (!new.is_empty()).then(|| new.iter().sum::<f64>() / new.len() as f64);
        self.seen = losses.len();
        self.rows.push(Row { step, train, held_out });
    }
}

/// Waits for the oldest steps until `leave` of them are in flight.
fn hear(
    in_flight: &mut VecDeque<InFlight>,
    leave: usize,
    heard: &mut u32,
    progress: &mut Progress,
) -> Result<(), Box<dyn Error>> {
    while in_flight.len() > leave
        && let Some(oldest) = in_flight.pop_front()
    {
        let report = oldest.wait()?;
        *heard += 1;
        progress.step(*heard, f64::from(report.loss));
    }
    Ok(())
}

/// The mean loss of these held-out samples, or nothing if the user interrupted it.
fn held_out(
    model: &GpuModel,
    corpus: &Corpus,
    samples: &[Sample],
    interrupted: &AtomicBool,
) -> Result<Option<f64>, Box<dyn Error>> {
    let shape = model.shape();
    let mut sum = 0.0;
    for samples in samples.chunks(shape.rows) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = Batch::new(&corpus.held_out, samples, shape);
        sum += f64::from(model.evaluate(&batch)?.wait()?.loss);
    }
    Ok(Some(sum / samples.len() as f64))
}

/// The same few steps on the f64 reference and, where there is an adapter, on the GPU.
fn compare(arguments: &Arguments, corpus: &Corpus) -> Result<ExitCode, Box<dyn Error>> {
    let steps = arguments.steps.unwrap_or(3);
    let shape = shape(arguments, 8);
    let first = Parameters::new(shape, arguments.seed, &corpus.log_unigram)?;
    let loss = LinearCrossEntropy::new(CrossEntropy::default());
    // The full rate from the first step: after three steps, a wrong gradient is then plain to see.
    let rate = arguments.learning_rate;

    println!("backend: the CPU reference in f64, {steps} steps of {} tokens", shape.rows);
    let interrupted = on_interrupt()?;
    let gpu = match open(arguments) {
        Ok(gpu) => Some(gpu),
        // An adapter that was asked for by name must exist.
        Err(error) if adapter::wanted(arguments.adapter.as_deref()).is_some() => {
            return Err(error.into());
        }
        Err(error) => {
            println!("no GPU to hold this against: {error}");
            None
        }
    };
    let stopped = || interrupted.load(Ordering::Relaxed);
    let mut reference = Reference::new(shape, &first);
    let mut batches = Batches::new(corpus, shape, arguments.seed);
    let mut on_cpu = Vec::new();
    for step in (0..steps).take_while(|_| !stopped()) {
        let start = Instant::now();
        let value = reference.step(&loss, &batches.next(), rate.into())?;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("step {}/{steps}: loss {value:.6} in {seconds:.1} s", step + 1);
        on_cpu.push(value);
    }
    drop(reference);

    let mut on_gpu = Vec::new();
    if let Some(gpu) = gpu.filter(|_| !stopped()) {
        let model = GpuModel::new(&gpu, shape, &first, &loss)?;
        let mut batches = Batches::new(corpus, shape, arguments.seed);
        for _ in (0..steps).take_while(|_| !stopped()) {
            let report = model.train(&batches.next(), rate)?.wait()?;
            on_gpu.push(f64::from(report.loss));
        }
    }
    let (text, agree) = report::side_by_side(&on_cpu, &on_gpu);
    println!("{text}");
    if stopped() {
        println!("interrupted after step {} of {steps}", on_cpu.len());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
