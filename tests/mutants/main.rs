//! Mutants: deliberate faults in the kernels, one at a time, to check that the GPU tests notice each of them.
//!
//! `cargo test` checks that every mutant of `list.toml` can still be applied. `scripts/mutants` runs the GPU tests on
//! the mutants, one after another, until a test fails. This needs no new build: `SURPRISAL_SHADERS` names a folder
//! with the mutated shader.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod list;
mod run;

use std::{collections::BTreeSet, process::ExitCode, sync::mpsc, time::Duration};

use list::{GENERATED, Mutant};
use run::{NoTestRan, Outcome, Runner, first_failure};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == "run" => mutants_are_killed(rest),
        // `cargo test`, with or without its own arguments, arrives here.
        _ => {
            a_child_without_a_test_kills_nothing();
            every_mutant_applies()
        }
    }
}

/// `tests/shaders.rs` checks the mutants of what `Kernel::wgsl` writes.
fn every_mutant_applies() -> ExitCode {
    let mutants = list::mutants();
    let mut all = ExitCode::SUCCESS;
    for mutant in mutants.iter().filter(|mutant| mutant.file != GENERATED) {
        if let Err(error) = mutant.mutated_shader() {
            eprintln!("mutant {} does not apply to {}: {error}", mutant.name, mutant.file);
            all = ExitCode::FAILURE;
        }
    }
    println!("{} mutants", mutants.len());
    all
}

/// A process that ends or hangs while a test runs kills its mutant. One that does so before its first test is broken.
fn a_child_without_a_test_kills_nothing() {
    let judged = |events: &[Value], ends: bool| {
        let (sender, receiver) = mpsc::channel();
        for event in events {
            sender.send(event.clone()).unwrap();
        }
        let hanging = (!ends).then_some(sender);
        let outcome = first_failure(&receiver, Duration::from_millis(1));
        drop(hanging);
        outcome
    };
    let suite = json!({"type": "suite", "event": "started"});
    let test = json!({"type": "test", "event": "started", "name": "lavapipe::rows::one"});
    let none = [suite.clone()];
    assert_eq!(judged(&none, true), Err(NoTestRan("ended")));
    assert_eq!(judged(&none, false), Err(NoTestRan("hung")));
    let one = [suite, test];
    assert_eq!(judged(&one, true), Ok(Outcome::Died("rows::one".to_owned())));
    assert_eq!(judged(&one, false), Ok(Outcome::TimedOut("rows::one".to_owned())));
}

/// The arguments that `scripts/mutants` passes.
struct Options {
    /// The program of the GPU tests.
    tests: String,
    /// The adapter for all mutants, also for those that name another adapter.
    adapter: Option<String>,
    /// The most seconds that a test may take.
    seconds: u64,
    /// Run only the tests that the list names.
    named: bool,
    /// Parts of the names of the wanted mutants; if empty, all mutants are wanted.
    wanted: Vec<String>,
}

impl Options {
    fn of(arguments: &[String]) -> Self {
        let mut options = Self {
            tests: String::new(),
            adapter: None,
            seconds: 300,
            named: false,
            wanted: Vec::new(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--tests" => options.tests.clone_from(value()),
                "--named" => options.named = true,
                "--adapter" => options.adapter = Some(value().clone()),
                "--timeout" => options.seconds = value().parse().unwrap(),
                other if other.starts_with('-') => panic!("there is no option {other}"),
                name => options.wanted.push(name.to_owned()),
            }
        }
        assert!(!options.tests.is_empty(), "--tests is the path of the GPU tests' binary");
        options
    }

    fn wants(&self, mutant: &Mutant) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| mutant.name.contains(part))
    }

    fn adapter_of<'a>(&'a self, mutant: &'a Mutant) -> &'a str {
        self.adapter.as_deref().or(mutant.adapter.as_deref()).unwrap_or("lavapipe")
    }
}

fn mutants_are_killed(arguments: &[String]) -> ExitCode {
    let options = Options::of(arguments);
    let mutants: Vec<Mutant> = list::mutants().into_iter().filter(|m| options.wants(m)).collect();
    assert!(!mutants.is_empty(), "no mutant has such a name");
    let runner = Runner::new(&options.tests, options.seconds);
    for mutant in &mutants {
        runner.has_tests(mutant, options.adapter_of(mutant));
    }
    println!("\n{:<44} {:<12} {:>7}  killed by", "mutant", "adapter", "seconds");
    let (mut survivors, mut killers) = (Vec::new(), BTreeSet::new());
    for mutant in &mutants {
        let adapter = options.adapter_of(mutant);
        let (outcome, seconds) = match runner.outcome(mutant, adapter, options.named) {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("mutant {} on {adapter}: {error}", mutant.name);
                return ExitCode::FAILURE;
            }
        };
        println!("{:<44} {adapter:<12} {seconds:>7.1}  {outcome}", mutant.name);
        match outcome {
            Outcome::Survived => survivors.push(mutant),
            Outcome::Killed(test) | Outcome::Died(test) | Outcome::TimedOut(test) => {
                killers.insert((adapter, test));
            }
        }
    }
    println!("\n{} of {} mutants killed", mutants.len() - survivors.len(), mutants.len());
    for mutant in &survivors {
        println!("survived: {}: {}", mutant.name, mutant.breaks);
    }
    let failing = fail_without_a_mutant(&runner, &killers);
    for test in &failing {
        println!("fails without a mutant too: {test}");
    }
    if survivors.is_empty() && failing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A test that also fails without a mutant has not noticed the mutant.
fn fail_without_a_mutant(runner: &Runner, killers: &BTreeSet<(&str, String)>) -> Vec<String> {
    let failing = |(adapter, test): &(&str, String)| match runner.unmutated(adapter, test) {
        Ok(Outcome::Survived) => None,
        Ok(outcome) => Some(format!("{adapter}: {test}: {outcome}")),
        Err(error) => Some(format!("{adapter}: {test}: {error}")),
    };
    killers.iter().filter_map(failing).collect()
}
