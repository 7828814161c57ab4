//! The binary as a user runs it, without a GPU.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use surprisal::{
    Array, Arrays,
    cases::{self, Case},
};

fn surprisal(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_surprisal"));
    command.args(words).env_remove("SURPRISAL_ADAPTER");
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line on stderr of a refusal.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A `.npy` file as numpy writes it.
fn npy(path: &Path, descr: &str, fortran: bool, shape: &str, data: &[u8]) {
    let fortran = if fortran { "True" } else { "False" };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{dict:<width$}\n", width = length - 1).bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

fn case(id: &str, loss: &str, expected: f64) -> Case {
    Case {
        id: id.to_owned(),
        loss: loss.to_owned(),
        options: serde_json::json!({}),
        inputs: Arrays::from([
            ("logits".to_owned(), Array::float(&[1, 3], vec![1.0, 2.0, 3.0])),
            ("targets".to_owned(), Array::int(&[1], vec![2])),
        ]),
        expect: Arrays::from([("loss".to_owned(), Array::float(&[1], vec![expected]))]),
        ..Case::default()
    }
}

#[test]
fn every_loss_is_listed_and_described() {
    let list = stdout(&surprisal(&["losses"]));
    for entry in surprisal::loss::REGISTRY {
        assert!(list.contains(entry.about.name), "{list}");
        let text = stdout(&surprisal(&["losses", entry.about.name]));
        for argument in entry.about.inputs.iter().chain(entry.about.outputs) {
            assert!(text.contains(argument.name), "{}: {}", entry.about.name, argument.name);
        }
        for option in entry.about.options {
            assert!(text.contains(option.name), "{}: {}", entry.about.name, option.name);
        }
    }
    let error = refusal(&surprisal(&["losses", "cross_entrop"]));
    assert!(error.contains("cross_entrop") && error.contains("linear_cross_entropy"), "{error}");
}

#[test]
fn a_plan_needs_no_gpu_and_adds_up() {
    let words = ["plan", "linear_cross_entropy", "--rows", "64", "--classes", "1000"];
    let both = ["--hidden", "32", "--json", "--options"];
    for options in ["{}", r#"{"weight_layout": "hidden_classes", "reduction": "none"}"#] {
        let text = stdout(&surprisal(&[&words[..], &both, &[options]].concat()));
        let plan: Value = serde_json::from_str(&text).unwrap();
        let bytes = |key: &str| plan["bytes"][key].as_u64().unwrap();
        assert!(!plan["dispatches"].as_array().unwrap().is_empty());
        assert_eq!(bytes("unstored"), 64 * 1000 * 4);
        assert_eq!(
            bytes("peak"),
            bytes("inputs") + bytes("outputs") + bytes("scratch") + bytes("parameters")
        );
    }
    let in_place = stdout(&surprisal(&[
        "plan",
        "cross_entropy",
        "--rows",
        "9",
        "--classes",
        "10",
        "--in-place",
        "--json",
    ]));
    let plan: Value = serde_json::from_str(&in_place).unwrap();
    assert_eq!(plan["bytes"]["outputs"], 16, "the loss alone");
}

#[test]
fn a_small_binding_limit_windows_the_rows() {
    let words = ["plan", "cross_entropy", "--rows", "1000", "--classes", "50257", "--json"];
    let windows = |limits: &str| -> u64 {
        let text = stdout(&surprisal(&[&words[..], &["--limits", limits]].concat()));
        serde_json::from_str::<Value>(&text).unwrap()["windows"].as_u64().unwrap()
    };
    assert!(windows("default") > 1);
    assert_eq!(windows(r#"{"binding_bytes": 2147483647}"#), 1);
}

#[test]
fn bad_plans_are_refused_by_name_and_value() {
    let plan = |words: &[&str]| {
        let all = [&["plan", "cross_entropy", "--rows", "2"], words].concat();
        refusal(&surprisal(&all))
    };
    assert!(plan(&["--classes", "0"]).contains("classes"));
    assert!(plan(&["--classes", "18446744073709551615"]).contains("18446744073709551615"));
    let text = plan(&["--classes", "3", "--options", r#"{"temperature": 0}"#]);
    assert!(text.contains("temperature"), "{text}");
    assert!(plan(&["--classes", "3", "--options", "{"]).contains("JSON"));
    assert!(plan(&["--classes", "3", "--want", "los"]).contains("los"));
    assert!(plan(&["--classes", "3", "--limits", r#"{"binding": 1}"#]).contains("binding"));
    assert!(plan(&["--classes", "3", "--limits", r#"{"segment": 0}"#]).contains("above 0"));
}

#[test]
fn the_reference_passes_its_cases_and_says_so_in_json() {
    let folder = folder("check");
    let vectors = folder.join("cases.safetensors");
    let cases =
        [case("right", "cross_entropy", 0.407_605_964_444_380_1), case("new", "no_loss", 1.0)];
    cases::save(&vectors, &cases).unwrap();
    let json = folder.join("out.json");
    let (vectors, json) = (vectors.to_str().unwrap(), json.to_str().unwrap());
    let words =
        ["check", "--backend", "cpu", "--no-self-checks", "--vectors", vectors, "--repeat", "2"];
    let text = stdout(&surprisal(&[&words[..], &["--json", json]].concat()));
    assert!(text.contains("cross_entropy"), "{text}");
    let all: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let results = all["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for key in [
        "id",
        "adapter",
        "tensor",
        "status",
        "max_abs_error",
        "max_rel_error",
        "worst",
        "tolerance",
    ] {
        assert!(results.iter().all(|entry| entry.get(key).is_some()), "{key}: {all}");
    }
    assert_eq!(results[0]["status"], "passed");
    assert_eq!(results[1]["status"], "unsupported");
}

#[test]
fn a_wrong_result_fails_with_status_1() {
    let folder = folder("wrong");
    let vectors = folder.join("cases.safetensors");
    cases::save(&vectors, &[case("wrong", "cross_entropy", 0.5)]).unwrap();
    let output = surprisal(&[
        "check",
        "--backend",
        "cpu",
        "--no-self-checks",
        "--vectors",
        vectors.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED: wrong loss"));
}

#[test]
fn self_checks_cover_every_loss() {
    let list = stdout(&surprisal(&["check", "--list"]));
    for entry in surprisal::loss::REGISTRY {
        let name = entry.about.name;
        let targets = entry.about.inputs.iter().find(|input| input.name == "targets");
        let mut expected = vec!["one/targets/f32", "prime/all/bf16"];
        if let Some(targets) = targets {
            expected.extend(["outliers/f16", "offset-1e6/f32"]);
            // Only an index can be ignored.
            if targets.kind == surprisal::loss::Kind::Index {
                expected.push("ignored-nan/f16");
            }
        }
        for what in expected {
            assert!(list.contains(&format!("self/{name}/{what}")), "{name} {what}");
        }
    }
    let id = "self/cross_entropy/infinities/f32";
    stdout(&surprisal(&["check", "--backend", "cpu", "--case", id]));
    assert!(refusal(&surprisal(&["check", "--case", "none such"])).contains("none such"));
}

#[test]
fn a_malformed_vectors_file_is_bad_input() {
    let folder = folder("malformed");
    let file = folder.join("bad.safetensors");
    let name = file.to_str().unwrap();
    for bytes in
        [&b"nonsense"[..], b"", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", b"\x02\0\0\0\0\0\0\0{}"]
    {
        fs::write(&file, bytes).unwrap();
        let error = refusal(&surprisal(&["check", "--backend", "cpu", "--vectors", name]));
        assert!(error.contains("bad.safetensors"), "{error}");
    }
    let error = refusal(&surprisal(&["check", "--backend", "cpu", "--vectors", "no/such/file"]));
    assert!(error.contains("no/such/file"), "{error}");
    assert!(refusal(&surprisal(&["replay", name])).contains("bad.safetensors"));
}

#[test]
fn eval_takes_fortran_order_f64_masks_and_writes_the_gradient() {
    let folder = folder("eval");
    let path = |name: &str| folder.join(name);
    let logits = [1.0f64, 0.0, 2.0, 0.0, 3.0, 0.0];
    let bytes = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    npy(&path("logits.npy"), "<f8", true, "(2, 3)", &bytes(&logits));
    npy(&path("targets.npy"), "<i4", false, "(2,)", &[2, 0, 0, 0, 1, 0, 0, 0]);
    npy(&path("mask.npy"), "|b1", false, "(2,)", &[1, 0]);
    let input = |name: &str, file: &str| format!("{name}={}", path(file).display());
    let (logits, targets) = (input("logits", "logits.npy"), input("targets", "targets.npy"));
    let mask = input("row_weight", "mask.npy");
    let gradient = path("gradient.npy");
    let words = [
        "eval",
        "cross_entropy",
        "--backend",
        "cpu",
        "--input",
        &logits,
        "--input",
        &targets,
        "--input",
        &mask,
        "--set",
        "reduction=sum",
        "--want",
        "loss,argmax",
        "--grad",
        gradient.to_str().unwrap(),
    ];
    let text = stdout(&surprisal(&words));
    assert!(text.contains("loss: 0.40760596444438"), "{text}");
    assert!(text.contains("argmax: [2] 2, 0"), "{text}");
    // The gradient is a row of softmax − onehot, and a row of zeros; it can be read again.
    let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    words[5] = input("logits", "gradient.npy");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    stdout(&surprisal(&words[..words.len() - 2]));
    let written = fs::read(&gradient).unwrap();
    let values: Vec<f64> = written[written.len() - 48..]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| f64::from_le_bytes(*word))
        .collect();
    let expected = [0.090_030_573_170_380_46, 0.244_728_471_054_797_64, -0.334_759_044_225_178_1];
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-15, "{values:?}");
    }
    assert_eq!(values[3..], [0.0; 3]);
}

#[test]
fn eval_refuses_what_does_not_fit() {
    let folder = folder("refused");
    let file = |name: &str| folder.join(name);
    npy(&file("logits.npy"), "<f4", false, "(1, 3)", &[0; 12]);
    npy(&file("targets.npy"), "<i8", false, "(1,)", &[9, 0, 0, 0, 0, 0, 0, 0]);
    npy(&file("short.npy"), "<f4", false, "(1, 300)", &[0; 12]);
    let eval = |inputs: &[(&str, &str)], more: &[&str]| {
        let inputs: Vec<String> = inputs
            .iter()
            .flat_map(|(name, f)| ["--input".to_owned(), format!("{name}={}", file(f).display())])
            .collect();
        let mut words = vec!["eval", "cross_entropy", "--backend", "cpu"];
        words.extend(inputs.iter().map(String::as_str));
        words.extend(more);
        refusal(&surprisal(&words))
    };
    let good = [("logits", "logits.npy"), ("targets", "targets.npy")];
    assert!(eval(&good, &[]).contains("row 0 with target 9"));
    assert!(eval(&good[..1], &[]).contains("targets"));
    assert!(eval(&[("logit", "logits.npy")], &[]).contains("logit"));
    assert!(eval(&[("logits", "short.npy")], &[]).contains("short.npy"));
    assert!(eval(&[("logits", "missing.npy")], &[]).contains("missing.npy"));
    assert!(eval(&[good[0], ("targets", "logits.npy")], &[]).contains("targets"));
    assert!(eval(&good, &["--set", "label_smoothing=2"]).contains("label_smoothing"));
    assert!(eval(&good, &["--set", "smothing=0.1"]).contains("smothing"));
    assert!(eval(&good, &["--grad", "out.txt"]).contains("out.txt"));
}
