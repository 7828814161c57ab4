//! Calls that cannot be.

use std::{fs, path::Path};

use surprisal::Array;

use super::{
    inputs::{archive, c_order, file, indices, numbers},
    places,
};
use crate::command::{folder, npy, refusal, stdout, surprisal};

/// An index that a file holds as a float is refused, and nobody says that it was rounded.
#[test]
fn float_indices_are_refused() {
    let folder = folder("eval-float-indices");
    let logits = c_order("logits", &folder, numbers(1, &[2, 3], true)).file;
    let targets = c_order("targets", &folder, Array::float(&[2], vec![0.0, 1.0])).file;
    for place in places() {
        let backend = place.words();
        let (logits, targets) = (format!("logits={logits}"), format!("targets={targets}"));
        let words = ["eval", "cross_entropy", "--input", &logits, "--input", &targets];
        let output = surprisal(&[&words[..], &[&backend[0], &backend[1]]].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("`targets` is f32, expected i32"), "{text}");
        let of_targets = text.lines().filter(|line| line.contains("`targets`"));
        assert_eq!(of_targets.count(), 1, "{text}");
    }
}

/// An int8 file of logits is quantised logits: they need their scale, which then makes them the same floats.
#[test]
fn int8_logits_need_a_scale() {
    let folder = folder("eval-int8");
    let (bytes, float) = (folder.join("bytes.npy"), folder.join("floats.npy"));
    npy(&bytes, "|i1", false, "(1, 3,)", &[0xfc, 0, 8]);
    let floats = [-1.0f32, 0.0, 2.0].into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
    npy(&float, "<f4", false, "(1, 3,)", &floats);
    let scale = folder.join("scale.npy");
    npy(&scale, "<f4", false, "(1,)", &0.25f32.to_le_bytes());
    let targets = format!("targets={}", indices("targets", &folder, &[2]).file);
    let eval = |logits: &Path, scale: Option<&Path>| {
        let logits = format!("logits={}", logits.display());
        let scale = scale.map(|scale| format!("logits_scale={}", scale.display()));
        let scale: Vec<&str> = scale.iter().flat_map(|scale| ["--input", scale]).collect();
        let words = ["eval", "cross_entropy", "--backend", "cpu", "--input", &logits, "--input"];
        surprisal(&[&words[..], &[&targets], &scale[..]].concat())
    };
    assert!(refusal(&eval(&bytes, None)).contains("logits_scale"));
    assert!(refusal(&eval(&float, Some(&scale))).contains("logits_scale"));
    assert_eq!(stdout(&eval(&bytes, Some(&scale))), stdout(&eval(&float, None)));
}

/// Files of a folder.
fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// After a refusal the output is what it was before, and nothing lies beside it.
#[test]
fn a_refusal_writes_nothing() {
    let folder = folder("eval-nothing");
    let logits = c_order("logits", &folder, numbers(1, &[2, 3], true)).file;
    indices("targets", &folder, &[1, 3]);
    indices("short", &folder, &[1]);
    let [_, _] = archive(
        &folder.join("two.npz"),
        [("a", numbers(1, &[2, 3], true)), ("b", numbers(1, &[2, 3], true))],
    );
    let out = folder.join("gradient.npy");
    fs::write(&out, b"precious").unwrap();
    let before = names(&folder);
    let eval = |logits: &str, targets: &str, out: &Path| {
        let logits = format!("logits={logits}");
        let targets = format!("targets={}", folder.join(targets).display());
        let words = ["eval", "cross_entropy", "--backend", "cpu", "--input", &logits, "--input"];
        let out = format!("grad.logits={}", out.display());
        refusal(&surprisal(&[&words[..], &[&targets, "--out", &out]].concat()))
    };
    let archive = format!("{}", folder.join("two.npz").display());
    let good = "targets.int.npy";
    let bad = eval(&logits, good, &out);
    assert!(bad.contains("row 1 with target 3"), "{bad}");
    let shape = eval(&logits, "short.int.npy", &out);
    assert!(shape.contains("`targets` has shape [1]"), "{shape}");
    let unknown = eval(&format!("{archive}:c"), good, &out);
    assert!(unknown.contains("no tensor `c`; there are a, b"), "{unknown}");
    let ambiguous = eval(&archive, good, &out);
    assert!(ambiguous.contains("no tensor `logits`; there are a, b"), "{ambiguous}");
    let missing = eval(&logits, "none.npy", &out);
    assert!(missing.contains("none.npy"), "{missing}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    let nowhere = folder.join("no/such/folder/gradient.npy");
    indices("targets", &folder, &[1, 2]);
    let unwritable = eval(&logits, good, &nowhere);
    assert!(unwritable.contains("no/such/folder"), "{unwritable}");
    assert_eq!(names(&folder), before);
}

#[test]
fn refuses_what_does_not_fit() {
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
    assert!(eval(&good, &["--out", "out.txt"]).contains("out.txt"));
}

/// An option that cannot be is named with its value, in the words of JSON.
#[test]
fn options_are_refused_in_plain_words() {
    let folder = folder("eval-options");
    let logits = file(&folder, "logits", &numbers(1, &[3, 6], true));
    let targets = file(&folder, "targets", &Array::int(&[3], vec![0, 1, 2]));
    let eval = |loss: &str, setting: &str| {
        let inputs = ["--backend", "cpu", "--input", &logits, "--input", &targets];
        let error = refusal(&surprisal(&[&["eval", loss, "--set", setting], &inputs[..]].concat()));
        for name in ["untagged", "Some(", "ClassesHidden", "ColumnSpan"] {
            assert!(!error.contains(name), "{error}");
        }
        error
    };
    for index in ["null", "1.5", "18446744073709551616", "[1,2,3,4,5]"] {
        let error = eval("cross_entropy", &format!("ignore_index={index}"));
        assert!(error.contains("option `ignore_index` = ") && error.contains('4'), "{error}");
    }
    let error = eval("cross_entropy", "ignore_index=[1,2,3,4,5]");
    assert!(error.contains("= [1, 2, 3, 4, 5]: a list holds at most 4 indices"), "{error}");
    let error = eval("mixed_columns", r#"spans=[{"kind": "cce", "columns": 0}]"#);
    assert!(error.contains("span 0 with 0 columns"), "{error}");
    let error = eval("cross_entropy", "reduction=meen");
    assert!(error.contains("option `reduction` = \"meen\"") && error.contains("`mean`"), "{error}");
    let states = logits.replacen("logits", "hidden", 1);
    let weight = logits.replacen("logits", "weight", 1);
    let words = ["eval", "linear_cross_entropy", "--backend", "cpu", "--input", &states];
    let more = ["--input", &weight, "--input", &targets, "--set", "weight_layout=hidden_classes"];
    let error = refusal(&surprisal(&[&words[..], &more].concat()));
    assert!(error.contains("`weight` has shape [3, 6], expected [6, "), "{error}");
}
