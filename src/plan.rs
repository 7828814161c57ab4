//! The plan of a call as plain data: which kernels are dispatched, on which bytes, with which numbers.
//!
//! A [`Plan`] is made from shapes and limits alone. It can be printed, tested without a GPU, and replayed by anything
//! that can run WGSL; encoding only walks through it. With the feature `serde` it travels: it is serialised whole, with
//! the WGSL of its kernels, reads back as an equal plan, and runs on another device with [`crate::Gpu::replay`].

mod check;
pub(crate) mod cooperative;
pub mod kernel;
pub(crate) mod limits;
mod planner;
pub(crate) mod profile;
pub(crate) mod recording;
mod row_counts;
#[cfg(feature = "cases")]
pub(crate) mod shaders;
pub(crate) mod stretches;
pub(crate) mod tile;
mod view;

use std::sync::Arc;

use crate::plan::kernel::{Access, Text};

pub use crate::spec::call::{Call, Operand};
pub(crate) use planner::{Planner, Step};
pub(crate) use recording::Plan;
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
    /// The parameters, word by word, in the order of [`kernel::Kernel::fields`].
    pub params: Vec<u32>,
    /// The workgroups in x, y and z.
    pub workgroups: [u32; 3],
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
