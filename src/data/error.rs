//! Everything that can go wrong, with the argument and the value that are wrong.

use crate::data::tensor::Dtype;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed.
///
/// Everything down to [`Error::Limit`] is found before any GPU work is recorded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value outside its domain, or two options exclude each other.
    #[error("{loss}: option `{option}` = {value}: {reason}")]
    InvalidOption {
        /// The loss.
        loss: String,
        /// The option, as in JSON.
        option: &'static str,
        /// The value it had.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// A name that the loss does not have.
    #[error("{loss}: there is no {kind} `{name}`; there are {known}")]
    UnknownName {
        /// The loss.
        loss: String,
        /// `input`, `output`, `option` or `loss`.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// An input is needed and was not given.
    #[error("{loss}: input `{argument}` is missing: {reason}")]
    MissingInput {
        /// The loss.
        loss: String,
        /// The input.
        argument: String,
        /// Why it is needed here.
        reason: String,
    },
    /// Two inputs or outputs exclude each other.
    #[error("{loss}: `{argument}` and `{other}` exclude each other: {reason}")]
    Conflict {
        /// The loss.
        loss: String,
        /// One of the two.
        argument: String,
        /// The other one.
        other: String,
        /// Why.
        reason: String,
    },
    /// A plan is replayed without one of its buffers.
    #[error("{loss}: no buffer was given for {role}")]
    MissingBuffer {
        /// The loss.
        loss: String,
        /// What the buffer is for.
        role: String,
    },
    /// The parts of a plan that was read back contradict each other.
    #[error("{loss}: dispatch {dispatch} of this plan cannot be replayed: {reason}")]
    BadPlan {
        /// The loss.
        loss: String,
        /// The first such dispatch.
        dispatch: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A call asks for no output, so there is nothing to compute.
    #[error("{operation}: the call asks for no output; there are {known}")]
    NoOutput {
        /// The operation.
        operation: String,
        /// The outputs that exist.
        known: String,
    },
    /// An output cannot be written over an input.
    #[error("{operation}: `{output}` cannot be written over an input: {reason}")]
    InPlace {
        /// The operation.
        operation: String,
        /// The output.
        output: String,
        /// Why.
        reason: String,
    },
    /// A host input was given as a tensor, or another input on the host.
    #[error("{operation}: `{argument}` is {expected}")]
    HostInput {
        /// The operation.
        operation: String,
        /// The input.
        argument: String,
        /// How it must be given.
        expected: String,
    },
    /// A tensor's shape does not fit the others.
    #[error("`{argument}` has shape {found:?}, expected {expected}")]
    WrongShape {
        /// The tensor.
        argument: String,
        /// The shape it has.
        found: Vec<u64>,
        /// The shape it should have.
        expected: String,
    },
    /// An operation of the host was to run on a device.
    #[error("{operation} is computed on the host alone: use `cpu::run`")]
    HostOnly {
        /// The operation.
        operation: String,
    },
    /// An element of a host array has a value that the input does not allow.
    #[error("`{argument}` has {found} as element {element}, expected {expected}")]
    InputValue {
        /// The input.
        argument: String,
        /// The first such element.
        element: u64,
        /// The value it has.
        found: i64,
        /// The values that are allowed.
        expected: String,
    },
    /// The element type of a tensor is not allowed for its argument.
    #[error("`{argument}` is {found}, expected {expected}")]
    WrongDtype {
        /// The tensor.
        argument: String,
        /// The type it has.
        found: Dtype,
        /// The types allowed.
        expected: String,
    },
    /// A row stride is smaller than a row.
    #[error("`{argument}` has row stride {found}, expected at least {least}")]
    WrongStride {
        /// The tensor.
        argument: String,
        /// The stride it has.
        found: u64,
        /// The smallest one allowed.
        least: u64,
    },
    /// The columns of a tensor lie further apart than this loss, or this tensor, allows.
    #[error("`{argument}` has class stride {found}: its columns have to lie side by side")]
    ClassStride {
        /// The tensor.
        argument: String,
        /// The stride it has.
        found: u64,
    },
    /// Something begins at a byte at which it cannot begin: the device's bindings, or the elements of a tensor, begin at
    /// multiples of a number of bytes.
    #[error("`{argument}` begins at byte {found}, expected a multiple of {multiple}")]
    WrongOffset {
        /// What it is.
        argument: String,
        /// The byte it begins at.
        found: u64,
        /// The number that this byte must be a multiple of.
        multiple: u64,
    },
    /// A buffer or a binding ends before the tensor does.
    #[error("`{argument}` needs {needed} bytes, and there are only {found}")]
    BufferTooSmall {
        /// The tensor.
        argument: String,
        /// The number of bytes from the start of the buffer (or of the binding) to the end of the tensor.
        needed: u64,
        /// The size of the buffer (or of the binding), in bytes.
        found: u64,
    },
    /// A buffer was made without a usage that is necessary here.
    #[error("`{argument}` needs buffer usage {needed}, its buffer has {found}")]
    WrongUsage {
        /// The tensor.
        argument: String,
        /// The missing usage.
        needed: String,
        /// The usages that the buffer has.
        found: String,
    },
    /// A tensor that is written shares bytes, or an alignment block, with another one.
    #[error("`{argument}` (bytes {bytes:?}) and `{other}` (bytes {other_bytes:?}) {reason}")]
    Overlap {
        /// The written tensor.
        argument: String,
        /// The other one.
        other: String,
        /// The bytes of the written tensor.
        bytes: std::ops::Range<u64>,
        /// The bytes of the other one.
        other_bytes: std::ops::Range<u64>,
        /// What is wrong with that.
        reason: String,
    },
    /// Something is larger than the device or the library allows.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// Its value.
        found: u64,
        /// The largest one allowed.
        limit: u64,
    },
    /// A target index outside `0..classes` that is not ignored, found by the checked path.
    #[error("{count} bad target(s); the first is row {row} with target {value}")]
    BadTargets {
        /// The number of rows with a bad target.
        count: u64,
        /// The first of these rows.
        row: u64,
        /// The target of this row.
        value: i64,
    },
    /// A target, variance or rate outside its domain, found by the checked path.
    #[error("{count} bad value(s); the first is {value}, in row {row}")]
    BadValues {
        /// The number of elements with a bad value.
        count: u64,
        /// The row of the first of these elements.
        row: u64,
        /// The value of this element.
        value: f32,
    },
    /// A part of a call was to be recorded, but other calls use the same scratch.
    #[error(
        "{loss}: dispatches {part:?} of {all} cannot be recorded alone, because other calls use the same scratch: prepare the call with `Request::in_parts`"
    )]
    SharedScratch {
        /// The loss.
        loss: String,
        /// The dispatches that were to be recorded.
        part: std::ops::Range<usize>,
        /// How many dispatches the call has.
        all: usize,
    },
    /// A prepared call cannot take the options or tensors that it was given.
    #[error("{operation}: {reason}; prepare a call of its own for this")]
    NeedsPreparation {
        /// The operation.
        operation: String,
        /// What differs from the prepared call.
        reason: String,
    },
    /// No adapter matches what was asked for.
    #[error("no adapter{wanted}; found: {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters there are.
        found: String,
    },
    /// An adapter gave no device.
    #[error("{adapter} gave no device: {reason}")]
    NoDevice {
        /// The adapter.
        adapter: String,
        /// Its reason.
        reason: String,
    },
    /// The device is lost or was destroyed.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The GPU is out of memory.
    #[error("out of GPU memory while making {what} ({bytes} bytes)")]
    OutOfMemory {
        /// What was being made.
        what: String,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// wgpu refused something that the checks here do not cover, such as a tensor of another
    /// device.
    #[error("wgpu refused {what}: {message}")]
    Refused {
        /// What wgpu refused.
        what: String,
        /// The message of wgpu.
        message: String,
    },
    /// The commands did not run to their end (the completion word did not change).
    #[error("the GPU did not complete the commands of {0}")]
    Incomplete(String),
    /// Every slot of a staging ring is still in flight.
    #[error("all {slots} slots of the watch ring are in flight: await one first")]
    RingFull {
        /// The number of slots.
        slots: usize,
    },
    /// An array was asked for that is not there.
    #[error("there is no array `{name}`; there are: {known}")]
    NoArray {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A file could not be read, or has the wrong contents.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn option(
        loss: impl Into<String>,
        option: &'static str,
        value: impl std::fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        Self::InvalidOption {
            loss: loss.into(),
            option,
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    /// The error of a loss that another operation is made of, as an error of that operation: with its name, and with its
    /// names of the arguments where they differ.
    pub(crate) fn outside(
        mut self,
        operation: &str,
        name: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let rename = |argument: &mut String| {
            if let Some(name) = name(argument) {
                *argument = name;
            }
        };
        match &mut self {
            Self::InvalidOption { loss, .. } | Self::UnknownName { loss, .. } => {
                operation.clone_into(loss);
            }
            Self::MissingInput { loss, argument, .. } => {
                operation.clone_into(loss);
                rename(argument);
            }
            Self::Conflict { loss, argument, other, .. } => {
                operation.clone_into(loss);
                rename(argument);
                rename(other);
            }
            Self::WrongShape { argument, .. }
            | Self::WrongDtype { argument, .. }
            | Self::WrongStride { argument, .. }
            | Self::ClassStride { argument, .. } => rename(argument),
            _ => {}
        }
        self
    }
}
