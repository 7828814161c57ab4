//! One grammar for all commands: the same words, JSON everywhere, completions, a manual, help with names.

use std::{collections::BTreeSet, fs, path::Path};

use crate::command::{adapters, folder, misuse, npy, program, refusal, stdout, surprisal};
use serde_json::{Value, json};

/// Two rows of logits and their targets, as words of the command line.
fn inputs(folder: &Path) -> [String; 4] {
    let logits: Vec<u8> =
        [1.0f32, 2.0, 3.0, 0.5, 0.0, 0.25].iter().flat_map(|value| value.to_le_bytes()).collect();
    npy(&folder.join("logits.npy"), "<f4", false, "(2, 3)", &logits);
    let targets: Vec<u8> = [2i64, 0].iter().flat_map(|value| value.to_le_bytes()).collect();
    npy(&folder.join("targets.npy"), "<i8", false, "(2,)", &targets);
    let input = |name: &str| format!("{name}={}", folder.join(format!("{name}.npy")).display());
    ["--input".to_owned(), input("logits"), "--input".to_owned(), input("targets")]
}

/// `eval cross_entropy` on the reference with these inputs and more words.
fn eval<'a>(inputs: &'a [String; 4], more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["eval", "cross_entropy", "--backend", "cpu"];
    words.extend(inputs.iter().map(String::as_str));
    words.extend(more);
    words
}

/// The commands that print results, and which of the shared words each has beside those that all of them have. A
/// command with another set of words has to be entered here on purpose.
const GRAMMAR: [(&str, &[&str]); 7] = [
    ("adapters", &[]),
    ("losses", &[]),
    ("plan", DRAFTED),
    ("check", &["--backend <BACKEND>", "--dtype <DTYPE>"]),
    ("replay", &[]),
    ("bench", DRAFTED),
    (
        "eval",
        &[
            "--options <JSON>",
            "--set <OPTION=VALUE>",
            "--input <NAME=FILE[:KEY]>",
            "--dtype <DTYPE>",
            WANT,
            "--out <[OUTPUT,…=]FILE>",
            "--backend <BACKEND>",
        ],
    ),
];
const WANT: &str = "--want <OUTPUT>";
/// What makes a call without tensors.
const DRAFTED: &[&str] = &[
    "--options <JSON>",
    "--set <OPTION=VALUE>",
    "--rows <ROWS>",
    "--classes <CLASSES>",
    "--hidden <HIDDEN>",
    "--dtype <DTYPE>",
    "--mode <MODE>",
    WANT,
    "--with <INPUT>",
];
/// What every command has that prints results.
const EVERYWHERE: [&str; 3] = ["--adapter <SUBSTRING>", "--quiet", "--json [<FILE>]"];

/// The flags of a help text, each with the name of its value.
fn flags(help: &str) -> BTreeSet<String> {
    let flag = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("-q, ").unwrap_or(line);
        line.starts_with("--").then(|| line.split("  ").next().unwrap().trim_end().to_owned())
    };
    help.lines().filter_map(flag).collect()
}

/// A word of the command line means the same in all commands, and is missing in none where it makes sense.
#[test]
fn every_command_keeps_to_the_grammar() {
    let help = stdout(&surprisal(&["--help"]));
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let commands =
        commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands = commands.map(|line| line.split_whitespace().next().unwrap());
    // These print text for shells and for `man`, no results.
    let others = ["completions", "man", "help"];
    let commands: BTreeSet<&str> = commands.filter(|name| !others.contains(name)).collect();
    assert_eq!(commands, GRAMMAR.iter().map(|(name, _)| *name).collect());
    let shared: BTreeSet<&str> = GRAMMAR.iter().flat_map(|(_, words)| *words).copied().collect();
    let flag = |word: &str| word.split(' ').next().unwrap().to_owned();
    for (command, words) in GRAMMAR {
        let found = flags(&stdout(&surprisal(&[command, "--help"])));
        let expected = EVERYWHERE.iter().chain(words).copied().map(str::to_owned);
        let of_grammar: BTreeSet<String> =
            EVERYWHERE.iter().chain(&shared).map(|word| flag(word)).collect();
        let found = found.into_iter().filter(|word| of_grammar.contains(&flag(word)));
        assert_eq!(found.collect::<BTreeSet<_>>(), expected.collect(), "{command}");
    }
}

/// Commands whose results are the same each time, with everything that they need.
fn repeatable(folder: &Path, inputs: &[String; 4]) -> Vec<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let mut commands: Vec<Vec<String>> = vec![
        words(&["losses", "mse"]),
        words(&["losses"]),
        words(&["plan", "mse", "--rows", "2", "--classes", "3"]),
        words(&["check", "--backend", "cpu", "--case", "self/mse/infinities/f32"]),
        words(&["check", "--list", "--case", "self/mse/infinities/f32"]),
        words(&eval(inputs, &[])),
    ];
    if adapters() > 0 {
        let recorded = folder.join("recorded").display().to_string();
        let check = ["check", "--adapter", "0", "--case", "self/mse/infinities/f32"];
        stdout(&surprisal(&[&check[..], &["--repro", &recorded, "--repro-all"]].concat()));
        commands.push(words(&["adapters", "--adapter", "0"]));
        commands.push(words(&["replay", &recorded, "--adapter", "0"]));
    }
    commands
}

/// JSON goes to stdout instead of the text, or to a file beside it.
#[test]
fn every_command_writes_json() {
    let folder = folder("json");
    let inputs = inputs(&folder);
    let file = folder.join("out.json");
    for command in repeatable(&folder, &inputs) {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = stdout(&surprisal(&command));
        assert!(serde_json::from_str::<Value>(&text).is_err(), "{command:?}: {text}");
        let printed = stdout(&surprisal(&[&command[..], &["--json"]].concat()));
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let beside = [&command[..], &["--json", file.to_str().unwrap()]].concat();
        let without_times = |text: &str| text.split(" in ").next().unwrap().to_owned();
        assert_eq!(without_times(&stdout(&surprisal(&beside))), without_times(&text));
        let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(written, printed, "{command:?}");
    }
    // A file called like an operation would be a misunderstanding.
    let error = misuse(&surprisal(&["losses", "--json", "mse"]));
    assert!(error.contains("comes before --json"), "{error}");
}

/// What a replay prints, as JSON.
#[test]
fn a_replay_in_json_is_whole() {
    if adapters() == 0 {
        return;
    }
    let folder = folder("json-replay");
    let all = folder.to_str().unwrap();
    let check = ["check", "--adapter", "0", "--case", "self/mse/infinities/f32"];
    stdout(&surprisal(&[&check[..], &["--repro", all, "--repro-all"]].concat()));
    let replay = ["replay", all, "--adapter", "0", "--json"];
    let value: Value = serde_json::from_str(&stdout(&surprisal(&replay))).unwrap();
    assert_eq!(value["passed"], true, "{value}");
    let recording = &value["recordings"][0];
    assert!(recording["folder"].as_str().unwrap().starts_with(all), "{value}");
    assert!(recording["title"].as_str().unwrap().contains("self/mse/infinities/f32"), "{value}");
    assert!(recording["recorded_on"].is_string(), "{value}");
    let output = &recording["outputs"][0];
    for key in ["name", "max_abs_error", "worst", "tolerance", "passed", "same_bits"] {
        assert!(!output[key].is_null(), "{key}: {value}");
    }
}

/// The JSON of an evaluation holds every value, with words for those that JSON lacks.
#[test]
fn an_evaluation_in_json_is_whole() {
    let folder = folder("json-eval");
    let inputs = inputs(&folder);
    let words = eval(&inputs, &["--json", "--want", "argmax,lse", "--set", "reduction=none"]);
    let value: Value = serde_json::from_str(&stdout(&surprisal(&words))).unwrap();
    assert_eq!(value["operation"], "cross_entropy");
    assert_eq!(value["outputs"]["argmax"], json!({ "shape": [2], "values": [2, 0] }));
    assert_eq!(value["outputs"]["lse"]["shape"], json!([2]));
    assert_eq!(value["status"]["bad_rows"], 0);
    let nan: Vec<u8> = [f64::NAN, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let logits = folder.join("nan.npy");
    npy(&logits, "<f8", false, "(3,)", &nan);
    let logits = format!("logits={}", logits.display());
    let targets = logits.replacen("logits", "targets", 1);
    let words = ["eval", "mse", "--backend", "cpu", "--input", &logits, "--input", &targets];
    let text = stdout(&surprisal(&[&words[..], &["--json"]].concat()));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["outputs"]["loss"]["values"], json!(["nan"]));
}

/// Any outputs go to any kind of file, and can be read from it again.
#[test]
fn outputs_are_written() {
    let folder = folder("out");
    let inputs = inputs(&folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let (index, all) = (format!("argmax={}", path("a.npy")), path("all.npz"));
    let two = format!("loss,grad.logits={}", path("two.safetensors"));
    let none = ["--set", "reduction=none", "--want", "loss,lse"];
    let out = ["--out", &index, "--out", &all, "--out", &two];
    let text = stdout(&surprisal(&eval(&inputs, &[&none[..], &out].concat())));
    assert!(!text.contains("argmax") && text.contains("lse: [2] "), "{text}");
    // Each file is read as an input: the sum of squares of what is in it, against nothing.
    let read = |file: &str| {
        let input = |name: &str| format!("{name}={file}");
        let (logits, targets) = (input("logits"), input("targets"));
        let words = ["eval", "mse", "--backend", "cpu", "--input", &logits, "--input", &targets];
        stdout(&surprisal(&words))
    };
    for file in [path("a.npy"), path("all.npz:lse"), path("two.safetensors:grad.logits")] {
        assert!(read(&file).contains("loss: 0\n"), "{file}");
    }
    let bytes = fs::read(folder.join("a.npy")).unwrap();
    assert!(bytes.ends_with(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "int64");
    let error = refusal(&surprisal(&eval(&inputs, &["--want", "loss,lse", "--out", "x.npy"])));
    assert!(error.contains("a .npy file holds one array, not loss and lse"), "{error}");
}

#[test]
fn a_wrong_name_brings_the_right_one_to_mind() {
    let folder = folder("names");
    let inputs = inputs(&folder);
    let meant = |words: &[&str], name: &str| {
        let error = refusal(&surprisal(words));
        assert!(error.contains(&format!("did you mean `{name}`?")), "{error}");
    };
    meant(&eval(&inputs, &["--set", "label_smothing=0.1"]), "label_smoothing");
    meant(&eval(&inputs, &["--want", "los"]), "loss");
    meant(&eval(&inputs, &["--input", "wieght=a.npy"]), "weight");
    let plan = ["plan", "cross_entropy", "--rows", "2", "--classes", "3"];
    meant(&[&plan[..], &["--with", "row_wait"]].concat(), "row_weight");
    meant(&["check", "--case", "self/mse/infinitis/f32"], "self/mse/infinities/f32");
    let error = misuse(&surprisal(&["evall"]));
    assert!(error.contains("'eval'"), "{error}");
    let error = misuse(&surprisal(&["plan", "cross_entropi", "--rows", "1"]));
    assert!(error.contains("'cross_entropy'"), "{error}");
}

#[test]
fn shells_and_man_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(&surprisal(&["completions", shell]));
        assert!(text.contains("adapters"), "{shell}");
        // Not every shell's completions name what stands without a flag.
        let names = ["bash", "zsh"].contains(&shell);
        assert!(text.contains("bce_with_logits") || !names, "{shell}");
    }
    let page = stdout(&surprisal(&["man"]));
    assert!(page.contains(".TH surprisal 1") && page.contains("surprisal\\-eval"), "{page}");
    let folder = folder("man");
    stdout(&surprisal(&["man", folder.to_str().unwrap()]));
    let page = fs::read_to_string(folder.join("surprisal-eval.1")).unwrap();
    assert!(page.contains("\\-\\-input"), "{page}");
}

/// Colours are for terminals, and quiet leaves results alone.
#[test]
fn pipes_get_no_colours_and_quiet_no_notes() {
    let folder = folder("quiet");
    let inputs = inputs(&folder);
    let words = eval(&inputs, &["--dtype", "f16"]);
    let loud = surprisal(&words);
    let quiet = surprisal(&[&words[..], &["-q"]].concat());
    assert!(stdout(&loud).starts_with("backend: cpu"));
    assert!(stdout(&quiet).starts_with("loss: "));
    let forced = program(&["losses", "nonsense"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stderr).contains('\u{1b}'));
    let plain = misuse(&surprisal(&["losses", "nonsense"]));
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let case = ["check", "--backend", "cpu", "--case", "self/mse/infinities/f32"];
    let verdict = stdout(&surprisal(&case));
    assert!(verdict.contains("\nPASSED: 1 cases on 1 adapter(s) in "), "{verdict}");
}

/// Tables are as wide as the terminal.
#[test]
fn tables_fit() {
    for words in [&["losses"][..], &["losses", "cross_entropy"]] {
        let text = stdout(&program(words).env("COLUMNS", "100").output().unwrap());
        let table = text.lines().filter(|line| line.starts_with('|'));
        let widest = table.map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 100), "{widest:?}");
    }
}

/// A dimension that a loss needs is named by the flag that gives it.
#[test]
fn a_missing_dimension_is_named_by_its_flag() {
    let needs = [
        (
            &["cross_entropy"][..],
            "--classes",
            "`logits` of cross_entropy has the shape [rows, classes]",
        ),
        (
            &["linear_cross_entropy", "--classes", "3"],
            "--hidden",
            "`hidden` of linear_cross_entropy",
        ),
        (
            &["linear_cross_entropy", "--hidden", "3"],
            "--classes",
            "`weight` of linear_cross_entropy",
        ),
        (&["sup_con"], "--hidden", "`features` of sup_con has the shape [rows, hidden]"),
    ];
    for command in ["plan", "bench"] {
        for (words, flag, tensor) in needs {
            let error = misuse(&surprisal(&[&[command, "--rows", "4"][..], words].concat()));
            let expected = format!("error: {flag} is missing: {tensor}");
            assert!(error.starts_with(&expected), "{error}");
            assert!(error.contains(&format!("Usage: surprisal {command} ")), "{error}");
        }
    }
}

/// A number below 0 is a bad value of its flag, not a flag that nobody knows.
#[test]
fn a_negative_number_is_refused_with_its_flag() {
    for (command, flag) in [
        ("plan", "--rows"),
        ("plan", "--classes"),
        ("plan", "--hidden"),
        ("bench", "--runs"),
        ("bench", "--warm-up"),
        ("bench", "--seconds"),
        ("bench", "--ignored"),
    ] {
        let words = [command, "linear_cross_entropy", flag, "-5"];
        let error = misuse(&surprisal(&words));
        assert!(error.starts_with(&format!("error: invalid value '-5' for '{flag} <")), "{error}");
    }
    let error = misuse(&surprisal(&["bench", "mse", "--rows", "5", "--seconds", "nan"]));
    assert!(error.contains("`nan` is no number from 0 on"), "{error}");
}

/// Whatever is planned, a plan stays small, or there is a typed error.
#[test]
fn a_plan_is_small_whatever_it_plans() {
    let huge = ["--rows", "4000000000", "--classes", "16000000"];
    for operation in ["cross_entropy", "mse", "linear_cross_entropy", "info_nce", "dice"] {
        let with = if operation == "info_nce" { "targets" } else { "upstream" };
        let words = [&["plan", operation, "--with", with, "--hidden", "256"][..], &huge].concat();
        let error = refusal(&surprisal(&words));
        assert!(error.contains("the limit is"), "{operation}: {error}");
    }
    let error = refusal(&surprisal(&[&["plan", "cross_entropy"][..], &huge].concat()));
    assert!(error.contains("parts that a call is cut into is 2000000000"), "{error}");
}
