//! The plan of a call as plain data: which kernels are dispatched, on which bytes, with which numbers.
//!
//! A [`Plan`] is made from shapes and limits alone. It can be printed, tested without a GPU, and replayed by anything
//! that can run WGSL; encoding only walks through it. With the feature `serde` it travels: it is serialised whole, with
//! the WGSL of its kernels, reads back as an equal plan, and runs on another device with [`crate::Gpu::replay`].

mod check;
pub mod cooperative;
pub mod kernel;
pub(crate) mod limits;
mod planner;
pub mod profile;
mod row_counts;
#[cfg(feature = "cases")]
pub(crate) mod shaders;
pub(crate) mod stretches;
pub(crate) mod tile;
mod view;

use std::{ops::Range, sync::Arc};

use crate::plan::{
    kernel::{Access, Kernel, Text},
    profile::Profile,
};

pub use crate::spec::call::{Call, Operand};
pub(crate) use planner::{Planner, Step};
pub use row_counts::row_counts;
pub(crate) use view::{Addressed, View};

/// What a binding is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Role {
    /// An input of the call.
    Input(Arc<str>),
    /// An output of the call.
    Output(Arc<str>),
    /// The call's scratch.
    Scratch,
    /// Bytes that the plan holds. The number is an index into [`Plan::constants`].
    Constant(usize),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(name) => write!(f, "input `{name}`"),
            Self::Output(name) => write!(f, "output `{name}`"),
            Self::Scratch => f.write_str("the scratch"),
            Self::Constant(number) => write!(f, "constant {number} of the plan"),
        }
    }
}

/// A binding of a dispatch: a range of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Binding {
    /// What is bound.
    pub role: Role,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub size: u64,
    /// How the kernel uses the range.
    pub access: Access,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Dispatch {
    /// The kernel, as an index into [`Plan::kernels`].
    pub kernel: usize,
    /// The bindings behind the parameters, in the order of their numbers (from 1).
    pub bindings: Vec<Binding>,
    /// The parameters, word by word, in the order of [`Kernel::fields`].
    pub params: Vec<u32>,
    /// The workgroups in x, y and z.
    pub workgroups: [u32; 3],
}

/// A recording: kernels, dispatches in order, and the scratch they share.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plan {
    /// The name of the loss.
    pub loss: String,
    /// The kernels, each once.
    pub kernels: Vec<Arc<Kernel>>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// Host inputs, as the bytes that kernels read. Each is bound from a buffer of its own, with zeros behind the bytes
    /// up to the next multiple of 256.
    pub constants: Vec<Vec<u8>>,
    /// The bytes of scratch.
    pub scratch_bytes: u64,
    /// The number of windows: stretches of rows or elements that are dispatched one after another.
    pub windows: u64,
    /// The bytes of the logits, where the plan does not store them.
    pub unstored_bytes: u64,
    /// How logits that are not stored are made.
    pub path: Option<Path>,
}

/// How logits that are never stored whole are made: in chunks of `rows` × `classes`, one after another.
///
/// If a chunk has all classes, its rows are closed and replaced by their gradient while the chunk is in memory. If it
/// has fewer, all blocks of classes are made twice: once to close the rows, and once for their gradient. Once is
/// enough where the call gives what closes the rows (a saved lse, the statistics of shards), or where the gradient of
/// the weight keeps the scores until it is written. The choice changes no bit of a result, with two exceptions: the
/// gradient of `info_nce`'s scale from what was given, and products that go through cooperative matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Path {
    /// Rows of a chunk.
    pub rows: u64,
    /// Classes (or keys) of a chunk.
    pub classes: u64,
    /// Whether `classes` is all classes.
    pub whole_rows: bool,
    /// How often the scores are made, where gradients are wanted.
    pub passes: u64,
    /// The number of rows before these whose scores lie in the gradient of the weight until it is written. Their
    /// chunks are blocks of classes, and their scores are made once.
    pub kept_rows: u64,
    /// Why this path was chosen.
    pub why: Text,
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
    /// The bytes of all parameter blocks, each of which begins at a multiple of 256.
    pub fn params_bytes(&self) -> u64 {
        self.dispatches.len() as u64 * Self::PARAMS_STRIDE
    }

    /// What another plan of the same call differs in beside its parameters.
    pub(crate) fn other_code(&self, other: &Self) -> Option<String> {
        for (own, kernel) in self.kernels.iter().zip(&other.kernels) {
            let overrides = own.overrides.iter().zip(&kernel.overrides);
            let mut changed = overrides.filter(|(own, other)| own != other);
            if let Some(((name, value), (_, before))) = changed.next() {
                let label = &own.label;
                return Some(format!(
                    "`{name}` of the kernel `{label}` changes from {before} to {value}"
                ));
            }
        }
        let sizes = |plan: &Self| (plan.scratch_bytes, plan.dispatches.len());
        let same = |(own, other): (&Dispatch, &Dispatch)| {
            let code = |dispatch: &Dispatch| (dispatch.kernel, dispatch.workgroups);
            code(own) == code(other) && own.bindings == other.bindings
        };
        let equal = self.kernels == other.kernels
            && sizes(self) == sizes(other)
            && self.constants == other.constants
            && self.dispatches.iter().zip(&other.dispatches).all(same);
        (!equal).then(|| "an option changes the kernels".to_owned())
    }

    /// The bytes of its buffer that the plan binds for a role, from the first byte on.
    pub fn bytes_of(&self, role: &Role) -> u64 {
        let bindings = self.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        let ends = bindings.filter(|binding| binding.role == *role);
        ends.map(|binding| binding.offset.saturating_add(binding.size)).max().unwrap_or(0)
    }

    /// The parameter blocks one after another, as the uniform bindings of the dispatches expect them.
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

    /// Ranges of dispatches, in order. Each range is short enough for a submission of its own. One range has all
    /// dispatches, unless [`Profile::submission_dispatches`] asks for more (on OpenGL).
    ///
    /// A dispatch is planned to take at most a tenth of a second, so a range of ten takes at most one second. A caller
    /// who records [`crate::Prepared::encode`] on an encoder of their own cuts a call at these ranges with
    /// [`crate::Prepared::encode_part`], with an encoder and a submission for each range. Where a call is cut in
    /// several ranges, the prepared call has scratch of its own.
    pub fn submissions(&self, profile: &Profile) -> impl Iterator<Item = Range<usize>> + use<> {
        let all = self.dispatches.len();
        let most = (profile.submission_dispatches as usize).max(1);
        (0..all).step_by(most).map(move |first| first..all.min(first.saturating_add(most)))
    }

    /// The distance from one parameter block to the next, in bytes.
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
                kernel.into_iter().flat_map(|kernel| &kernel.storage).zip(&dispatch.bindings)
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

/// The value of a parameter.
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
