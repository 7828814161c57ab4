//! `surprisal bench`: one loss at one shape, timed beside a copy of the same bytes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use surprisal::{Dtype, Error, Gpu, Prepared, Result, adapter, loss::Dim};
use surprisal_cli::bench::{
    CopyKernel, Mode, Sample, Spread, Task, Timer, Workload, allocated_bytes, interleave,
    streamed_bytes,
};

use crate::{adapters, losses, output};

/// Times a loss and a copy of the same bytes in turn: medians, spread, bytes, scratch.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    /// The loss, as in `surprisal losses`.
    pub loss: String,
    /// How many rows (samples, tokens).
    #[arg(long)]
    pub rows: u64,
    /// How many classes (columns of the logits).
    #[arg(long)]
    pub classes: Option<u64>,
    /// The depth of the hidden states, for losses on a linear layer.
    #[arg(long)]
    pub hidden: Option<u64>,
    /// How float inputs and gradients are stored: f32, f16 or bf16.
    #[arg(long, default_value = "f32", value_parser = float)]
    pub dtype: Dtype,
    /// forward (loss and lse), backward (gradients from a saved lse) or fused (loss and gradients).
    #[arg(long, default_value = "fused")]
    pub mode: Mode,
    /// The loss's options as JSON.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub options: String,
    /// The option `weight_layout` of a linear loss.
    #[arg(long, value_name = "LAYOUT", value_parser = ["classes_hidden", "hidden_classes"])]
    pub weight_layout: Option<String>,
    /// The option `chunk_bytes` of a linear loss.
    #[arg(long, value_name = "BYTES")]
    pub chunk_bytes: Option<u64>,
    /// An optional input to give as well, such as `row_weight`; may be repeated.
    #[arg(long = "with", value_name = "INPUT")]
    pub with: Vec<String>,
    /// An output to ask for as well, such as `entropy`; may be repeated.
    #[arg(long = "want", value_name = "OUTPUT")]
    pub want: Vec<String>,
    /// For linear losses: also time the variant that stores the logits of all rows.
    #[arg(long)]
    pub stored: bool,
    /// Also time every kernel of the call by itself.
    #[arg(long)]
    pub kernels: bool,
    /// Instead of the copy: time a quarter, a half and the whole of each extent, and fit the power of
    /// it that the time follows.
    #[arg(long, conflicts_with_all = ["kernels", "json", "stored", "serve"])]
    pub sweep: bool,
    /// The most runs of each.
    #[arg(long, default_value_t = 20)]
    pub runs: usize,
    /// Runs that nobody counts.
    #[arg(long, default_value_t = 2)]
    pub warm_up: usize,
    /// Begin no more runs after this many seconds (but make three).
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Write everything measured to this file; `-` is stdout.
    #[arg(long, value_name = "OUT")]
    pub json: Option<PathBuf>,
    /// Stay and answer each line on stdin (`loss`, `copy` or `stored`) with one timed run as a line of
    /// JSON: for scripts that measure something else in turn.
    #[arg(long, conflicts_with_all = ["kernels", "json"])]
    pub serve: bool,
}

fn float(name: &str) -> std::result::Result<Dtype, String> {
    let dtype: Dtype = name.parse()?;
    if dtype.is_float() { Ok(dtype) } else { Err(format!("`{name}` is not one of f32, f16, bf16")) }
}

/// What can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Loss,
    Copy,
    Stored,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Copy => "copy",
            Self::Stored => "stored",
        }
    }
}

/// Everything that the runs need.
struct Bench {
    gpu: Gpu,
    task: Task,
    options: Value,
    workload: Workload,
    allocated: Option<u64>,
    stored: Option<Prepared>,
    copy: CopyKernel,
    timer: Timer,
}

/// Runs the command.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    if arguments.sweep {
        return crate::sweep::run(arguments, adapter);
    }
    let bench = Bench::new(arguments, adapter)?;
    for _ in 0..arguments.warm_up {
        for what in bench.all() {
            bench.time(what)?;
        }
    }
    if arguments.serve {
        bench.serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let keys = bench.all();
    let budget = Duration::try_from_secs_f64(arguments.seconds).unwrap_or(Duration::MAX);
    let samples = interleave(&keys, arguments.runs, budget, |what| bench.time(what))?;
    let results: Vec<Measured> = keys
        .into_iter()
        .zip(&samples)
        .map(|(what, samples)| Measured::new(what, bench.bytes(what), samples))
        .collect();
    let kernels = if arguments.kernels { bench.kernels(arguments.runs)? } else { Vec::new() };
    let text = bench.describe(&results, &kernels);
    if arguments.json.as_deref() == Some(Path::new("-")) {
        output::note(&text);
    } else {
        output::print(&text);
    }
    if let Some(path) = &arguments.json {
        let mut report = bench.about();
        report["results"] = results.iter().map(Measured::json).collect();
        report["kernels"] = kernels
            .iter()
            .map(|(label, dispatches, ms)| {
                json!({"label": label, "dispatches": dispatches, "ms": ms})
            })
            .collect();
        report["share_of_copy"] = share_of_copy(&results).into();
        output::json(&report, Some(path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The speed of the loss relative to the speed of its copy.
fn share_of_copy(results: &[Measured]) -> Option<f64> {
    let median = |what| {
        let measured = results.iter().find(|measured| measured.what == what)?;
        Some(measured.best().median)
    };
    Some(median(What::Copy)? / median(What::Loss)?)
}

/// One row of the table.
struct Measured {
    what: What,
    bytes: u64,
    runs: usize,
    wall_ms: Spread,
    gpu_ms: Option<Spread>,
}

impl Measured {
    fn new(what: What, bytes: u64, samples: &[Sample]) -> Self {
        let gpu: Option<Vec<f64>> = samples.iter().map(|sample| sample.gpu_ms).collect();
        Self {
            what,
            bytes,
            runs: samples.len(),
            wall_ms: Spread::of(samples.iter().map(|sample| sample.wall_ms)),
            gpu_ms: gpu.map(Spread::of),
        }
    }

    /// The times by timestamps, if there are any.
    fn best(&self) -> Spread {
        self.gpu_ms.unwrap_or(self.wall_ms)
    }

    fn gigabytes_a_second(&self) -> f64 {
        self.bytes as f64 / self.best().median / 1e6
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what.name(),
            "runs": self.runs,
            "wall_ms": self.wall_ms,
            "gpu_ms": self.gpu_ms,
            "bytes_moved": self.bytes,
            "gb_per_s": self.gigabytes_a_second(),
        })
    }
}

impl Bench {
    fn new(arguments: &Arguments, adapter: Option<&str>) -> Result<Self> {
        let entry = losses::find(&arguments.loss)?;
        let loss = arguments.parse_loss()?;
        let task = arguments.task();
        let options = arguments.loss_options()?;
        let gpu = adapters::open(adapter)?;
        let timer = Timer::new(&gpu)?;
        let workload = Workload::new(&gpu, loss.as_ref(), &task)?;
        let allocated = allocated_bytes(&gpu);
        let stored = if arguments.stored {
            let mut options = options.clone();
            options["chunk_bytes"] = whole_logits(&workload)?.into();
            Some(workload.variant((entry.parse)(&options)?.as_ref())?)
        } else {
            None
        };
        let copy = CopyKernel::new(&gpu, &timer, workload.distinct_bytes() / 2)?;
        Ok(Self { gpu, task, options, workload, allocated, stored, copy, timer })
    }

    fn all(&self) -> Vec<What> {
        let stored = self.stored.is_some().then_some(What::Stored);
        [What::Loss, What::Copy].into_iter().chain(stored).collect()
    }

    fn time(&self, what: What) -> Result<Sample> {
        match (what, &self.stored) {
            (What::Copy, _) => self.timer.time(|pass| self.copy.record(pass)),
            (What::Stored, Some(stored)) => self.timer.time(|pass| {
                // A backward pass with the logits of a forward pass computes no scores.
                let keeps = self.task.mode == Mode::Backward;
                stored.encode_kernels(pass, |kernel| !(keeps && kernel.label.contains(".scores.")));
            }),
            _ => self.timer.time_call(self.workload.prepared()),
        }
    }

    fn bytes(&self, what: What) -> u64 {
        match (what, &self.stored) {
            (What::Copy, _) => 2 * self.copy.bytes(),
            (What::Stored, Some(stored)) => streamed_bytes(stored.plan()),
            _ => streamed_bytes(self.workload.prepared().plan()),
        }
    }

    /// Medians of each kernel by itself, slowest first.
    fn kernels(&self, runs: usize) -> Result<Vec<(String, usize, Spread)>> {
        let call = self.workload.prepared();
        let plan = call.plan();
        let mut found = Vec::new();
        for (index, kernel) in plan.kernels.iter().enumerate() {
            let dispatches = plan.dispatches.iter().filter(|d| d.kernel == index).count();
            let mut times = Vec::new();
            for _ in 0..runs.clamp(1, 5) {
                // A kernel under another label gets its own line, even if its code is the same.
                let only = |other: &surprisal::kernel::Kernel| {
                    other.label == kernel.label && *other == **kernel
                };
                times.push(self.timer.time(|pass| call.encode_kernels(pass, only))?.best());
            }
            found.push((kernel.label.clone(), dispatches, Spread::of(times)));
        }
        found.sort_by(|a, b| b.2.median.total_cmp(&a.2.median));
        Ok(found)
    }

    /// A description of what is timed, and on which adapter: everything that needs no clock.
    fn about(&self) -> Value {
        let info = self.gpu.info();
        let plan = self.workload.prepared().plan();
        let extents: serde_json::Map<String, Value> = self
            .task
            .extents
            .iter()
            .map(|(dim, extent)| (dim.name().to_owned(), (*extent).into()))
            .collect();
        let outputs: Vec<&str> = self.workload.outputs().map(|(name, _)| name).collect();
        let inputs: Vec<&str> = self.workload.inputs().map(|(name, _)| name).collect();
        let (workgroup, quads) = self.copy.fastest();
        let tried: Vec<Value> = self
            .copy
            .tried()
            .map(|(workgroup, quads, ms)| json!({"workgroup": workgroup, "quads": quads, "best_ms": ms}))
            .collect();
        json!({
            "surprisal": env!("CARGO_PKG_VERSION"),
            "loss": plan.loss,
            "options": self.options,
            "mode": self.task.mode,
            "dtype": self.task.dtype,
            "extents": extents,
            "inputs": inputs,
            "outputs": outputs,
            "adapter": adapter::describe(info),
            "driver": format!("{} {}", info.driver, info.driver_info),
            "timestamps": self.timer.has_timestamps(),
            "clock": if self.timer.has_timestamps() { "timestamps" } else { "wall" },
            "dispatches": plan.dispatches.len(),
            "windows": plan.windows,
            "path": plan.path,
            "distinct_bytes": self.workload.distinct_bytes(),
            "bytes_moved": self.bytes(What::Loss),
            "scratch_bytes": plan.scratch_bytes,
            "parameter_bytes": plan.params_bytes(),
            "allocated_bytes": self.allocated,
            "peak_bytes": self.workload.peak_bytes(),
            "unstored_bytes": plan.unstored_bytes,
            "stored_scratch_bytes": self.stored.as_ref().map(|stored| stored.plan().scratch_bytes),
            "flops": self.workload.flops(&self.task),
            "copy": {
                "bytes": self.copy.bytes(), "workgroup": workgroup, "quads": quads, "tried": tried,
            },
        })
    }

    /// Answers lines on stdin until stdin ends.
    fn serve(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::File {
            path: "stdin or stdout".to_owned(),
            reason: error.to_string(),
        };
        let mut out = std::io::stdout();
        let mut answer =
            |value: &Value| writeln!(out, "{value}").and_then(|()| out.flush()).map_err(failed);
        answer(&self.about())?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(failed)?;
            match self.all().into_iter().find(|what| what.name() == line.trim()) {
                Some(what) => {
                    let Sample { wall_ms, gpu_ms } = self.time(what)?;
                    answer(&json!({"what": what.name(), "wall_ms": wall_ms, "gpu_ms": gpu_ms}))?;
                }
                None => answer(&json!({"error": format!("nothing to time is called `{line}`")}))?,
            }
        }
        Ok(())
    }

    fn describe(&self, results: &[Measured], kernels: &[(String, usize, Spread)]) -> String {
        let mut text = String::new();
        let info = self.gpu.info();
        let plan = self.workload.prepared().plan();
        let extents: Vec<String> = self
            .task
            .extents
            .iter()
            .map(|(dim, extent)| format!("{extent} {}", dim.name()))
            .collect();
        let _ = writeln!(
            text,
            "{}: {} {}, {}",
            plan.loss,
            self.task.mode,
            self.task.dtype,
            extents.join(" × ")
        );
        let _ = writeln!(text, "on {} {}", adapter::describe(info), info.driver_info);
        let stamped = self.timer.has_timestamps();
        let _ = writeln!(text, "{}", table(results, stamped));
        let clock = if stamped { "timestamps" } else { "the wall clock (no timestamps here)" };
        let _ = writeln!(
            text,
            "Times are medians with 10th to 90th percentile; rates and ratios are by {clock}."
        );
        text += &self.ratios(results);
        let scratch = plan.scratch_bytes;
        let peak = self.workload.peak_bytes();
        let _ = writeln!(
            text,
            "scratch: {}; peak on the GPU, inputs and outputs included: {}",
            bytes(scratch),
            bytes(peak)
        );
        if let Some(allocated) = self.allocated {
            let planned = scratch + plan.params_bytes();
            let _ = writeln!(
                text,
                "beside inputs and outputs: {planned} bytes planned (scratch and parameters), \
                 {allocated} allocated"
            );
        }
        if plan.unstored_bytes > 0 {
            let share = 100.0 * scratch as f64 / plan.unstored_bytes as f64;
            let _ = writeln!(
                text,
                "logits, never stored: {}; the scratch is {share:.1} % of that",
                bytes(plan.unstored_bytes)
            );
        }
        let _ =
            writeln!(text, "dispatches: {} in {} window(s)", plan.dispatches.len(), plan.windows);
        if let Some(path) = &plan.path {
            let _ = writeln!(text, "{path}");
        }
        for (label, dispatches, ms) in kernels {
            let _ = writeln!(text, "  {:>10.3} ms  {label} × {dispatches}", ms.median);
        }
        text
    }

    fn ratios(&self, results: &[Measured]) -> String {
        let mut text = String::new();
        let find = |what| results.iter().find(|measured| measured.what == what);
        let (Some(loss), Some(share)) = (find(What::Loss), share_of_copy(results)) else {
            return text;
        };
        let (workgroup, quads) = self.copy.fastest();
        let _ = writeln!(
            text,
            "copy of the same bytes: {:.2}× its time, {:.0} % of its speed (the fastest of {} \
             copies: {workgroup} lanes, {quads} quad(s) a lane); it reads half of all input and output \
             bytes and writes as many",
            1.0 / share,
            100.0 * share,
            self.copy.tried().count(),
        );
        let _ = writeln!(
            text,
            "bytes moved: what the dispatches bind, once a dispatch, the logits a second time in the \
             fused row kernel"
        );
        let flops = self.workload.flops(&self.task);
        if flops > 0.0 {
            let _ = writeln!(
                text,
                "{:.2} GFLOP/s: two a multiply-add of the scores (made again backward) and of each \
                 matrix gradient",
                flops / loss.best().median / 1e6
            );
        }
        if let (Some(stored), Some(call)) = (find(What::Stored), &self.stored) {
            let _ = writeln!(
                text,
                "storing the logits: {:.3}× its time; it holds {} of scratch (one binding's worth at \
                 most, then the next rows){}",
                loss.best().median / stored.best().median,
                bytes(call.plan().scratch_bytes),
                if self.task.mode == Mode::Backward {
                    ", the scores kept from forward"
                } else {
                    ""
                },
            );
        }
        text
    }
}

impl Arguments {
    /// The loss with its options.
    pub fn parse_loss(&self) -> Result<Box<dyn surprisal::Operation>> {
        let loss = (losses::find(&self.loss)?.parse)(&self.loss_options()?)?;
        if loss.is_host() {
            return Err(Error::HostOnly { operation: self.loss.clone() });
        }
        Ok(loss)
    }

    /// The call that is timed.
    pub fn task(&self) -> Task {
        let extents: BTreeMap<Dim, u64> = [
            (Dim::Rows, Some(self.rows)),
            (Dim::Classes, self.classes),
            (Dim::Hidden, self.hidden),
        ]
        .into_iter()
        .filter_map(|(dim, extent)| Some((dim, extent?)))
        .collect();
        let mut task = Task::new(extents, self.dtype, self.mode);
        task.with.clone_from(&self.with);
        task.want.clone_from(&self.want);
        task
    }

    /// The options, including those that have their own flags.
    fn loss_options(&self) -> Result<Value> {
        let refused = |reason: String| Error::InvalidOption {
            loss: self.loss.clone(),
            option: "options",
            value: self.options.clone(),
            reason,
        };
        let mut options: Value =
            serde_json::from_str(&self.options).map_err(|error| refused(error.to_string()))?;
        let Some(object) = options.as_object_mut() else {
            return Err(refused("a JSON object is expected".to_owned()));
        };
        if let Some(layout) = &self.weight_layout {
            object.insert("weight_layout".to_owned(), layout.clone().into());
        }
        if let Some(bytes) = self.chunk_bytes {
            object.insert("chunk_bytes".to_owned(), bytes.into());
        }
        Ok(options)
    }
}

/// The bytes of a chunk that holds the logits of all rows.
fn whole_logits(workload: &Workload) -> Result<u64> {
    let plan = workload.prepared().plan();
    if plan.unstored_bytes == 0 {
        return Err(Error::InvalidOption {
            loss: plan.loss.clone(),
            option: "stored",
            value: "true".to_owned(),
            reason: "only linear losses leave their logits unstored".to_owned(),
        });
    }
    // Rows may be padded to whole quads.
    Ok(2 * plan.unstored_bytes + 64)
}

fn table(results: &[Measured], stamped: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec!["", "runs"];
    if stamped {
        header.push("timestamps, ms");
    }
    header.extend(["wall clock, ms", "bytes moved", "GB/s"]);
    let columns = header.len();
    table.set_header(header);
    for measured in results {
        let mut row = vec![measured.what.name().to_owned(), measured.runs.to_string()];
        if let Some(times) = measured.gpu_ms {
            row.push(spread(times));
        }
        let rate = format!("{:.2}", measured.gigabytes_a_second());
        row.extend([spread(measured.wall_ms), bytes(measured.bytes), rate]);
        table.add_row(row);
    }
    for index in 1..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn spread(times: Spread) -> String {
    format!("{:.3} ({:.3} to {:.3})", times.median, times.p10, times.p90)
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
