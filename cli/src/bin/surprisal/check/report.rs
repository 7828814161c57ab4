//! The report: a table for each adapter, the failures, the verdict, the JSON and the exit status.
//!
//! Everything is counted in cases, as the progress is. A case is a reference case or a self-check with its storage
//! type, and has passed if all of its expected tensors have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    process::ExitCode,
    time::Duration,
};

use indicatif::HumanDuration;
use serde_json::{Value, json};
use surprisal::Result;

use super::Arguments;
use crate::output;

/// The most failures that are listed one by one.
const LISTED: usize = 40;

/// What became of a case, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Passed,
    Unsupported,
    Failed,
    Error,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Passed, Self::Failed, Self::Unsupported, Self::Error];

    fn of(entry: &Value) -> Self {
        match entry["status"].as_str() {
            Some("passed") => Self::Passed,
            Some("failed") => Self::Failed,
            Some("unsupported") => Self::Unsupported,
            _ => Self::Error,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
            Self::Error => "error",
        }
    }

    /// Whether the check has failed because of such a case.
    fn is_bad(self) -> bool {
        self >= Self::Failed
    }
}

fn word<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key].as_str().unwrap_or_default()
}

/// The results of one operation on one adapter.
#[derive(Default)]
struct Tally<'a> {
    /// The worst fate among a case's tensors, by id and storage type.
    cases: BTreeMap<(&'a str, &'a str), Fate>,
    /// Largest relative error in f32 and in 16-bit storage, infinite where an error is not finite.
    relative: [Option<f64>; 2],
    /// Largest absolute error over its tolerance.
    share: f64,
}

impl<'a> Tally<'a> {
    fn add(&mut self, entry: &'a Value) {
        let (fate, dtype) = (Fate::of(entry), word(entry, "dtype"));
        let case = self.cases.entry((word(entry, "id"), dtype)).or_insert(fate);
        *case = fate.max(*case);
        if !matches!(fate, Fate::Passed | Fate::Failed) {
            return;
        }
        let number = |key: &str| entry[key].as_f64().unwrap_or(f64::INFINITY);
        let (error, tolerance) = (number("max_abs_error"), number("tolerance"));
        let relative = number("max_rel_error");
        let largest = self.relative[usize::from(dtype != "f32")].get_or_insert(0.0);
        // A tensor may be 0 except for its tolerance. Any error is then relatively large, and says nothing.
        if error > tolerance || error > relative * tolerance {
            *largest = largest.max(relative);
        }
        if error > 0.0 {
            self.share = self.share.max(error / tolerance);
        }
    }

    fn count(&self, fate: Fate) -> usize {
        self.cases.values().filter(|case| **case == fate).count()
    }

    fn row(&self, operation: &str) -> Vec<String> {
        let counts = Fate::ALL.map(|fate| self.count(fate).to_string());
        let relative =
            self.relative.map(|error| error.map_or("-".to_owned(), |e| format!("{e:.2e}")));
        let share = match self.relative {
            [None, None] => "-".to_owned(),
            _ if self.share.is_finite() => format!("{:.0}%", self.share * 100.0),
            _ => "∞".to_owned(),
        };
        [operation.to_owned()].into_iter().chain(counts).chain(relative).chain([share]).collect()
    }
}

/// The results of an adapter by operation.
struct Adapter<'a> {
    name: &'a str,
    operations: BTreeMap<&'a str, Tally<'a>>,
}

/// The results by adapter, in the order in which the adapters were checked.
fn by_adapter(results: &[Value]) -> Vec<Adapter<'_>> {
    let mut adapters: Vec<Adapter<'_>> = Vec::new();
    for entry in results {
        let name = word(entry, "adapter");
        let at = adapters.iter().position(|adapter| adapter.name == name);
        let at = at.unwrap_or_else(|| {
            adapters.push(Adapter { name, operations: BTreeMap::new() });
            adapters.len() - 1
        });
        adapters[at].operations.entry(word(entry, "loss")).or_default().add(entry);
    }
    adapters
}

/// Prints the report, writes the JSON, and returns the exit status.
pub fn finish(
    arguments: &Arguments,
    results: &[Value],
    elapsed: Duration,
    stopped: bool,
) -> Result<ExitCode> {
    let adapters = by_adapter(results);
    let count = |fate| -> usize {
        adapters.iter().flat_map(|a| a.operations.values()).map(|tally| tally.count(fate)).sum()
    };
    let counts = Fate::ALL.map(|fate| (fate, count(fate)));
    let text = || {
        let bad: Vec<&Value> = results.iter().filter(|entry| Fate::of(entry).is_bad()).collect();
        let verdict = verdict(counts, adapters.len(), elapsed, stopped);
        tables(&adapters) + &failures(&bad) + &not_there_yet(results) + &verdict
    };
    let value = || {
        let cases: serde_json::Map<String, Value> =
            counts.iter().map(|(fate, count)| (fate.name().to_owned(), (*count).into())).collect();
        json!({ "cases": cases, "results": results })
    };
    arguments.report.give(text, value)?;
    Ok(match counts.iter().any(|(fate, count)| fate.is_bad() && *count > 0) {
        _ if stopped => ExitCode::from(130),
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn tables(adapters: &[Adapter<'_>]) -> String {
    let mut text = String::new();
    for adapter in adapters {
        let mut table = output::table(&[
            "cases of",
            "passed",
            "failed",
            "unsupported",
            "error",
            "relative error, f32",
            "16-bit",
            "of tolerance",
        ]);
        for (operation, tally) in &adapter.operations {
            table.add_row(tally.row(operation));
        }
        let _ = writeln!(text, "{}\n{table}\n", adapter.name);
    }
    text
}

/// A line for each tensor that is wrong or missing.
fn failures(bad: &[&Value]) -> String {
    let mut text = String::new();
    for entry in bad.iter().take(LISTED) {
        let plain = |key: &str| match &entry[key] {
            Value::String(word) => word.clone(),
            other => other.to_string(),
        };
        let what = match &entry["message"] {
            Value::String(message) => message.clone(),
            _ => format!(
                "error {} above {} at index {}",
                plain("max_abs_error"),
                plain("tolerance"),
                plain("worst")
            ),
        };
        let _ = writeln!(
            text,
            "{}: {} {} ({}) on {}: {what}",
            output::styled(output::BAD, &Fate::of(entry).name().to_uppercase()),
            plain("id"),
            plain("tensor"),
            plain("dtype"),
            plain("adapter"),
        );
    }
    if bad.len() > LISTED {
        let _ = writeln!(text, "… and {} more; --json lists all", bad.len() - LISTED);
    }
    text
}

/// The cases that need what does not exist here, counted by operation.
fn not_there_yet(results: &[Value]) -> String {
    let mut text = String::new();
    let mut cases: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for entry in results.iter().filter(|entry| Fate::of(entry) == Fate::Unsupported) {
        let key = (word(entry, "loss"), word(entry, "message"));
        cases.entry(key).or_default().insert(word(entry, "id"));
    }
    for ((loss, message), ids) in cases {
        let _ = writeln!(text, "not run: {} case(s) of {loss}: {message}", ids.len());
    }
    text
}

/// The last line: what all of it comes to.
fn verdict(
    counts: [(Fate, usize); 4],
    adapters: usize,
    elapsed: Duration,
    stopped: bool,
) -> String {
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    let is_bad = counts.iter().any(|(fate, count)| fate.is_bad() && *count > 0);
    let word = match is_bad {
        true => output::styled(output::BAD, "FAILED"),
        false if stopped => output::styled(output::BAD, "INTERRUPTED"),
        false => output::styled(output::GOOD, "PASSED"),
    };
    let counted = counts.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<String> =
        counted.map(|(fate, count)| format!("{count} {}", fate.name())).collect();
    let so_far = if stopped { " so far, interrupted" } else { "" };
    format!(
        "{word}: {all} cases on {adapters} adapter(s) in {}{so_far}: {}\n",
        HumanDuration(elapsed),
        counted.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tensor: &str, dtype: &str, [error, relative, tolerance]: [f64; 3]) -> Value {
        json!({
            "id": "a case", "tensor": tensor, "dtype": dtype, "max_abs_error": error,
            "max_rel_error": relative, "tolerance": tolerance,
            "status": if error <= tolerance { "passed" } else { "failed" },
        })
    }

    #[test]
    fn a_gradient_of_nothing_is_not_the_largest_error() {
        let entries =
            [entry("a", "f32", [1e-30, 1.0, 2e-30]), entry("b", "f32", [1e-7, 1e-6, 1e-5])];
        let mut tally = Tally::default();
        tally.add(&entries[0]);
        assert_eq!(tally.relative, [Some(0.0), None]);
        tally.add(&entries[1]);
        assert_eq!(tally.relative, [Some(1e-6), None]);
    }

    #[test]
    fn a_case_is_counted_once_and_16_bits_are_apart() {
        let entries = [
            entry("a", "f32", [0.0, 0.0, 1.0]),
            entry("b", "f32", [2.0, 0.5, 1.0]),
            entry("a", "f16", [1.0, 0.25, 1.0]),
        ];
        let mut tally = Tally::default();
        for entry in &entries {
            tally.add(entry);
        }
        assert_eq!(Fate::ALL.map(|fate| tally.count(fate)), [1, 1, 0, 0]);
        assert_eq!(tally.relative, [Some(0.5), Some(0.25)]);
    }
}
