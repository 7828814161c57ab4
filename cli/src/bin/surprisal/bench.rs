//! `surprisal bench`: one loss at one shape, timed beside a copy of the same bytes, or beside the best matrix product if the
//! loss is made of products.

mod baseline;
mod report;
mod sweep;
mod yardstick;

use std::{
    io::{BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};
use surprisal::{Error, Gpu, Prepared, Result};
use surprisal_cli::{
    bench::{
        Ignored, Sample, Spread, Timer, Workload, allocated_bytes, interleave, streamed_bytes,
    },
    draft::{Draft, Mode},
};

use baseline::{Baselines, Comparison};
use report::Measured;
use yardstick::Yardstick;

use crate::{
    adapters,
    arguments::{Drafted, Report},
    losses,
};

/// Times a loss and its yardstick in turn: medians, spread, bytes, scratch. The yardstick is a copy of
/// the same bytes, or for losses made of products the best matrix product of the adapter.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    #[command(flatten)]
    pub drafted: Drafted,
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
    #[arg(long, default_value_t = 20, allow_negative_numbers = true)]
    pub runs: usize,
    /// Runs that nobody counts.
    #[arg(long, default_value_t = 2, allow_negative_numbers = true)]
    pub warm_up: usize,
    /// Begin no more runs after this many seconds (but make three).
    #[arg(long, value_parser = seconds, default_value_t = 30.0, allow_negative_numbers = true)]
    pub seconds: f64,
    /// The share of the rows whose target is `ignore_index`, from 0 to 1.
    #[arg(long, value_name = "SHARE", value_parser = share, default_value_t = 0.0, allow_negative_numbers = true)]
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

/// A number from 0 on.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds >= 0.0);
    seconds.ok_or_else(|| format!("`{text}` is no number from 0 on"))
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

/// Everything that the runs need.
struct Bench {
    gpu: Gpu,
    draft: Draft,
    ignored: Option<Ignored>,
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
        return sweep::run(arguments, adapter);
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

impl Bench {
    fn new(arguments: &Arguments, adapter: Option<&str>) -> Result<Self> {
        let (loss, draft) = arguments.drafted.draft("bench")?;
        let ignored = arguments.ignored()?;
        let options = arguments.drafted.chosen.values()?;
        let gpu = adapters::open(adapter)?;
        let timer = Timer::new(&gpu)?;
        let workload = Workload::ignoring(&gpu, loss.as_ref(), &draft, ignored)?;
        let allocated = allocated_bytes(&gpu);
        let stored = if arguments.stored {
            let mut options = options.clone();
            options["chunk_bytes"] = whole_logits(&workload)?.into();
            Some(workload.variant(arguments.drafted.chosen.parse_with(&options)?.as_ref())?)
        } else {
            None
        };
        let yardstick = Yardstick::new(&gpu, &timer, &draft, &workload)?;
        Ok(Self { gpu, draft, ignored, options, workload, allocated, stored, yardstick, timer })
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
                let keeps = self.draft.mode == Mode::Backward;
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
}

impl Arguments {
    /// The rows to ignore.
    pub fn ignored(&self) -> Result<Option<Ignored>> {
        if self.ignored == 0.0 {
            return Ok(None);
        }
        Ok(Some(Ignored { share: self.ignored, index: self.ignored_index()? }))
    }

    /// The index that a target has to be ignored.
    fn ignored_index(&self) -> Result<i64> {
        const OPTION: &str = "ignore_index";
        let about = losses::find(&self.drafted.chosen.name)?.about;
        let default = about.options.iter().find(|option| option.name == OPTION);
        let given = self.drafted.chosen.values()?.get(OPTION).cloned();
        let index = match given {
            Some(Value::Array(list)) => list.first().and_then(Value::as_i64),
            Some(value) => value.as_i64(),
            None => default.and_then(|option| option.default.parse().ok()),
        };
        index.ok_or_else(|| Error::InvalidOption {
            operation: self.drafted.chosen.name.clone().into(),
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
