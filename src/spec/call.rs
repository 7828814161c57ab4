//! A checked call: which tensors it has, and where they lie.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    about::{Dim, Signature},
    check, list,
};
use crate::data::{array::Arrays, error::Result, tensor::Layout};

/// A tensor of a call without its buffer: the number of its allocation, and its layout there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Operand {
    /// The name that the call gives it.
    pub name: String,
    /// Where the elements lie.
    pub layout: Layout,
    /// The number of the buffer; operands with the same number share a buffer.
    pub allocation: usize,
    /// The size of this buffer, in bytes.
    pub allocation_bytes: u64,
}

/// A call: the shapes, types and places of all its tensors. [`Call::checked`] checks it and finds what follows from
/// the shapes.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Call {
    /// The inputs given.
    pub inputs: BTreeMap<String, Operand>,
    /// The outputs asked for.
    pub outputs: BTreeMap<String, Operand>,
    /// The host inputs. JSON has no infinity and no NaN, so a call with such a number in here does not survive it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub host: Arrays,
    /// The outputs that are written over an input.
    #[cfg_attr(feature = "serde", serde(default))]
    pub in_place: BTreeSet<String>,
    /// Other buffers that are written beside the outputs: the scratch, or what is written by the call of which this
    /// call is a part.
    #[cfg_attr(feature = "serde", serde(default))]
    pub siblings: Vec<usize>,
    /// Whether the status is added to the words that are there.
    #[cfg_attr(feature = "serde", serde(default))]
    pub accumulates_status: bool,
    /// The extents that the operands agree on.
    pub dims: BTreeMap<Dim, u64>,
    /// The axes that count an extent of rows. An output of one value a row has all of them.
    #[cfg_attr(feature = "serde", serde(default))]
    pub axes: BTreeMap<Dim, Vec<u64>>,
}

impl Call {
    /// A call with these inputs and outputs, not yet checked.
    pub fn new(inputs: BTreeMap<String, Operand>, outputs: BTreeMap<String, Operand>) -> Self {
        Self { inputs, outputs, ..Self::default() }
    }

    /// Checks the call against an operation's description, and finds the extents that its tensors agree on.
    pub fn checked(self, operation: &dyn Signature, offset_alignment: u64) -> Result<Self> {
        check::call(operation, self, offset_alignment)
    }

    /// The names of the tensors of a list, in order.
    pub fn list(&self, input: &str) -> Vec<&str> {
        list::names(input, self.inputs.keys())
    }

    /// An extent; 0 if no operand has it.
    pub fn dim(&self, dim: Dim) -> u64 {
        self.dims.get(&dim).copied().unwrap_or(0)
    }

    /// Whether an input was given; of a list, whether any of its tensors was.
    pub fn has(&self, input: &str) -> bool {
        holds(&self.inputs, input)
    }

    /// Whether an output is asked for; of a list, whether any of its tensors is.
    pub fn wants(&self, output: &str) -> bool {
        holds(&self.outputs, output)
    }
}

fn holds(operands: &BTreeMap<String, Operand>, name: &str) -> bool {
    operands.contains_key(name) || !list::names(name, operands.keys()).is_empty()
}
