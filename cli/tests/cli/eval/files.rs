//! What a file may hold: orders, ranks, types, headers and keys.

use std::fs;

use surprisal::Array;

use super::{
    Place,
    inputs::{file, numbers},
    places,
};
use crate::command::{folder, npy, refusal, stdout, surprisal};

/// What the command line prints of a loss's outputs, on the reference and on every adapter.
fn on_every_backend(loss: &str, words: &[&str]) -> Vec<String> {
    let print = |place: Place| {
        let place = place.words();
        let [flag, value] = place.each_ref().map(String::as_str);
        stdout(&surprisal(&[&["eval", loss, flag, value], words].concat()))
    };
    places().into_iter().map(print).collect()
}

#[test]
fn takes_fortran_order_f64_masks_and_writes_the_gradient() {
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
    let out = format!("grad.logits={}", gradient.display());
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
        "--out",
        &out,
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

/// Rows may be counted by several axes, and the class axis may be axis 1.
#[test]
fn tensors_of_any_rank() {
    let folder = folder("eval-ranks");
    let logits = numbers(1, &[2, 2, 2, 3], true);
    let targets = Array::int(&[2, 2, 2], vec![0, 2, 1, 1, 0, 2, 2, 1]);
    // The same numbers as [N, C, d…]: channel by channel.
    let (values, channels) = (logits.to_f64(), 3);
    let planes = (0..24).map(|at| values[(at / 12 * 4 + at % 4) * channels + at / 4 % channels]);
    let planes = Array::float(&[2, 3, 2, 2], planes.collect());
    let logits = file(&folder, "logits", &logits);
    let planes = file(&folder, "logits.planes", &planes);
    let targets = file(&folder, "targets", &targets);
    let none = ["--set", "reduction=none", "--want", "loss,argmax"];
    let last = on_every_backend(
        "cross_entropy",
        &[&["--input", &logits, "--input", &targets][..], &none].concat(),
    );
    let gradient = folder.join("gradient.npy");
    let out = format!("grad.logits={}", gradient.display());
    let grad = ["--layout", "nchw", "--out", &out];
    let first = ["--input", &planes, "--input", &targets];
    let first = on_every_backend("cross_entropy", &[&first[..], &none, &grad].concat());
    for (last, first) in last.iter().zip(&first) {
        assert!(last.contains("loss: [2 × 2 × 2] "), "{last}");
        let lines = |text: &str| -> Vec<String> {
            let of_outputs = |line: &&str| line.starts_with("loss:") || line.starts_with("argmax:");
            text.lines().filter(of_outputs).map(str::to_owned).collect()
        };
        assert_eq!(lines(last), lines(first));
    }
    let bytes = fs::read(&gradient).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("(2, 3, 2, 2,"));
    // A weight a class is [C, 1, 1] there, as PyTorch broadcasts it.
    let scores = file(&folder, "logits.scores", &numbers(2, &[2, 3, 2, 2], true));
    let labels = file(&folder, "targets.each", &numbers(3, &[2, 3, 2, 2], true));
    let weight = file(&folder, "pos_weight", &Array::float(&[3, 1, 1], vec![1.0, 2.0, 3.0]));
    let inputs = ["--input", &scores, "--input", &labels, "--input", &weight];
    let dense = on_every_backend("bce_with_logits", &inputs);
    let planes =
        on_every_backend("bce_with_logits", &[&inputs[..], &["--layout", "nchw"]].concat());
    let value = |text: &String| -> f64 {
        text.lines().find_map(|line| line.strip_prefix("loss: ")).unwrap().parse().unwrap()
    };
    for (dense, planes) in dense.iter().zip(&planes) {
        assert!((value(dense) - value(planes)).abs() < 1e-6, "{dense} {planes}");
    }
    let flat = file(&folder, "targets.flat", &Array::int(&[8], vec![0; 8]));
    let words = ["eval", "cross_entropy", "--backend", "cpu", "--input", &logits, "--input", &flat];
    let error = refusal(&surprisal(&words));
    assert!(error.contains("`targets` has shape [8], expected [2, 2, 2]"), "{error}");
}

/// An unknown target may be NaN.
#[test]
fn an_unknown_target_that_is_nan() {
    let folder = folder("eval-unknown");
    let logits = file(&folder, "logits", &Array::float(&[3], vec![1.0, 2.0, 3.0]));
    let targets = file(&folder, "targets", &Array::float(&[3], vec![0.0, f64::NAN, 1.0]));
    let words = ["--input", &logits, "--input", &targets, "--set", "unknown_target=nan"];
    for text in on_every_backend("mse", &words) {
        assert!(text.contains("loss: 2.5\nstatus: ok"), "{text}");
    }
}

/// A float64 is rounded to 16 bits once, and not to f32 before.
#[test]
fn doubles_are_rounded_once() {
    let folder = folder("eval-rounded");
    let targets = file(&folder, "targets", &Array::float(&[1], vec![0.0]));
    for (dtype, half_ulp) in [("f16", (-11f64).exp2()), ("bf16", (-8f64).exp2())] {
        let path = folder.join("logits.npy");
        let value = 1.0 + half_ulp + (-40f64).exp2();
        npy(&path, "<f8", false, "(1,)", &value.to_le_bytes());
        let logits = format!("logits={}", path.display());
        let words = ["--input", &logits, "--input", &targets, "--dtype", dtype];
        for text in on_every_backend("mse", &words) {
            let line = text.lines().find_map(|line| line.strip_prefix("loss: ")).unwrap();
            let rounded = 1.0 + 2.0 * half_ulp;
            let root = line.parse::<f64>().unwrap().sqrt();
            assert!((root - rounded).abs() < 1e-6, "{dtype}: {line}");
        }
    }
}

/// What Python's versions wrote, and what holds no numbers.
#[test]
fn headers_of_every_numpy() {
    let folder = folder("eval-headers");
    let zeros = [0; 48];
    npy(&folder.join("logits.npy"), "<f4", false, "(4L, 3L)", &zeros);
    npy(&folder.join("targets.npy"), "<f4", false, "(4, 3)", &zeros);
    let input = |name: &str| format!("{name}={}", folder.join(format!("{name}.npy")).display());
    let (logits, targets) = (input("logits"), input("targets"));
    let words = ["eval", "mse", "--backend", "cpu", "--input", &logits, "--input", &targets];
    assert!(stdout(&surprisal(&words)).contains("loss: 0\n"));
    npy(&folder.join("targets.npy"), "|O", false, "(4, 3)", b"\x80\x03]q.");
    let error = refusal(&surprisal(&words));
    assert!(error.contains("Python objects (dtype=object)"), "{error}");
}

/// A key is all that follows the first colon behind the file's name.
#[test]
fn keys_with_colons() {
    let folder = folder("eval-colons");
    let path = folder.join("model.safetensors");
    let bytes = [0; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &bytes);
    let views = [("layers:0:out", view.unwrap())];
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let (logits, targets) = (
        format!("logits={}:layers:0:out", path.display()),
        format!("targets={}:layers:0:out", path.display()),
    );
    let words = ["eval", "mse", "--backend", "cpu", "--input", &logits, "--input", &targets];
    assert!(stdout(&surprisal(&words)).contains("loss: 0\n"));
}
