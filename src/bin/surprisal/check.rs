//! Reference cases and self-checks on every adapter in turn, each adapter in a process of its own.
//!
//! The JSON is `{"results": […]}`, one entry for every case, adapter and expected tensor. JSON has
//! neither NaN nor infinity: an error that is not finite (a NaN where none should be) is `null`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use surprisal::{
    Dtype, Error, Result, adapter,
    cases::{self, Case},
    conformance::{self, Backend, Outcome, Verdict},
    survey::worker::{self, End},
};

use crate::{
    adapters, output, plan, repro,
    selfchecks::{self, SelfCheck},
};

/// Restarts after crashes before the rest of an adapter's cases is given up.
const RESTARTS: usize = 20;
/// Of these, those after a hang: each has cost a whole time-out.
const HANGS: usize = 3;
/// Failures that are listed one by one.
const LISTED: usize = 40;

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// Reference cases: a .safetensors file, or a folder of them. Those of the crate by default.
    #[arg(long, value_name = "FILE_OR_DIR")]
    vectors: Vec<PathBuf>,
    /// Check the f64 reference itself instead of GPUs.
    #[arg(long, value_enum)]
    backend: Option<Processor>,
    /// The storage type of floats. By default f32 for reference cases, all three for self-checks.
    #[arg(long, value_parser = plan::float_type)]
    dtype: Option<Dtype>,
    /// Write the results as JSON; `-` is stdout (errors that are not finite are null).
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
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

/// A backend that is not a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Processor {
    /// The f64 reference.
    Cpu,
}

/// Something to run.
enum Job {
    Given(Box<Case>, Dtype),
    Built(Box<SelfCheck>),
}

impl Job {
    fn id(&self) -> &str {
        match self {
            Self::Given(case, _) => &case.id,
            Self::Built(check) => &check.id,
        }
    }

    fn loss(&self) -> &str {
        match self {
            Self::Given(case, _) => &case.loss,
            Self::Built(check) => check.loss,
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::Given(_, dtype) => *dtype,
            Self::Built(check) => check.dtype,
        }
    }

    fn tensors(&self) -> Vec<String> {
        match self {
            Self::Given(case, _) => case.expect.keys().cloned().collect(),
            Self::Built(check) => check.wanted(),
        }
    }

    fn case(&self) -> Result<Case> {
        match self {
            Self::Given(case, _) => Ok(case.as_ref().clone()),
            Self::Built(check) => check.case(),
        }
    }

    /// What a report says of it when it never came back.
    fn lost(&self, adapter: &str, message: &str) -> Vec<Value> {
        let entry = |tensor: String| {
            json!({
                "id": self.id(), "loss": self.loss(), "adapter": adapter, "tensor": tensor,
                "dtype": self.dtype(), "status": "error", "max_abs_error": null,
                "max_rel_error": null, "worst": null, "tolerance": null, "message": message,
            })
        };
        self.tensors().into_iter().map(entry).collect()
    }
}

/// Checks, and exits with 0 only if nothing failed.
pub fn run(arguments: &Arguments, wanted: Option<&str>) -> Result<ExitCode> {
    let jobs = jobs(arguments)?;
    if let Some(number) = arguments.worker {
        work(arguments, &jobs, number)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list {
        return list(arguments, &jobs);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without a handler Ctrl-C simply ends the process: the table is lost, nothing else.
    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst));
    let mut results = Vec::new();
    if arguments.backend == Some(Processor::Cpu) {
        let bar = progress(jobs.len(), "cpu");
        for job in &jobs {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            results.extend(run_job(arguments, job, &Backend::Cpu));
            bar.inc(1);
        }
        bar.finish_and_clear();
    } else {
        results = on_gpus(arguments, &jobs, wanted, &stop)?;
    }
    finish(arguments, &results, stop.load(Ordering::SeqCst))
}

/// Checks on the adapter that is wanted, or on each in turn.
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
        output::note(&format!("WARNING: {fault}; {}", adapters::remedy(&survey)));
        // Its adapters would have been checked.
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
    for adapter in checked {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = adapter.description.clone();
        let command = |first: usize| {
            let mut command = adapters::this_program();
            command.args(arguments.words(adapter.number, first));
            survey.without_faults(&mut command);
            command
        };
        let parent = Parent { jobs, name, stop, patience, command: &command };
        results.extend(parent.run());
    }
    Ok(results)
}

/// Everything there is to run, in order.
fn jobs(arguments: &Arguments) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let paths =
        if arguments.vectors.is_empty() { default_vectors() } else { arguments.vectors.clone() };
    for path in &paths {
        let dtype = arguments.dtype.unwrap_or(Dtype::F32);
        jobs.extend(cases::load(path)?.into_iter().map(|case| Job::Given(Box::new(case), dtype)));
    }
    if !arguments.no_self_checks {
        let all = [Dtype::F32, Dtype::F16, Dtype::Bf16];
        let dtypes = arguments.dtype.map_or(all.to_vec(), |dtype| vec![dtype]);
        jobs.extend(selfchecks::all(&dtypes).into_iter().map(|c| Job::Built(Box::new(c))));
    }
    if !arguments.case.is_empty() {
        let known: BTreeSet<&str> = jobs.iter().map(Job::id).collect();
        if let Some(unknown) = arguments.case.iter().find(|id| !known.contains(id.as_str())) {
            return Err(Error::UnknownName {
                loss: "check".to_owned(),
                kind: "case",
                name: unknown.clone(),
                known: format!("{} cases, see --list", known.len()),
            });
        }
        jobs.retain(|job| arguments.case.iter().any(|id| id == job.id()));
    }
    if jobs.is_empty() {
        return Err(Error::UnknownName {
            loss: "check".to_owned(),
            kind: "case",
            name: "any".to_owned(),
            known: "none: name files with --vectors, or leave --no-self-checks out".to_owned(),
        });
    }
    Ok(jobs)
}

/// The crate's reference cases: here, or where the crate was built, if that is still there.
fn default_vectors() -> Vec<PathBuf> {
    let folders = ["tests/vectors", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors")];
    let has_cases = |folder: &PathBuf| {
        std::fs::read_dir(folder).is_ok_and(|files| {
            files.flatten().any(|file| {
                file.path().extension().is_some_and(|extension| extension == "safetensors")
            })
        })
    };
    folders.iter().map(PathBuf::from).find(has_cases).into_iter().collect()
}

fn list(arguments: &Arguments, jobs: &[Job]) -> Result<ExitCode> {
    if arguments.json.is_some() {
        let entries: Vec<Value> = jobs
            .iter()
            .map(|job| {
                json!({
                    "id": job.id(), "loss": job.loss(), "dtype": job.dtype(),
                    "expect": job.tensors(),
                })
            })
            .collect();
        output::json(&json!({ "cases": entries }), arguments.json.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for job in jobs {
        let _ = writeln!(text, "{}  {}  {}", job.id(), job.dtype(), job.tensors().join(" "));
    }
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// Runs a case, as often as was asked for: one JSON entry an expected tensor.
fn run_job(arguments: &Arguments, job: &Job, backend: &Backend) -> Vec<Value> {
    let case = match job.case() {
        Ok(case) => case,
        Err(error) => return job.lost(&backend.name(), &error.to_string()),
    };
    let dtype = job.dtype();
    let (mut outcomes, evidence) = conformance::examine(&case, backend, dtype);
    if let Some(evidence) = &evidence {
        for _ in 1..arguments.repeat {
            let (_, again) = conformance::examine(&case, backend, dtype);
            for outcome in &mut outcomes {
                let tensor = &outcome.tensor;
                let once = evidence.actual.get(tensor);
                let twice = again.as_ref().and_then(|again| again.actual.get(tensor));
                if let Some(at) = first_difference(once, twice)
                    && outcome.status == Verdict::Passed
                {
                    outcome.status = Verdict::Failed;
                    outcome.worst = at;
                    outcome.message = Some(format!("another run gave other bits at index {at}"));
                }
            }
        }
    }
    let bad = outcomes.iter().any(|o| matches!(o.status, Verdict::Failed | Verdict::Error));
    if let (Some(root), Backend::Gpu(gpu), true) =
        (&arguments.repro, backend, bad || arguments.repro_all)
    {
        match repro::write(root, gpu, &case, dtype, &outcomes, evidence.as_ref()) {
            Ok(folder) => output::note(&format!("wrote {}", folder.display())),
            Err(error) => output::complain(&error),
        }
    }
    outcomes.iter().map(|outcome| entry(outcome, dtype)).collect()
}

/// The first element whose bits differ, NaNs being one; a missing array differs everywhere.
fn first_difference(
    once: Option<&surprisal::Array>,
    twice: Option<&surprisal::Array>,
) -> Option<usize> {
    let (Some(once), Some(twice)) = (once, twice) else {
        return Some(0);
    };
    if once.len() != twice.len() {
        return Some(once.len().min(twice.len()));
    }
    let differ = |(a, b): (f64, f64)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
    once.to_f64().into_iter().zip(twice.to_f64()).position(differ)
}

fn entry(outcome: &Outcome, dtype: Dtype) -> Value {
    let mut value = json!(outcome);
    if let Some(map) = value.as_object_mut() {
        map.insert("dtype".to_owned(), json!(dtype));
        if outcome.status != Verdict::Passed && outcome.status != Verdict::Failed {
            for key in ["max_abs_error", "max_rel_error", "worst", "tolerance"] {
                map.insert(key.to_owned(), Value::Null);
            }
        }
    }
    value
}

/// The child process: runs the cases from the first one on, and says a line of JSON before and after each.
fn work(arguments: &Arguments, jobs: &[Job], number: usize) -> Result<()> {
    let found = adapters::all();
    let gpu = adapters::open_number(&found, number)?;
    drop(found);
    let backend = Backend::Gpu(gpu);
    for (index, job) in jobs.iter().enumerate().skip(arguments.first) {
        worker::say(json!({ "begun": index }))?;
        worker::say(json!({ "done": index, "results": run_job(arguments, job, &backend) }))?;
    }
    Ok(())
}

/// What the parent of a child process knows.
struct Parent<'a> {
    jobs: &'a [Job],
    /// The adapter's.
    name: String,
    stop: &'a AtomicBool,
    /// How long one case may take.
    patience: Duration,
    /// The child that begins with the case of this number.
    command: &'a dyn Fn(usize) -> Command,
}

impl Parent<'_> {
    /// Runs all cases on one adapter. A child that dies or hangs takes the case it was at with it, and
    /// the next child goes on behind that one.
    fn run(&self) -> Vec<Value> {
        let bar = progress(self.jobs.len(), &self.name);
        let mut results = Vec::new();
        let mut next = 0;
        let (mut ends, mut hangs) = (0, 0);
        while next < self.jobs.len() && !self.stop.load(Ordering::SeqCst) {
            let mut opened = false;
            let ended = worker::run((self.command)(next), self.patience, |line| {
                let Ok(mut value) = serde_json::from_str::<Value>(line) else {
                    return;
                };
                opened |= value.get("begun").is_some();
                if let (Some(index), Some(entries)) =
                    (value["done"].as_u64(), value["results"].as_array_mut())
                {
                    results.append(entries);
                    next = index as usize + 1;
                    bar.inc(1);
                }
            });
            if next >= self.jobs.len() || self.stop.load(Ordering::SeqCst) {
                break;
            }
            ends += 1;
            hangs += usize::from(matches!(ended, Ok(End::Silent(_))));
            // A child that did not even open the device will not do so next time.
            let hopeless = !opened || ends > RESTARTS || hangs >= HANGS;
            let lost = if hopeless { self.jobs.len() } else { next + 1 };
            let message = match ended {
                Ok(end) if !opened => format!("{NOT_OPENED}{end}"),
                Ok(end) => end.to_string(),
                Err(error) => error.to_string(),
            };
            for job in &self.jobs[next..lost] {
                results.extend(job.lost(&self.name, &message));
                bar.inc(1);
            }
            next = lost;
        }
        bar.finish_and_clear();
        results
    }
}

impl Arguments {
    /// The command line of the child process of an adapter.
    fn words(&self, adapter: usize, first: usize) -> Vec<std::ffi::OsString> {
        let mut words: Vec<std::ffi::OsString> = vec!["check".into()];
        let mut push = |name: &str, value: std::ffi::OsString| {
            words.push(name.into());
            words.push(value);
        };
        push("--worker", adapter.to_string().into());
        push("--first", first.to_string().into());
        push("--repeat", self.repeat.to_string().into());
        for path in &self.vectors {
            push("--vectors", path.into());
        }
        for id in &self.case {
            push("--case", id.into());
        }
        if let Some(dtype) = self.dtype {
            push("--dtype", dtype.name().into());
        }
        if let Some(path) = &self.repro {
            push("--repro", path.into());
        }
        if self.repro_all {
            words.push("--repro-all".into());
        }
        if self.no_self_checks {
            words.push("--no-self-checks".into());
        }
        words
    }
}

/// How the message of a child begins that did not get as far as a case.
const NOT_OPENED: &str = "the device could not be opened: ";

fn progress(cases: usize, name: &str) -> ProgressBar {
    let bar = ProgressBar::new(cases as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar
}

/// The results of one loss on one adapter, counted.
#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    unsupported: u64,
    error: u64,
    /// Largest relative error, infinite where an error is not finite.
    relative: f64,
    /// Largest absolute error over its tolerance.
    share: f64,
}

impl Count {
    fn add(&mut self, entry: &Value) {
        match entry["status"].as_str() {
            Some("passed") => self.passed += 1,
            Some("failed") => self.failed += 1,
            Some("unsupported") => return self.unsupported += 1,
            _ => return self.error += 1,
        }
        let number = |key: &str| entry[key].as_f64().unwrap_or(f64::INFINITY);
        let (error, tolerance) = (number("max_abs_error"), number("tolerance"));
        let relative = number("max_rel_error");
        // Of a tensor that is 0 but for its tolerance, any error is relatively large and says nothing.
        if error > tolerance || error > relative * tolerance {
            self.relative = self.relative.max(relative);
        }
        if error > 0.0 {
            self.share = self.share.max(error / tolerance);
        }
    }
}

/// Prints the table, writes the JSON, and says how it went.
fn finish(arguments: &Arguments, results: &[Value], stopped: bool) -> Result<ExitCode> {
    let mut counts: BTreeMap<(String, String), Count> = BTreeMap::new();
    let mut order = Vec::new();
    let mut bad = Vec::new();
    for entry in results {
        let word = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let key = (word("adapter"), word("loss"));
        if !counts.contains_key(&key) {
            order.push(key.clone());
        }
        counts.entry(key).or_default().add(entry);
        if matches!(entry["status"].as_str(), Some("failed" | "error") | None) {
            bad.push(entry);
        }
    }
    let json_on_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    let text = report(&order, &counts, &bad, stopped);
    if json_on_stdout {
        output::note(&text);
    } else {
        output::print(&text);
    }
    let code = match (bad.is_empty(), stopped) {
        (_, true) => ExitCode::from(130),
        (true, _) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    };
    if arguments.json.is_some() {
        output::json(&json!({ "results": results }), arguments.json.as_deref())?;
    }
    Ok(code)
}

fn report(
    order: &[(String, String)],
    counts: &BTreeMap<(String, String), Count>,
    bad: &[&Value],
    stopped: bool,
) -> String {
    let mut text = String::new();
    let mut table = output::table(&[
        "adapter",
        "loss",
        "passed",
        "failed",
        "unsupported",
        "error",
        "largest relative error",
        "of tolerance",
    ]);
    for key in order {
        let Some(count) = counts.get(key) else {
            continue;
        };
        let compared = count.passed + count.failed > 0;
        let share = if count.share.is_finite() {
            format!("{:.0}%", count.share * 100.0)
        } else {
            "∞".to_owned()
        };
        table.add_row([
            key.0.clone(),
            key.1.clone(),
            count.passed.to_string(),
            count.failed.to_string(),
            count.unsupported.to_string(),
            count.error.to_string(),
            if compared { format!("{:.2e}", count.relative) } else { "-".to_owned() },
            if compared { share } else { "-".to_owned() },
        ]);
    }
    let _ = writeln!(text, "{table}");
    for entry in bad.iter().take(LISTED) {
        let word = |key: &str| match &entry[key] {
            Value::String(word) => word.clone(),
            other => other.to_string(),
        };
        let what = match &entry["message"] {
            Value::String(message) => message.clone(),
            _ => format!(
                "error {} above {} at index {}",
                word("max_abs_error"),
                word("tolerance"),
                word("worst")
            ),
        };
        let _ = writeln!(
            text,
            "{}: {} {} ({}) on {}: {what}",
            word("status").to_uppercase(),
            word("id"),
            word("tensor"),
            word("dtype"),
            word("adapter"),
        );
    }
    if bad.len() > LISTED {
        let _ = writeln!(text, "… and {} more; --json lists all", bad.len() - LISTED);
    }
    if stopped {
        text.push_str("interrupted: the results are those so far\n");
    }
    text
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_of_nothing_is_not_the_largest_error() {
        let entry = |error: f64, relative: f64, tolerance: f64| {
            json!({
                "status": "passed", "max_abs_error": error, "max_rel_error": relative,
                "tolerance": tolerance,
            })
        };
        let mut count = Count::default();
        count.add(&entry(1e-30, 1.0, 2e-30));
        assert!(count.relative < 1e-9, "{}", count.relative);
        count.add(&entry(1e-7, 1e-6, 1e-5));
        assert!((count.relative - 1e-6).abs() < 1e-9, "{}", count.relative);
    }

    /// Three cases on an adapter whose child is this script; `$1` is the number of its first case.
    fn on_a_driver(script: &str) -> Vec<Value> {
        let jobs: Vec<Job> = selfchecks::all(&[Dtype::F32])
            .into_iter()
            .take(3)
            .map(|check| Job::Built(Box::new(check)))
            .collect();
        let command = |first: usize| {
            let mut command = Command::new("sh");
            command.args([
                "-c",
                &format!("say() {{ echo \"{}$1\"; }}\n{script}", worker::MARK),
                "sh",
                &first.to_string(),
            ]);
            command
        };
        let parent = Parent {
            jobs: &jobs,
            name: "a driver".to_owned(),
            stop: &AtomicBool::new(false),
            patience: Duration::from_millis(500),
            command: &command,
        };
        let results = parent.run();
        let ids: BTreeSet<&str> = results.iter().filter_map(|entry| entry["id"].as_str()).collect();
        assert!(jobs.iter().all(|job| ids.contains(job.id())), "{ids:?}");
        results
    }

    const GOOD: &str = r#"
        good() {
            say "{\"begun\": $1}"
            say "{\"done\": $1, \"results\": [{\"id\": \"$2\", \"status\": \"passed\"}]}"
        }"#;

    /// What became of each case.
    fn verdicts(results: &[Value]) -> BTreeMap<&str, &Value> {
        results.iter().filter_map(|entry| Some((entry["id"].as_str()?, entry))).collect()
    }

    #[test]
    fn a_hang_is_an_error_of_its_case_alone() {
        let ids: Vec<String> =
            selfchecks::all(&[Dtype::F32]).into_iter().take(3).map(|check| check.id).collect();
        let (a, b, c) = (&ids[0], &ids[1], &ids[2]);
        let script = format!(
            r#"{GOOD}
            if [ $1 = 0 ]; then good 0 {a}; say '{{"begun": 1}}'; exec sleep 60; fi
            good 2 {c}"#
        );
        let results = on_a_driver(&script);
        let verdicts = verdicts(&results);
        assert_eq!(verdicts[a.as_str()]["status"], "passed");
        assert_eq!(verdicts[c.as_str()]["status"], "passed");
        let hung = &verdicts[b.as_str()];
        assert_eq!(hung["status"], "error");
        assert!(
            hung["message"].as_str().is_some_and(|m| m.contains("no answer in 0.5 s")),
            "{hung}"
        );
    }

    #[test]
    fn a_device_that_does_not_open_is_tried_once() {
        let results = on_a_driver("exec sleep 60");
        let message = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        assert!(results.iter().all(|entry| message(entry).starts_with(NOT_OPENED)), "{results:?}");
    }

    #[test]
    fn a_crash_is_an_error_of_its_case_and_of_no_other() {
        let results = on_a_driver(r#"say "{\"begun\": $1}"; exit 7"#);
        assert!(results.iter().all(|entry| entry["status"] == "error"));
        assert!(
            results.iter().all(|entry| entry["message"].as_str().is_some_and(|m| m.contains('7')))
        );
    }
}
