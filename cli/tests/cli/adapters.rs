//! Which adapter a command takes, and what it says of it.

use std::process::Output;

use crate::command::{adapters, folder, misuse, program, refusal, stdout, surprisal};
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
    let median = |at: usize| median_ms(&measured["results"][at]);
    let times = measured["loss_time_over_copy_time"].as_f64().unwrap();
    assert!((times * median(1) / median(0) - 1.0).abs() < 1e-9, "{measured}");
}

/// The median milliseconds of a result in JSON, by timestamps if there are any.
fn median_ms(result: &Value) -> f64 {
    let times = if result["gpu_ms"].is_null() { &result["wall_ms"] } else { &result["gpu_ms"] };
    times["median"].as_f64().unwrap()
}

/// Losses that are made of products are compared with the best product that the adapter makes.
#[test]
fn products_are_compared_with_the_best_product() {
    if adapters() == 0 {
        return;
    }
    let words =
        ["bench", "linear_cross_entropy", "--rows", "16", "--classes", "64", "--hidden", "8"];
    let few = ["--runs", "1", "--warm-up", "0"];
    let text = stdout(&surprisal(&[&words[..], &few].concat()));
    assert!(text.contains("best product of this adapter: "), "{text}");
    assert!(text.contains(" ms that its products need at this rate\n"), "{text}");
    assert!(!text.contains("copy"), "{text}");
    let text = stdout(&surprisal(&[&words[..], &few, &["--json"]].concat()));
    let measured: Value = serde_json::from_str(&text).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let (product, results) = (&measured["product"], &measured["results"]);
    assert_eq!(results[1]["what"], "product");
    // Plain products and score tiles; the fastest of them is the yardstick.
    let tried = product["tried"].as_array().unwrap();
    for kind in ["a plain product", "a score tile"] {
        assert!(
            tried.iter().any(|one| one["kernel"].as_str().unwrap().starts_with(kind)),
            "{kind}"
        );
    }
    let best = tried.iter().min_by(|a, b| number(&a["best_ms"]).total_cmp(&number(&b["best_ms"])));
    assert_eq!(product["kernel"], best.unwrap()["kernel"], "{measured}");
    // Loss and both gradients: scores, and two products as large.
    assert_eq!(number(&measured["flops"]), 3.0 * 2.0 * 16.0 * 64.0 * 8.0);
    let rate = number(&product["flops"]) / median_ms(&results[1]) / 1e6;
    let least_ms = number(&measured["flops"]) / rate / 1e6;
    for (key, expected) in [
        ("best_product_gflop_per_s", rate),
        ("ms_at_best_product_rate", least_ms),
        ("loss_time_over_time_at_best_product_rate", median_ms(&results[0]) / least_ms),
    ] {
        assert!((number(&measured[key]) / expected - 1.0).abs() < 1e-9, "{key}: {measured}");
    }
}

/// A measurement is kept under a name, and later ones are compared with it.
#[test]
fn what_got_slower_is_said() {
    if adapters() == 0 {
        return;
    }
    let folder = folder("baselines");
    let bench = |rows: &str, more: &[&str]| {
        let words = ["bench", "cross_entropy", "--rows", rows, "--classes", "64", "--runs", "3"];
        let kept = ["--baselines", folder.to_str().unwrap()];
        surprisal(&[&words[..], &kept, more].concat())
    };
    let refused = refusal(&bench("4", &["--baseline", "main"]));
    assert!(refused.contains("main.json"), "{refused}");
    stdout(&bench("4", &["--save", "main"]));
    stdout(&bench("8", &["--save", "main"]));
    let file = folder.join("main.json");
    let kept = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();
    let mut all = kept();
    assert_eq!(all.as_array().unwrap().len(), 2);
    // The same call in no time at all, and in an hour.
    let moved = |all: &mut Value, ms: f64| {
        all[0]["ms"] = serde_json::json!({ "median": ms, "p10": ms, "p90": ms });
        std::fs::write(&file, all.to_string()).unwrap();
    };
    moved(&mut all, 1e-6);
    let output = bench("4", &["--baseline", "main"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("SLOWER: +") && text.contains("against `main`"), "{text}");
    moved(&mut all, 3.6e6);
    let text = stdout(&bench("4", &["--baseline", "main", "--json"]));
    let compared: Value = serde_json::from_str(&text).unwrap();
    assert!(compared["compared"]["change"].as_f64().unwrap() < -0.9, "{compared}");
    let refused = refusal(&bench("4", &["--baseline", "main", "--dtype", "f16"]));
    assert!(refused.contains("none of its 2 measurement(s) is of this call"), "{refused}");
    assert!(misuse(&bench("4", &["--save", "../main"])).contains("letters"));
}

/// A share of the rows may be ignored, where a loss ignores any.
#[test]
fn rows_may_be_ignored() {
    if adapters() == 0 {
        return;
    }
    let few = ["--rows", "8", "--classes", "64", "--runs", "1", "--warm-up", "0", "--json"];
    let words = ["bench", "cross_entropy", "--ignored", "0.5", "--want", "count"];
    let measured: Value =
        serde_json::from_str(&stdout(&surprisal(&[&words[..], &few].concat()))).unwrap();
    assert_eq!(measured["ignored"], 0.5);
    // Outputs that are asked for replace those of the mode, as in `eval` and `plan`.
    assert_eq!(measured["outputs"], serde_json::json!(["count"]));
    let refused = refusal(&surprisal(&[&["bench", "mse", "--ignored", "0.5"][..], &few].concat()));
    assert!(refused.contains("has no `ignore_index`"), "{refused}");
}

/// Without an adapter the listing fails, and commands say where to look.
#[test]
fn a_machine_without_adapters_is_told_so() {
    let without = |words: &[&str]| {
        let mut command = program(words);
        command.env("WGPU_BACKEND", "vulkan").env("VK_DRIVER_FILES", "/none.json");
        command.env("VK_ICD_FILENAMES", "/none.json").output().unwrap()
    };
    let listing = without(&["adapters"]);
    assert_eq!(listing.status.code(), Some(1));
    assert!(String::from_utf8(listing.stdout).unwrap().starts_with("no adapter\n"));
    let bench = ["bench", "cross_entropy", "--rows", "4", "--classes", "8"];
    let refused = refusal(&without(&bench));
    assert!(
        refused.contains("`surprisal adapters`") && refused.contains("--backend cpu"),
        "{refused}"
    );
}
