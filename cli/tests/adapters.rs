//! Which adapter a command takes, and what it says of it.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod command;

use std::process::Output;

use command::{adapters, program, refusal, stdout, surprisal};
use serde_json::Value;
use surprisal::adapter::ADAPTER_VARIABLE;

fn with_variable(value: &str, words: &[&str]) -> Output {
    program(words).env(ADAPTER_VARIABLE, value).output().unwrap()
}

/// The numbers of the adapters listed, and that of the default one.
fn listed(output: &Output) -> (Vec<u64>, Vec<u64>) {
    let all: Value = serde_json::from_str(&stdout(output)).unwrap();
    let number = |adapter: &Value| adapter["number"].as_u64().unwrap();
    let adapters = all["adapters"].as_array().unwrap();
    let defaults = adapters.iter().filter(|adapter| adapter["default"] == true);
    (adapters.iter().map(number).collect(), defaults.map(number).collect())
}

/// The listing marks the adapter that commands take, and obeys the variable as they do.
#[test]
fn the_default_is_marked_and_the_variable_obeyed() {
    let count = adapters() as u64;
    let first: Vec<u64> = (0..count.min(1)).collect();
    let words = ["adapters", "--json"];
    assert_eq!(listed(&surprisal(&words)), ((0..count).collect(), first.clone()));
    assert_eq!(listed(&with_variable("", &words)).1, first);
    let bench = ["bench", "cross_entropy", "--rows", "4", "--classes", "8", "--sweep"];
    for command in [&words[..], &["check"], &bench] {
        let refused = refusal(&with_variable("no such adapter", command));
        assert!(refused.contains("no such adapter"), "{command:?}: {refused}");
    }
    if let Some(last) = count.checked_sub(1) {
        let output = with_variable(&last.to_string(), &words);
        assert_eq!(listed(&output), (vec![last], vec![last]));
    }
}

/// Everything measured goes to stdout as JSON alone.
#[test]
fn a_benchmark_writes_json_to_stdout() {
    if adapters() == 0 {
        return;
    }
    let words = ["bench", "cross_entropy", "--rows", "4", "--classes", "64", "--json"];
    let output = surprisal(&[&words[..], &["--runs", "1", "--warm-up", "0"]].concat());
    let measured: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let median = |at: usize| {
        let result = &measured["results"][at];
        let times = if result["gpu_ms"].is_null() { &result["wall_ms"] } else { &result["gpu_ms"] };
        times["median"].as_f64().unwrap()
    };
    let share = measured["share_of_copy"].as_f64().unwrap();
    assert!((share * median(0) / median(1) - 1.0).abs() < 1e-9, "{measured}");
}
