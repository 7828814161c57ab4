//! The identity of one specialised kernel, and the WGSL that it is compiled from.
//!
//! A module consists of plain files (`shaders/`) behind a prologue that is generated: the parameter struct, the
//! bindings, and the accessors of each stream. A stream that a call does not have becomes a constant, so the files
//! need neither flags nor dummy buffers for it. The element type and the alignment of a stream change only its
//! accessors and, for products, which file is used (`shaders/linear/quads.wgsl` or
//! `shaders/linear/octets.wgsl`).

mod code;
mod known;
mod overrides;
pub(crate) mod record;

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::data::tensor::Dtype;

/// A text that is built in, or one that was read back.
pub type Text = Cow<'static, str>;

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`, also for an input that shares its buffer with something that is written.
    ReadWrite,
}

/// A storage binding of a kernel: an array.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Storage {
    /// The name in WGSL.
    pub name: Text,
    /// How the kernel uses the binding.
    pub access: Access,
    /// The WGSL type of an element of the array.
    pub element: Text,
    /// The type of the numbers, if the array is a tensor of floats, or of i8 that are read as floats.
    pub floats: Option<Dtype>,
    /// The name under which the kernel stores floats: that of the binding, or another one if the kernel writes them
    /// over those that it reads.
    pub stored_as: Option<Text>,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Scalar {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

/// A WGSL file that a module contains.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The path below `shaders/`, for the markers in the assembled module.
    pub path: &'static str,
    /// The text of the file.
    pub text: &'static str,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        // Nearly always it is the same file at the same place.
        let same = std::ptr::eq(self.text, other.text) || self.text == other.text;
        self.path == other.path && same
    }
}

impl Eq for Source {}

/// Hashes only the path: the texts are long, and every preparation looks kernels up.
impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

/// Includes a file of `shaders/`.
macro_rules! shader {
    ($path:literal) => {
        $crate::plan::kernel::Source {
            path: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
        }
    };
}
pub(crate) use code::{Addressing, ElementStorage, Label, Name, Order, Stream};
pub(crate) use known::Draft;
pub(crate) use shader;

/// Sizes that Rust and WGSL share. They are written into every module, so that they are defined in one place.
pub(crate) mod size {
    /// Words of a row in the output `statistics`, for every loss: the state that shards exchange.
    pub const STATISTICS: u32 = crate::spec::shard::STATE_WORDS as u32;
    /// The words of a row's record that hold its loss and its flags. The loss defines the words behind them: see
    /// `row::RowProgram`.
    pub const RECORD_LOSS: u32 = 0;
    pub const RECORD_FLAGS: u32 = 1;
    /// Words of a tally.
    pub const TALLY: u32 = 13;
    /// Entries of the row table before that of the first row.
    pub const HEADER: u32 = 4;
    /// Rows, or tallies, that one workgroup folds into one tally.
    pub const BLOCK: u32 = 1024;

    pub(super) const ALL: [(&str, u32); 6] = [
        ("STATISTICS_WORDS", STATISTICS),
        ("RECORD_LOSS", RECORD_LOSS),
        ("RECORD_FLAGS", RECORD_FLAGS),
        ("TALLY_WORDS", TALLY),
        ("HEADER", HEADER),
        ("BLOCK", BLOCK),
    ];
}

/// One specialisation of a kernel: what is compiled, without the numbers that it runs on.
///
/// Kernels are equal if their code is equal. The label only says what a dispatch is for, so two labels may share one
/// compiled kernel.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Kernel {
    /// The label, such as `surprisal.row.fused.cross_entropy.f32`.
    pub label: String,
    /// The entry point.
    pub entry: Text,
    /// The module.
    pub wgsl: Arc<str>,
    /// The storage, from binding 1. The parameters are the uniform at binding 0.
    pub storage: Vec<Storage>,
    /// The parameters, each one word.
    pub fields: Vec<(Text, Scalar)>,
    /// The values of the overrides (booleans are 0 and 1).
    pub overrides: Vec<(Text, u32)>,
}

impl Kernel {
    /// The value that the kernel gives an override.
    pub fn value_of(&self, overridden: &str) -> Option<u32> {
        let found = self.overrides.iter().find(|(name, _)| name == overridden);
        found.map(|&(_, value)| value)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        // The module declares the storage and the fields. A plan that was read back may contradict its module in how a
        // binding is used; then it must not get the compiled kernel of one that does not.
        let Self { label: _, entry, wgsl, storage, fields: _, overrides } = self;
        let access = |storage: &Storage| storage.access;
        *entry == other.entry
            && *overrides == other.overrides
            && storage.iter().map(access).eq(other.storage.iter().map(access))
            && *wgsl == other.wgsl
    }
}

impl Eq for Kernel {}

/// Hashes only the length of the module, because every preparation looks kernels up.
impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.entry, self.wgsl.len(), &self.overrides).hash(state);
    }
}
