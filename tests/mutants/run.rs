//! Runs the GPU tests in a child process until the first test fails.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::list::{GENERATED, Mutant};

/// The variable of the GPU tests (`tests/gpu/main.rs`) that names the child's adapter, or is `list`.
const CHILD: &str = "SURPRISAL_TEST_ADAPTER";
const SHADERS: &str = "SURPRISAL_SHADERS";

/// A child process that ended or hung before its first test: this tells nothing about a mutant.
#[derive(Debug, PartialEq)]
pub struct NoTestRan(pub &'static str);

impl fmt::Display for NoTestRan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tests' process {} before its first test", self.0)
    }
}

/// The outcome of a mutant.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Killed(String),
    /// The process ended during this test.
    Died(String),
    TimedOut(String),
    Survived,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(test) => f.write_str(test),
            Self::Died(test) => write!(f, "{test} (its process died)"),
            Self::TimedOut(test) => write!(f, "{test} (timeout)"),
            Self::Survived => f.write_str("NOTHING"),
        }
    }
}

/// Runs the GPU tests.
pub struct Runner {
    tests: PathBuf,
    /// The longest time that a test may take.
    patience: Duration,
    /// The short names of the adapters, by number.
    adapters: Vec<String>,
    /// The folder for mutated shaders.
    folder: PathBuf,
}

impl Runner {
    pub fn new(tests: &str, seconds: u64) -> Self {
        let listed = Command::new(tests).env(CHILD, "list").output().unwrap();
        let adapters = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.split_once(surprisal_cli::survey::worker::MARK))
            .filter_map(|(_, line)| line.split_once(':'))
            .map(|(name, _)| name.to_owned())
            .collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutant");
        Self { tests: tests.into(), patience: Duration::from_secs(seconds), adapters, folder }
    }

    /// Checks that the tests that a mutant names exist.
    pub fn has_tests(&self, mutant: &Mutant, adapter: &str) {
        for test in &mutant.tests {
            let listed = self.command(adapter, &[test, "--list"]).output().unwrap();
            let found = listed.stdout.windows(2).any(|two| two == b"::");
            assert!(found, "mutant {}: no test is called {test}", mutant.name);
        }
    }

    /// Runs a test without a mutant.
    pub fn unmutated(&self, adapter: &str, test: &str) -> Result<Outcome, NoTestRan> {
        let name = format!("{adapter}::{test}");
        let mut command = self.command(adapter, &["--format", "json", "--exact", &name]);
        command.env_remove(SHADERS).stderr(Stdio::null());
        self.until_one_fails(command)
    }

    /// Runs the tests that the mutant names. If the mutant survives them and `only` is not set, runs all tests.
    pub fn outcome(
        &self,
        mutant: &Mutant,
        adapter: &str,
        only: bool,
    ) -> Result<(Outcome, f64), NoTestRan> {
        let begin = Instant::now();
        self.write(mutant);
        let filters =
            mutant.tests.iter().map(|test| Some(test.as_str())).chain((!only).then_some(None));
        for filter in filters {
            let mut command = self.command(adapter, &["--format", "json"]);
            command.args(filter);
            command.env(SHADERS, &self.folder).stderr(Stdio::null());
            let outcome = self.until_one_fails(command)?;
            if !matches!(outcome, Outcome::Survived) {
                return Ok((outcome, begin.elapsed().as_secs_f64()));
            }
        }
        Ok((Outcome::Survived, begin.elapsed().as_secs_f64()))
    }

    /// Writes the mutant as the only file of the folder.
    fn write(&self, mutant: &Mutant) {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).unwrap();
        }
        let path = self.folder.join(&mutant.file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if mutant.file == GENERATED {
            fs::write(path.with_extension("find"), &mutant.find).unwrap();
            fs::write(path.with_extension("put"), &mutant.put).unwrap();
        } else {
            let text =
                mutant.mutated_shader().unwrap_or_else(|error| panic!("{}: {error}", mutant.name));
            fs::write(path, text).unwrap();
        }
    }

    fn command(&self, adapter: &str, arguments: &[&str]) -> Command {
        let number = self.adapters.iter().position(|name| name == adapter);
        let number = number.unwrap_or_else(|| panic!("no adapter {adapter}: {:?}", self.adapters));
        let mut command = Command::new(&self.tests);
        command.env(CHILD, number.to_string()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Runs tests until one fails.
    fn until_one_fails(&self, mut command: Command) -> Result<Outcome, NoTestRan> {
        let mut child = command.spawn().unwrap();
        let events = events(&mut child);
        let outcome = first_failure(&events, self.patience);
        // The process has ended, or what is left of it does not matter.
        let _ = child.kill();
        child.wait().unwrap();
        outcome
    }
}

/// What the events of a child say, each of which may take so long.
pub fn first_failure(events: &Receiver<Value>, patience: Duration) -> Result<Outcome, NoTestRan> {
    let mut running = None;
    loop {
        let event = match events.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                return running.map(Outcome::TimedOut).ok_or(NoTestRan("hung"));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return running.map(Outcome::Died).ok_or(NoTestRan("ended"));
            }
        };
        match (event["type"].as_str(), event["event"].as_str()) {
            (Some("test"), Some("started")) => running = Some(name_of(&event)),
            (Some("test"), Some("failed")) => return Ok(Outcome::Killed(name_of(&event))),
            (Some("suite"), Some("ok")) => return Ok(Outcome::Survived),
            _ => {}
        }
    }
}

/// The name of a test without its adapter.
fn name_of(event: &Value) -> String {
    let name = event["name"].as_str().unwrap_or_default();
    name.split_once("::").map_or(name, |(_, name)| name).to_owned()
}

/// The reports of the tests, one JSON object a line. A driver may also print to stdout.
fn events(child: &mut Child) -> Receiver<Value> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.split(b'\n').map_while(Result::ok) {
            let object = line.iter().position(|byte| *byte == b'{').unwrap_or(line.len());
            if let Ok(event) = serde_json::from_slice(&line[object..])
                && sender.send(event).is_err()
            {
                return;
            }
        }
    });
    events
}
