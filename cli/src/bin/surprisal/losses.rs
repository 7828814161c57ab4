//! Describes the operations in words, from the registries.

use std::{fmt::Write as _, process::ExitCode};

use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::json;
use surprisal::{
    Error, Result,
    loss::{self, About, Argument, Kind},
    operations,
};

use crate::{arguments::Report, output};

/// Which loss.
#[derive(clap::Args)]
pub struct Arguments {
    /// The operation to describe; all are listed without it.
    #[arg(value_name = "OPERATION", value_parser = names(), hide_possible_values = true)]
    operation: Option<String>,
    #[command(flatten)]
    report: Report,
}

/// The names of all operations; shells offer them with their descriptions.
pub fn names() -> PossibleValuesParser {
    let name = |entry: &'static operations::Entry| {
        PossibleValue::new(entry.about.name).help(entry.about.summary)
    };
    operations::all().map(name).collect::<Vec<_>>().into()
}

/// The operation of this name, or an error that names all of them.
pub fn find(name: &str) -> Result<&'static operations::Entry> {
    operations::find(name).ok_or_else(|| Error::UnknownName {
        operation: "surprisal".into(),
        kind: "operation",
        name: name.into(),
        known: operations::all()
            .map(|entry| entry.about.name)
            .collect::<Vec<_>>()
            .join(", ")
            .into(),
    })
}

/// Lists all losses, or describes one.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(name) = &arguments.operation {
        let about = find(name)?.about;
        arguments.report.give(|| describe(about), || json!(about))?;
    } else {
        let all: Vec<&About> = operations::all().map(|entry| entry.about).collect();
        arguments.report.give(|| list(&all), || json!(all))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(all: &[&About]) -> String {
    let mut table = output::table(&["operation", "what it computes", "PyTorch"]);
    for about in all {
        table.add_row([about.name, about.summary, about.pytorch]);
    }
    format!("{table}\n")
}

fn describe(about: &About) -> String {
    let mut text = format!(
        "{}: {}\n\nformula: {}\nPyTorch: {}\n",
        about.name, about.summary, about.formula, about.pytorch
    );
    for (title, arguments) in [("inputs", about.inputs), ("outputs", about.outputs)] {
        let mut table = output::table(&[title, "shape", "type", "what it is"]);
        for argument in arguments {
            let required = if argument.required { " (required)" } else { "" };
            table.add_row([
                argument.name.to_owned(),
                shapes(argument),
                kind(argument.kind).to_owned(),
                format!("{}{required}", argument.about),
            ]);
        }
        let _ = write!(text, "\n{table}\n");
    }
    let mut table = output::table(&["option", "default", "what it does"]);
    for option in about.options {
        table.add_row([option.name, option.default, option.about]);
    }
    let _ = write!(text, "\n{table}\n");
    text
}

/// The shapes that an argument may have.
fn shapes(argument: &Argument) -> String {
    let shape = |dims: &&[loss::Dim]| {
        let names: Vec<&str> = dims.iter().map(|dim| dim.name()).collect();
        format!("[{}]", names.join(", "))
    };
    argument.shapes.iter().map(shape).collect::<Vec<_>>().join(" or ")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Float | Kind::WideFloat => "f32, f16, bf16",
        Kind::Logits => "f32, f16, bf16, i8",
        Kind::I8 => "i8",
        Kind::F32 => "f32",
        Kind::Index | Kind::Label => "i32, u32, i64",
        Kind::U32 => "u32",
        Kind::I64 => "i64",
        Kind::Mask => "f32, f16, bf16, u8, bits",
        _ => "?",
    }
}
