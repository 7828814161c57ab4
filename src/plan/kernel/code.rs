//! The code of a kernel as data, and the WGSL that is assembled from it.

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
pub(crate) enum Form {
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
pub(crate) enum Reach {
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
    /// Groups of `NAME_plane` columns lie side by side; from one group to the next are `NAME_fold` elements.
    Folded,
}

/// A named tensor of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    /// The name in WGSL.
    pub name: &'static str,
    /// How the stream is bound.
    pub form: Form,
    /// How the kernel uses the binding.
    pub access: Access,
    /// The stream whose binding this one shares: its elements are overwritten.
    pub in_place_of: Option<&'static str>,
    /// Whether the kernel stores to the stream.
    pub stored: bool,
    /// The parameter with the number of columns of a row. Accessors touch nothing past these columns.
    pub columns: &'static str,
    /// How a walk over all elements finds the elements, if the kernel makes such a walk.
    pub reach: Option<Reach>,
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
            stream.form.hash(state);
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
        let absent = matches!(self.form, Form::Absent(_) | Form::AbsentIntegers);
        !absent && self.in_place_of.is_none()
    }

    /// The type of its numbers, if they are floats.
    fn floats(&self) -> Option<Dtype> {
        match self.form {
            Form::Quads(dtype) | Form::Elements(dtype) => Some(dtype),
            Form::Wide(_) => Some(Dtype::F32),
            _ => None,
        }
    }

    /// The address of an element, as a WGSL expression of its row and column.
    fn address(&self, row: &str, column: &str) -> String {
        let name = self.buffer();
        let [base, stride, plane, fold] =
            ["base", "stride", "plane", "fold"].map(|field| format!("params.{name}_{field}"));
        match self.order {
            Order::Plain => format!("{base} + {row} * {stride} + {column}"),
            Order::Planes => format!(
                "{base} + ({row} / {plane}) * {stride} + {row} % {plane} + ({column}) * {plane}"
            ),
            Order::Folded => format!(
                "{base} + {row} * {stride} + (({column}) / {plane}) * {fold} + ({column}) % {plane}"
            ),
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

    /// The files that decode the 16-bit types and the 64-bit words of the streams.
    fn decoders(&self) -> Vec<Source> {
        let of = |dtype| {
            self.uses(|s| matches!(s.form, Form::Quads(d) | Form::Elements(d) if d == dtype))
        };
        let mut files = vec![shader!("math.wgsl")];
        if of(Dtype::F16) {
            files.push(shader!("dtype/f16.wgsl"));
        }
        if of(Dtype::Bf16) {
            files.push(shader!("dtype/bf16.wgsl"));
        }
        if self.uses(|s| matches!(s.form, Form::Wide(_))) {
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
        let halves = |s: &Stream| matches!(s.form, Form::Elements(d) if d.bytes() == 2);
        halves(stream)
            && (stream.stored || self.uses(|s| s.in_place_of == Some(stream.name) && s.stored))
    }

    fn element(&self, stream: &Stream) -> &'static str {
        match stream.form {
            Form::Quads(dtype) if dtype.bytes() == 2 => "vec2<u32>",
            Form::Quads(_) => "vec4<u32>",
            Form::Wide(4) => "vec2<u64>",
            Form::Wide(_) => "vec4<u64>",
            Form::Elements(_) if self.atomic(stream) => "atomic<u32>",
            Form::Table(element) => element,
            _ => "u32",
        }
    }

    fn accessors(&self, stream: &Stream, text: &mut String) {
        let name = stream.name;
        let _ = match &stream.form {
            Form::Absent(bits) => write!(
                text,
                "fn {name}_at(row: u32, column: u32) -> u32 {{ return {bits}u; }}\n\
                 fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ return vec4<u32>({bits}u); }}\n\
                 fn {name}_store(row: u32, column: u32, bits: vec4<u32>) {{}}\n\
                 fn {name}_write(at: u32, word: u32) {{}}\n\
                 fn {name}_read(at: u32) -> u32 {{ return {bits}u; }}\n"
            ),
            Form::AbsentIntegers => {
                writeln!(text, "fn {name}_at(row: u32) -> vec2<u32> {{ return vec2<u32>(0u); }}")
            }
            Form::Bytes | Form::Bits => {
                let (word, place, mask) = match stream.form {
                    Form::Bytes => ("at >> 2u", "(at & 3u) * 8u", 255),
                    _ => ("at >> 5u", "at & 31u", 1),
                };
                // The bits of the floats 1.0 and 0.0.
                write!(
                    text,
                    "fn {name}_at(row: u32, column: u32) -> u32 {{ \
                     let at = {}; \
                     return select(0u, 0x3f800000u, (({name}[{word}] >> ({place})) & {mask}u) != 0u); }}\n\
                     fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ \
                     let last = params.classes - 1u; return vec4<u32>({name}_at(row, column), \
                     {name}_at(row, min(column + 1u, last)), {name}_at(row, min(column + 2u, last)), \
                     {name}_at(row, min(column + 3u, last))); }}\n",
                    stream.address("row", "column")
                )
            }
            Form::Words => write!(
                text,
                "fn {name}_read(at: u32) -> u32 {{ return {name}[params.{name}_base + at]; }}\n{}",
                if stream.access == Access::ReadWrite {
                    format!(
                        "fn {name}_write(at: u32, word: u32) {{ \
                         {name}[params.{name}_base + at] = word; }}\n"
                    )
                } else {
                    String::new()
                }
            ),
            Form::Integers(dtype) => {
                let body = match dtype {
                    Dtype::I64 => format!("vec2<u32>({name}[2u * i], {name}[2u * i + 1u])"),
                    Dtype::I32 => {
                        format!(
                            "vec2<u32>({name}[i], bitcast<u32>(bitcast<i32>({name}[i]) >> 31u))"
                        )
                    }
                    _ => format!("vec2<u32>({name}[i], 0u)"),
                };
                writeln!(
                    text,
                    "fn {name}_at(row: u32) -> vec2<u32> {{ \
                     let i = params.{name}_base + row * params.{name}_stride; return {body}; }}"
                )
            }
            Form::Table(_) => Ok(()),
            Form::Wide(elements) => {
                wide_accessors(stream, *elements, text);
                Ok(())
            }
            Form::Quads(dtype) | Form::Elements(dtype) => {
                self.float_accessors(stream, *dtype, text);
                Ok(())
            }
        };
        if let (Form::Absent(bits), true) = (&stream.form, self.uses(|s| s.form == Form::Wide(8))) {
            let _ = writeln!(
                text,
                "fn {name}_octet(row: u32, column: u32) -> mat2x4<f32> {{ \
                 let bits = bitcast<vec4<f32>>(vec4<u32>({bits}u)); \
                 return mat2x4<f32>(bits, bits); }}"
            );
        }
        if let Some(reach) = stream.reach {
            Self::walk_accessors(stream, reach, text);
        }
    }

    /// `NAME_take` and `NAME_give`: read and write the elements at a `Place` of a walk (`shaders/element.wgsl`).
    fn walk_accessors(stream: &Stream, reach: Reach, text: &mut String) {
        let name = stream.name;
        let of_each = |element: &dyn Fn(u32) -> String| {
            let elements: Vec<String> = (0..4).map(element).collect();
            format!("vec4<u32>({})", elements.join(", "))
        };
        let taken = match reach {
            Reach::Flat => format!("{name}_quad(0u, p.at)"),
            Reach::Row => format!("{name}_quad(p.row.x, p.column.x)"),
            Reach::Each => of_each(&|i| format!("{name}_at(p.row[{i}], p.column[{i}])")),
            Reach::Rows => of_each(&|i| format!("{name}_at(p.row[{i}], 0u)")),
            Reach::Channels => of_each(&|i| format!("{name}_at(0u, channel_of(p.at + {i}u))")),
            Reach::Pixels => of_each(&|i| format!("{name}_at(pixel_of(p.at + {i}u), 0u)")),
            Reach::One => format!("vec4<u32>({name}_at(0u, 0u))"),
            Reach::Axes { groups, columns, planes } => {
                own_row(name, groups, text);
                of_each(&|i| {
                    let (row, column) = if planes {
                        (format!("pixel_of(p.at + {i}u)"), format!("channel_of(p.at + {i}u)"))
                    } else {
                        (format!("p.row[{i}]"), format!("p.column[{i}]"))
                    };
                    let column = if columns { column.as_str() } else { "0u" };
                    format!("{name}_at({name}_row({row}), {column})")
                })
            }
        };
        if stream.in_place_of.is_none() {
            let _ = writeln!(text, "fn {name}_take(p: Place) -> vec4<u32> {{ return {taken}; }}");
        }
        let given = match reach {
            _ if matches!(stream.form, Form::Absent(_)) => String::new(),
            _ if !stream.stored => return,
            Reach::Flat => format!("{name}_store(0u, p.at, bits);"),
            Reach::Row => format!("{name}_store(p.row.x, p.column.x, bits);"),
            _ => {
                let put = |i| format!("if (inside[{i}]) {{ {} }}", Self::put(stream, i));
                (0..4).map(put).collect::<Vec<_>>().join(" ")
            }
        };
        let _ = writeln!(
            text,
            "fn {name}_give(p: Place, inside: vec4<bool>, bits: vec4<u32>) {{ {given} }}"
        );
    }

    /// The WGSL that stores one element by its row and column.
    fn put(stream: &Stream, i: u32) -> String {
        let buffer = stream.buffer();
        let at = stream.address(&format!("p.row[{i}]"), &format!("p.column[{i}]"));
        match stream.form {
            Form::Elements(dtype) if dtype.bytes() == 2 => format!(
                "let at = {at}; let shift = (at & 1u) * 16u; \
                 atomicAnd(&{buffer}[at >> 1u], ~(0xffffu << shift)); \
                 atomicOr(&{buffer}[at >> 1u], {dtype}_encode(bits[{i}]) << shift);"
            ),
            _ => format!("{buffer}[{at}] = bits[{i}];"),
        }
    }

    fn float_accessors(&self, stream: &Stream, dtype: Dtype, text: &mut String) {
        let name = stream.name;
        let quads = matches!(stream.form, Form::Quads(_));
        let buffer = stream.buffer();
        let at = stream.address("row", "column");
        if stream.in_place_of.is_none() {
            let (one, quad) = if quads {
                quad_loads(name, dtype)
            } else if stream.order != Order::Plain {
                apart_loads(stream, dtype, self.atomic(stream))
            } else {
                element_loads(stream, dtype, self.atomic(stream))
            };
            let _ = write!(
                text,
                "fn {name}_at(row: u32, column: u32) -> u32 {{ let at = {at}; return {one}; }}\n\
                 fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ let at = {at}; {quad} }}\n"
            );
        }
        if stream.stored {
            let body = if quads {
                quad_store(buffer, dtype)
            } else if stream.order != Order::Plain {
                apart_store(stream, buffer, dtype)
            } else if dtype.bytes() == 4 {
                element_store(buffer, stream.columns)
            } else {
                half_store(buffer, dtype, stream.columns)
            };
            let _ = writeln!(
                text,
                "fn {name}_store(row: u32, column: u32, bits: vec4<u32>) {{ let at = {at}; {body} }}"
            );
        }
    }
}

/// The function that maps a row of the walk to a row of a tensor that lacks some of the axes.
fn own_row(name: &str, groups: u32, text: &mut String) {
    let index = |k: u32| {
        format!("row / params.{name}_below{k} % params.{name}_extent{k} * params.{name}_step{k}")
    };
    let sum: Vec<String> = (0..groups).map(index).collect();
    let _ = writeln!(
        text,
        "fn {name}_row(walked: u32) -> u32 {{ let row = walked + params.{name}_first; return {}; }}",
        sum.join(" + ")
    );
}

/// Loads where rows start at multiples of four elements. A last quad that extends past the row is inside the buffer,
/// and its columns past the row are not used.
fn quad_loads(name: &str, dtype: Dtype) -> (String, String) {
    if dtype.bytes() == 4 {
        (format!("{name}[at >> 2u][at & 3u]"), format!("return {name}[at >> 2u];"))
    } else {
        (
            format!("{dtype}_one({name}[at >> 2u][(at >> 1u) & 1u], at & 1u)"),
            format!("return {dtype}_quad({name}[at >> 2u]);"),
        )
    }
}

/// Loads and stores of 64-bit words, one quad or two quads at a time.
fn wide_accessors(stream: &Stream, elements: u32, text: &mut String) {
    let name = stream.name;
    let buffer = stream.buffer();
    let at = stream.address("row", "column");
    let (load, store) = if elements == 4 {
        (
            format!(
                "fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ let at = {at}; \
                 return wide_quad({name}[at >> 2u]); }}\n"
            ),
            format!(
                "fn {name}_store(row: u32, column: u32, bits: vec4<u32>) {{ let at = {at}; \
                 {buffer}[at >> 2u] = wide_words(bits); }}\n"
            ),
        )
    } else {
        (
            format!(
                "fn {name}_octet(row: u32, column: u32) -> mat2x4<f32> {{ let at = {at}; \
                 let words = {name}[at >> 3u]; \
                 return mat2x4<f32>(bitcast<vec4<f32>>(wide_quad(words.xy)), \
                 bitcast<vec4<f32>>(wide_quad(words.zw))); }}\n"
            ),
            format!(
                "fn {name}_store_octet(row: u32, column: u32, left: vec4<u32>, right: vec4<u32>) {{ \
                 let at = {at}; \
                 {buffer}[at >> 3u] = vec4<u64>(wide_words(left), wide_words(right)); }}\n"
            ),
        )
    };
    if stream.in_place_of.is_none() {
        let (shift, last) = (elements.ilog2(), elements / 2 - 1);
        let _ = write!(
            text,
            "fn {name}_at(row: u32, column: u32) -> u32 {{ let at = {at}; \
             return wide_one({name}[at >> {shift}u][(at >> 1u) & {last}u], at & 1u); }}\n{load}"
        );
    }
    if stream.stored {
        text.push_str(&store);
    }
}

/// Loads of a quad at any address, element by element, without reading past the row.
fn element_loads(stream: &Stream, dtype: Dtype, atomic: bool) -> (String, String) {
    let Stream { name, columns, .. } = stream;
    let element = |at: &str| element_load(name, dtype, atomic, at);
    let rest: Vec<String> = (1..4).map(|i| element(&format!("min(at + {i}u, last)"))).collect();
    (
        element("at"),
        format!(
            "let last = at + min(params.{columns} - column, 4u) - 1u; return vec4<u32>({}, {});",
            element("at"),
            rest.join(", ")
        ),
    )
}

fn element_load(name: &str, dtype: Dtype, atomic: bool, at: &str) -> String {
    if dtype.bytes() == 4 {
        return format!("{name}[{at}]");
    }
    let word = format!("{name}[({at}) >> 1u]");
    let word = if atomic { format!("atomicLoad(&{word})") } else { word };
    format!("{dtype}_one({word}, ({at}) & 1u)")
}

/// Loads of columns that do not lie side by side, each from its own address.
fn apart_loads(stream: &Stream, dtype: Dtype, atomic: bool) -> (String, String) {
    let Stream { name, columns, .. } = stream;
    let elements: Vec<String> = (0..4)
        .map(|i| format!("{name}_at(row, min(column + {i}u, params.{columns} - 1u))"))
        .collect();
    (element_load(name, dtype, atomic, "at"), format!("return vec4<u32>({});", elements.join(", ")))
}

/// Stores of columns that do not lie side by side. 16-bit halves are stored one by one, because neighbours share a
/// word.
fn apart_store(stream: &Stream, buffer: &str, dtype: Dtype) -> String {
    let put = if dtype.bytes() == 4 {
        format!("{buffer}[here] = bits[i];")
    } else {
        format!(
            "let shift = (here & 1u) * 16u; atomicAnd(&{buffer}[here >> 1u], ~(0xffffu << shift)); \
             atomicOr(&{buffer}[here >> 1u], {dtype}_encode(bits[i]) << shift);"
        )
    };
    let here = stream.address("row", "(column + i)");
    format!(
        "let live = min(params.{} - column, 4u); \
         for (var i = 0u; i < live; i += 1u) {{ let here = {here}; {put} }}",
        stream.columns
    )
}

fn quad_store(buffer: &str, dtype: Dtype) -> String {
    if dtype.bytes() == 4 {
        format!("{buffer}[at >> 2u] = bits;")
    } else {
        format!("{buffer}[at >> 2u] = {dtype}_words(bits);")
    }
}

fn element_store(buffer: &str, columns: &str) -> String {
    (0..4).fold(format!("let live = params.{columns} - column; "), |body, i| {
        body + &format!("if (live > {i}u) {{ {buffer}[at + {i}u] = bits[{i}u]; }} ")
    })
}

/// Two rows, or two quads of a row that starts at an odd element, share a word. Therefore whole words are stored, and
/// halves are combined with and/or, so that neighbours never overwrite each other.
fn half_store(buffer: &str, dtype: Dtype, columns: &str) -> String {
    format!(
        "let end = at + min(params.{columns} - column, 4u); var i = at; \
         for (var n = 0u; n < 4u; n += 1u) {{ if (i >= end) {{ break; }} \
         let low = {dtype}_encode(bits[i - at]); let word = i >> 1u; \
         if ((i & 1u) == 0u && i + 1u < end) {{ \
         atomicStore(&{buffer}[word], low | ({dtype}_encode(bits[i - at + 1u]) << 16u)); i += 2u; \
         }} else {{ let shift = (i & 1u) * 16u; atomicAnd(&{buffer}[word], ~(0xffffu << shift)); \
         atomicOr(&{buffer}[word], low << shift); i += 1u; }} }}"
    )
}
