//! What a call on the GPU is given and asked for.

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

use crate::{
    data::{
        array::{Array, Arrays},
        error::Result,
        tensor::{Buffer, Dtype, Layout, Named},
    },
    skeleton::operation::Operation,
    spec::in_place,
};

/// A call that is wished for: an operation, the tensors that it reads, and the tensors that it writes. Only the outputs
/// that have a tensor are computed.
///
/// Every loss makes one of its own inputs and outputs ([`CrossEntropy::request`](crate::CrossEntropy::request)), so
/// that those of another loss do not compile:
///
/// ```compile_fail
/// # use surprisal::{BceWithLogitsInputs, CrossEntropy, CrossEntropyOutputs};
/// let outputs = CrossEntropyOutputs::default();
/// CrossEntropy::default().request(BceWithLogitsInputs::default(), outputs);
/// ```
///
/// [`Request::new`] takes any operation, and tensors by name.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is encoded, prepared or run"]
pub struct Request<'a> {
    pub(crate) operation: &'a dyn Operation,
    pub(crate) inputs: Named<'a>,
    pub(crate) outputs: Named<'a>,
    pub(crate) host: Arrays,
    in_place: BTreeSet<String>,
    gradient_in_place: bool,
    pub(crate) scratch: Option<Scratch<'a>>,
    pub(crate) in_parts: bool,
    pub(crate) accumulates_status: bool,
}

/// Scratch of the caller: a range of a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Scratch<'a> {
    pub buffer: &'a Buffer,
    pub bytes: Range<u64>,
}

impl Scratch<'_> {
    /// The scratch as a vector of bytes.
    pub fn layout(&self) -> Layout {
        let length = self.bytes.end.saturating_sub(self.bytes.start);
        Layout::vector(Dtype::U8, length).offset(self.bytes.start)
    }
}

impl<'a> Request<'a> {
    /// A call of any operation, with tensors by name.
    pub fn new(operation: &'a dyn Operation, inputs: Named<'a>, outputs: Named<'a>) -> Self {
        Self {
            operation,
            inputs,
            outputs,
            host: Arrays::new(),
            in_place: BTreeSet::new(),
            gradient_in_place: false,
            scratch: None,
            in_parts: false,
            accumulates_status: false,
        }
    }

    /// Gives a host input: one that the plan is made from, such as the tree of a hierarchy. The plan holds a copy of
    /// its numbers.
    pub fn host(mut self, input: impl Into<String>, array: Array) -> Self {
        self.host.insert(input.into(), array);
        self
    }

    /// Writes an output over the input for which the output is declared
    /// ([`Argument::over`](crate::loss::Argument::over)): `grad.logits` over `logits`, `parameters` over `parameters`.
    /// The name of a list stands for all of its tensors.
    ///
    /// Any other output, and one that also has a tensor of its own, is refused with
    /// [`Error::InPlace`](crate::Error::InPlace).
    pub fn in_place(mut self, output: impl Into<String>) -> Self {
        self.in_place.insert(output.into());
        self
    }

    /// Writes the gradient of the first input over this input: [`Request::in_place`] with `grad.logits` for losses of
    /// logits, with `grad.hidden` for losses of a linear layer.
    pub fn gradient_in_place(mut self) -> Self {
        self.gradient_in_place = true;
        self
    }

    /// All outputs, with those that are written over an input; and the names of the latter.
    pub(crate) fn all_outputs(&self) -> Result<(Cow<'_, Named<'a>>, BTreeSet<String>)> {
        let about = self.operation.about();
        if self.in_place.is_empty() && !self.gradient_in_place {
            return Ok((Cow::Borrowed(&self.outputs), BTreeSet::new()));
        }
        let first = about.inputs.first().filter(|_| self.gradient_in_place);
        let gradient = first.map(|input| format!("grad.{}", input.name));
        let asked = self.in_place.iter().cloned().chain(gradient).collect();
        let mut outputs = self.outputs.clone();
        let in_place = in_place::give_tensors(about, &asked, &self.inputs, &mut outputs)?;
        Ok((Cow::Owned(outputs), in_place))
    }

    /// Uses scratch of the caller: these bytes of a buffer with usage `STORAGE`. There must be at least
    /// [`Plan::scratch_bytes`](crate::Plan::scratch_bytes) bytes, and the first must be at a multiple of the device's
    /// `min_storage_buffer_offset_alignment`.
    ///
    /// The tensors of the call may lie in the same buffer, outside of these bytes. Calls with the same scratch must be
    /// recorded one after another: between the parts of one call, no other may use it.
    pub fn scratch(mut self, buffer: &'a Buffer, bytes: Range<u64>) -> Self {
        self.scratch = Some(Scratch { buffer, bytes });
        self
    }

    /// Lets the call be recorded in parts ([`Prepared::encode_part`](crate::Prepared::encode_part)) with other calls
    /// between the parts: the call gets scratch of its own, where calls otherwise share one. A call that
    /// [`Plan::submissions`](crate::Plan::submissions) cuts on this device always has scratch of its own.
    pub fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    /// Adds what the call finds to the status words instead of overwriting them: counts add up, and the first bad
    /// target of all calls is kept. The calls of several micro-batches can share one status this way. Its words must
    /// be zero before the first call.
    ///
    /// Without this, the words hold only what this call finds, whatever they held before.
    pub fn accumulate_status(mut self) -> Self {
        self.accumulates_status = true;
        self
    }
}

/// Declares how an operation makes a request of its own inputs and outputs.
macro_rules! request {
    ($operation:ty: $inputs:ident, $outputs:ident) => {
        impl $operation {
            /// A call with these tensors, for [`Gpu::encode`](crate::Gpu::encode),
            /// [`Gpu::prepare`](crate::Gpu::prepare) and [`Gpu::run`](crate::Gpu::run).
            pub fn request<'a>(
                &'a self,
                inputs: $inputs<'a>,
                outputs: $outputs<'a>,
            ) -> $crate::skeleton::request::Request<'a> {
                $crate::skeleton::request::Request::new(self, inputs.into(), outputs.into())
            }
        }
    };
}
pub(crate) use request;
