//! One loss on tensors from files.

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode};

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Data, Dtype, Error, Operation, Result, Status, cpu,
    loss::{Kind, Spread},
    testing,
};

use crate::{
    adapters,
    arguments::{Backend, Chosen, Report, float_type},
    files, images, output,
};

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
    #[command(flatten)]
    chosen: Chosen,
    /// An input and its file: .npy, .npz or .safetensors, with the tensor's key where the file has
    /// several and none is called like the input.
    #[arg(long = "input", value_name = "NAME=FILE[:KEY]", required = true)]
    inputs: Vec<files::Source>,
    /// Outputs to print: the loss, by-products such as lse, entropy or argmax, gradients (grad.NAME).
    /// Without it the loss, or the first output of what is no loss.
    #[arg(long, value_name = "OUTPUT", value_delimiter = ',')]
    want: Vec<String>,
    /// Write outputs to a file: .npy (one output), .npz or .safetensors. Without names those of
    /// --want, otherwise these, such as `grad.logits=dz.npy`. May be repeated.
    #[arg(long, value_name = "[OUTPUT,…=]FILE")]
    out: Vec<files::Destination>,
    /// Where the class axis lies: last, or in axis 1 (PyTorch's [N, C, d…] and its targets [N, d…]).
    #[arg(long, value_enum, default_value_t)]
    layout: ClassAxis,
    /// The type in which floats are stored on the GPU: f32, f16 or bf16.
    #[arg(long, value_parser = float_type)]
    dtype: Option<Dtype>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    #[command(flatten)]
    report: Report,
}

/// What was computed, and where.
struct Evaluated {
    /// A sentence on the place.
    place: String,
    outputs: Arrays,
    status: Status,
    /// Whether the numbers are those of a GPU.
    narrow: bool,
    /// Whether the status counts elements, not rows.
    elements: bool,
}

/// Computes and prints.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    let loss = arguments.chosen.parse()?;
    let loss = loss.as_ref();
    let asked = asked(arguments, loss);
    let wanted = wanted(&arguments.out, &asked)?;
    let storage = match arguments.backend {
        Backend::Gpu => Some(arguments.dtype.unwrap_or(Dtype::F32)),
        Backend::Cpu => arguments.dtype,
    };
    let mut inputs = read_inputs(loss, &arguments.inputs, storage)?;
    let images = match arguments.layout {
        ClassAxis::Last => None,
        ClassAxis::Nchw => Some(images::Images::transposed(loss, &mut inputs)),
    };
    let mut evaluated = evaluate(arguments.backend, adapter, loss, &inputs, storage, &wanted)?;
    if let Some(images) = images {
        images.restore(loss, &mut evaluated.outputs);
    }
    arguments
        .report
        .give(|| text(&evaluated, &asked), || json(&evaluated, &wanted, &arguments.chosen.name))?;
    evaluated.status.checked()?;
    for destination in &arguments.out {
        write(destination, (loss, &inputs), &evaluated, &asked, storage)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn evaluate(
    backend: Backend,
    adapter: Option<&str>,
    loss: &dyn Operation,
    inputs: &Arrays,
    storage: Option<Dtype>,
    wanted: &[&str],
) -> Result<Evaluated> {
    let (place, narrow, (outputs, status)) = match backend {
        _ if loss.is_host() => {
            ("computed on the host".into(), false, on_cpu(loss, inputs, wanted)?)
        }
        Backend::Cpu => {
            ("backend: cpu (f64 reference)".into(), false, on_cpu(loss, inputs, wanted)?)
        }
        Backend::Gpu => {
            let gpu = adapters::open(adapter)?;
            let storage = storage.unwrap_or(Dtype::F32);
            let done = gpu.run_arrays(loss, inputs, storage, wanted)?.outcome_blocking()?;
            (format!("adapter: {}", surprisal::adapter::describe(gpu.info())), true, done)
        }
    };
    let first = loss.about().inputs.first();
    let elements = first.is_some_and(|input| input.spread == Spread::Elements);
    Ok(Evaluated { place, outputs, status, narrow, elements })
}

fn on_cpu(loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> Result<(Arrays, Status)> {
    let has_status = loss.about().outputs.iter().any(|output| output.name == "status");
    let status: &[&str] = if has_status { &["status"] } else { &[] };
    let outputs = cpu::run(loss, inputs, &[wanted, status].concat())?;
    let status = outputs.get("status").map(Status::from_array).unwrap_or_default();
    Ok((outputs, status))
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
                operation: about.name.into(),
                kind: "input",
                name: name.clone().into(),
                known: about.inputs.iter().map(|a| a.name).collect::<Vec<_>>().join(", ").into(),
            });
        };
        let (array, stored) = files::read(source)?;
        let wants_float = match argument.kind {
            Kind::Logits => stored != files::Stored::I8,
            Kind::Float | Kind::WideFloat | Kind::F32 | Kind::Mask => true,
            _ => false,
        };
        // Values that are not floats are not rounded; the call's check reports what they should be.
        let storage = storage.filter(|_| wants_float);
        let storage = storage.map(|dtype| surprisal::stored_dtype(loss, name, dtype));
        let (array, line) = files::adapt(name, (array, stored), wants_float, storage)?;
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

/// Every output to compute: those to print, and those to write. Checks that the files can hold theirs.
fn wanted<'a>(out: &'a [files::Destination], asked: &'a [String]) -> Result<Vec<&'a str>> {
    let mut all: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    for destination in out {
        let names = destination.names(asked);
        destination.check(names)?;
        all.extend(names.iter().map(String::as_str));
    }
    Ok(all.into_iter().collect())
}

/// Writes the outputs of a file.
fn write(
    destination: &files::Destination,
    (loss, inputs): (&dyn Operation, &Arrays),
    evaluated: &Evaluated,
    asked: &[String],
    storage: Option<Dtype>,
) -> Result<()> {
    let names = destination.names(asked);
    let tensor = |name: &String| {
        let storage = storage.unwrap_or(Dtype::F32);
        let dtype = testing::stored_output(loss, inputs, name, storage);
        let precision =
            if evaluated.narrow { files::Precision::Storage(dtype) } else { files::Precision::F64 };
        Some((name.clone(), evaluated.outputs.get(name)?, precision))
    };
    files::write(&destination.path, &names.iter().filter_map(tensor).collect::<Vec<_>>())?;
    output::note(&format!("wrote {} to {}", names.join(", "), destination.path.display()));
    Ok(())
}

fn text(evaluated: &Evaluated, asked: &[String]) -> String {
    let mut text = String::new();
    if !output::is_quiet() {
        let _ = writeln!(text, "{}", evaluated.place);
    }
    let mut seen = BTreeSet::new();
    for name in asked.iter().filter(|name| seen.insert(name.as_str())) {
        if let Some(array) = evaluated.outputs.get(name) {
            let _ = writeln!(text, "{name}: {}", abbreviated(array, evaluated.narrow));
        }
    }
    for line in findings(&evaluated.status, evaluated.elements) {
        let _ = writeln!(text, "status: {line}");
    }
    text
}

fn json(evaluated: &Evaluated, wanted: &[&str], operation: &str) -> Value {
    let outputs = wanted.iter().filter_map(|&name| {
        let array = evaluated.outputs.get(name)?;
        let values: Value = match &array.data {
            Data::Float(values) => {
                values.iter().map(|&value| json_number(value, evaluated.narrow)).collect()
            }
            Data::Int(values) => json!(values),
        };
        Some((name.to_owned(), json!({ "shape": array.shape, "values": values })))
    });
    json!({
        "operation": operation,
        "place": evaluated.place,
        "outputs": outputs.collect::<serde_json::Map<_, _>>(),
        "status": evaluated.status,
    })
}

/// A number with the digits that its type holds; JSON has no other words than strings for NaN and infinities.
fn json_number(value: f64, narrow: bool) -> Value {
    let shown = number(value, narrow);
    match shown.parse::<f64>() {
        Ok(shown) if shown.is_finite() => shown.into(),
        _ => shown.to_lowercase().into(),
    }
}

/// The messages of a status.
fn findings(status: &Status, elements: bool) -> Vec<String> {
    let Status { bad_targets, bad_rows, zero_vectors, .. } = status;
    let mut found = Vec::new();
    if *bad_rows > 0 {
        found.push(if elements {
            format!(
                "{bad_rows} element(s) whose loss is NaN: a NaN or an infinity in their numbers"
            )
        } else {
            format!(
                "{bad_rows} row(s) without a loss: a NaN or +inf among their logits, no finite one, a NaN in their \
                 weights or target distribution, or a learned temperature outside its domain"
            )
        });
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
