//! The accessors of streams: the WGSL functions with which kernels read and write tensors, whatever their types and
//! places.

use std::fmt::Write as _;

use super::{Addressing, Code, ElementStorage, Order, Stream};
use crate::{data::tensor::Dtype, plan::kernel::Access};

impl Stream {
    /// The address of an element, as a WGSL expression of its row and column.
    fn address(&self, row: &str, column: &str) -> String {
        let name = self.buffer();
        let [base, stride, plane, strip] =
            ["base", "stride", "plane", "strip"].map(|field| format!("params.{name}_{field}"));
        match self.order {
            Order::Plain => format!("{base} + {row} * {stride} + {column}"),
            Order::Planes => format!(
                "{base} + ({row} / {plane}) * {stride} + {row} % {plane} + ({column}) * {plane}"
            ),
            Order::Strips => format!(
                "{base} + {row} * {stride} + (({column}) / {plane}) * {strip} + ({column}) % {plane}"
            ),
        }
    }
}

/// A float stream or words that are not given: everything reads as these bits, and stores do nothing.
fn absent_accessors(name: &str, bits: u32, text: &mut String) {
    let _ = write!(
        text,
        "fn {name}_at(row: u32, column: u32) -> u32 {{ return {bits}u; }}\n\
         fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ return vec4<u32>({bits}u); }}\n\
         fn {name}_store(row: u32, column: u32, bits: vec4<u32>) {{}}\n\
         fn {name}_put(row: u32, column: u32, bits: u32) {{}}\n\
         fn {name}_write(at: u32, word: u32) {{}}\n\
         fn {name}_read(at: u32) -> u32 {{ return {bits}u; }}\n"
    );
}

/// A mask that reads as the floats 0 and 1. An element at `at` is the bits `mask` of a word, from a place in it on.
fn mask_accessors(stream: &Stream, [word, place, mask]: [&str; 3], text: &mut String) {
    let name = stream.name;
    // The bits of the floats 1.0 and 0.0.
    let _ = write!(
        text,
        "fn {name}_at(row: u32, column: u32) -> u32 {{ \
         let at = {}; \
         return select(0u, 0x3f800000u, (({name}[{word}] >> ({place})) & {mask}) != 0u); }}\n\
         fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ \
         let last = params.classes - 1u; return vec4<u32>({name}_at(row, column), \
         {name}_at(row, min(column + 1u, last)), {name}_at(row, min(column + 2u, last)), \
         {name}_at(row, min(column + 3u, last))); }}\n",
        stream.address("row", "column")
    );
}

/// Packed i8 at any place, as the bits of floats. A quad at any place lies in two words, which are shifted into one. The
/// second word is the one with the row's last element, where the quad extends past the row.
fn quantized_accessors(stream: &Stream, text: &mut String) {
    let Stream { name, columns, .. } = stream;
    let at = stream.address("row", "column");
    let (one, apart) = apart_loads(stream, Dtype::I8, false);
    let quad = if stream.order == Order::Plain {
        format!(
            "let at = {at}; let last = at + min(params.{columns} - column, 4u) - 1u; \
             let shift = (at & 3u) * 8u; \
             let word = ({name}[at >> 2u] >> shift) | (({name}[last >> 2u] << 1u) << (31u - shift)); \
             return dequantized(row, i8_quad(word));"
        )
    } else {
        apart
    };
    let _ = write!(
        text,
        "fn {name}_at(row: u32, column: u32) -> u32 {{ let at = {at}; \
         return dequantized(row, vec4<u32>({one})).x; }}\n\
         fn {name}_quad(row: u32, column: u32) -> vec4<u32> {{ {quad} }}\n"
    );
}

/// Words that are read by index, and written if the kernel writes them.
fn word_accessors(stream: &Stream, text: &mut String) {
    let name = stream.name;
    let _ = writeln!(
        text,
        "fn {name}_read(at: u32) -> u32 {{ return {name}[params.{name}_base + at]; }}"
    );
    if stream.access == Access::ReadWrite {
        let _ = writeln!(
            text,
            "fn {name}_write(at: u32, word: u32) {{ {name}[params.{name}_base + at] = word; }}"
        );
    }
}

/// An integer of a row, or of a row and a column, as two words, sign-extended.
fn integer_accessor(name: &str, dtype: Dtype, text: &mut String) {
    let words = match dtype {
        Dtype::I64 => format!("vec2<u32>({name}[2u * i], {name}[2u * i + 1u])"),
        Dtype::I32 => format!("vec2<u32>({name}[i], bitcast<u32>(bitcast<i32>({name}[i]) >> 31u))"),
        _ => format!("vec2<u32>({name}[i], 0u)"),
    };
    let _ = writeln!(
        text,
        "fn {name}_in(row: u32, column: u32) -> vec2<u32> {{ \
         let i = params.{name}_base + row * params.{name}_stride + column; return {words}; }}\n\
         fn {name}_at(row: u32) -> vec2<u32> {{ return {name}_in(row, 0u); }}"
    );
}

impl Code {
    /// Writes the functions that read and write a stream.
    pub(super) fn accessors(&self, stream: &Stream, text: &mut String) {
        match &stream.storage {
            ElementStorage::Absent(bits) => absent_accessors(stream.name, *bits, text),
            ElementStorage::AbsentIntegers => {
                let _ = writeln!(
                    text,
                    "fn {}_at(row: u32) -> vec2<u32> {{ return vec2<u32>(0u); }}",
                    stream.name
                );
            }
            ElementStorage::Bytes => {
                mask_accessors(stream, ["at >> 2u", "(at & 3u) * 8u", "255u"], text);
            }
            ElementStorage::Bits => mask_accessors(stream, ["at >> 5u", "at & 31u", "1u"], text),
            ElementStorage::Words => word_accessors(stream, text),
            ElementStorage::Integers(dtype) => integer_accessor(stream.name, *dtype, text),
            ElementStorage::Table(_) => {}
            ElementStorage::Quantized => quantized_accessors(stream, text),
            ElementStorage::Wide(elements) => wide_accessors(stream, *elements, text),
            ElementStorage::Quads(dtype) | ElementStorage::Elements(dtype) => {
                self.float_accessors(stream, *dtype, text);
            }
        }
        if let (ElementStorage::Absent(bits), true) =
            (&stream.storage, self.uses(|s| s.storage == ElementStorage::Wide(8)))
        {
            let name = stream.name;
            let _ = writeln!(
                text,
                "fn {name}_octet(row: u32, column: u32) -> mat2x4<f32> {{ \
                 let bits = bitcast<vec4<f32>>(vec4<u32>({bits}u)); \
                 return mat2x4<f32>(bits, bits); }}"
            );
        }
        if let Some(addressing) = stream.addressing {
            Self::walk_accessors(stream, addressing, text);
        }
    }

    /// `NAME_take` and `NAME_give`: read and write the elements at a `Place` of a walk (`shaders/element.wgsl`).
    fn walk_accessors(stream: &Stream, addressing: Addressing, text: &mut String) {
        let name = stream.name;
        let of_each = |element: &dyn Fn(u32) -> String| {
            let elements: Vec<String> = (0..4).map(element).collect();
            format!("vec4<u32>({})", elements.join(", "))
        };
        let taken = match addressing {
            Addressing::Flat => format!("{name}_quad(0u, p.at)"),
            Addressing::Row => format!("{name}_quad(p.row.x, p.column.x)"),
            Addressing::Each => of_each(&|i| format!("{name}_at(p.row[{i}], p.column[{i}])")),
            Addressing::Rows => of_each(&|i| format!("{name}_at(p.row[{i}], 0u)")),
            Addressing::Channels => of_each(&|i| format!("{name}_at(0u, channel_of(p.at + {i}u))")),
            Addressing::Pixels => of_each(&|i| format!("{name}_at(pixel_of(p.at + {i}u), 0u)")),
            Addressing::One => format!("vec4<u32>({name}_at(0u, 0u))"),
            Addressing::Axes { groups, columns, planes } => {
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
        let given = match addressing {
            _ if matches!(stream.storage, ElementStorage::Absent(_)) => String::new(),
            _ if !stream.stored => return,
            Addressing::Flat => format!("{name}_store(0u, p.at, bits);"),
            Addressing::Row => format!("{name}_store(p.row.x, p.column.x, bits);"),
            _ => {
                let put = |i| {
                    format!(
                        "if (inside[{i}]) {{ {name}_put(p.row[{i}], p.column[{i}], bits[{i}]); }}"
                    )
                };
                (0..4).map(put).collect::<Vec<_>>().join(" ")
            }
        };
        let _ = writeln!(
            text,
            "fn {name}_give(p: Place, inside: vec4<bool>, bits: vec4<u32>) {{ {given} }}"
        );
    }

    fn float_accessors(&self, stream: &Stream, dtype: Dtype, text: &mut String) {
        let name = stream.name;
        let quads = matches!(stream.storage, ElementStorage::Quads(_));
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
        if stream.stored && !quads {
            let put = element_put(buffer, dtype);
            let _ = writeln!(
                text,
                "fn {name}_put(row: u32, column: u32, bits: u32) {{ let at = {at}; {put} }}"
            );
        }
        if stream.stored {
            let body = if quads {
                quad_store(buffer, dtype)
            } else if stream.order != Order::Plain {
                apart_store(stream)
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
    match dtype.bytes() {
        4 => return format!("{name}[{at}]"),
        1 => return format!("{dtype}_one({name}[({at}) >> 2u], ({at}) & 3u)"),
        _ => {}
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

/// The store of one element. 16-bit halves share a word with their neighbours.
fn element_put(buffer: &str, dtype: Dtype) -> String {
    if dtype.bytes() == 4 {
        return format!("{buffer}[at] = bits;");
    }
    format!(
        "let shift = (at & 1u) * 16u; atomicAnd(&{buffer}[at >> 1u], ~(0xffffu << shift)); \
         atomicOr(&{buffer}[at >> 1u], {dtype}_encode(bits) << shift);"
    )
}

/// Stores of columns that do not lie side by side, one by one.
fn apart_store(stream: &Stream) -> String {
    let Stream { name, columns, .. } = stream;
    format!(
        "let live = min(params.{columns} - column, 4u); \
         for (var i = 0u; i < live; i += 1u) {{ {name}_put(row, column + i, bits[i]); }}"
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
