//! Outputs that are written over an input.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    data::error::{Error, Result},
    spec::{
        about::{About, Argument},
        call::{Call, Operand},
        check, list,
    },
};

/// The name of the input that an output may be written over.
pub(crate) fn input_of(argument: &Argument, output: &str) -> Option<String> {
    Some(format!("{}{}", argument.over?, argument.suffix(output)?))
}

fn refused(about: &About, output: &str, reason: String) -> Error {
    Error::InPlace { operation: about.name.into(), output: output.into(), reason: reason.into() }
}

/// An output that is not declared to lie over an input.
fn undeclared(about: &About, output: &str) -> Error {
    let known = about.outputs.iter().filter(|output| output.over.is_some());
    let known: Vec<_> = known.map(|output| format!("`{}`", output.name)).collect();
    let reason = if known.is_empty() {
        "no output of this operation can".to_owned()
    } else {
        format!("only {} can", known.join(", "))
    };
    refused(about, output, reason)
}

/// The outputs that a name asks for: the bare name of a list stands for all of its tensors.
fn outputs_of<'n>(
    argument: &Argument,
    name: &str,
    inputs: impl Iterator<Item = &'n String>,
) -> Vec<String> {
    let over = argument.over.filter(|_| argument.list && name == argument.name);
    let tensors = over.map(|over| list::names(over, inputs)).unwrap_or_default();
    let suffixes = tensors.into_iter().filter_map(|input| input.strip_prefix(over?));
    let outputs: Vec<String> = suffixes.map(|suffix| format!("{name}{suffix}")).collect();
    if outputs.is_empty() { vec![name.to_owned()] } else { outputs }
}

/// Gives each of the outputs that are asked for in place the tensor of its input. Returns their names one by one.
pub fn give_tensors<T: Clone>(
    about: &'static About,
    asked: &BTreeSet<String>,
    inputs: &BTreeMap<String, T>,
    outputs: &mut BTreeMap<String, T>,
) -> Result<BTreeSet<String>> {
    let mut given = BTreeSet::new();
    for name in asked {
        let declared = about.output(name).filter(|argument| argument.over.is_some());
        let argument = declared.ok_or_else(|| undeclared(about, name))?;
        for name in outputs_of(argument, name, inputs.keys()) {
            if given.contains(&name) {
                continue;
            }
            let input = input_of(argument, &name).unwrap_or_default();
            let tensor = inputs.get(&input).ok_or_else(|| Error::MissingInput {
                operation: about.name.into(),
                argument: input.clone().into(),
                reason: format!("`{name}` is to be written over it").into(),
            })?;
            if outputs.insert(name.clone(), tensor.clone()).is_some() {
                let reason = "it has a tensor of its own too".to_owned();
                return Err(refused(about, &name, reason));
            }
            given.insert(name);
        }
    }
    Ok(given)
}

impl Call {
    /// Whether an output is written over its input.
    pub fn is_in_place(&self, output: &str) -> bool {
        self.in_place.contains(output)
    }

    /// The input that an output is written over in this call.
    pub(super) fn written_over(&self, about: &'static About, output: &str) -> Option<String> {
        let argument = about.output(output).filter(|_| self.is_in_place(output))?;
        input_of(argument, output)
    }

    /// Whether the outputs in place can be stored as their inputs are: no gradient is stored as i8.
    pub(super) fn check_in_place_types(&self, about: &'static About) -> Result<()> {
        for name in &self.in_place {
            let (argument, input) = (about.output(name), self.written_over(about, name));
            let operand = input.and_then(|input| self.inputs.get(&input));
            let (Some(argument), Some(operand)) = (argument, operand) else { continue };
            let dtype = operand.layout.dtype;
            if check::kind(argument, name, dtype).is_err() {
                let reason = format!("`{}` is stored as {dtype}, which it is not", operand.name);
                return Err(refused(about, name, reason));
            }
        }
        Ok(())
    }

    /// Whether the outputs in place are declared so, each over an input of its own, and lie where that lies.
    pub(super) fn check_in_place(&self, about: &'static About) -> Result<()> {
        let mut written = BTreeMap::new();
        for name in &self.in_place {
            let input = self.written_over(about, name).ok_or_else(|| undeclared(about, name))?;
            let tensor = |operand: &Operand| (operand.allocation, operand.layout.clone());
            let (from, to) = (self.inputs.get(&input), self.outputs.get(name));
            if from.is_none() || from.map(tensor) != to.map(tensor) {
                return Err(refused(about, name, format!("it does not lie where `{input}` lies")));
            }
            if let Some(other) = written.insert(input.clone(), name) {
                return Err(refused(about, name, format!("`{other}` is written over `{input}`")));
            }
        }
        Ok(())
    }
}
