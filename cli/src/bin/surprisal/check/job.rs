//! What can be run, and the results of running one of them.

use std::{
    collections::BTreeSet,
    io::{Cursor, Read as _},
};

use serde_json::{Value, json};
use surprisal::{
    Dtype, Error, Result,
    cases::{self, Case},
};
use surprisal_cli::conformance::{self, Backend, Outcome, Verdict};
use zip::ZipArchive;

use super::Arguments;
use crate::{
    output, repro,
    selfchecks::{self, SelfCheck},
};

/// Something to run.
pub enum Job {
    Given(Box<Case>, Dtype),
    Built(Box<SelfCheck>),
}

impl Job {
    pub fn id(&self) -> &str {
        match self {
            Self::Given(case, _) => &case.id,
            Self::Built(check) => &check.id,
        }
    }

    pub fn loss(&self) -> &str {
        match self {
            Self::Given(case, _) => &case.loss,
            Self::Built(check) => check.loss,
        }
    }

    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Given(_, dtype) => *dtype,
            Self::Built(check) => check.dtype,
        }
    }

    pub fn tensors(&self) -> Vec<String> {
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

    /// The report of a job that never finished.
    pub fn lost(&self, adapter: &str, message: &str) -> Vec<Value> {
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

/// All jobs, in order.
pub fn jobs(arguments: &Arguments) -> Result<Vec<Job>> {
    let mut cases = Vec::new();
    if arguments.vectors.is_empty() {
        cases = built_in()?;
    }
    for path in &arguments.vectors {
        cases.extend(cases::load(path)?);
    }
    let dtype = arguments.dtype.unwrap_or(Dtype::F32);
    let given = |case| Job::Given(Box::new(case), dtype);
    let mut jobs: Vec<Job> = cases.into_iter().map(given).collect();
    if !arguments.no_self_checks {
        let all = [Dtype::F32, Dtype::F16, Dtype::Bf16];
        let dtypes = arguments.dtype.map_or(all.to_vec(), |dtype| vec![dtype]);
        jobs.extend(selfchecks::all(&dtypes).into_iter().map(|c| Job::Built(Box::new(c))));
    }
    if let Some(operation) = &arguments.operation {
        jobs.retain(|job| job.loss() == operation);
    }
    if !arguments.case.is_empty() {
        let known: BTreeSet<&str> = jobs.iter().map(Job::id).collect();
        if let Some(unknown) = arguments.case.iter().find(|id| !known.contains(id.as_str())) {
            let near = output::nearest(unknown, known.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(Error::UnknownName {
                operation: "check".into(),
                kind: "case",
                name: unknown.clone().into(),
                known: format!("{} cases, see --list{near}", known.len()).into(),
            });
        }
        jobs.retain(|job| arguments.case.iter().any(|id| id == job.id()));
    }
    if jobs.is_empty() {
        return Err(Error::UnknownName {
            operation: "check".into(),
            kind: "case",
            name: "any".into(),
            known: "none of this operation in these files: name other files with --vectors, or leave --no-self-checks out"
                .into(),
        });
    }
    Ok(jobs)
}

/// The archive of the reference cases, which the build script packs.
static CASES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cases.zip"));

/// The reference cases that the program holds.
fn built_in() -> Result<Vec<Case>> {
    let bad =
        |error: &dyn std::fmt::Display| output::bad_file("the built-in cases".as_ref(), error);
    let mut archive = ZipArchive::new(Cursor::new(CASES)).map_err(|error| bad(&error))?;
    let mut cases = Vec::new();
    let mut bytes = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|error| bad(&error))?;
        bytes.clear();
        file.read_to_end(&mut bytes).map_err(|error| bad(&error))?;
        cases.extend(cases::from_bytes("the built-in cases".as_ref(), &bytes)?);
    }
    Ok(cases)
}

/// Runs a case as often as was asked for; returns one JSON entry per expected tensor.
pub fn run_job(arguments: &Arguments, job: &Job, backend: &Backend) -> Vec<Value> {
    let case = match job.case() {
        Ok(case) => case,
        Err(error) => return job.lost(&backend.name(), &error.chain()),
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

/// The first element whose bits differ. All NaNs count as equal; a missing array differs everywhere.
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
