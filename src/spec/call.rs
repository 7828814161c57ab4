//! A checked call: which tensors it has, and where they lie.

use std::collections::BTreeMap;

use super::{
    about::{Dim, Signature},
    check,
};
use crate::data::{error::Result, tensor::Layout};

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

/// A checked call: shapes, types and places of everything given and asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Call {
    /// The inputs given.
    pub inputs: BTreeMap<String, Operand>,
    /// The outputs asked for.
    pub outputs: BTreeMap<String, Operand>,
    /// The gradient of the first input is written over it.
    pub in_place: bool,
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
    /// Checks operands against a loss's description and finds the extents they agree on.
    pub fn checked(
        operation: &dyn Signature,
        inputs: BTreeMap<String, Operand>,
        outputs: BTreeMap<String, Operand>,
        in_place: bool,
        offset_alignment: u64,
    ) -> Result<Self> {
        check::call(operation, inputs, outputs, in_place, offset_alignment)
    }

    /// An extent; 0 where no operand has it.
    pub fn dim(&self, dim: Dim) -> u64 {
        self.dims.get(&dim).copied().unwrap_or(0)
    }

    /// Whether an input was given.
    pub fn has(&self, input: &str) -> bool {
        self.inputs.contains_key(input)
    }

    /// Whether an output is asked for.
    pub fn wants(&self, output: &str) -> bool {
        self.outputs.contains_key(output)
    }
}
