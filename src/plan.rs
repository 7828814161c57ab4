//! A call as plain data: what is dispatched, on which bytes, with which numbers.
//!
//! A [`Plan`] is made from shapes and limits alone. It can be printed, serialised, tested without a
//! GPU, and replayed by anything that can run WGSL; encoding only walks through it.

pub mod cooperative;
pub mod kernel;
pub(crate) mod limits;
mod planner;
pub mod profile;
#[cfg(feature = "cases")]
pub(crate) mod shaders;
pub(crate) mod stretches;
pub(crate) mod tile;
mod view;

use std::ops::Range;

use crate::plan::{
    kernel::{Access, Kernel},
    profile::Profile,
};

pub use crate::spec::call::{Call, Operand};
pub(crate) use planner::{Planner, Step};
pub(crate) use view::{Addressed, View};

/// What a binding is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Role {
    /// An input of the call.
    Input(String),
    /// An output of the call.
    Output(String),
    /// The call's scratch.
    Scratch,
    /// Bytes that the plan holds: an index into [`Plan::constants`].
    Constant(usize),
}

/// One buffer range of a dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Binding {
    /// What is bound.
    pub role: Role,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// How it is used.
    pub access: Access,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Dispatch {
    /// Its kernel, an index into [`Plan::kernels`].
    pub kernel: usize,
    /// The bindings after the parameters, in the order of their numbers (from 1).
    pub bindings: Vec<Binding>,
    /// The parameters, word by word, as [`Kernel::fields`] names them.
    pub params: Vec<u32>,
    /// Workgroups in x, y and z.
    pub workgroups: [u32; 3],
}

/// A recording: kernels, dispatches in order, and the scratch they share.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Plan {
    /// The loss.
    pub loss: String,
    /// The kernels, each once.
    pub kernels: Vec<Kernel>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// Host inputs, as the bytes that kernels read. Each is bound from a buffer of its own, with zeros behind the bytes
    /// up to the next multiple of 256.
    pub constants: Vec<Vec<u8>>,
    /// Bytes of scratch.
    pub scratch_bytes: u64,
    /// Stretches of rows that are dispatched one after another.
    pub windows: u64,
    /// Bytes that the logits would take if they were stored, where they are not.
    pub unstored_bytes: u64,
    /// How such logits go by.
    pub path: Option<Path>,
}

/// How logits that are never stored whole go by: chunks of `rows` × `classes`, one after another.
///
/// With all classes in a chunk, its rows are closed and turned into their gradient while it is there. With
/// fewer, all blocks of classes go by twice, once to close the rows and once for their gradient, unless what
/// is given closes them (a saved lse, the statistics of shards) or the gradient of the weight keeps
/// the scores until it is written. No result has other bits for it, but for the
/// gradient of `info_nce`'s scale from what was given, and where products go through cooperative matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Path {
    /// Rows of a chunk.
    pub rows: u64,
    /// Classes (or keys) of a chunk.
    pub classes: u64,
    /// Whether those are all.
    pub whole_rows: bool,
    /// How often the scores are made where gradients are wanted.
    pub passes: u64,
    /// Rows before these whose scores lie in the gradient of the weight until it is written: their chunks
    /// are blocks of classes, and their scores are made once.
    pub kept_rows: u64,
    /// Why.
    pub why: &'static str,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, classes, passes, kept_rows, why, .. } = self;
        if *kept_rows > 0 {
            write!(f, "scores of the first {kept_rows} rows in grad.weight until it is written; ")?;
        }
        let what = if self.whole_rows { "chunks of whole rows" } else { "blocks of classes" };
        let times = match passes {
            0 | 1 => "made once",
            2 => "made twice",
            _ => "made three times",
        };
        write!(f, "{what}, {rows} × {classes} scores at a time, {times}: {why}")
    }
}

impl Plan {
    /// Bytes of all parameter blocks, each at a multiple of 256.
    pub fn params_bytes(&self) -> u64 {
        self.dispatches.len() as u64 * Self::PARAMS_STRIDE
    }

    /// The parameter blocks one after another, as the dispatches' uniform bindings see them.
    pub fn parameter_bytes(&self) -> Vec<u8> {
        let stride = Self::PARAMS_STRIDE as usize;
        let mut bytes = vec![0u8; self.dispatches.len().max(1) * stride];
        for (block, dispatch) in bytes.chunks_exact_mut(stride).zip(&self.dispatches) {
            for (place, word) in block.as_chunks_mut().0.iter_mut().zip(&dispatch.params) {
                *place = word.to_le_bytes();
            }
        }
        bytes
    }

    /// Ranges of dispatches that are short enough for a submission each, in order: everything in one,
    /// except where [`Profile::submission_dispatches`] says otherwise (on OpenGL).
    ///
    /// A dispatch is planned to take a tenth of a second at most, so that a range of ten keeps within a
    /// second. Callers of [`crate::Prepared::encode`] who record on their own encoder cut there with
    /// [`crate::Prepared::encode_part`], an encoder and a submission for each range. Where this cuts a call in
    /// several, the prepared call has scratch of its own.
    pub fn submissions(&self, profile: &Profile) -> impl Iterator<Item = Range<usize>> + use<> {
        let all = self.dispatches.len();
        let most = (profile.submission_dispatches as usize).max(1);
        (0..all).step_by(most).map(move |first| first..all.min(first.saturating_add(most)))
    }

    /// Bytes from one parameter block to the next.
    pub const PARAMS_STRIDE: u64 = 256;
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}: {} dispatches of {} kernels in {} window(s), {} bytes of scratch",
            self.loss,
            self.dispatches.len(),
            self.kernels.len(),
            self.windows,
            self.scratch_bytes
        )?;
        if let Some(path) = &self.path {
            writeln!(f, "  {path}")?;
        }
        for dispatch in &self.dispatches {
            let kernel = self.kernels.get(dispatch.kernel);
            let [x, y, z] = dispatch.workgroups;
            writeln!(f, "  {} × ({x}, {y}, {z})", kernel.map_or("?", |k| k.label.as_str()))?;
            for (stream, binding) in
                kernel.into_iter().flat_map(Kernel::bound).zip(&dispatch.bindings)
            {
                writeln!(
                    f,
                    "    {:<16} {:?} bytes {}..{}",
                    stream.name,
                    binding.role,
                    binding.offset,
                    binding.offset + binding.size
                )?;
            }
        }
        Ok(())
    }
}

/// A parameter's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A `u32`.
    U32(u32),
    /// An `f32`.
    F32(f32),
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::U32(value as u32)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::F32(value as f32)
    }
}
