//! The code of a kernel as data, and the WGSL that is assembled from it.

mod accessors;

use std::{
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
};

use super::{Access, Scalar, Source, Storage, record::Declared, shader, size};
use crate::data::tensor::Dtype;

/// The parts of a kernel's label, in their order. Its text begins with `surprisal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub skeleton: &'static str,
    pub kernel: &'static str,
    pub loss: Option<&'static str>,
    pub dtype: Option<Dtype>,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { skeleton, kernel, loss, dtype } = self;
        write!(f, "surprisal.{skeleton}.{kernel}")?;
        loss.iter().try_for_each(|loss| write!(f, ".{loss}"))?;
        dtype.iter().try_for_each(|dtype| write!(f, ".{dtype}"))
    }
}

/// The name of a parameter: that of a stream and what the parameter says of it (`logits_stride`, `mask_below2`), or a
/// name by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    stream: &'static str,
    part: &'static str,
    number: Option<u32>,
}

impl Name {
    /// A parameter of a stream.
    pub fn of(stream: &'static str, part: &'static str) -> Self {
        Self { stream, part, number: None }
    }

    /// One of several such parameters.
    pub fn nth(self, number: u32) -> Self {
        Self { number: Some(number), ..self }
    }
}

impl From<&'static str> for Name {
    fn from(name: &'static str) -> Self {
        Self::of(name, "")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, part, number } = self;
        write!(f, "{stream}{part}")?;
        number.iter().try_for_each(|number| write!(f, "{number}"))
    }
}

/// How the elements of a stream are bound and accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ElementStorage {
    /// The stream is not given: every element reads as these bits, and stores do nothing.
    Absent(u32),
    /// The stream of integers is not given: every element is 0.
    AbsentIntegers,
    /// Float elements, four a load. Every row starts at a multiple of four elements.
    Quads(Dtype),
    /// f32 elements as 64-bit words of two elements, with this many elements (4 or 8) a load. Every row starts at a
    /// multiple of this many elements.
    Wide(u32),
    /// Float elements at any place, one a load.
    Elements(Dtype),
    /// i8 elements at any place, four to a word, that the kernel's function `dequantized` makes floats of.
    Quantized,
    /// Integer elements as two words, sign-extended.
    Integers(Dtype),
    /// Bytes that read as 1.0 where they are not 0, else as 0.0.
    Bytes,
    /// Bits that read as the floats 0 and 1, starting with the lowest bit of the first word.
    Bits,
    /// Plain words, read and written by index.
    Words,
    /// An array of a WGSL type that the module declares.
    Table(&'static str),
}

/// How a quad in a walk over all elements, row after row, finds its elements in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Addressing {
    /// The stream lies in memory in the order of the walk, or it is not given.
    Flat,
    /// The quad lies inside one row.
    Row,
    /// Each element is found by its row and column.
    Each,
    /// One element a row.
    Rows,
    /// One element a column, in a walk along planes.
    Channels,
    /// One element a row, in a walk along planes.
    Pixels,
    /// One element for all.
    One,
    /// The stream has only some of the axes that count the rows; these form several groups.
    Axes {
        /// The number of groups. Their parameters are `NAME_below0`, `NAME_extent0`, `NAME_step0` and so on.
        groups: u32,
        /// Whether there is one element a column, instead of one for all columns.
        columns: bool,
        /// Whether the walk is along planes.
        planes: bool,
    },
}

/// The order of a stream's elements in memory: how `NAME_base` and the strides make an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// The columns of a row lie side by side.
    #[default]
    Plain,
    /// Every column is a plane of `NAME_plane` rows.
    Planes,
    /// Strips of `NAME_plane` columns lie side by side; from one strip to the next are `NAME_strip` elements.
    Strips,
}

/// A named tensor of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    /// The name in WGSL.
    pub name: &'static str,
    /// How the stream is bound.
    pub storage: ElementStorage,
    /// How the kernel uses the binding.
    pub access: Access,
    /// The stream whose binding this one shares: its elements are overwritten.
    pub in_place_of: Option<&'static str>,
    /// Whether the kernel stores to the stream.
    pub stored: bool,
    /// The parameter with the number of columns of a row. Accessors touch nothing past these columns.
    pub columns: &'static str,
    /// How a walk over all elements finds the elements, if the kernel makes such a walk.
    pub addressing: Option<Addressing>,
    /// The order of the elements in memory.
    pub order: Order,
}

/// What a module is assembled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Code {
    /// The entry point.
    pub entry: &'static str,
    /// What the kernel knows of the records of rows.
    pub declared: Declared,
    /// The files behind the prologue.
    pub sources: Vec<Source>,
    /// The tensors.
    pub streams: Vec<Stream>,
    /// The parameters, each one word.
    pub fields: Vec<(Name, Scalar)>,
}

/// Hashes only what tells nearly all modules apart, because every plan looks all its kernels up.
impl Hash for Code {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { entry, declared: _, sources, streams, fields } = self;
        (entry, sources.last(), fields.len()).hash(state);
        for stream in streams {
            stream.storage.hash(state);
        }
    }
}

impl Source {
    /// The `enable` lines at the top of the file, which must be at the top of the module, and the rest of the file.
    fn parts(&self) -> (&'static str, &'static str) {
        let text = self.current();
        let directives = text.split_inclusive('\n').take_while(|l| l.starts_with("enable "));
        text.split_at(directives.map(str::len).sum())
    }

    #[cfg(feature = "cases")]
    pub(super) fn current(&self) -> &'static str {
        crate::plan::shaders::replacement(self.path).unwrap_or(self.text)
    }

    #[cfg(not(feature = "cases"))]
    pub(super) fn current(&self) -> &'static str {
        self.text
    }
}

impl Stream {
    /// The name of the binding.
    fn buffer(&self) -> &'static str {
        self.in_place_of.unwrap_or(self.name)
    }

    /// Whether the stream has a binding of its own.
    fn is_bound(&self) -> bool {
        let absent =
            matches!(self.storage, ElementStorage::Absent(_) | ElementStorage::AbsentIntegers);
        !absent && self.in_place_of.is_none()
    }

    /// The type of its numbers, if they are floats or are read as floats.
    fn floats(&self) -> Option<Dtype> {
        match self.storage {
            ElementStorage::Quads(dtype) | ElementStorage::Elements(dtype) => Some(dtype),
            ElementStorage::Wide(_) => Some(Dtype::F32),
            ElementStorage::Quantized => Some(Dtype::I8),
            _ => None,
        }
    }
}

impl Code {
    /// The assembled module.
    pub fn wgsl(&self) -> String {
        let mut text: String = self.sources.iter().map(|source| source.parts().0).collect();
        text.push_str(&self.prologue());
        for source in self.decoders().iter().chain(&self.sources) {
            let _ = write!(text, "\n// ---- {} ----\n{}", source.path, source.parts().1);
        }
        text
    }

    /// The streams that have a binding of their own, in the order of their binding numbers (from 1; the parameters are
    /// binding 0).
    fn bound(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(|stream| stream.is_bound())
    }

    /// The storage bindings.
    pub fn storage(&self) -> Vec<Storage> {
        let storage = |stream: &Stream| {
            let stored = |s: &&Stream| s.stored && s.buffer() == stream.name;
            Storage {
                name: stream.name.into(),
                access: stream.access,
                element: self.element(stream).into(),
                floats: stream.floats(),
                stored_as: self.streams.iter().find(stored).map(|s| s.name.into()),
            }
        };
        self.bound().map(storage).collect()
    }

    fn uses(&self, is: impl Fn(&Stream) -> bool) -> bool {
        self.streams.iter().any(is)
    }

    /// The files that decode the 16-bit types, the i8 and the 64-bit words of the streams.
    fn decoders(&self) -> Vec<Source> {
        let of = |dtype| self.uses(|s| s.floats() == Some(dtype));
        let mut files = vec![shader!("math.wgsl")];
        if of(Dtype::F16) {
            files.push(shader!("dtype/f16.wgsl"));
        }
        if of(Dtype::Bf16) {
            files.push(shader!("dtype/bf16.wgsl"));
        }
        if of(Dtype::I8) {
            files.push(shader!("dtype/i8.wgsl"));
        }
        if self.uses(|s| matches!(s.storage, ElementStorage::Wide(_))) {
            files.push(shader!("dtype/wide.wgsl"));
        }
        files
    }

    fn prologue(&self) -> String {
        let mut text = String::new();
        for (name, value) in size::ALL {
            let _ = writeln!(text, "const {name}: u32 = {value}u;");
        }
        text.push_str(&self.declared.wgsl());
        text.push_str("struct Params {\n");
        for (name, scalar) in &self.fields {
            let scalar = match scalar {
                Scalar::U32 => "u32",
                Scalar::F32 => "f32",
            };
            let _ = writeln!(text, "    {name}: {scalar},");
        }
        text.push_str("}\n@group(0) @binding(0) var<uniform> params: Params;\n");
        for (index, stream) in self.bound().enumerate() {
            let access = match stream.access {
                Access::Read => "read",
                Access::ReadWrite => "read_write",
            };
            let _ = writeln!(
                text,
                "@group(0) @binding({}) var<storage, {access}> {}: array<{}>;",
                index + 1,
                stream.name,
                self.element(stream),
            );
        }
        for stream in &self.streams {
            self.accessors(stream, &mut text);
        }
        #[cfg(feature = "cases")]
        let text = crate::plan::shaders::edited(text);
        text
    }

    /// Whether two lanes may write halves of the same word of a binding, so that the words must be atomic.
    fn atomic(&self, stream: &Stream) -> bool {
        let halves =
            |s: &Stream| matches!(s.storage, ElementStorage::Elements(d) if d.bytes() == 2);
        halves(stream)
            && (stream.stored || self.uses(|s| s.in_place_of == Some(stream.name) && s.stored))
    }

    fn element(&self, stream: &Stream) -> &'static str {
        match stream.storage {
            ElementStorage::Quads(dtype) if dtype.bytes() == 2 => "vec2<u32>",
            ElementStorage::Quads(_) => "vec4<u32>",
            ElementStorage::Wide(4) => "vec2<u64>",
            ElementStorage::Wide(_) => "vec4<u64>",
            ElementStorage::Elements(_) if self.atomic(stream) => "atomic<u32>",
            ElementStorage::Table(element) => element,
            _ => "u32",
        }
    }
}
