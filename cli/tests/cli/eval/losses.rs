//! A loss of each kind, from and to each kind of file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use surprisal::{Arithmetic, Array, Arrays, Dtype, Operation, cpu, operations, testing};

use super::{
    Place,
    inputs::{Input, archive, bools, c_order, fortran_order, indices, numbers, safetensors},
    places,
};
use crate::command::{folder, stdout, surprisal};

/// The tensors of an output file.
fn written(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = fs::read(path).unwrap();
    if path.extension().unwrap() == "npy" {
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        let wide = file.dtype().num_bytes() == Some(8);
        let values = if wide {
            file.into_vec::<f64>().unwrap()
        } else {
            file.into_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
        };
        return [(String::new(), values)].into();
    }
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
        safetensors::Dtype::F64 => {
            let words = view.data().as_chunks::<8>().0.iter();
            words.map(|&word| f64::from_le_bytes(word)).collect()
        }
        _ => Array::from_bytes(Dtype::F32, &[view.data().len() as u64 / 4], view.data()).to_f64(),
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), values(view))).collect()
}

/// An evaluation and what it must come to.
struct Evaluation {
    loss: &'static str,
    /// Half of the options as JSON, the others as flags.
    options: Value,
    set: &'static [&'static str],
    inputs: Vec<Input>,
    by_products: &'static [&'static str],
    gradients: &'static [&'static str],
    out: PathBuf,
}

impl Evaluation {
    fn parsed(&self) -> Box<dyn Operation> {
        let mut options = self.options.clone();
        for setting in self.set {
            let (name, value) = setting.split_once('=').unwrap();
            options[name] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        }
        (operations::find(self.loss).unwrap().parse)(&options).unwrap()
    }

    fn check(&self) {
        for place in places() {
            self.check_at(place);
        }
    }

    fn check_at(&self, place: Place) {
        let wanted: Vec<&str> = ["loss"].iter().chain(self.by_products).copied().collect();
        let (options, place_words) = (self.options.to_string(), place.words());
        let want = wanted.join(",");
        let out = format!("{}={}", self.gradients.join(","), self.out.display());
        let mut words =
            vec!["eval", self.loss, "--options", &options, "--want", &want, "--out", &out];
        words.extend(place_words.iter().map(String::as_str));
        words.extend(self.set.iter().flat_map(|setting| ["--set", setting]));
        let inputs: Vec<String> =
            self.inputs.iter().map(|input| format!("{}={}", input.name, input.file)).collect();
        words.extend(inputs.iter().flat_map(|input| ["--input", input]));
        let output = surprisal(&words);
        let text = stdout(&output);
        let notes = String::from_utf8(output.stderr).unwrap();
        for input in &self.inputs {
            let note = input.notes[usize::from(place != Place::Cpu)];
            let said = notes.lines().any(|line| {
                !note.is_empty()
                    && line.contains(note)
                    && line.contains(&format!("`{}`", input.name))
            });
            assert_eq!(said, !note.is_empty(), "{place:?} {}: {notes}", input.name);
        }
        let mut actual: BTreeMap<&str, Vec<f64>> =
            wanted.iter().map(|&name| (name, printed(&text, name))).collect();
        let file = written(&self.out);
        assert_eq!(file.len(), self.gradients.len(), "{:?}", file.keys());
        for (&name, (key, values)) in self.gradients.iter().zip(file) {
            assert!(key.is_empty() || key == name, "{key} for {name}");
            actual.insert(name, values);
        }
        self.compare(place, &actual);
        fs::remove_file(&self.out).unwrap();
    }

    /// On the reference the same numbers to the last bit, on a GPU within the tolerance.
    fn compare(&self, place: Place, actual: &BTreeMap<&str, Vec<f64>>) {
        let loss = self.parsed();
        let given: Arrays =
            self.inputs.iter().map(|i| (i.name.to_owned(), i.array.clone())).collect();
        let names: Vec<&str> = actual.keys().copied().collect();
        let inputs = match place {
            Place::Cpu => given,
            Place::Adapter(_) => testing::rounded(loss.as_ref(), &given, Dtype::F32),
        };
        let truth = cpu::run(loss.as_ref(), &inputs, &names).unwrap();
        let naive = loss.reference(&inputs, &names, Arithmetic::F32).unwrap();
        let classes = testing::classes(loss.as_ref(), &inputs);
        for (name, values) in actual {
            let truth = &truth[*name];
            if place == Place::Cpu {
                assert_eq!(*values, truth.to_f64(), "{} {name}", self.loss);
                continue;
            }
            let actual = match truth.data {
                surprisal::Data::Float(_) => Array::float(&truth.shape, values.clone()),
                surprisal::Data::Int(_) => {
                    Array::int(&truth.shape, values.iter().map(|&value| value as i64).collect())
                }
            };
            let compared =
                testing::compare(name, &actual, truth, &naive[*name], Dtype::F32, classes);
            assert!(compared.passed, "{} {name} on {place:?}: {compared:?}", self.loss);
        }
    }
}

/// The numbers of the line `NAME: [SHAPE] 1, 2, 3`, or `NAME: 1`.
fn printed(text: &str, name: &str) -> Vec<f64> {
    let start = format!("{name}: ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    let numbers = line.rsplit_once("] ").map_or(line, |(_, numbers)| numbers);
    numbers.split(", ").map(|number| number.parse().unwrap()).collect()
}

/// The row skeleton: f64 in both orders, a mask of bools as weights.
#[test]
fn cross_entropy_from_npy_files() {
    let folder = folder("eval-rows");
    for order in [c_order, fortran_order] {
        Evaluation {
            loss: "cross_entropy",
            options: json!({"label_smoothing": 0.1, "reduction": "sum"}),
            set: &["temperature=2", "reduction=mean"],
            inputs: vec![
                order("logits", &folder, numbers(1, &[3, 5], false)),
                indices("targets", &folder, &[4, -100, 0]),
                bools("row_weight", &folder, Array::float(&[3], vec![1.0, 1.0, 0.0])),
            ],
            by_products: &["lse", "entropy", "argmax", "count"],
            gradients: &["grad.logits"],
            out: folder.join("gradient.npy"),
        }
        .check();
    }
}

/// The element skeleton: an archive, and a mask of bools that is a mask.
#[test]
fn bce_with_logits_from_an_archive() {
    let folder = folder("eval-elements");
    let targets = Array::float(&[2, 4], vec![0.0, 1.0, 1.0, 0.5, 0.0, 0.25, 1.0, 0.0]);
    let [logits, targets] = archive(
        &folder.join("batch.npz"),
        [("logits", numbers(2, &[2, 4], true)), ("targets", targets)],
    );
    let mask = Array::float(&[2, 4], vec![1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
    Evaluation {
        loss: "bce_with_logits",
        options: json!({"focal_gamma": 1.5}),
        set: &["denominator=all"],
        inputs: vec![logits, targets, bools("mask", &folder, mask)],
        by_products: &["sum", "denominator"],
        gradients: &["grad.logits"],
        out: folder.join("gradient.npy"),
    }
    .check();
}

/// Targets of a real number each are no class indices: nothing is found wrong with them.
#[test]
fn gaussian_nll_has_no_bad_classes() {
    let folder = folder("eval-numbers");
    Evaluation {
        loss: "gaussian_nll",
        options: json!({"log_variance": true}),
        set: &[],
        inputs: vec![
            c_order("mean", &folder, numbers(3, &[2, 3], false)),
            fortran_order("variance", &folder, numbers(4, &[2, 3], false)),
            c_order(
                "targets",
                &folder,
                Array::float(&[2, 3], vec![-7.5, 40.0, 3.0, 9.0, 0.1, 2.0]),
            ),
        ],
        by_products: &[],
        gradients: &["grad.mean", "grad.variance"],
        out: folder.join("gradients.safetensors"),
    }
    .check();
}

/// The tiles with pairs on them: all gradients into one file.
#[test]
fn info_nce_from_safetensors() {
    let folder = folder("eval-pairs");
    let scale = Array::float(&[1], vec![4.0]);
    let [queries, keys, scale] = safetensors(
        &folder.join("towers.safetensors"),
        [
            ("queries", Dtype::F32, numbers(5, &[4, 3], true)),
            ("keys", Dtype::F16, numbers(6, &[4, 3], true)),
            ("scale", Dtype::Bf16, scale),
        ],
    );
    Evaluation {
        loss: "info_nce",
        options: json!({"symmetric": true}),
        set: &["normalize=true"],
        inputs: vec![queries, keys, scale],
        by_products: &["count"],
        gradients: &["grad.keys", "grad.queries", "grad.scale"],
        out: folder.join("gradients.safetensors"),
    }
    .check();
}

/// The tiles with rows on them: three kinds of file in one call, one gradient picked by name.
#[test]
fn linear_cross_entropy_from_everything() {
    let folder = folder("eval-linear");
    let [hidden] = safetensors(
        &folder.join("hidden.safetensors"),
        [("hidden", Dtype::F16, numbers(7, &[3, 4], true))],
    );
    let [weight, bias] = archive(
        &folder.join("layer.npz"),
        [("weight", numbers(8, &[6, 4], true)), ("bias", numbers(9, &[6], true))],
    );
    Evaluation {
        loss: "linear_cross_entropy",
        options: json!({"softcap": 20.0}),
        set: &["reduction=none"],
        inputs: vec![hidden, weight, bias, indices("targets", &folder, &[5, 0, 2])],
        by_products: &["lse", "rank"],
        gradients: &["grad.bias", "grad.hidden", "grad.weight"],
        out: folder.join("gradients.safetensors"),
    }
    .check();
}

/// The row skeleton under another loss: bools as targets.
#[test]
fn dice_of_a_mask() {
    let folder = folder("eval-dice");
    let targets = Array::float(&[2, 5], vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    Evaluation {
        loss: "dice",
        options: json!({"bce": 0.5}),
        set: &["per=batch"],
        inputs: vec![
            fortran_order("logits", &folder, numbers(10, &[2, 5], false)),
            bools("targets", &folder, targets),
        ],
        by_products: &[],
        gradients: &["grad.logits"],
        out: folder.join("gradient.npy"),
    }
    .check();
}
