//! What can go wrong, each with the argument and the value that were at fault.

use crate::data::tensor::Dtype;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or lost.
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
        /// The names there are.
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
    /// Two inputs or outputs cannot be given together.
    #[error("{loss}: `{argument}` and `{other}` exclude each other: {reason}")]
    Conflict {
        /// The loss.
        loss: String,
        /// One of them.
        argument: String,
        /// The other one.
        other: String,
        /// Why.
        reason: String,
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
    /// An operation of the host was asked for on a device.
    #[error("{operation} is computed on the host alone: use `cpu::run`")]
    HostOnly {
        /// The operation.
        operation: String,
    },
    /// An element of a host array is none that its input can have.
    #[error("`{argument}` has {found} as element {element}, expected {expected}")]
    InputValue {
        /// The input.
        argument: String,
        /// The first such element.
        element: u64,
        /// The value it has.
        found: i64,
        /// What it can have.
        expected: String,
    },
    /// A tensor's element type is not one that its place takes.
    #[error("`{argument}` is {found}, expected {expected}")]
    WrongDtype {
        /// The tensor.
        argument: String,
        /// The type it has.
        found: Dtype,
        /// The types allowed.
        expected: String,
    },
    /// A stride is smaller than what it steps over.
    #[error("`{argument}` has row stride {found}, expected at least {least}")]
    WrongStride {
        /// The tensor.
        argument: String,
        /// The stride it has.
        found: u64,
        /// The smallest one allowed.
        least: u64,
    },
    /// The columns of a tensor lie further apart than this loss, or this tensor, can have it.
    #[error("`{argument}` has class stride {found}: its columns have to lie side by side")]
    ClassStride {
        /// The tensor.
        argument: String,
        /// The stride it has.
        found: u64,
    },
    /// Something does not begin where the device can bind it.
    #[error("`{argument}` begins at byte {found}, expected a multiple of {multiple}")]
    WrongOffset {
        /// What it is.
        argument: String,
        /// The byte it begins at.
        found: u64,
        /// What that should be a multiple of.
        multiple: u64,
    },
    /// A buffer ends before the tensor does.
    #[error("`{argument}` needs {needed} bytes of its buffer, which has {found}")]
    BufferTooSmall {
        /// The tensor.
        argument: String,
        /// Bytes from the buffer's start to the tensor's end.
        needed: u64,
        /// Bytes the buffer has.
        found: u64,
    },
    /// A buffer was made without a usage that it needs here.
    #[error("`{argument}` needs buffer usage {needed}, its buffer has {found}")]
    WrongUsage {
        /// The tensor.
        argument: String,
        /// The missing usage.
        needed: String,
        /// The usages there are.
        found: String,
    },
    /// A tensor that is written shares bytes, or an alignment block, with another one.
    #[error("`{argument}` (bytes {bytes:?}) and `{other}` (bytes {other_bytes:?}) {reason}")]
    Overlap {
        /// The written tensor.
        argument: String,
        /// The other one.
        other: String,
        /// Bytes of the written one.
        bytes: std::ops::Range<u64>,
        /// Bytes of the other one.
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
        /// How many rows have one.
        count: u64,
        /// The first of them.
        row: u64,
        /// Its target.
        value: i64,
    },
    /// A target, variance or rate outside its domain, found by the checked path.
    #[error("{count} bad value(s); the first is {value}, in row {row}")]
    BadValues {
        /// How many elements have one.
        count: u64,
        /// The row of the first of them.
        row: u64,
        /// Its value.
        value: f32,
    },
    /// A part of a call was to be recorded whose scratch other calls use too.
    #[error(
        "{loss}: dispatches {part:?} of {all} were to be recorded alone, and other calls use the same scratch: prepare the call with `Request::in_parts`"
    )]
    SharedScratch {
        /// The loss.
        loss: String,
        /// The dispatches that were to be recorded.
        part: std::ops::Range<usize>,
        /// How many the call has.
        all: usize,
    },
    /// No adapter fits what was asked for.
    #[error("no adapter{wanted}; found: {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters there are.
        found: String,
    },
    /// The device is lost or was destroyed.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The GPU is out of memory.
    #[error("out of GPU memory while making {what} ({bytes} bytes)")]
    OutOfMemory {
        /// What was being made.
        what: String,
        /// Its bytes.
        bytes: u64,
    },
    /// wgpu refused something that the checks here let through, such as a tensor of another device.
    #[error("wgpu refused {what}: {message}")]
    Refused {
        /// What was being done.
        what: String,
        /// wgpu's words.
        message: String,
    },
    /// The commands did not run to their end (the completion word did not move).
    #[error("the GPU did not complete the commands of {0}")]
    Incomplete(String),
    /// Every slot of a staging ring is still in flight.
    #[error("all {slots} slots of the watch ring are in flight: await one first")]
    RingFull {
        /// How many there are.
        slots: usize,
    },
    /// A file could not be read, or is not what it should be.
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
}
