//! A checked call: which tensors it has, and where they lie.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    about::{Dim, Signature},
    check, list,
};
use crate::data::{array::Arrays, error::Result, tensor::Layout};

/// A tensor of a call without its buffer: which allocation it lies in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Operand {
    /// The name under which it was given.
    pub name: String,
    /// Where its elements lie.
    pub layout: Layout,
    /// Which buffer: operands with the same number share one.
    pub allocation: usize,
    /// Bytes of that buffer.
    pub allocation_bytes: u64,
}

/// A call: shapes, types and places of everything given and asked for. [`Call::checked`] checks it, and finds what
/// follows from the shapes.
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
    /// Buffers that hold something written beside the outputs: the scratch, or what a call writes that this
    /// one is a part of.
    #[cfg_attr(feature = "serde", serde(default))]
    pub siblings: Vec<usize>,
    /// The status is added to what its words hold.
    #[cfg_attr(feature = "serde", serde(default))]
    pub accumulates_status: bool,
    /// The extents that the operands agree on.
    pub dims: BTreeMap<Dim, u64>,
    /// The axes that count an extent of rows: an output of one value a row has them all.
    #[cfg_attr(feature = "serde", serde(default))]
    pub axes: BTreeMap<Dim, Vec<u64>>,
}

impl Call {
    /// A call with these inputs and outputs, not checked yet.
    pub fn new(inputs: BTreeMap<String, Operand>, outputs: BTreeMap<String, Operand>) -> Self {
        Self { inputs, outputs, ..Self::default() }
    }

    /// Checks the call against an operation's description, and finds the extents that its tensors agree on.
    pub fn checked(self, operation: &dyn Signature, offset_alignment: u64) -> Result<Self> {
        check::call(operation, self, offset_alignment)
    }

    /// The names of the tensors of an input that is a list, in order.
    pub fn list(&self, input: &str) -> Vec<&str> {
        list::names(input, self.inputs.keys())
    }

    /// An extent; 0 where no operand has it.
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
