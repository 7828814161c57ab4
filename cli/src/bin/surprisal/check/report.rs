//! The report: the table, the failures, the JSON and the exit status.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};
use surprisal::Result;

use super::Arguments;
use crate::output;

/// The most failures that are listed one by one.
const LISTED: usize = 40;

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
        // A tensor may be 0 except for its tolerance. Any error is then relatively large, and says nothing.
        if error > tolerance || error > relative * tolerance {
            self.relative = self.relative.max(relative);
        }
        if error > 0.0 {
            self.share = self.share.max(error / tolerance);
        }
    }
}

/// Prints the table, writes the JSON, and returns the exit status.
pub fn finish(arguments: &Arguments, results: &[Value], stopped: bool) -> Result<ExitCode> {
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
    let text = report(&order, &counts, &bad, stopped) + &not_there_yet(results);
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

/// The cases that need what does not exist here, counted by operation.
fn not_there_yet(results: &[Value]) -> String {
    let mut text = String::new();
    let mut cases: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for entry in results.iter().filter(|entry| entry["status"] == "unsupported") {
        let word = |key: &str| entry[key].as_str().unwrap_or_default();
        cases.entry((word("loss"), word("message"))).or_default().insert(word("id"));
    }
    for ((loss, message), ids) in cases {
        let _ = writeln!(text, "not run: {} case(s) of {loss}: {message}", ids.len());
    }
    text
}

#[cfg(test)]
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
}
