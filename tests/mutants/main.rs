//! Mutants: deliberate faults in the kernels, one at a time, to check that the GPU tests notice each of them.
//!
//! `cargo test` checks that every mutant of `list.toml` can still be applied. `scripts/mutants` runs the GPU tests on
//! the mutants, one after another, until a test fails. This needs no new build: `SURPRISAL_SHADERS` names a folder
//! with the mutated shader.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod list;
mod run;

use std::{collections::BTreeSet, process::ExitCode};

use list::{GENERATED, Mutant};
use run::{Outcome, Runner};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == "run" => mutants_are_killed(rest),
        // `cargo test`, with or without its own arguments, arrives here.
        _ => every_mutant_applies(),
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
        let (outcome, seconds) = runner.outcome(mutant, adapter, options.named);
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
    let failing = |(adapter, test): &(&str, String)| {
        let outcome = runner.unmutated(adapter, test);
        (!matches!(outcome, Outcome::Survived)).then(|| format!("{adapter}: {test}: {outcome}"))
    };
    killers.iter().filter_map(failing).collect()
}
