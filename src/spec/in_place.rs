//! Outputs that are written over an input.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    data::error::{Error, Result},
    spec::{
        about::{About, Argument},
        call::{Call, Operand},
        list,
    },
};

/// The name of the input that an output is written over.
fn input_of(argument: &Argument, output: &str) -> Option<String> {
    Some(format!("{}{}", argument.over?, argument.suffix(output)?))
}

/// The outputs of an operation that may be written over an input, as a text.
fn known(about: &About) -> String {
    let known = about.outputs.iter().filter(|output| output.over.is_some());
    let known: Vec<_> = known.map(|output| output.name).collect();
    if known.is_empty() { "none is".to_owned() } else { known.join(", ") }
}

fn refused(about: &About, output: &str, reason: String) -> Error {
    Error::InPlace { operation: about.name.to_owned(), output: output.to_owned(), reason }
}

/// Gives each of these outputs the tensor of its input. The name of a list stands for all of its tensors. Returns the
/// names of the single outputs.
pub fn place<T: Clone>(
    about: &'static About,
    asked: &BTreeSet<String>,
    inputs: &BTreeMap<String, T>,
    outputs: &mut BTreeMap<String, T>,
) -> Result<BTreeSet<String>> {
    let mut placed = BTreeSet::new();
    for name in asked {
        let Some((argument, over)) = about.output(name).and_then(|a| Some((a, a.over?))) else {
            let reason = format!("outputs that can be: {}", known(about));
            return Err(refused(about, name, reason));
        };
        let whole_list = argument.list && name == argument.name;
        let tensors = if whole_list { list::names(over, inputs.keys()) } else { Vec::new() };
        let of_list = tensors.into_iter().filter_map(|input| input.strip_prefix(over));
        let mut names: Vec<String> = of_list.map(|suffix| format!("{name}{suffix}")).collect();
        if names.is_empty() {
            names.push(name.clone());
        }
        for name in names {
            let input = input_of(argument, &name).unwrap_or_default();
            let tensor = inputs.get(&input).ok_or_else(|| Error::MissingInput {
                loss: about.name.to_owned(),
                argument: input.clone(),
                reason: format!("`{name}` is to be written over it"),
            })?;
            if outputs.insert(name.clone(), tensor.clone()).is_some() {
                let reason = "it is also given a tensor of its own".to_owned();
                return Err(refused(about, &name, reason));
            }
            placed.insert(name);
        }
    }
    Ok(placed)
}

impl Call {
    /// Whether an output is written over its input.
    pub fn is_in_place(&self, output: &str) -> bool {
        self.in_place.contains(output)
    }

    /// Checks that the outputs in place are declared as such, and lie where their inputs lie.
    pub(super) fn check_in_place(&self, about: &'static About) -> Result<()> {
        for name in &self.in_place {
            let input = about.output(name).and_then(|argument| input_of(argument, name));
            let Some(input) = input else {
                let reason = format!("outputs that can be: {}", known(about));
                return Err(refused(about, name, reason));
            };
            let place = |operand: &Operand| (operand.allocation, operand.layout.clone());
            let (from, to) = (self.inputs.get(&input), self.outputs.get(name));
            if from.is_none() || from.map(place) != to.map(place) {
                return Err(refused(about, name, format!("it does not lie where `{input}` lies")));
            }
        }
        Ok(())
    }

    /// Whether this output is written over this input.
    pub(super) fn writes_over(&self, about: &'static About, output: &str, input: &str) -> bool {
        let over = about.output(output).and_then(|argument| input_of(argument, output));
        self.is_in_place(output) && over.is_some_and(|over| over == input)
    }
}
