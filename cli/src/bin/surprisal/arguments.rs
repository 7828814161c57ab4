//! The words that commands share, so that each word means the same in all of them.

use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, error::ErrorKind};
use serde_json::{Map, Value};
use surprisal::{
    Dtype, Error, Operation, Result,
    loss::{About, Argument, Dim},
    operations,
};
use surprisal_cli::draft::{Draft, Mode};

use crate::{CommandLine, losses, output};

/// An operation and its options.
#[derive(Debug, clap::Args)]
pub struct Chosen {
    /// The operation, as in `surprisal losses`.
    #[arg(value_name = "OPERATION", value_parser = losses::names(), hide_possible_values = true)]
    pub name: String,
    /// Options as JSON, such as `{"label_smoothing": 0.1}`.
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    /// One option, such as `label_smoothing=0.1`; the value is JSON or a plain word. May be
    /// repeated.
    #[arg(long, value_name = "OPTION=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
}

impl Chosen {
    /// The operation with these options.
    pub fn parse(&self) -> Result<Box<dyn Operation>> {
        self.parse_with(&self.values()?)
    }

    /// The operation with other options than those of the command line.
    pub fn parse_with(&self, options: &Value) -> Result<Box<dyn Operation>> {
        (losses::find(&self.name)?.parse)(options)
    }

    /// The options: those given as JSON, then those given one by one.
    pub fn values(&self) -> Result<Value> {
        let bad = |reason: String| Error::InvalidOption {
            operation: self.name.clone().into(),
            option: "options",
            value: self.options.clone().unwrap_or_default().into(),
            reason: reason.into(),
        };
        let mut all = match self.options.as_deref().map(serde_json::from_str).transpose() {
            Ok(None) => Map::new(),
            Ok(Some(Value::Object(all))) => all,
            Ok(Some(_)) => return Err(bad("options are a JSON object".to_owned())),
            Err(error) => return Err(bad(format!("not JSON: {error}"))),
        };
        all.extend(self.set.iter().cloned());
        Ok(all.into())
    }
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

/// A call made from flags: an operation, its options and its dimensions, and no tensors.
#[derive(Debug, clap::Args)]
pub struct Drafted {
    #[command(flatten)]
    pub chosen: Chosen,
    /// How many rows (samples, tokens, queries).
    #[arg(long, allow_negative_numbers = true)]
    rows: u64,
    /// How many classes or keys (columns of the scores), for losses that have them.
    #[arg(long, allow_negative_numbers = true)]
    classes: Option<u64>,
    /// The depth of the hidden states, or of vectors whose products are the scores, for losses that
    /// have them.
    #[arg(long, allow_negative_numbers = true)]
    hidden: Option<u64>,
    /// How float inputs and gradients are stored: f32, f16 or bf16.
    #[arg(long, default_value = "f32", value_parser = float_type)]
    dtype: Dtype,
    /// forward (loss and lse), backward (gradients of the required inputs, from a saved lse) or fused
    /// (loss and gradients). By default fused, or forward of what has no gradients.
    #[arg(long)]
    mode: Option<Mode>,
    /// Outputs, such as `entropy`; those of the mode by default.
    #[arg(long, value_name = "OUTPUT", value_delimiter = ',')]
    want: Vec<String>,
    /// Optional inputs that are given, beside those that the call needs, such as `row_weight`.
    #[arg(long, value_name = "INPUT", value_delimiter = ',')]
    with: Vec<String>,
}

impl Drafted {
    /// The operation and the call. Ends the program with a message that names the flag if a dimension is missing.
    pub fn draft(&self, command: &str) -> Result<(Box<dyn Operation>, Draft)> {
        let loss = self.chosen.parse()?;
        if loss.is_host() {
            return Err(Error::HostOnly { operation: self.chosen.name.clone().into() });
        }
        if let Some(message) = self.missing(loss.about()) {
            refuse(command, &message);
        }
        let extents =
            self.dimensions().into_iter().filter_map(|(dim, _, extent)| Some((dim, extent?)));
        let mode = self.mode.unwrap_or_else(|| Mode::most_of(loss.about()));
        let draft = Draft {
            with: self.with.clone(),
            want: self.want.clone(),
            ..Draft::new(extents, self.dtype, mode)
        };
        Ok((loss, draft))
    }

    /// The dimensions, each with its flag.
    fn dimensions(&self) -> [(Dim, &'static str, Option<u64>); 3] {
        [
            (Dim::Rows, "--rows", Some(self.rows)),
            (Dim::Classes, "--classes", self.classes),
            (Dim::Hidden, "--hidden", self.hidden),
        ]
    }

    /// What to say of a dimension that an operation needs and that was not given.
    fn missing(&self, about: &About) -> Option<String> {
        let absent = self.dimensions().into_iter().filter(|(_, _, extent)| extent.is_none());
        let absent: Vec<(Dim, &str)> = absent.map(|(dim, flag, _)| (dim, flag)).collect();
        let is_absent = |dim: &Dim| absent.iter().any(|(other, _)| other == dim);
        let mut required = about.inputs.iter().filter(|input| input.required);
        let without =
            |input: &&Argument| input.shapes.iter().all(|shape| shape.iter().any(is_absent));
        let input = required.find(without)?;
        let shape = input.shapes.first()?;
        let (_, flag) = absent.iter().find(|(dim, _)| shape.contains(dim))?;
        let shape: Vec<&str> = shape.iter().map(|dim| dim.name()).collect();
        let (input, loss, shape) = (input.name, about.name, shape.join(", "));
        Some(format!("{flag} is missing: `{input}` of {loss} has the shape [{shape}]"))
    }
}

/// Ends the program as clap does for words that do not fit a command: with the command's usage, and exit status 2.
fn refuse(command: &str, message: &str) -> ! {
    let mut program = CommandLine::command();
    program.build();
    let command = program.get_subcommands().find(|other| other.get_name() == command).cloned();
    command.unwrap_or(program).error(ErrorKind::MissingRequiredArgument, message).exit()
}

/// Where something is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// On a GPU (see `surprisal adapters`).
    #[default]
    Gpu,
    /// By the f64 reference.
    Cpu,
}

/// `f32`, `f16` or `bf16`.
pub fn float_type(name: &str) -> Result<Dtype, String> {
    match name.parse::<Dtype>() {
        Ok(dtype) if dtype.is_float() => Ok(dtype),
        _ => Err(format!("`{name}` is not one of f32, f16, bf16")),
    }
}

/// The results as JSON.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// Write the results as JSON: to this file beside the text, or without a file to stdout instead
    /// of the text. JSON has no NaN and no infinity: they are null, or words such as "nan".
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STDOUT, value_parser = json_file)]
    json: Option<PathBuf>,
}

/// The name of stdout among files.
const STDOUT: &str = "-";

impl Report {
    /// Prints the text, writes the JSON, or both, as the command line asks.
    pub fn give(&self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) -> Result<()> {
        match self.json.as_deref() {
            None => {
                output::print(&text());
                Ok(())
            }
            Some(path) if path == Path::new(STDOUT) => output::json(&value(), None),
            Some(path) => {
                output::print(&text());
                output::json(&value(), Some(path))
            }
        }
    }
}

/// A file for JSON. The name of an operation is none: in `--json mse`, it was meant as the operation.
fn json_file(name: &str) -> Result<PathBuf, String> {
    match operations::find(name) {
        Some(_) => Err(format!("`{name}` is an operation: it comes before --json")),
        None => Ok(name.into()),
    }
}
