//! Reference cases and self-checks on every adapter in turn, each adapter in its own process.
//!
//! The JSON is `{"cases": {"passed": …}, "results": […]}`: the number of cases by their fate, and one entry for every
//! case, adapter and expected tensor. JSON has neither NaN nor infinity: an error that is not finite (a NaN where none
//! should be) is `null`.

mod child;
mod job;
mod progress;
mod report;

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use child::Parent;
use job::{Job, jobs, run_job};
use progress::Progress;
use serde_json::{Value, json};
use surprisal::{Dtype, Result, adapter};
use surprisal_cli::conformance;

use crate::{
    adapters,
    arguments::{Backend, Report, float_type},
    losses, output,
};

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// Check this operation alone, as in `surprisal losses`.
    #[arg(value_name = "OPERATION", value_parser = losses::names(), hide_possible_values = true)]
    operation: Option<String>,
    /// Reference cases: a .safetensors file, or a folder of them. By default those that the program holds.
    #[arg(long, value_name = "FILE_OR_DIR")]
    vectors: Vec<PathBuf>,
    /// What to check: GPUs, or the f64 reference itself.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// The storage type of floats. By default f32 for reference cases, all three for self-checks.
    #[arg(long, value_parser = float_type)]
    dtype: Option<Dtype>,
    #[command(flatten)]
    report: Report,
    /// Run this case alone.
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Run each case this many times; the outputs must be the same to the bit.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// End an adapter's process where opening the device or one case (with all its runs) takes longer
    /// than this: the case is an error, and the next ones go on in a new process. A driver that takes
    /// as long, or a minute, to name its adapters is left out, and all its cases are errors.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Leave the built-in self-checks out.
    #[arg(long)]
    no_self_checks: bool,
    /// List the cases and run nothing.
    #[arg(long)]
    list: bool,
    /// Write a folder for each failure that stands alone (see `surprisal replay`).
    #[arg(long, value_name = "DIR")]
    repro: Option<PathBuf>,
    /// Write such folders for cases that pass, too.
    #[arg(long, hide = true, requires = "repro")]
    repro_all: bool,
    /// Be the child process of this adapter.
    #[arg(long, hide = true, value_name = "NUMBER")]
    worker: Option<usize>,
    /// The first case of a child process.
    #[arg(long, hide = true, default_value_t = 0)]
    first: usize,
}

/// Checks, and exits with 0 only if nothing failed.
pub fn run(arguments: &Arguments, wanted: Option<&str>) -> Result<ExitCode> {
    let jobs = jobs(arguments)?;
    if let Some(number) = arguments.worker {
        child::work(arguments, &jobs, number)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list {
        return list(arguments, &jobs);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without a handler, Ctrl-C simply ends the process, and only the table is lost.
    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst));
    let start = Instant::now();
    let results = match arguments.backend {
        Backend::Cpu => on_cpu(arguments, &jobs, &stop),
        Backend::Gpu => on_gpus(arguments, &jobs, wanted, &stop)?,
    };
    report::finish(arguments, &results, start.elapsed(), stop.load(Ordering::SeqCst))
}

/// Checks the reference.
fn on_cpu(arguments: &Arguments, jobs: &[Job], stop: &AtomicBool) -> Vec<Value> {
    let progress = Progress::new(jobs.len());
    progress.on("cpu");
    let mut results = Vec::new();
    for job in jobs.iter().take_while(|_| !stop.load(Ordering::SeqCst)) {
        results.extend(run_job(arguments, job, &conformance::Backend::Cpu));
        progress.done(1);
    }
    progress.end();
    results
}

/// Checks on the wanted adapter, or on each adapter in turn.
fn on_gpus(
    arguments: &Arguments,
    jobs: &[Job],
    wanted: Option<&str>,
    stop: &AtomicBool,
) -> Result<Vec<Value>> {
    let patience = Duration::from_secs(arguments.timeout);
    let mut results = Vec::new();
    let (found, survey) = adapters::survey(patience.min(adapters::PATIENCE))?;
    let chosen = adapter::wanted(wanted).is_some();
    for fault in &survey.faults {
        output::warn(&format!("{fault}; {}", adapters::remedy(&survey)));
        // Without a chosen adapter, the adapters of this driver would have been checked: their cases are errors.
        if !chosen {
            let lost = |job: &Job| job.lost(&fault.driver, &fault.to_string());
            results.extend(jobs.iter().flat_map(lost));
        }
    }
    if found.is_empty() && !results.is_empty() {
        return Ok(results);
    }
    let first = adapters::choose(&found, wanted)?;
    let checked = if chosen { &found[first..=first] } else { &found[..] };
    if checked.iter().all(|found| found.kind == adapter::Kind::Software) {
        adapters::warn(&found, first);
    }
    let progress = Progress::new(jobs.len() * checked.len());
    for adapter in checked {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = adapter.description.clone();
        progress.on(&name);
        let command = |first: usize| {
            let mut command = adapters::this_program();
            command.args(arguments.words(adapter.number, first));
            survey.without_faults(&mut command);
            command
        };
        let parent = Parent { jobs, name, stop, patience, progress: &progress, command: &command };
        results.extend(parent.run());
    }
    progress.end();
    Ok(results)
}

fn list(arguments: &Arguments, jobs: &[Job]) -> Result<ExitCode> {
    let text = || {
        let mut text = String::new();
        for job in jobs {
            let _ = writeln!(text, "{}  {}  {}", job.id(), job.dtype(), job.tensors().join(" "));
        }
        text
    };
    let entry = |job: &Job| {
        json!({
            "id": job.id(), "loss": job.loss(), "dtype": job.dtype(), "expect": job.tensors(),
        })
    };
    let value = || json!({ "cases": jobs.iter().map(entry).collect::<Vec<_>>() });
    arguments.report.give(text, value)?;
    Ok(ExitCode::SUCCESS)
}
