//! Everything that can go wrong, with the argument and the value that are wrong.

use std::{error, fmt, ops::Range, path::Path, sync::Arc};

use crate::data::tensor::Dtype;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed.
///
/// Everything down to [`Error::Limit`] is found before any GPU work is recorded. Where wgpu, the file system or the
/// reader of a file gave the reason, `source()` is their error and the message here does not repeat it; [`Error::chain`]
/// has both.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value outside its domain, or two options exclude each other.
    #[error("{operation}: option `{option}` = {value}: {reason}")]
    InvalidOption {
        /// The operation.
        operation: Box<str>,
        /// The option, as in JSON.
        option: &'static str,
        /// The value it had.
        value: Box<str>,
        /// What is allowed.
        reason: Box<str>,
    },
    /// A name that the loss does not have.
    #[error("{operation}: there is no {kind} `{name}`; there are {known}")]
    UnknownName {
        /// The operation.
        operation: Box<str>,
        /// What has no such name: `input`, `output`, `option`, `operation` or `case`.
        kind: &'static str,
        /// The name that was given.
        name: Box<str>,
        /// The names that exist.
        known: Box<str>,
    },
    /// An input is needed and was not given.
    #[error("{operation}: input `{argument}` is missing: {reason}")]
    MissingInput {
        /// The operation.
        operation: Box<str>,
        /// The input.
        argument: Box<str>,
        /// Why it is needed here.
        reason: Box<str>,
    },
    /// Two inputs or outputs exclude each other.
    #[error("{operation}: `{argument}` and `{other}` exclude each other: {reason}")]
    Conflict {
        /// The operation.
        operation: Box<str>,
        /// One of the two.
        argument: Box<str>,
        /// The other one.
        other: Box<str>,
        /// Why.
        reason: Box<str>,
    },
    /// A plan is replayed without one of its buffers.
    #[error("{operation}: no buffer was given for {role}")]
    MissingBuffer {
        /// The operation.
        operation: Box<str>,
        /// What the buffer is for.
        role: Box<str>,
    },
    /// The parts of a plan that was read back contradict each other.
    #[error("{operation}: dispatch {dispatch} of this plan cannot be replayed: {reason}")]
    BadPlan {
        /// The operation.
        operation: Box<str>,
        /// The first such dispatch.
        dispatch: usize,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A call asks for no output, so there is nothing to compute.
    #[error("{operation}: the call asks for no output; there are {known}")]
    NoOutput {
        /// The operation.
        operation: Box<str>,
        /// The outputs that exist.
        known: Box<str>,
    },
    /// An output cannot be written over an input.
    #[error("{operation}: `{output}` cannot be written over an input: {reason}")]
    InPlace {
        /// The operation.
        operation: Box<str>,
        /// The output.
        output: Box<str>,
        /// Why.
        reason: Box<str>,
    },
    /// A host input was given as a tensor, or another input on the host.
    #[error("{operation}: `{argument}` is {expected}")]
    HostInput {
        /// The operation.
        operation: Box<str>,
        /// The input.
        argument: Box<str>,
        /// How it must be given.
        expected: Box<str>,
    },
    /// A tensor's shape does not fit the others.
    #[error("`{argument}` has shape {found:?}, expected {expected}")]
    WrongShape {
        /// The tensor.
        argument: Box<str>,
        /// The shape it has.
        found: Box<[u64]>,
        /// The shape it should have.
        expected: Box<str>,
    },
    /// An operation of the host was to run on a device.
    #[error("{operation} is computed on the host alone: use `cpu::run`")]
    HostOnly {
        /// The operation.
        operation: Box<str>,
    },
    /// An element of a host array has a value that the input does not allow.
    #[error("`{argument}` has {found} as element {element}, expected {expected}")]
    InputValue {
        /// The input.
        argument: Box<str>,
        /// The first such element.
        element: u64,
        /// The value it has.
        found: Box<str>,
        /// The values that are allowed.
        expected: Box<str>,
    },
    /// The element type of a tensor is not allowed for its argument.
    #[error("`{argument}` is {found}, expected {expected}")]
    WrongDtype {
        /// The tensor.
        argument: Box<str>,
        /// The type it has.
        found: Dtype,
        /// The types allowed.
        expected: Box<str>,
    },
    /// A row stride is smaller than a row.
    #[error("`{argument}` has row stride {found}, expected at least {least}")]
    WrongStride {
        /// The tensor.
        argument: Box<str>,
        /// The stride it has.
        found: u64,
        /// The smallest one allowed.
        least: u64,
    },
    /// The columns of a tensor lie further apart than this loss, or this tensor, allows.
    #[error("`{argument}` has class stride {found}: its columns have to lie side by side")]
    ClassStride {
        /// The tensor.
        argument: Box<str>,
        /// The stride it has.
        found: u64,
    },
    /// Something begins at a byte at which it cannot begin: the device's bindings, or the elements of a tensor, begin at
    /// multiples of a number of bytes.
    #[error("`{argument}` begins at byte {found}, expected a multiple of {multiple}")]
    WrongOffset {
        /// What it is.
        argument: Box<str>,
        /// The byte it begins at.
        found: u64,
        /// The number that this byte must be a multiple of.
        multiple: u64,
    },
    /// A buffer or a binding ends before the tensor does.
    #[error("`{argument}` needs {needed} bytes of its buffer or binding, which has only {found}")]
    BufferTooSmall {
        /// The tensor.
        argument: Box<str>,
        /// The number of bytes from the start of the buffer (or of the binding) to the end of the tensor.
        needed: u64,
        /// The size of the buffer (or of the binding), in bytes.
        found: u64,
    },
    /// A buffer was made without a usage that is necessary here.
    #[error("`{argument}` needs buffer usage {needed}, its buffer has {found}")]
    WrongUsage {
        /// The tensor.
        argument: Box<str>,
        /// The missing usage.
        needed: Box<str>,
        /// The usages that the buffer has.
        found: Box<str>,
    },
    /// A tensor that is written shares bytes, or an alignment block, with another one.
    #[error("`{argument}` (bytes {bytes:?}) and `{other}` (bytes {other_bytes:?}) {reason}")]
    Overlap {
        /// The written tensor.
        argument: Box<str>,
        /// The other one.
        other: Box<str>,
        /// The bytes of the written tensor.
        bytes: Box<Range<u64>>,
        /// The bytes of the other one.
        other_bytes: Box<Range<u64>>,
        /// What is wrong with that.
        reason: Box<str>,
    },
    /// Something is larger than the device or the library allows.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: Box<str>,
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
        "{operation}: dispatches {part:?} of {all} cannot be recorded alone, because other calls use the same scratch: prepare the call with `Request::in_parts`"
    )]
    SharedScratch {
        /// The operation.
        operation: Box<str>,
        /// The dispatches that were to be recorded.
        part: Range<usize>,
        /// How many dispatches the call has.
        all: usize,
    },
    /// A prepared call cannot take the options or tensors that it was given.
    #[error("{operation}: {reason}; prepare a new call instead")]
    NeedsPreparation {
        /// The operation.
        operation: Box<str>,
        /// What differs from the prepared call.
        reason: Box<str>,
    },
    /// No adapter matches what was asked for.
    #[error("no adapter{wanted}; found: {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: Box<str>,
        /// The adapters there are.
        found: Box<str>,
    },
    /// An adapter gave no device.
    #[error("{adapter} gave no device")]
    NoDevice {
        /// The adapter.
        adapter: Box<str>,
        /// The error of wgpu.
        source: Cause,
    },
    /// The device is lost or was destroyed.
    #[error("the device is lost")]
    DeviceLost {
        /// What showed it: an error of wgpu, except where wgpu did not answer at all.
        source: Cause,
    },
    /// The GPU is out of memory.
    #[error("out of GPU memory while making {what} ({bytes} bytes)")]
    OutOfMemory {
        /// What was being made.
        what: Box<str>,
        /// Its size, in bytes.
        bytes: u64,
        /// The error of wgpu.
        source: Cause,
    },
    /// wgpu refused something that the checks here do not cover, such as a tensor of another
    /// device.
    #[error("wgpu refused {what}")]
    Refused {
        /// What wgpu refused.
        what: Box<str>,
        /// The error of wgpu.
        source: Cause,
    },
    /// The commands did not run to their end (the completion word did not change).
    #[error("the GPU did not complete the commands of {operation}")]
    Incomplete {
        /// The operation.
        operation: Box<str>,
    },
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
        name: Box<str>,
        /// The names that exist.
        known: Box<str>,
    },
    /// A file could not be read or written, or has the wrong contents.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
        /// The error of the file system or of the file's reader, if one of them found it.
        source: Option<Cause>,
    },
}

impl Error {
    pub(crate) fn option(
        operation: impl Into<Box<str>>,
        option: &'static str,
        value: impl fmt::Display,
        reason: impl Into<Box<str>>,
    ) -> Self {
        let (value, reason) = (value.to_string().into(), reason.into());
        Self::InvalidOption { operation: operation.into(), option, value, reason }
    }

    /// A lost device, and what showed it.
    pub(crate) fn lost(reason: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self::DeviceLost { source: Cause::new(reason) }
    }

    /// A file with the wrong contents.
    pub fn file(path: &Path, reason: impl fmt::Display) -> Self {
        let (path, reason) = (path.display().to_string().into(), reason.to_string().into());
        Self::File { path, reason, source: None }
    }

    /// A file about which the file system or a reader gave an error. The reason says what was tried.
    pub fn file_from(
        path: &Path,
        reason: impl fmt::Display,
        error: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        let (path, reason) = (path.display().to_string().into(), reason.to_string().into());
        Self::File { path, reason, source: Some(Cause::new(error)) }
    }

    /// The message of this error and those of the errors that it comes from, with colons between them. An error whose
    /// text is part of the text so far is left out: wgpu repeats the causes of its errors in their messages.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = error::Error::source(self);
        while let Some(source) = next {
            let more = source.to_string();
            if !text.contains(more.trim()) {
                text = format!("{text}: {}", more.trim());
            }
            next = source.source();
        }
        text
    }

    /// The error of a loss that another operation is made of, as an error of that operation: with its name, and with its
    /// names of the arguments where they differ.
    pub(crate) fn outside(
        mut self,
        operation: &str,
        name: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let rename = |argument: &mut Box<str>| {
            if let Some(name) = name(argument) {
                *argument = name.into();
            }
        };
        let outside = operation;
        match &mut self {
            Self::InvalidOption { operation, .. } | Self::UnknownName { operation, .. } => {
                *operation = outside.into();
            }
            Self::MissingInput { operation, argument, .. } => {
                *operation = outside.into();
                rename(argument);
            }
            Self::Conflict { operation, argument, other, .. } => {
                *operation = outside.into();
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

/// The error that an [`Error`] comes from, such as one of wgpu or of the file system: it dereferences to that error.
/// Two causes are equal if their texts are.
#[derive(Clone)]
pub struct Cause(Arc<dyn error::Error + Send + Sync>);

impl Cause {
    /// An error, or a text where there is none.
    pub fn new(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self(error.into().into())
    }
}

impl std::ops::Deref for Cause {
    type Target = dyn error::Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{error::Error as _, io};

    use super::{Cause, Error};

    #[test]
    fn an_error_is_small() {
        let bytes = size_of::<Error>();
        assert!(bytes <= 72, "{bytes} bytes");
    }

    #[test]
    fn an_error_crosses_threads() {
        fn crosses<E: std::error::Error + Clone + PartialEq + Send + Sync + 'static>() {}
        crosses::<Error>();
    }

    #[test]
    fn a_cause_is_the_error_itself_and_equal_by_its_text() {
        let refused = |text: &'static str| Error::lost(io::Error::other(text));
        assert!(refused("a").source().unwrap().is::<io::Error>());
        assert_eq!(refused("a"), refused("a"));
        assert_ne!(refused("a"), refused("b"));
        assert_eq!(refused("a"), Error::DeviceLost { source: Cause::new("a") });
    }

    #[test]
    fn a_chain_has_every_text_once() {
        let inner = Error::lost("the cause");
        assert_eq!(inner.chain(), "the device is lost: the cause");
        let outer = Error::file_from("file".as_ref(), "bad, the device is lost", inner);
        assert_eq!(outer.chain(), "file: bad, the device is lost: the cause");
    }
}
