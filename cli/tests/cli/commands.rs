//! The binary as a user runs it, most of it without a GPU.

use std::fs;

use crate::command::{adapters, folder, misuse, program, refusal, stdout, surprisal};
use serde_json::Value;
use surprisal::{
    Array, Arrays,
    cases::{self, Case},
};

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
    for entry in surprisal::operations::all() {
        assert!(list.contains(entry.about.name), "{list}");
        let text = stdout(&surprisal(&["losses", entry.about.name]));
        for argument in entry.about.inputs.iter().chain(entry.about.outputs) {
            assert!(text.contains(argument.name), "{}: {}", entry.about.name, argument.name);
        }
        for option in entry.about.options {
            assert!(text.contains(option.name), "{}: {}", entry.about.name, option.name);
        }
    }
    // A layer under a loss has the loss's options as well, each with its default.
    let text = stdout(&surprisal(&["losses", "linear_cross_entropy", "--json"]));
    let linear: Value = serde_json::from_str(&text).unwrap();
    let text = stdout(&surprisal(&["losses", "cross_entropy", "--json"]));
    let inner: Value = serde_json::from_str(&text).unwrap();
    let options = linear["options"].as_array().unwrap();
    assert!(inner["options"].as_array().unwrap().iter().all(|option| options.contains(option)));
    assert!(options.iter().all(|option| option["default"] != "" && option["name"] != "…"));
    let formula = inner["formula"].as_str().unwrap();
    assert!(linear["formula"].as_str().unwrap().ends_with(formula), "{linear}");
    let error = misuse(&surprisal(&["losses", "cross_entrop"]));
    assert!(error.contains("a similar value exists: 'cross_entropy'"), "{error}");
}

#[test]
fn a_plan_needs_no_gpu_and_adds_up() {
    let words = ["plan", "linear_cross_entropy", "--rows", "64", "--classes", "1000"];
    let both = ["--hidden", "32", "--json", "--options"];
    for options in ["{}", r#"{"weight_layout": "hidden_classes", "reduction": "none"}"#] {
        let text = stdout(&surprisal(&[&words[..], &both, &[options]].concat()));
        let plan: Value = serde_json::from_str(&text).unwrap();
        let bytes = |key: &str| plan["bytes"][key].as_u64().unwrap();
        assert_ne!(plan["dispatches"].as_array().unwrap().len(), 0);
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
    assert!(text.contains("not run: 1 case(s) of "), "{text}");
    assert!(text.contains("there is no operation `"), "{text}");
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
fn one_operation_is_checked_alone() {
    let list = stdout(&surprisal(&["check", "brier", "--list", "--json"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    let losses: Vec<_> = list["cases"].as_array().unwrap().iter().map(|c| &c["loss"]).collect();
    assert!(!losses.is_empty() && losses.iter().all(|loss| *loss == "brier"), "{losses:?}");
    // The child process of an adapter is told as well.
    let words = ["check", "brier", "--adapter", "0", "--no-self-checks", "--json"];
    if adapters() > 0 {
        let found: Value = serde_json::from_str(&stdout(&surprisal(&words))).unwrap();
        let results = found["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["loss"] == "brier"), "{results:?}");
    }
    assert_eq!(surprisal(&["check", "no_loss"]).status.code(), Some(2));
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

/// The program holds all reference cases, wherever it is started.
#[test]
fn reference_cases_are_built_in() {
    let folder = folder("anywhere");
    fs::create_dir_all(folder.join("tests/vectors")).unwrap();
    let other = [case("of another project", "cross_entropy", 1.0)];
    cases::save(&folder.join("tests/vectors/cases.safetensors"), &other).unwrap();
    let words = ["check", "--list", "--no-self-checks", "--json"];
    let list = stdout(&program(&words).current_dir(&folder).output().unwrap());
    let list: Value = serde_json::from_str(&list).unwrap();
    let list = list["cases"].as_array().unwrap();
    let known = cases::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors").as_ref());
    let known: Vec<String> = known.unwrap().into_iter().map(|case| case.id).collect();
    let listed: Vec<&str> = list.iter().map(|case| case["id"].as_str().unwrap()).collect();
    assert_eq!(listed, known);
}

/// A module that several losses share is found under the label of each.
#[test]
fn shared_kernels_are_dumped_under_every_label() {
    if adapters() == 0 {
        return;
    }
    let folder = folder("dump");
    let cases = ["mse", "bce_with_logits"].map(|loss| format!("self/{loss}/infinities/f32"));
    let words = ["check", "--adapter", "0", "--case", &cases[0], "--case", &cases[1]];
    stdout(&program(&words).env("SURPRISAL_DUMP", &folder).output().unwrap());
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let [first, second] = ["mse", "bce_with_logits"].map(|loss| {
        let label = format!("surprisal.element.header.{loss}.f32.");
        names.iter().find_map(|name| name.strip_prefix(&label))
    });
    assert!(first.is_some() && first == second, "{names:?}");
}
