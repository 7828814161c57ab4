//! One loss on tensors from files.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, process::ExitCode};

use serde_json::Value;
use surprisal::{
    Array, Arrays, Data, Dtype, Error, Gpu, Loss, Result, Status, cpu,
    loss::{Dim, Kind},
};

use crate::{adapters, files, output, plan};

/// Where a loss is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// On a GPU (see `surprisal adapters`).
    #[default]
    Gpu,
    /// By the f64 reference.
    Cpu,
}

/// What to compute.
#[derive(clap::Args)]
pub struct Arguments {
    /// The loss.
    loss: String,
    /// An input and its file: .npy, .npz or .safetensors, with the tensor's key where the file has
    /// several and none is called like the input.
    #[arg(long = "input", value_name = "NAME=FILE[:KEY]", required = true)]
    inputs: Vec<files::Source>,
    /// Options as JSON, such as `{"label_smoothing": 0.1}`.
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    /// One option, such as `label_smoothing=0.1`; the value is JSON or a plain word.
    #[arg(long, value_name = "OPTION=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Outputs: the loss, by-products such as lse, entropy or argmax, gradients (grad.NAME).
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "loss")]
    want: Vec<String>,
    /// The type in which floats are stored on the GPU: f32, f16 or bf16.
    #[arg(long, value_parser = plan::float_type)]
    dtype: Option<Dtype>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Write the gradient here: .npy takes one (of the first input, or the one in --want),
    /// .safetensors all of them.
    #[arg(long, value_name = "OUT")]
    grad: Option<PathBuf>,
}

/// `name=value`, the value as JSON or else as a string.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is not OPTION=VALUE"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

/// Computes and prints.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    let loss = plan::parse_loss(&arguments.loss, arguments.options.as_deref(), &arguments.set)?;
    let loss = loss.as_ref();
    if let Some(path) = &arguments.grad {
        files::check_output(path)?;
    }
    let storage = match arguments.backend {
        Backend::Gpu => Some(arguments.dtype.unwrap_or(Dtype::F32)),
        Backend::Cpu => arguments.dtype,
    };
    let inputs = read_inputs(loss, &arguments.inputs, storage)?;
    let (wanted, gradients) = wanted(arguments, loss, &inputs)?;
    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let (outputs, status) = match arguments.backend {
        Backend::Cpu => {
            output::line("backend: cpu (f64 reference)");
            (cpu::run(loss, &inputs, &names)?, reference_status(arguments, loss, &inputs))
        }
        Backend::Gpu => {
            let gpu = adapters::open(adapter)?;
            output::line(&format!("adapter: {}", surprisal::adapter::describe(gpu.info())));
            on_gpu(&gpu, loss, &inputs, storage.unwrap_or(Dtype::F32), &names)?
        }
    };
    output::print(&report(arguments, &outputs, &status));
    status.checked()?;
    if let Some(path) = &arguments.grad {
        let tensors: Vec<(String, &Array, files::Precision)> = gradients
            .iter()
            .filter_map(|name| {
                let precision = match arguments.backend {
                    Backend::Cpu => files::Precision::F64,
                    Backend::Gpu => files::Precision::Storage(storage.unwrap_or(Dtype::F32)),
                };
                Some((name.clone(), outputs.get(name)?, precision))
            })
            .collect();
        files::write(path, &tensors)?;
        let names: Vec<&str> = tensors.iter().map(|(name, ..)| name.as_str()).collect();
        output::line(&format!("wrote {} to {}", names.join(", "), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn on_gpu(
    gpu: &Gpu,
    loss: &dyn Loss,
    inputs: &Arrays,
    storage: Dtype,
    wanted: &[&str],
) -> Result<(Arrays, Status)> {
    gpu.run_arrays(loss, inputs, storage, wanted)?.outcome_blocking()
}

fn read_inputs(
    loss: &dyn Loss,
    sources: &[files::Source],
    storage: Option<Dtype>,
) -> Result<Arrays> {
    let about = loss.about();
    let mut inputs = Arrays::new();
    for source in sources {
        let name = &source.name;
        let Some(argument) = about.inputs.iter().find(|argument| argument.name == name) else {
            return Err(Error::UnknownName {
                loss: about.name.to_owned(),
                kind: "input",
                name: name.clone(),
                known: about.inputs.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
            });
        };
        let wants_float = matches!(argument.kind, Kind::Float | Kind::F32 | Kind::Mask);
        // What is no float is not rounded: the check says what it should be.
        let storage = storage.filter(|_| wants_float);
        let storage = storage.map(|dtype| surprisal::stored_dtype(loss, name, dtype));
        let (array, line) = files::adapt(name, files::read(source)?, wants_float, storage)?;
        if let Some(line) = line {
            output::note(&line);
        }
        if inputs.insert(name.clone(), array).is_some() {
            return Err(output::bad_file(&source.path, format!("`{name}` is given twice")));
        }
    }
    Ok(inputs)
}

/// Every output to compute, and the gradients among them that go into the file.
fn wanted(
    arguments: &Arguments,
    loss: &dyn Loss,
    inputs: &Arrays,
) -> Result<(BTreeSet<String>, Vec<String>)> {
    let mut all: BTreeSet<String> = arguments.want.iter().cloned().collect();
    let Some(path) = &arguments.grad else {
        return Ok((all, Vec::new()));
    };
    let about = loss.about();
    let asked: Vec<String> = all.iter().filter(|name| name.starts_with("grad.")).cloned().collect();
    let possible: Vec<String> = about
        .outputs
        .iter()
        .filter(|output| {
            output.name.strip_prefix("grad.").is_some_and(|input| inputs.contains_key(input))
        })
        .map(|output| output.name.to_owned())
        .collect();
    let single = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let gradients = match asked.len() {
        0 if single => possible.into_iter().take(1).collect(),
        0 => possible,
        1 => asked,
        _ if single => {
            return Err(output::bad_file(
                path,
                format!("a .npy file holds one array, not {}", asked.join(" and ")),
            ));
        }
        _ => asked,
    };
    all.extend(gradients.iter().cloned());
    Ok((all, gradients))
}

/// What the GPU's status would say: the reference has none of its own.
fn reference_status(arguments: &Arguments, loss: &dyn Loss, inputs: &Arrays) -> Status {
    let mut status = Status { completed: 1, ..Status::default() };
    for (row, target) in bad_targets(arguments, loss, inputs) {
        status.bad_targets += 1;
        status.first_bad_target.get_or_insert((row, target));
    }
    status.zero_vectors = zero_vectors(arguments, loss, inputs);
    let (bad_rows, bad_elements) = bad_rows(arguments, inputs, status.bad_targets);
    status.bad_rows = bad_rows;
    status.bad_targets += bad_elements;
    status
}

/// The rows whose target is no class and not ignored.
fn bad_targets(arguments: &Arguments, loss: &dyn Loss, inputs: &Arrays) -> Vec<(u32, i64)> {
    let targets = loss.about().inputs.iter().find(|input| input.name == "targets");
    let (Some(Kind::Index), Some(ignored), Some(classes)) = (
        targets.map(|input| input.kind),
        option(arguments, loss, "ignore_index"),
        classes(loss, inputs),
    ) else {
        return Vec::new();
    };
    let ignored: Vec<i64> = match &ignored {
        Value::Array(list) => list.iter().filter_map(Value::as_i64).collect(),
        one => one.as_i64().into_iter().collect(),
    };
    let bad = |target: i64| !(0..classes).contains(&target) && !ignored.contains(&target);
    let targets = inputs.get("targets").map(Array::to_i64).unwrap_or_default();
    (0..).zip(targets).filter(|&(_, target)| bad(target)).collect()
}

/// How many rows (or elements) are NaN, beside those of bad targets, and how many elements have no loss
/// because a number is outside its domain: there the gradient is 0.
///
/// Each counts by itself and without weights, which would hide some and make others NaN.
fn bad_rows(arguments: &Arguments, inputs: &Arrays, bad_targets: u32) -> (u32, u32) {
    let each = ("reduction".to_owned(), Value::from("none"));
    let set: Vec<_> = arguments.set.iter().cloned().chain([each]).collect();
    let parse = |set: &[_]| plan::parse_loss(&arguments.loss, arguments.options.as_deref(), set);
    let Ok(loss) = parse(&set).or_else(|_| parse(&arguments.set)) else {
        return (0, 0);
    };
    let inputs = without_weights(loss.as_ref(), inputs);
    let about = loss.about();
    let numbers = |wanted: &[&str]| -> Vec<Array> {
        cpu::run(loss.as_ref(), &inputs, wanted).unwrap_or_default().into_values().collect()
    };
    let gradient_of = |name: &str| name.strip_prefix("grad.").map(|name| inputs.contains_key(name));
    let names = || about.outputs.iter().map(|output| output.name);
    let gradients: Vec<&str> = names().filter(|name| gradient_of(name) == Some(true)).collect();
    let nans = |array: &Array| array.to_f64().into_iter().map(f64::is_nan).collect::<Vec<bool>>();
    let count = |nans: &[bool]| nans.iter().filter(|&&nan| nan).count() as u32;
    if !loss.is_per_row() {
        let scores: Vec<&str> = names().filter(|&name| name == "scores").collect();
        let shown = numbers(if scores.is_empty() { &gradients } else { &scores });
        return (shown.iter().map(rows_with_nan).sum(), 0);
    }
    let losses: Vec<bool> = numbers(&["loss"]).iter().flat_map(nans).collect();
    if !about.inputs.iter().any(|input| input.kind == Kind::Mask) {
        return (count(&losses).saturating_sub(bad_targets), 0);
    }
    let slopes: Vec<Vec<bool>> = numbers(&gradients).iter().map(nans).collect();
    let steep = |at: usize| slopes.iter().any(|slope| slope.get(at) == Some(&true));
    let bad: Vec<bool> = (0..).zip(&losses).map(|(at, &nan)| nan && !steep(at)).collect();
    (count(&losses) - count(&bad), count(&bad))
}

/// The inputs but for those that a row's loss and gradient are only multiplied by.
fn without_weights(loss: &dyn Loss, inputs: &Arrays) -> Arrays {
    let mut plain = inputs.clone();
    for input in loss.about().inputs.iter().filter(|input| !input.required) {
        if input.name.ends_with("weight") || ["upstream", "denominator"].contains(&input.name) {
            plain.remove(input.name);
        }
    }
    plain
}

/// How many rows of an array hold a NaN.
fn rows_with_nan(array: &Array) -> u32 {
    let columns: u64 = array.shape.iter().skip(1).product();
    let values = array.to_f64();
    let rows = values.chunks((columns as usize).max(1));
    rows.filter(|row| row.iter().any(|value| value.is_nan())).count() as u32
}

/// How many vectors of zeros there are where vectors are normalised.
fn zero_vectors(arguments: &Arguments, loss: &dyn Loss, inputs: &Arrays) -> u32 {
    // Features are normalised whatever the options say.
    let always = inputs.contains_key("features");
    if !always && option(arguments, loss, "normalize") != Some(Value::Bool(true)) {
        return 0;
    }
    let is_zero = |v: &&[f64]| v.iter().all(|v| v.abs() < f64::from(f32::MIN_POSITIVE));
    let zeros = |array: &Array| {
        let depth = array.shape.get(1).copied().unwrap_or(0) as usize;
        let values = array.to_f64();
        if depth == 0 { 0 } else { values.chunks(depth).filter(is_zero).count() as u32 }
    };
    ["queries", "keys", "features"].into_iter().filter_map(|name| inputs.get(name)).map(zeros).sum()
}

/// What an option of the loss is: as set, or else its default.
fn option(arguments: &Arguments, loss: &dyn Loss, name: &str) -> Option<Value> {
    let default = loss.about().options.iter().find(|option| option.name == name)?.default;
    let set = arguments.set.iter().rev().find(|(option, _)| option == name);
    let given = || {
        let options: Value = serde_json::from_str(arguments.options.as_deref()?).ok()?;
        options.get(name).cloned()
    };
    let value = set.map(|(_, value)| value.clone()).or_else(given);
    value.or_else(|| serde_json::from_str(default).ok())
}

/// How many classes the inputs agree on.
fn classes(loss: &dyn Loss, inputs: &Arrays) -> Option<i64> {
    let mut dims = std::collections::BTreeMap::<Dim, u64>::new();
    for argument in loss.about().inputs {
        let Some(array) = inputs.get(argument.name) else {
            continue;
        };
        let fits = |shape: &&&[Dim]| {
            shape.len() == array.shape.len()
                && shape
                    .iter()
                    .zip(&array.shape)
                    .all(|(dim, e)| dims.get(dim).is_none_or(|d| d == e))
        };
        if let Some(shape) = argument.shapes.iter().find(fits) {
            dims.extend(shape.iter().copied().zip(array.shape.iter().copied()));
        }
    }
    dims.get(&Dim::Classes).map(|&classes| classes as i64)
}

fn report(arguments: &Arguments, outputs: &Arrays, status: &Status) -> String {
    let mut text = String::new();
    let narrow = arguments.backend == Backend::Gpu;
    let mut seen = BTreeSet::new();
    for name in arguments.want.iter().filter(|name| seen.insert(name.as_str())) {
        if let Some(array) = outputs.get(name) {
            let _ = writeln!(text, "{name}: {}", abbreviated(array, narrow));
        }
    }
    for line in findings(status) {
        let _ = writeln!(text, "status: {line}");
    }
    text
}

/// What a status has to say.
fn findings(status: &Status) -> Vec<String> {
    let Status { bad_targets, bad_rows, zero_vectors, .. } = status;
    let mut found = Vec::new();
    if *bad_rows > 0 {
        found.push(format!("{bad_rows} row(s) with a NaN or +inf logit, or without a finite one"));
    }
    if *zero_vectors > 0 {
        found.push(format!("{zero_vectors} vector(s) of zeros, which nothing normalises"));
    }
    match (status.first_bad_value, status.first_bad_target) {
        (Some((row, value)), _) => {
            found.push(format!("{bad_targets} bad value(s), the first in row {row}: {value}"));
        }
        (None, Some((row, target))) => {
            found.push(format!("{bad_targets} bad target(s), the first in row {row}: {target}"));
        }
        (None, None) if *bad_targets > 0 => found.push(format!("{bad_targets} bad value(s)")),
        (None, None) => {}
    }
    if found.is_empty() { vec!["ok".to_owned()] } else { found }
}

/// A scalar, or the shape and both ends of a longer array.
fn abbreviated(array: &Array, narrow: bool) -> String {
    const ENDS: usize = 3;
    let words: Vec<String> = {
        let len = array.len();
        let shown = |index: usize| len <= 2 * ENDS + 2 || index < ENDS || index >= len - ENDS;
        match &array.data {
            Data::Float(values) => {
                let shown = values.iter().enumerate().filter(|(index, _)| shown(*index));
                shown.map(|(_, &value)| number(value, narrow)).collect()
            }
            Data::Int(values) => {
                let shown = values.iter().enumerate().filter(|(index, _)| shown(*index));
                shown.map(|(_, value)| value.to_string()).collect()
            }
        }
    };
    if array.shape == [1] {
        return words.concat();
    }
    let shape: Vec<String> = array.shape.iter().map(u64::to_string).collect();
    let elements = if words.len() < array.len() {
        let (head, tail) = words.split_at(ENDS);
        format!("{}, …, {}", head.join(", "), tail.join(", "))
    } else {
        words.join(", ")
    };
    format!("[{}] {elements}", shape.join(" × "))
}

/// As many digits as the type holds.
fn number(value: f64, narrow: bool) -> String {
    if narrow { (value as f32).to_string() } else { value.to_string() }
}
