//! `surprisal eval` as a user runs it: every kind of file, on the reference and on every adapter.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod command;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use command::{adapters, folder, npy, npy_bytes, refusal, stdout, surprisal};
use serde_json::{Value, json};
use surprisal::{Arithmetic, Array, Arrays, Dtype, Operation, cpu, operations, testing};

/// Where an evaluation runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Cpu,
    Adapter(usize),
}

impl Place {
    fn words(self) -> [String; 2] {
        match self {
            Self::Cpu => ["--backend".to_owned(), "cpu".to_owned()],
            Self::Adapter(number) => ["--adapter".to_owned(), number.to_string()],
        }
    }
}

/// The reference, and every adapter of this machine.
fn places() -> Vec<Place> {
    std::iter::once(Place::Cpu).chain((0..adapters()).map(Place::Adapter)).collect()
}

/// An input in a file of a kind, and the array that it stands for.
struct Input {
    name: &'static str,
    /// The file, and the key in it.
    file: String,
    array: Array,
    /// What stderr says of it, on the reference and on a GPU.
    notes: [&'static str; 2],
}

impl Input {
    fn new(name: &'static str, file: &Path, key: &str, array: Array) -> Self {
        let key = if key.is_empty() { String::new() } else { format!(":{key}") };
        Self { name, file: format!("{}{key}", file.display()), array, notes: ["", ""] }
    }

    fn notes(mut self, cpu: &'static str, gpu: &'static str) -> Self {
        self.notes = [cpu, gpu];
        self
    }
}

const ROUNDED: &str = "float64 in its file, rounded to f32 for the GPU";

/// Numbers that f32 does not hold, or (`exact`) that it does.
fn numbers(seed: u64, shape: &[u64], exact: bool) -> Array {
    let count = shape.iter().product::<u64>() as usize;
    let array = Array::float(shape, testing::gaussian(seed, count));
    if exact { array.rounded(Dtype::F16) } else { array }
}

fn doubles(array: &Array) -> Vec<u8> {
    array.to_f64().into_iter().flat_map(f64::to_le_bytes).collect()
}

/// Column by column.
fn transposed(array: &Array) -> Array {
    let [rows, columns] = array.shape[..] else { panic!("a matrix") };
    let values = array.to_f64();
    let at = |i: u64| values[(i % rows * columns + i / rows) as usize];
    Array::float(&array.shape, (0..rows * columns).map(at).collect())
}

fn shape_of(array: &Array) -> String {
    let extents: Vec<String> = array.shape.iter().map(|extent| format!("{extent},")).collect();
    format!("({})", extents.join(" "))
}

/// f64 row by row, as numpy writes by default.
fn c_order(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.c.npy"));
    npy(&path, "<f8", false, &shape_of(&array), &doubles(&array));
    Input::new(name, &path, "", array).notes("", ROUNDED)
}

fn fortran_order(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.fortran.npy"));
    npy(&path, "<f8", true, &shape_of(&array), &doubles(&transposed(&array)));
    Input::new(name, &path, "", array).notes("", ROUNDED)
}

fn bools(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.bool.npy"));
    let bytes: Vec<u8> = array.to_f64().iter().map(|&value| u8::from(value != 0.0)).collect();
    npy(&path, "|b1", false, &shape_of(&array), &bytes);
    let note = "is a bool mask, taken as floats";
    Input::new(name, &path, "", array).notes(note, note)
}

fn indices(name: &'static str, folder: &Path, values: &[i64]) -> Input {
    let path = folder.join(format!("{name}.int.npy"));
    let array = Array::int(&[values.len() as u64], values.to_vec());
    npy(&path, "<i8", false, &shape_of(&array), &array.to_bytes(Dtype::I64));
    Input::new(name, &path, "", array)
}

/// f32 arrays in one archive.
fn archive<const N: usize>(path: &Path, arrays: [(&'static str, Array); N]) -> [Input; N] {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let inputs = arrays.map(|(name, array)| {
        let bytes = npy_bytes("<f4", false, &shape_of(&array), &array.to_bytes(Dtype::F32));
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(&bytes).unwrap();
        // The member that is called like the input needs no key.
        Input::new(name, path, "", array)
    });
    archive.finish().unwrap();
    inputs
}

/// Tensors of these types in one file, under keys of their own.
fn safetensors<const N: usize>(
    path: &Path,
    arrays: [(&'static str, Dtype, Array); N],
) -> [Input; N] {
    use safetensors::{Dtype as File, tensor::TensorView};
    let stored: Vec<(File, Vec<usize>, Vec<u8>)> = arrays
        .iter()
        .map(|(_, dtype, array)| {
            let file = match dtype {
                Dtype::F16 => File::F16,
                Dtype::Bf16 => File::BF16,
                Dtype::I64 => File::I64,
                _ => File::F32,
            };
            let shape = array.shape.iter().map(|&extent| extent as usize).collect();
            (file, shape, array.to_bytes(*dtype))
        })
        .collect();
    let views = arrays.iter().zip(&stored).map(|((name, ..), (dtype, shape, bytes))| {
        (format!("model.{name}"), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    arrays.map(|(name, _, array)| Input::new(name, path, &format!("model.{name}"), array))
}

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

/// What `eval` says of the status, everywhere.
fn statuses(loss: &str, settings: &[&str], inputs: &[&Input]) -> Vec<(Place, Vec<String>)> {
    let inputs: Vec<String> =
        inputs.iter().map(|input| format!("{}={}", input.name, input.file)).collect();
    let status = |place: Place| {
        let place_words = place.words();
        let mut words = vec!["eval", loss];
        words.extend(place_words.iter().map(String::as_str));
        for setting in settings {
            let want = setting.strip_prefix("want=");
            words.extend(want.map_or(["--set", setting], |outputs| ["--want", outputs]));
        }
        words.extend(inputs.iter().flat_map(|input| ["--input", input]));
        let text = stdout(&surprisal(&words));
        let lines = text.lines().filter_map(|line| line.strip_prefix("status: "));
        (place, lines.map(str::to_owned).collect())
    };
    places().into_iter().map(status).collect()
}

/// A row that is NaN, and a vector that has no direction, are told of wherever they are met.
#[test]
fn a_status_is_the_same_on_the_reference() {
    const NAN: f64 = f64::NAN;
    let folder = folder("eval-status");
    let file = |name, values: &[f64], shape: &[u64]| {
        c_order(name, &folder, Array::float(shape, values.to_vec()))
    };
    let logits = file("logits", &[0.0, NAN, 1.0, 2.0, 3.0, 4.0], &[2, 3]);
    let spoilt = file("queries", &[1.0, NAN, 0.0, 1.0], &[2, 2]);
    let keys = file("keys", &[1.0, 2.0, 3.0, -1.0], &[2, 2]);
    let rows = "1 row(s) without a loss: a NaN or +inf among their logits, no finite one, or a NaN in their \
                weights or target distribution";
    let zeros = "1 vector(s) of zeros, which nothing normalises";
    let classes = indices("targets", &folder, &[0, 1]);
    let none = "reduction=none";
    let expect = |expected: &str, loss: &str, settings: &[&str], inputs: &[&Input]| {
        for (place, said) in statuses(loss, settings, inputs) {
            assert_eq!(said, [expected], "{loss} {settings:?} on {place:?}");
        }
    };
    for settings in [&[][..], &[none], &["z_loss=0.1", "focal_gamma=2"]] {
        expect(rows, "cross_entropy", settings, &[&logits, &classes]);
    }
    let saved = file("lse", &[NAN, 1.0], &[2]);
    let plain = [0.0, 0.0, 1.0, 2.0, 3.0, 4.0].to_vec();
    let plain = c_order("mean", &folder, Array::float(&[2, 3], plain));
    let plain = Input { name: "logits", ..plain };
    let gradient = "want=grad.logits";
    expect(rows, "cross_entropy", &[gradient], &[&plain, &classes, &saved]);
    expect(rows, "info_nce", &[], &[&spoilt, &keys]);
    expect(rows, "similarity", &[], &[&spoilt, &keys]);
    let zero = file("queries", &[0.0, 0.0, 0.0, 1.0], &[2, 2]);
    for loss in ["info_nce", "similarity", "sigmoid_contrastive"] {
        expect(zeros, loss, &["normalize=true"], &[&zero, &keys]);
        expect("ok", loss, &[], &[&zero, &keys]);
    }
    let labels = indices("labels", &folder, &[1, 1]);
    let features = file("features", &[0.0, 0.0, 0.0, 1.0], &[2, 2]);
    expect(zeros, "sup_con", &[], &[&features, &labels]);
    // The elements of a loss count one by one, the ignored ones never.
    let targets = file("targets", &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], &[2, 3]);
    let elements = "1 element(s) whose loss is NaN: a NaN or an infinity in their numbers";
    expect(elements, "bce_with_logits", &[], &[&logits, &targets]);
    let mask = bools("mask", &folder, Array::float(&[2, 3], vec![1.0, 0.0, 1.0, 1.0, 1.0, 1.0]));
    expect("ok", "bce_with_logits", &[], &[&logits, &targets, &mask]);
    // One coefficient is one row, whatever it is over, and so is what shares a softmax.
    for per in ["per=row", "per=channel", "per=batch"] {
        expect(rows, "dice", &[per, none], &[&logits, &targets]);
        expect(rows, "dice", &[per], &[&logits, &targets]);
    }
    let spans = r#"spans=[{"kind": "cce", "columns": 2}, {"kind": "mse"}]"#;
    expect(rows, "mixed_columns", &[spans], &[&logits, &targets]);
}

/// A number that no element can have is refused with its row, and after the same words, everywhere.
#[test]
fn a_number_outside_its_domain_is_refused() {
    let folder = folder("eval-domain");
    let columns = |values: &[f64]| Array::float(&[2, 2], values.to_vec());
    for (loss, setting, rate, targets, said) in [
        (
            "poisson_nll",
            "log_input=false",
            [1.0, 1.0, -0.5, 1.0],
            [1.0; 4],
            "first is -0.5, in row 1",
        ),
        (
            "hurdle_poisson",
            "reduction=sum",
            [0.0; 4],
            [1.0, 2.5, 1.0, -1.0],
            "first is 2.5, in row 0",
        ),
        (
            "bce_with_logits",
            "check_targets=true",
            [0.0; 4],
            [1.0, 0.0, 0.0, 7.0],
            "first is 7, in row 1",
        ),
    ] {
        let score = if loss == "poisson_nll" { "rate" } else { "logits" };
        let arrays =
            [(score, columns(&rate)), ("log_rate", columns(&rate)), ("targets", columns(&targets))];
        let inputs = archive(&folder.join(format!("{loss}.npz")), arrays);
        let used =
            inputs.iter().filter(|input| input.name != "log_rate" || loss == "hurdle_poisson");
        let inputs: Vec<String> = used.map(|i| format!("{}={}", i.name, i.file)).collect();
        let refused = places().into_iter().map(|place| {
            let place = place.words();
            let mut words = vec!["eval", loss, "--set", setting];
            words.extend(place.iter().map(String::as_str));
            words.extend(inputs.iter().flat_map(|input| ["--input", input]));
            let output = surprisal(&words);
            let text = String::from_utf8(output.stdout.clone()).unwrap();
            assert!(text.contains("bad value(s), the first in row"), "{text}");
            refusal(&output)
        });
        let refused: Vec<String> = refused.collect();
        assert!(refused[0].contains(said), "{}", refused[0]);
        assert!(refused.iter().all(|text| *text == refused[0]), "{refused:?}");
    }
}

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

/// f32 numbers of any shape in a file, as an argument of the command line.
fn file(folder: &Path, name: &str, array: &Array) -> String {
    let path = folder.join(format!("{name}.npy"));
    match array.data {
        surprisal::Data::Int(_) => {
            npy(&path, "<i8", false, &shape_of(array), &array.to_bytes(Dtype::I64));
        }
        surprisal::Data::Float(_) => {
            npy(&path, "<f4", false, &shape_of(array), &array.to_bytes(Dtype::F32));
        }
    }
    format!("{}={}", name.split('.').next().unwrap(), path.display())
}

/// What the command line prints of a loss's outputs, on the reference and on every adapter.
fn on_every_backend(loss: &str, words: &[&str]) -> Vec<String> {
    let print = |place: Place| {
        let place = place.words();
        let [flag, value] = place.each_ref().map(String::as_str);
        stdout(&surprisal(&[&["eval", loss, flag, value], words].concat()))
    };
    places().into_iter().map(print).collect()
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
