//! The files of reference cases, and the tolerance.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
};

use surprisal::{
    Arithmetic, Array, Dtype, Error, Operation,
    cases::{self, Case},
    cpu, testing,
};

use crate::{INF, assert_case, assert_close, indices, logits, named, none, vector, vectors};

// --- case files ---

fn temporary(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("surprisal-cpu-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}

#[test]
fn cases_survive_a_file() {
    let path = temporary("round-trip.safetensors");
    let mut cases = cases::load(&vectors()).unwrap();
    cases.truncate(60);
    cases.push(Case {
        id: "odd".to_owned(),
        loss: "cross_entropy".to_owned(),
        options: serde_json::json!({}),
        inputs: named([("logits", logits(1, &[0.1, -INF])), ("upstream", vector(&[2.0]))]),
        expect: named([("argmax", indices(&[0]))]),
        note: Some("0.1 is no f32".to_owned()),
        source: None,
    });
    cases::save(&path, &cases).unwrap();
    assert_eq!(cases::load(&path).unwrap(), cases);
    std::fs::remove_file(path).unwrap();
}

/// A file that scripts/cases.py wrote from two PyTorch expressions, the second added to the first:
///
/// ```text
/// scripts/cases.py tests/data/pytorch.safetensors --loss cross_entropy \
///     --input logits=3x5 --input targets=3:5 --options '{"label_smoothing": 0.1}' \
///     --expression 'F.cross_entropy(logits, targets, label_smoothing=options["label_smoothing"])'
/// scripts/cases.py tests/data/pytorch.safetensors --loss bce_with_logits --seed 1 \
///     --input logits=2x3 --input 'targets=[[1,0,0.5],[0,0,1]]' --options '{"reduction": "none"}' \
///     --gradients logits --note 'an upstream gradient' \
///     --expression 'F.binary_cross_entropy_with_logits(logits, targets, reduction="none")'
/// ```
#[test]
fn cases_from_pytorch_survive_a_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch.safetensors");
    let cases = cases::load(&file).unwrap();
    let [smoothed, each] = &cases[..] else { panic!("{} cases", cases.len()) };
    assert_eq!((&*smoothed.id, &*each.id), ("cross_entropy/0000", "bce_with_logits/0001"));
    assert!(smoothed.source.as_ref().unwrap().starts_with("F.cross_entropy(logits, targets, "));
    assert_eq!(each.note.as_deref(), Some("an upstream gradient"));
    assert_eq!(each.inputs["upstream"].shape, [2, 3]);
    for case in &cases {
        assert!(case.expect.contains_key("loss") && case.expect.contains_key("grad.logits"));
        assert_case(case);
    }
    let path = temporary("pytorch.safetensors");
    cases::save(&path, &cases).unwrap();
    assert_eq!(cases::load(&path).unwrap(), cases);
    std::fs::remove_file(path).unwrap();
}

/// A safetensors file with this header and this many bytes behind it.
fn raw_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A file with one tensor `t` and these cases.
fn file_of(dtype: &str, size: usize, format: &str, list: &str) -> Vec<u8> {
    let header = serde_json::json!({
        "__metadata__": { "format": format, "cases": list },
        "t": { "dtype": dtype, "shape": [2], "data_offsets": [0, size] },
    });
    raw_file(&header.to_string(), size)
}

/// Logits of 8 bits are read with their signs. No loss accepts them yet, and the error names the
/// accepted types.
#[test]
fn bytes_with_a_sign() {
    let case =
        r#"[{"id": "a", "loss": "mse", "inputs": {"logits": "t", "targets": "t"}, "expect": {}}]"#;
    let path = temporary("signed.safetensors");
    let mut bytes = file_of("I8", 2, "1", case);
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0x80, 0x7f]);
    std::fs::write(&path, bytes).unwrap();
    let cases = cases::load(&path).unwrap();
    let logits = &cases[0].inputs["logits"];
    assert_eq!(*logits, indices(&[-128, 127]));
    assert_eq!(logits.to_bytes(Dtype::I8), [0x80, 0x7f]);
    assert_eq!(Array::from_bytes(Dtype::I8, &[2], &[0x80, 0x7f]), *logits);
    assert_eq!("i8".parse(), Ok(Dtype::I8));
    let error = cpu::run(&surprisal::Mse::default(), &cases[0].inputs, &["loss"]).unwrap_err();
    assert!(
        matches!(&error, Error::WrongDtype { argument, expected, .. }
            if &**argument == "logits" && &**expected == "f32 or f16 or bf16"),
        "{error}"
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn malformed_files_are_errors() {
    let case = r#"[{"id": "a", "loss": "b", "inputs": {"x": "t"}, "expect": {}}]"#;
    let path = temporary("malformed.safetensors");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        cases::load(&path)
    };
    for (dtype, size) in [("F64", 16), ("F32", 8), ("F16", 4), ("BF16", 4), ("I64", 16)] {
        assert_eq!(load(&file_of(dtype, size, "1", case)).unwrap()[0].inputs["x"].len(), 2);
    }
    for (dtype, size) in [("I32", 8), ("U32", 8), ("I8", 2), ("U8", 2), ("BOOL", 2)] {
        assert_eq!(load(&file_of(dtype, size, "1", case)).unwrap()[0].inputs["x"].len(), 2);
    }
    let good = file_of("F32", 8, "1", case);
    let offsets = |range: &str| {
        let tensor =
            format!(r#"{{"t": {{"dtype": "F32", "shape": [2], "data_offsets": {range}}}}}"#);
        raw_file(&tensor, 8)
    };
    let malformed = [
        vec![],
        vec![1, 2, 3],
        u64::MAX.to_le_bytes().to_vec(),
        raw_file("{", 0),
        raw_file("{}", 0),
        good[..good.len() - 1].to_vec(),
        offsets("[0, 99]"),
        offsets("[8, 0]"),
        file_of("I16", 4, "1", case),
        file_of("C64", 16, "1", case),
        file_of("F32", 8, "2", case),
        file_of("F32", 8, "1", "nonsense"),
        file_of("F32", 8, "1", "{}"),
        file_of("F32", 8, "1", r#"[{"id": "a"}]"#),
        file_of("F32", 8, "1", &case.replace("\"t\"", "\"missing\"")),
        file_of("F32", 8, "1", &case.replace("\"expect\"", "\"options\": 3, \"expect\"")),
    ];
    for (index, bytes) in malformed.iter().enumerate() {
        let error = load(bytes).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{index}: {error}");
        assert!(error.to_string().contains("malformed.safetensors"), "{index}: {error}");
        assert!(error.source().is_some(), "{index}: {error}");
    }
    let reader = load(b"too short").unwrap_err();
    assert!(reader.source().unwrap().is::<safetensors::SafeTensorError>(), "{reader:?}");
    std::fs::remove_file(&path).unwrap();
    let missing = cases::load(&path).unwrap_err();
    let source = missing.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(source.unwrap().kind(), std::io::ErrorKind::NotFound, "{missing:?}");
    assert!(!missing.to_string().contains("No such file"), "{missing}");
    assert_eq!(missing.chain(), format!("{missing}: {}", source.unwrap()));
    let empty = temporary("empty");
    std::fs::create_dir_all(&empty).unwrap();
    assert!(matches!(cases::load(&empty), Err(Error::File { .. })));
    assert!(matches!(cases::save(&empty, &[]), Err(Error::File { .. })));
    std::fs::remove_dir(empty).unwrap();
}

// --- the tolerance ---

#[test]
fn tolerance_is_that_of_the_design() {
    let truth = vector(&[1.0, -4.0]);
    let naive = vector(&[1.0, -4.0 - 1.0 / 1024.0]);
    let compare = |output: &str, off: f64, dtype| {
        let actual = vector(&[1.0 + off, -4.0]);
        testing::compare(output, &actual, &truth, &naive, dtype, 16)
    };
    let floor = 12.0 / f64::from(1 << 24);
    let loss = compare("loss", 1e-3, Dtype::F32);
    assert_eq!(loss.tolerance, 2.0 / 1024.0 + floor * 4.0);
    assert_close(&[loss.max_abs_error, loss.max_rel_error], &[1e-3, 2.5e-4], 1e-9, "errors");
    assert!(loss.passed && loss.worst == 0);
    assert!(!compare("loss", 2.1e-3, Dtype::F32).passed);
    assert!(compare("grad.x", 2.1e-3, Dtype::F32).passed);
    let half = compare("loss", 0.0, Dtype::Bf16);
    assert_eq!(half.tolerance, (floor + 1.0 / 256.0) * 4.0, "naive is rounded");
}

#[test]
fn non_finite_values_match_by_class() {
    let compare = |actual: &[f64], truth: &[f64]| {
        let naive = vector(truth);
        testing::compare("loss", &vector(actual), &vector(truth), &naive, Dtype::F16, 4)
    };
    assert!(compare(&[f64::NAN, INF, 1.0], &[f64::NAN, INF, 1.0]).passed);
    assert!(compare(&[INF], &[70_000.0]).passed, "f16 ends at 65504");
    for (actual, truth) in [(INF, -INF), (INF, f64::NAN), (f64::NAN, 1.0), (0.0, f64::NAN)] {
        let comparison = compare(&[1.0, actual], &[1.0, truth]);
        assert!(!comparison.passed && comparison.worst == 1);
    }
    assert!(!compare(&[1.0], &[1.0, 1.0]).passed);
    let int = |a: i64, b: i64| {
        testing::compare("rank", &indices(&[a]), &indices(&[b]), &indices(&[b]), Dtype::U32, 4)
    };
    assert!(int(3, 3).passed && !int(3, 4).passed);
    let mixed =
        testing::compare("rank", &vector(&[3.0]), &indices(&[3]), &indices(&[3]), Dtype::U32, 4);
    assert!(!mixed.passed);
}

#[test]
fn naive_f32_passes_its_own_tolerance() {
    let inputs =
        [testing::outliers(1, 600), testing::ascending(2, 600), testing::offset(3, 600, 1e4)];
    for values in inputs {
        let inputs = named([
            ("logits", logits(3, &values).rounded(Dtype::F32)),
            ("targets", indices(&testing::targets(4, 3, 200))),
        ]);
        for name in ["loss", "grad.logits", "lse", "entropy"] {
            let truth = &cpu::run(&none(), &inputs, &[name]).unwrap()[name];
            let naive = &none().reference(&inputs, &[name], Arithmetic::F32).unwrap()[name];
            let comparison = testing::compare(name, naive, truth, naive, Dtype::F32, 200);
            assert!(comparison.passed && comparison.max_abs_error > 0.0, "{name} {comparison:?}");
        }
    }
}

#[test]
fn generators_are_seeded() {
    assert_eq!(testing::gaussian(1, 50), testing::gaussian(1, 50));
    assert_ne!(testing::gaussian(1, 50), testing::gaussian(2, 50));
    assert!(testing::ascending(1, 50).is_sorted());
    let masked = testing::masked(1, 1000).iter().filter(|z| z.is_infinite()).count();
    assert!((150..350).contains(&masked));
    assert!(testing::outliers(1, 1000).iter().any(|z| z.abs() > 10.0));
    assert!(testing::targets(1, 100, 3).iter().all(|y| (0..3).contains(y)));
}
