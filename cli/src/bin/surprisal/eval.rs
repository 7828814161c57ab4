//! One loss on tensors from files.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, process::ExitCode};

use serde_json::Value;
use surprisal::{
    Array, Arrays, Data, Dtype, Error, Gpu, Operation, Result, Status, cpu, loss::Kind,
};

use crate::{adapters, files, images, output, plan};

/// Where a loss is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// On a GPU (see `surprisal adapters`).
    #[default]
    Gpu,
    /// By the f64 reference.
    Cpu,
}

/// Where the class axis of tensors of three and more axes lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ClassAxis {
    /// Last: [N, d…, C].
    #[default]
    Last,
    /// Axis 1: [N, C, d…], as PyTorch has it.
    Nchw,
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
    /// Outputs: the loss, by-products such as lse, entropy or argmax, gradients (grad.NAME). Without it the loss, or
    /// the first output of what is no loss.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    want: Vec<String>,
    /// Where the class axis lies: last, or in axis 1 (PyTorch's [N, C, d…] and its targets [N, d…]).
    #[arg(long, value_enum, default_value_t)]
    layout: ClassAxis,
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

/// `name=value`; the value is JSON, or otherwise a string.
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
    let mut inputs = read_inputs(loss, &arguments.inputs, storage)?;
    let images = match arguments.layout {
        ClassAxis::Last => None,
        ClassAxis::Nchw => Some(images::Images::transposed(loss, &mut inputs)),
    };
    let asked = asked(arguments, loss);
    let (wanted, gradients) = wanted(arguments, &asked, loss, &inputs)?;
    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let (mut outputs, status) = match arguments.backend {
        _ if loss.is_host() => {
            output::line("computed on the host");
            on_cpu(loss, &inputs, &names)?
        }
        Backend::Cpu => {
            output::line("backend: cpu (f64 reference)");
            on_cpu(loss, &inputs, &names)?
        }
        Backend::Gpu => {
            let gpu = adapters::open(adapter)?;
            output::line(&format!("adapter: {}", surprisal::adapter::describe(gpu.info())));
            on_gpu(&gpu, loss, &inputs, storage.unwrap_or(Dtype::F32), &names)?
        }
    };
    if let Some(images) = images {
        images.restore(loss, &mut outputs);
    }
    output::print(&report(
        arguments.backend == Backend::Gpu && !loss.is_host(),
        &asked,
        &outputs,
        &status,
    ));
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

fn on_cpu(loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> Result<(Arrays, Status)> {
    let has_status = loss.about().outputs.iter().any(|output| output.name == "status");
    let status: &[&str] = if has_status { &["status"] } else { &[] };
    let outputs = cpu::run(loss, inputs, &[wanted, status].concat())?;
    let status = outputs.get("status").map(Status::from_array).unwrap_or_default();
    Ok((outputs, status))
}

fn on_gpu(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: &Arrays,
    storage: Dtype,
    wanted: &[&str],
) -> Result<(Arrays, Status)> {
    gpu.run_arrays(loss, inputs, storage, wanted)?.outcome_blocking()
}

fn read_inputs(
    loss: &dyn Operation,
    sources: &[files::Source],
    storage: Option<Dtype>,
) -> Result<Arrays> {
    let about = loss.about();
    let mut inputs = Arrays::new();
    for source in sources {
        let name = &source.name;
        let Some(argument) = about.input(name) else {
            return Err(Error::UnknownName {
                loss: about.name.to_owned(),
                kind: "input",
                name: name.clone(),
                known: about.inputs.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
            });
        };
        let wants_float =
            matches!(argument.kind, Kind::Float | Kind::WideFloat | Kind::F32 | Kind::Mask);
        // Values that are not floats are not rounded; the call's check reports what they should be.
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

/// The outputs to print: those asked for, or otherwise the most important one.
fn asked(arguments: &Arguments, loss: &dyn Operation) -> Vec<String> {
    if !arguments.want.is_empty() {
        return arguments.want.clone();
    }
    let outputs = loss.about().outputs;
    let main = outputs.iter().find(|output| output.name == "loss").or(outputs.first());
    main.map(|output| output.name.to_owned()).into_iter().collect()
}

/// Every output to compute, and the gradients among them that go into the file.
fn wanted(
    arguments: &Arguments,
    asked: &[String],
    loss: &dyn Operation,
    inputs: &Arrays,
) -> Result<(BTreeSet<String>, Vec<String>)> {
    let mut all: BTreeSet<String> = asked.iter().cloned().collect();
    let Some(path) = &arguments.grad else {
        return Ok((all, Vec::new()));
    };
    let about = loss.about();
    let named: Vec<String> = all.iter().filter(|name| name.starts_with("grad.")).cloned().collect();
    let possible: Vec<String> = about
        .outputs
        .iter()
        .filter(|output| {
            output.name.strip_prefix("grad.").is_some_and(|input| inputs.contains_key(input))
        })
        .map(|output| output.name.to_owned())
        .collect();
    let single = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let gradients = match named.len() {
        0 if single => possible.into_iter().take(1).collect(),
        0 => possible,
        1 => named,
        _ if single => {
            return Err(output::bad_file(
                path,
                format!("a .npy file holds one array, not {}", named.join(" and ")),
            ));
        }
        _ => named,
    };
    all.extend(gradients.iter().cloned());
    Ok((all, gradients))
}

fn report(narrow: bool, asked: &[String], outputs: &Arrays, status: &Status) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for name in asked.iter().filter(|name| seen.insert(name.as_str())) {
        if let Some(array) = outputs.get(name) {
            let _ = writeln!(text, "{name}: {}", abbreviated(array, narrow));
        }
    }
    for line in findings(status) {
        let _ = writeln!(text, "status: {line}");
    }
    text
}

/// The messages of a status.
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

/// Prints as many digits as the type holds.
fn number(value: f64, narrow: bool) -> String {
    if narrow { (value as f32).to_string() } else { value.to_string() }
}
