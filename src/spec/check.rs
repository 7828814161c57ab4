//! Every precondition of a call that follows from its description: names, types, shapes, places.

mod shapes;

use std::{collections::BTreeMap, ops::Range};

use crate::{
    data::{
        array::{Array, Arrays, Data},
        error::{Error, Result},
        status::Status,
        tensor::{Dtype, Layout},
    },
    spec::{
        about::{About, Argument, Dim, Kind, Signature},
        broadcast::Extents,
        call::{Call, Operand},
        shard::STATE_WORDS,
    },
};
use shapes::Shapes;

pub(crate) use shapes::{Folded, with_axes};

/// The most classes of a row.
const MOST_CLASSES: u64 = 1 << 24;
/// The most rows of a call: a row is counted in one word on the GPU.
const MOST_ROWS: u64 = u32::MAX as u64;

/// The name of the scratch in errors.
pub(crate) const SCRATCH: &str = "scratch";

/// Checks operands against a loss's description and finds the extents they agree on.
pub fn call(
    loss: &dyn Signature,
    inputs: BTreeMap<String, Operand>,
    outputs: BTreeMap<String, Operand>,
    in_place: bool,
    alignment: u64,
) -> Result<Call> {
    loss.validate()?;
    let about = loss.about();
    let mut call = Call { inputs, outputs, in_place, ..Call::default() };
    names(about, call.inputs.keys(), call.outputs.keys())?;
    let first = about.inputs.first().and_then(|first| call.inputs.get(first.name));
    let mut shapes = Shapes::new(loss, first.map(|operand| &operand.layout));
    for (arguments, operands) in
        [(about.inputs, &mut call.inputs), (about.outputs, &mut call.outputs)]
    {
        for argument in arguments {
            if let Some(operand) = operands.get_mut(argument.name) {
                let Layout { dtype, shape, .. } = &operand.layout;
                kind(argument, *dtype)?;
                let shape = shapes.take(argument, *dtype, shape)?;
                operand.layout = shapes::folded(argument, operand.layout.clone(), &shape)?;
                place(argument, operand, loss.takes_planes())?;
            }
        }
    }
    (call.dims, call.axes) = (shapes.dims, shapes.axes);
    if let Some((argument, operand)) = vectors_without_stride(about, &call).next() {
        let found = operand.layout.row_stride;
        return Err(Error::WrongStride { argument: argument.name.to_owned(), found, least: 1 });
    }
    extents(&call.dims)?;
    loss.accepts(&call)?;
    overlaps(about, &call, alignment)?;
    Ok(call)
}

/// Vectors with gaps where kernels know of none: those over classes, and words written row by row.
fn vectors_without_stride<'a>(
    about: &'static About,
    call: &'a Call,
) -> impl Iterator<Item = (&'static Argument, &'a Operand)> {
    let over_classes = |argument: &Argument| {
        let mut vectors = argument.shapes.iter().filter(|dims| dims.len() == 1).flat_map(|d| *d);
        vectors.all(|dim| matches!(dim, Dim::Classes | Dim::AllClasses))
    };
    let words = |argument: &Argument| matches!(argument.kind, Kind::F32 | Kind::U32 | Kind::I64);
    let of = |argument: &'static Argument, operands: &'a BTreeMap<String, Operand>| {
        operands.get(argument.name).map(|operand| (argument, operand))
    };
    let read = about.inputs.iter().filter(move |a| over_classes(a));
    let written = about.outputs.iter().filter(move |a| over_classes(a) || words(a));
    let read = read.filter_map(move |argument| of(argument, &call.inputs));
    let gaps = |(_, operand): &(&Argument, &Operand)| {
        let Layout { shape, row_stride, .. } = &operand.layout;
        shape.len() == 1 && operand.layout.len() > 1 && *row_stride != 1
    };
    read.chain(written.filter_map(move |argument| of(argument, &call.outputs))).filter(gaps)
}

/// Checks a call on host arrays, as [`call`] does one on operands: as if each of them lay by itself.
pub(crate) fn arrays(loss: &dyn Signature, inputs: &Arrays, wanted: &[&str]) -> Result<()> {
    loss.validate()?;
    let about = loss.about();
    let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    names(about, inputs.keys(), wanted.iter())?;
    let shapes = shapes_of(loss, inputs)?.0;
    extents(&shapes.dims)?;
    let mut layouts = BTreeMap::new();
    for (name, array) in inputs {
        let argument = about.inputs.iter().find(|argument| argument.name == name);
        let Some(argument) = argument else { continue };
        let dtype = host_dtype(loss, inputs, argument, array)?;
        layouts.insert(name.clone(), Layout::dense(dtype, &array.shape));
    }
    let mut outputs = BTreeMap::new();
    for name in &wanted {
        let input = |input: &str| layouts.get(input);
        let layout = output_layout(loss, (&shapes.dims, &shapes.axes), &input, name)?;
        outputs.insert(name.clone(), layout);
    }
    let by_itself = |first: usize, layouts: BTreeMap<String, Layout>| {
        let operand = |(allocation, (name, layout)): (usize, (String, Layout))| {
            (name.clone(), Operand { name, layout, allocation, allocation_bytes: u64::MAX })
        };
        (first..).zip(layouts).map(operand).collect::<BTreeMap<_, _>>()
    };
    let inputs = by_itself(0, layouts);
    let outputs = by_itself(inputs.len(), outputs);
    call(loss, inputs, outputs, false, 1).map(|_| ())
}

/// The type that a host array of an input stands for.
fn host_dtype(
    loss: &dyn Signature,
    inputs: &Arrays,
    argument: &Argument,
    array: &Array,
) -> Result<Dtype> {
    Ok(match array.data {
        Data::Float(_) => Dtype::F32,
        Data::Int(_) if argument.kind == Kind::Mask => {
            integer_mask(loss, inputs, argument.name)?.unwrap_or(Dtype::U8)
        }
        Data::Int(_) if argument.kind == Kind::U32 => Dtype::U32,
        Data::Int(_) => Dtype::I64,
    })
}

/// The dense layout of an output, from the extents of the inputs; a gradient has its input's.
pub(crate) fn output_layout<'l>(
    loss: &dyn Signature,
    (dims, axes): (&BTreeMap<Dim, u64>, &BTreeMap<Dim, Vec<u64>>),
    input: &dyn Fn(&str) -> Option<&'l Layout>,
    name: &str,
) -> Result<Layout> {
    let about = loss.about();
    let of_input = name.strip_prefix("grad.").and_then(input);
    if let Some(Layout { dtype, shape, class_stride, .. }) = of_input {
        let dense = Layout::dense(*dtype, shape);
        return Ok(if *class_stride > 1 { dense.class_stride(*class_stride) } else { dense });
    }
    let Some(argument) = about.outputs.iter().find(|argument| argument.name == name) else {
        return Err(unknown_name(about, "output", about.outputs, name));
    };
    let dtype = argument.kind.stored(Dtype::F32);
    let first = about.inputs.first().and_then(|first| input(first.name));
    let rank = first.map_or(1, |layout| layout.shape.len());
    Ok(Layout::dense(dtype, &with_axes(argument.shape_in(loss, rank), dims, axes)))
}

/// The extents that host arrays agree on.
pub(crate) fn dims(loss: &dyn Signature, inputs: &Arrays) -> Result<BTreeMap<Dim, u64>> {
    Ok(shapes_of(loss, inputs)?.0.dims)
}

/// The shapes of host arrays, and each with its rows folded into one axis.
fn shapes_of(
    loss: &dyn Signature,
    inputs: &Arrays,
) -> Result<(Shapes, BTreeMap<&'static str, Vec<u64>>)> {
    let mut shapes = Shapes::new(loss, None);
    let mut folded = BTreeMap::new();
    for argument in loss.about().inputs {
        let Some(array) = inputs.get(argument.name) else {
            continue;
        };
        let dtype = host_dtype(loss, inputs, argument, array)?;
        kind(argument, dtype)?;
        folded.insert(argument.name, shapes.take(argument, dtype, &array.shape)?);
        if array.len() as u64 != shapes::count(&array.shape) {
            return Err(Error::WrongShape {
                argument: argument.name.to_owned(),
                found: array.shape.clone(),
                expected: format!("a shape of its {} elements", array.len()),
            });
        }
    }
    Ok((shapes, folded))
}

/// How a mask of integers is stored: as bytes of 0 and 1, or as words of bits where it has one bit an
/// element and no shape of a mask of bytes.
pub(crate) fn integer_mask(
    loss: &dyn Signature,
    inputs: &Arrays,
    name: &str,
) -> Result<Option<Dtype>> {
    let about = loss.about();
    let argument = about.inputs.iter().find(|argument| argument.name == name);
    let first = about.inputs.first().and_then(|first| inputs.get(first.name));
    let (Some(argument), Some(first), Some(array)) = (argument, first, inputs.get(name)) else {
        return Ok(None);
    };
    let Data::Int(values) = &array.data else {
        return Ok(None);
    };
    if argument.kind != Kind::Mask {
        return Ok(None);
    }
    let extents = Extents::of(&first.shape);
    if extents.broadcast(name, &array.shape).is_err() {
        return Ok(Some(Dtype::U32));
    }
    let Some(element) = values.iter().position(|value| !(0..=1).contains(value)) else {
        return Ok(Some(Dtype::U8));
    };
    let bytes = "0 or 1: its shape is that of bytes".to_owned();
    let is_bits = array.shape == [extents.count().div_ceil(32)];
    Err(Error::InputValue {
        argument: name.to_owned(),
        element: element as u64,
        found: values.get(element).copied().unwrap_or_default(),
        expected: if is_bits {
            bytes + ", and also that of words of one bit an element; give floats to keep by bits"
        } else {
            bytes
        },
    })
}

fn known_dims(loss: &dyn Signature) -> BTreeMap<Dim, u64> {
    let words = [(Dim::One, 1), (Dim::State, STATE_WORDS), (Dim::StatusWords, Status::WORDS)];
    words.into_iter().chain(loss.extents()).collect()
}

fn names<'a>(
    about: &About,
    inputs: impl Iterator<Item = &'a String>,
    outputs: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let given: Vec<&String> = inputs.collect();
    unknown(about, "input", about.inputs, given.iter().copied())?;
    unknown(about, "output", about.outputs, outputs)?;
    match about.inputs.iter().find(|a| a.required && !given.iter().any(|name| *name == a.name)) {
        Some(missing) => Err(Error::MissingInput {
            loss: about.name.to_owned(),
            argument: missing.name.to_owned(),
            reason: missing.about.to_owned(),
        }),
        None => Ok(()),
    }
}

fn unknown<'a>(
    about: &About,
    kind: &'static str,
    arguments: &[Argument],
    mut names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    match names.find(|name| !arguments.iter().any(|a| a.name == name.as_str())) {
        Some(name) => Err(unknown_name(about, kind, arguments, name)),
        None => Ok(()),
    }
}

fn unknown_name(about: &About, kind: &'static str, arguments: &[Argument], name: &str) -> Error {
    Error::UnknownName {
        loss: about.name.to_owned(),
        kind,
        name: name.to_owned(),
        known: arguments.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
    }
}

fn kind(argument: &Argument, dtype: Dtype) -> Result<()> {
    let allowed: &[Dtype] = match argument.kind {
        Kind::Float => &[Dtype::F32, Dtype::F16, Dtype::Bf16],
        Kind::F32 => &[Dtype::F32],
        Kind::Index | Kind::Label => &[Dtype::I32, Dtype::U32, Dtype::I64],
        Kind::U32 => &[Dtype::U32],
        Kind::Mask => &[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::U8, Dtype::U32],
        Kind::I64 => &[Dtype::I64],
    };
    if allowed.contains(&dtype) {
        return Ok(());
    }
    let names: Vec<_> = allowed.iter().map(|d| d.name()).collect();
    Err(Error::WrongDtype {
        argument: argument.name.to_owned(),
        found: dtype,
        expected: names.join(" or "),
    })
}

/// Whether the extents are within what a row and a call can have.
pub(crate) fn extents(dims: &BTreeMap<Dim, u64>) -> Result<()> {
    for (dim, limit) in [(Dim::Classes, MOST_CLASSES), (Dim::Rows, MOST_ROWS)] {
        if let Some(&found) = dims.get(&dim)
            && found > limit
        {
            return Err(Error::Limit { what: dim.name().to_owned(), found, limit });
        }
    }
    // No queries have no keys.
    let no_rows = dims.get(&Dim::Rows) == Some(&0);
    for dim in [Dim::Classes, Dim::Hidden] {
        if dims.get(&dim) == Some(&0) && !(no_rows && dim == Dim::Classes) {
            return Err(Error::WrongShape {
                argument: dim.name().to_owned(),
                found: vec![0],
                expected: "at least 1".to_owned(),
            });
        }
    }
    Ok(())
}

/// Strides, alignment and the end of the buffer.
fn place(argument: &Argument, operand: &Operand, takes_planes: bool) -> Result<()> {
    let layout = &operand.layout;
    let name = || argument.name.to_owned();
    let planes = argument.shapes.contains(&[Dim::Rows, Dim::Classes].as_slice()) && takes_planes;
    let planes = planes && layout.shape.len() > 1 && layout.has_planes();
    // Kernels count the rows of a plane in one word.
    if layout.class_stride != 1 && !(planes && layout.class_stride <= MOST_ROWS) {
        return Err(Error::ClassStride { argument: name(), found: layout.class_stride });
    }
    if let Some((_, stride)) = layout.fold {
        return Err(Error::ClassStride { argument: name(), found: stride });
    }
    let least = layout.columns().saturating_mul(layout.class_stride);
    if layout.row_stride < least && layout.rows() > layout.class_stride {
        return Err(Error::WrongStride { argument: name(), found: layout.row_stride, least });
    }
    let writes_words = matches!(argument.kind, Kind::F32 | Kind::U32 | Kind::I64);
    if writes_words && layout.shape.len() > 1 && layout.row_stride != least {
        return Err(Error::WrongStride { argument: name(), found: layout.row_stride, least });
    }
    place_end(argument.name, operand)
}

/// Whether a tensor ends where its buffer does, or before.
fn place_end(name: &str, operand: &Operand) -> Result<()> {
    let layout = &operand.layout;
    // A binding ends at a whole word, also where its last 16-bit element does not.
    let needed = layout.byte_range().map(|range| range.end.next_multiple_of(4));
    match needed {
        Some(needed) if needed <= operand.allocation_bytes || layout.is_empty() => Ok(()),
        needed => Err(Error::BufferTooSmall {
            argument: name.to_owned(),
            needed: needed.unwrap_or(u64::MAX),
            found: operand.allocation_bytes,
        }),
    }
}

/// No written tensor shares bytes with another one, nor (since one buffer is then bound twice, at
/// offsets that are rounded down) an alignment block.
fn overlaps(about: &About, call: &Call, alignment: u64) -> Result<()> {
    let first = about.inputs.first().map_or("", |a| a.name);
    let own_gradient = format!("grad.{first}");
    for (name, output) in &call.outputs {
        let others = call
            .inputs
            .iter()
            .filter(|(other, _)| !(call.in_place && *name == own_gradient && *other == first))
            .chain(call.outputs.iter().filter(|(other, _)| *other > name));
        for (other, operand) in others.filter(|(_, o)| o.allocation == output.allocation) {
            apart(name, output, other, operand, alignment)?;
        }
    }
    Ok(())
}

/// Scratch that lies in a buffer of the call's tensors is apart from all of them, as an output is; tensors there are
/// bound as scratch is.
pub fn scratch(call: &mut Call, scratch: &Operand, alignment: u64) -> Result<()> {
    let start = scratch.layout.offset;
    if !start.is_multiple_of(alignment) {
        let argument = scratch.name.clone();
        return Err(Error::WrongOffset { argument, found: start, multiple: alignment });
    }
    place_end(&scratch.name, scratch)?;
    for (name, operand) in call.inputs.iter().chain(&call.outputs) {
        if operand.allocation == scratch.allocation {
            apart(&scratch.name, scratch, name, operand, alignment)?;
        }
    }
    call.siblings.push(scratch.allocation);
    Ok(())
}

fn apart(name: &str, a: &Operand, other: &str, b: &Operand, alignment: u64) -> Result<()> {
    let (Some(bytes), Some(other_bytes)) = (a.layout.byte_range(), b.layout.byte_range()) else {
        return Ok(());
    };
    let meet = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let blocks = |r: &Range<u64>| r.start - r.start % alignment..r.end.next_multiple_of(alignment);
    let reason = if meet(&bytes, &other_bytes) {
        if name == SCRATCH {
            "overlap: nothing may lie in the scratch".to_owned()
        } else {
            "overlap; ask for an in-place gradient explicitly".to_owned()
        }
    } else if meet(&blocks(&bytes), &blocks(&other_bytes)) {
        format!("share an alignment block of {alignment} bytes of one buffer")
    } else {
        return Ok(());
    };
    Err(Error::Overlap {
        argument: name.to_owned(),
        other: other.to_owned(),
        bytes,
        other_bytes,
        reason,
    })
}
