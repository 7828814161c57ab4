//! An adapter's child process, which runs the cases, and the parent, which survives a crash of the child.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use surprisal::Result;
use surprisal_cli::{
    conformance::Backend,
    survey::worker::{self, End},
};

use super::{
    Arguments,
    job::{Job, run_job},
    progress::Progress,
};
use crate::adapters;

/// Restarts after crashes before the rest of an adapter's cases is abandoned.
const RESTARTS: usize = 20;
/// How many of these may be hangs, since each hang costs a whole time-out.
const HANGS: usize = 3;
/// The start of the message of a child that did not get as far as a case.
const NOT_OPENED: &str = "the device could not be opened: ";

/// The child process: runs the cases from number `first` on, and prints a line of JSON before and after each.
pub fn work(arguments: &Arguments, jobs: &[Job], number: usize) -> Result<()> {
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

/// What the parent of a child process needs.
pub struct Parent<'a> {
    pub jobs: &'a [Job],
    /// The adapter's name.
    pub name: String,
    pub stop: &'a AtomicBool,
    /// How long one case may take.
    pub patience: Duration,
    /// Counts the cases of all adapters.
    pub progress: &'a Progress,
    /// The command of the child that begins with the case of this number.
    pub command: &'a dyn Fn(usize) -> Command,
}

impl Parent<'_> {
    /// Runs all cases on one adapter. If a child dies or hangs, the case that it was running fails, and the next child
    /// continues after that case.
    pub fn run(&self) -> Vec<Value> {
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
                    self.progress.done(1);
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
                Err(error) => error.chain(),
            };
            for job in &self.jobs[next..lost] {
                results.extend(job.lost(&self.name, &message));
                self.progress.done(1);
            }
            next = lost;
        }
        results
    }
}

impl Arguments {
    /// The arguments of the child process of an adapter.
    pub fn words(&self, adapter: usize, first: usize) -> Vec<std::ffi::OsString> {
        let mut words: Vec<std::ffi::OsString> = vec!["check".into()];
        words.extend(self.operation.as_ref().map(Into::into));
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

#[cfg(all(test, unix))]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use surprisal::Dtype;

    use super::*;
    use crate::selfchecks;

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
            progress: &Progress::new(jobs.len()),
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

    /// The result of each case.
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
