//! `surprisal bench`: one loss at one shape, timed beside a copy of the same bytes, or beside a matrix product if the loss
//! is made of products.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use surprisal::{Dtype, Error, Gpu, Prepared, Result, adapter, loss::Dim, wgpu};
use surprisal_cli::bench::{
    CopyKernel, Ignored, Mode, ProductKernel, Sample, Spread, Task, Timer, Workload,
    allocated_bytes, interleave, streamed_bytes,
};

use crate::{
    adapters,
    arguments::{Chosen, Report, float_type},
    baseline::{Baselines, Comparison, Measurement},
    losses, output,
};

/// Times a loss and its yardstick in turn: medians, spread, bytes, scratch. The yardstick is a copy of
/// the same bytes, or for losses made of products a plain matrix product.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    #[command(flatten)]
    pub chosen: Chosen,
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
    #[arg(long, default_value = "f32", value_parser = float_type)]
    pub dtype: Dtype,
    /// forward (loss and lse), backward (gradients from a saved lse) or fused (loss and gradients).
    #[arg(long, default_value = "fused")]
    pub mode: Mode,
    /// Optional inputs to give as well, such as `row_weight`.
    #[arg(long, value_name = "INPUT", value_delimiter = ',')]
    pub with: Vec<String>,
    /// Outputs to ask for as well, such as `entropy`.
    #[arg(long, value_name = "OUTPUT", value_delimiter = ',')]
    pub want: Vec<String>,
    /// For linear losses: also time the variant that stores the logits of all rows.
    #[arg(long)]
    pub stored: bool,
    /// Also time every kernel of the call by itself.
    #[arg(long)]
    pub kernels: bool,
    /// Instead of the yardstick: time a quarter, a half and the whole of each extent, and fit the power of
    /// it that the time follows.
    #[arg(long, conflicts_with_all = ["kernels", "stored", "serve", "save", "baseline"])]
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
    /// The share of the rows whose target is `ignore_index`, from 0 to 1.
    #[arg(long, value_name = "SHARE", value_parser = share, default_value_t = 0.0)]
    pub ignored: f64,
    #[command(flatten)]
    pub baselines: Baselines,
    #[command(flatten)]
    pub report: Report,
    /// Stay and answer each line on stdin (`loss`, `copy`, `product` or `stored`) with one timed run as a
    /// line of JSON: for scripts that measure something else in turn.
    #[arg(long, conflicts_with_all = ["kernels", "json", "save", "baseline"])]
    pub serve: bool,
}

/// A number from 0 to 1.
fn share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no number from 0 to 1"))
}

/// What can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Loss,
    Copy,
    Product,
    Stored,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Copy => "copy",
            Self::Product => "product",
            Self::Stored => "stored",
        }
    }
}

/// What a loss is compared with.
enum Yardstick {
    /// A copy of the same bytes.
    Copy(CopyKernel),
    /// A plain matrix product, for losses that are made of products.
    Product(ProductKernel),
}

impl Yardstick {
    const fn what(&self) -> What {
        match self {
            Self::Copy(_) => What::Copy,
            Self::Product(_) => What::Product,
        }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Copy(copy) => copy.record(pass),
            Self::Product(product) => product.record(pass),
        }
    }

    /// Bytes read and written.
    fn bytes(&self) -> u64 {
        match self {
            Self::Copy(copy) => 2 * copy.bytes(),
            Self::Product(product) => product.bytes(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Copy(copy) => {
                let (workgroup, quads) = copy.fastest();
                let tried = copy.tried().map(|(workgroup, quads, ms)| {
                    json!({"workgroup": workgroup, "quads": quads, "best_ms": ms})
                });
                json!({
                    "bytes": copy.bytes(), "workgroup": workgroup, "quads": quads,
                    "tried": tried.collect::<Vec<_>>(),
                })
            }
            Self::Product(product) => {
                json!({ "extents": product.extents(), "flops": product.flops() })
            }
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
    yardstick: Yardstick,
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
    let compared = arguments.baselines.settle(&bench.measurement(&results))?;
    let text = || {
        let compared = compared.as_ref().map(Comparison::describe).unwrap_or_default();
        bench.describe(&results, &kernels) + &compared
    };
    let value = || {
        let mut report = bench.json(&results, &kernels);
        report["compared"] = json!(compared);
        report
    };
    arguments.report.give(text, value)?;
    let slower = compared.is_some_and(|compared| compared.is_slower());
    Ok(if slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The median time of something that was timed.
fn median(results: &[Measured], what: What) -> Option<f64> {
    Some(results.iter().find(|measured| measured.what == what)?.best().median)
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
        let loss = arguments.parse_loss()?;
        let task = arguments.task()?;
        let options = arguments.chosen.values()?;
        let gpu = adapters::open(adapter)?;
        let timer = Timer::new(&gpu)?;
        let workload = Workload::new(&gpu, loss.as_ref(), &task)?;
        let allocated = allocated_bytes(&gpu);
        let stored = if arguments.stored {
            let mut options = options.clone();
            options["chunk_bytes"] = whole_logits(&workload)?.into();
            Some(workload.variant(arguments.chosen.parse_with(&options)?.as_ref())?)
        } else {
            None
        };
        let yardstick = if workload.flops(&task) > 0.0 {
            let extent = |dim| task.extents.get(&dim).copied();
            let rows = extent(Dim::Rows).unwrap_or(1);
            let sides = [rows, extent(Dim::Classes).unwrap_or(rows)];
            let depth = extent(Dim::Hidden).unwrap_or(1);
            Yardstick::Product(ProductKernel::new(&gpu, &timer, [sides[0], sides[1], depth])?)
        } else {
            Yardstick::Copy(CopyKernel::new(&gpu, &timer, workload.distinct_bytes() / 2)?)
        };
        Ok(Self { gpu, task, options, workload, allocated, stored, yardstick, timer })
    }

    fn all(&self) -> Vec<What> {
        let stored = self.stored.is_some().then_some(What::Stored);
        [What::Loss, self.yardstick.what()].into_iter().chain(stored).collect()
    }

    fn time(&self, what: What) -> Result<Sample> {
        match (what, &self.stored) {
            (What::Copy | What::Product, _) => self.timer.time(|pass| self.yardstick.record(pass)),
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
            (What::Copy | What::Product, _) => self.yardstick.bytes(),
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
                let only = |other: &surprisal::plan::kernel::Kernel| {
                    other.label == kernel.label && *other == **kernel
                };
                times.push(self.timer.time(|pass| call.encode_kernels(pass, only))?.best());
            }
            found.push((kernel.label.clone(), dispatches, Spread::of(times)));
        }
        found.sort_by(|a, b| b.2.median.total_cmp(&a.2.median));
        Ok(found)
    }

    /// Everything measured.
    fn json(&self, results: &[Measured], kernels: &[(String, usize, Spread)]) -> Value {
        let mut report = self.about();
        report["results"] = results.iter().map(Measured::json).collect();
        let kernel = |(label, dispatches, ms): &(String, usize, Spread)| json!({"label": label, "dispatches": dispatches, "ms": ms});
        report["kernels"] = kernels.iter().map(kernel).collect();
        report[format!("share_of_{}", self.yardstick.what().name())] = self.share(results).into();
        report
    }

    /// The speed of the loss relative to the speed of its yardstick: of its copy, or of a plain product for as many
    /// operations.
    fn share(&self, results: &[Measured]) -> Option<f64> {
        let loss = median(results, What::Loss)?;
        let alone = median(results, self.yardstick.what())?;
        Some(match &self.yardstick {
            Yardstick::Copy(_) => alone / loss,
            Yardstick::Product(product) => {
                self.workload.flops(&self.task) / loss / (product.flops() / alone)
            }
        })
    }

    /// What is kept of a measurement.
    fn measurement(&self, results: &[Measured]) -> Measurement {
        let about = self.about();
        let of_call = [
            "loss", "options", "mode", "dtype", "extents", "ignored", "inputs", "outputs",
            "adapter", "driver", "clock",
        ];
        let call = of_call.iter().map(|&key| (key.to_owned(), about[key].clone()));
        let loss = results.iter().find(|measured| measured.what == What::Loss);
        Measurement {
            call: call.collect::<serde_json::Map<_, _>>().into(),
            runs: loss.map_or(0, |loss| loss.runs),
            ms: loss.map(Measured::best).unwrap_or_default(),
        }
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
        json!({
            "surprisal": env!("CARGO_PKG_VERSION"),
            "loss": plan.loss,
            "options": self.options,
            "mode": self.task.mode,
            "dtype": self.task.dtype,
            "extents": extents,
            "ignored": self.task.ignored.map_or(0.0, |ignored| ignored.share),
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
            self.yardstick.what().name(): self.yardstick.json(),
        })
    }

    /// Answers lines on stdin until stdin ends.
    fn serve(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::file("stdin or stdout".as_ref(), error);
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
            output::bytes(scratch),
            output::bytes(peak)
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
                output::bytes(plan.unstored_bytes)
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
        let median = |what| median(results, what);
        let Some(loss) = median(What::Loss) else { return text };
        let Some(share) = self.share(results) else { return text };
        match &self.yardstick {
            Yardstick::Copy(copy) => {
                let (workgroup, quads) = copy.fastest();
                let _ = writeln!(
                    text,
                    "copy of the same bytes: {:.2}× its time, {:.0} % of its speed (the fastest of {} \
                     copies: {workgroup} lanes, {quads} quad(s) a lane); it reads half of all input \
                     and output bytes and writes as many",
                    1.0 / share,
                    100.0 * share,
                    copy.tried().count(),
                );
            }
            Yardstick::Product(product) => {
                let rate = self.workload.flops(&self.task) / loss / 1e6;
                let [rows, columns, depth] = product.extents();
                let _ = writeln!(
                    text,
                    "products: {rate:.2} GFLOP/s, {share:.2}× the rate of a plain product of {rows} × \
                     {columns} × {depth} ({:.2} GFLOP/s); two a multiply-add of the scores (made \
                     again backward) and of each matrix gradient",
                    rate / share,
                );
            }
        }
        let _ = writeln!(
            text,
            "bytes moved: what the dispatches bind, once a dispatch, the logits a second time in the \
             fused row kernel"
        );
        if let (Some(stored), Some(call)) = (median(What::Stored), &self.stored) {
            let _ = writeln!(
                text,
                "storing the logits: {:.3}× its time; it holds {} of scratch (one binding's worth at \
                 most, then the next rows){}",
                loss / stored,
                output::bytes(call.plan().scratch_bytes),
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
        let loss = self.chosen.parse()?;
        if loss.is_host() {
            return Err(Error::HostOnly { operation: self.chosen.name.clone().into() });
        }
        Ok(loss)
    }

    /// The call that is timed.
    pub fn task(&self) -> Result<Task> {
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
        if self.ignored > 0.0 {
            task.ignored = Some(Ignored { share: self.ignored, index: self.ignored_index()? });
        }
        Ok(task)
    }

    /// The index that a target has to be ignored.
    fn ignored_index(&self) -> Result<i64> {
        const OPTION: &str = "ignore_index";
        let about = losses::find(&self.chosen.name)?.about;
        let default = about.options.iter().find(|option| option.name == OPTION);
        let given = self.chosen.values()?.get(OPTION).cloned();
        let index = match given {
            Some(Value::Array(list)) => list.first().and_then(Value::as_i64),
            Some(value) => value.as_i64(),
            None => default.and_then(|option| option.default.parse().ok()),
        };
        index.ok_or_else(|| Error::InvalidOption {
            operation: self.chosen.name.clone().into(),
            option: "ignored",
            value: self.ignored.to_string().into(),
            reason: "this call has no `ignore_index`".into(),
        })
    }
}

/// The bytes of a chunk that holds the logits of all rows.
fn whole_logits(workload: &Workload) -> Result<u64> {
    let plan = workload.prepared().plan();
    if plan.unstored_bytes == 0 {
        return Err(Error::InvalidOption {
            operation: plan.loss.clone().into(),
            option: "stored",
            value: "true".into(),
            reason: "only linear losses leave their logits unstored".into(),
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
        row.extend([spread(measured.wall_ms), output::bytes(measured.bytes), rate]);
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
