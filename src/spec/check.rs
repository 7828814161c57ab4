//! Checks everything about a call that follows from the description: names, types, shapes and places.

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
        about::{About, Argument, Dim, Kind, Signature, Spread},
        broadcast::Extents,
        call::{Call, Operand},
        list, quantized,
        shard::STATE_WORDS,
    },
};
use shapes::CallShapes;

pub(crate) use shapes::{Folded, with_axes};

/// The most classes of a row.
const MOST_CLASSES: u64 = 1 << 24;
/// The most rows of a call: the GPU counts rows in one word.
const MOST_ROWS: u64 = u32::MAX as u64;

/// The name of the scratch in errors.
pub(crate) const SCRATCH: &str = "scratch";

/// Checks a call against the description of an operation, and finds the extents that its tensors agree on.
pub fn call(loss: &dyn Signature, mut call: Call, alignment: u64) -> Result<Call> {
    loss.validate()?;
    let alignment = alignment.max(1);
    let about = loss.about();
    names(about, call.inputs.keys().chain(call.host.keys()), call.outputs.keys())?;
    take_host_inputs(loss, &mut call)?;
    let first = about.inputs.first().and_then(|first| call.inputs.get(first.name));
    let mut shapes = CallShapes::new(loss, first.map(|operand| &operand.layout));
    for argument in about.inputs {
        take_tensors(loss, &mut shapes, argument, &mut call.inputs)?;
    }
    call.check_in_place_types(about)?;
    for argument in about.outputs {
        take_tensors(loss, &mut shapes, argument, &mut call.outputs)?;
    }
    shapes.all().try_for_each(|shapes| extents(&shapes.dims))?;
    (call.dims, call.axes) = (shapes.common.dims, shapes.common.axes);
    if let Some(operand) = vector_without_stride(about, &call) {
        let found = operand.layout.row_stride;
        return Err(Error::WrongStride { argument: operand.name.clone().into(), found, least: 1 });
    }
    call.check_in_place(about)?;
    quantized::check(about, &call)?;
    loss.accepts(&call)?;
    overlaps(about, &call, alignment)?;
    Ok(call)
}

/// Checks the tensors of one argument.
fn take_tensors(
    loss: &dyn Signature,
    shapes: &mut CallShapes,
    argument: &'static Argument,
    operands: &mut BTreeMap<String, Operand>,
) -> Result<()> {
    for name in tensors(argument, operands.keys()) {
        let Some(operand) = operands.get_mut(&name) else { continue };
        let Layout { dtype, shape, .. } = &operand.layout;
        kind(argument, &name, *dtype)?;
        let shape = shapes.take(argument, &name, *dtype, shape)?;
        operand.layout = shapes::folded(&name, operand.layout.clone(), &shape)?;
        place(argument, operand, loss.takes_planes())?;
    }
    Ok(())
}

/// Checks a host array. Returns its shape with the rows folded into one axis.
fn take_array(
    loss: &dyn Signature,
    shapes: &mut CallShapes,
    argument: &'static Argument,
    name: &str,
    arrays: &Arrays,
    array: &Array,
) -> Result<Vec<u64>> {
    let dtype = host_dtype(loss, arrays, argument, array)?;
    kind(argument, name, dtype)?;
    let folded = shapes.take(argument, name, dtype, &array.shape)?;
    has_all_elements(name, array)?;
    if matches!(argument.kind, Kind::U32 | Kind::I8 | Kind::Logits) || argument.host {
        has_numbers_of(name, array, dtype)?;
    }
    Ok(folded)
}

/// Those of these names that are tensors of the argument: several if it is a list.
fn tensors<'n>(argument: &Argument, names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let own = if argument.list {
        list::names(argument.name, names)
    } else {
        names.map(String::as_str).filter(|name| *name == argument.name).collect()
    };
    own.into_iter().map(str::to_owned).collect()
}

/// Makes operands of the host inputs, so that everything after this takes them as any other input. The plan holds their
/// bytes: each is an allocation of its own.
fn take_host_inputs(loss: &dyn Signature, call: &mut Call) -> Result<()> {
    let about = loss.about();
    let wrong = |name: &String, expected: &str| {
        let (operation, argument) = (about.name.into(), name.as_str().into());
        Err(Error::HostInput { operation, argument, expected: expected.into() })
    };
    let own = |name: &String| call.host.keys().position(|host| host == name).map(host_allocation);
    // A call that is checked again has operands of its host inputs.
    let as_tensor = |(name, operand): &(&String, &Operand)| {
        about.is_host_input(name) && own(name) != Some(operand.allocation)
    };
    if let Some((name, _)) = call.inputs.iter().find(as_tensor) {
        return wrong(name, "a host input: give it with `Request::host`, and not as a tensor");
    }
    for (nth, (name, array)) in call.host.iter().enumerate() {
        let Some(argument) = about.input(name).filter(|argument| argument.host) else {
            return wrong(name, "no host input: give it as a tensor");
        };
        let dtype = host_dtype(loss, &call.host, argument, array)?;
        has_all_elements(name, array)?;
        has_numbers_of(name, array, dtype)?;
        let layout = Layout::dense(dtype, &array.shape);
        let bytes = layout.byte_range().map_or(u64::MAX, |bytes| bytes.end);
        let allocation_bytes = bytes.checked_next_multiple_of(256).unwrap_or(bytes).max(256);
        let allocation = host_allocation(nth);
        let operand = Operand { name: name.clone(), layout, allocation, allocation_bytes };
        call.inputs.insert(name.clone(), operand);
    }
    Ok(())
}

/// The allocation of host input number `nth`: neither the caller's buffers, which count from 0, nor a composed loss's
/// results, which count down from `usize::MAX`, have such a number.
fn host_allocation(nth: usize) -> usize {
    usize::MAX / 2 - nth
}

/// Whether each number of an array of integers is one of the type that the array is stored as.
fn has_numbers_of(name: &str, array: &Array, dtype: Dtype) -> Result<()> {
    let (range, expected) = match dtype {
        Dtype::U32 => (0..=i64::from(u32::MAX), "a u32"),
        Dtype::U8 => (0..=1, "0 or 1"),
        Dtype::I8 => (i64::from(i8::MIN)..=i64::from(i8::MAX), "an i8"),
        _ => return Ok(()),
    };
    let Data::Int(values) = &array.data else { return Ok(()) };
    match values.iter().zip(0..).find(|(value, _)| !range.contains(value)) {
        Some((found, element)) => Err(Error::InputValue {
            argument: name.into(),
            element,
            found: found.to_string().into(),
            expected: expected.into(),
        }),
        None => Ok(()),
    }
}

/// Whether an array has as many elements as its shape says.
fn has_all_elements(name: &str, array: &Array) -> Result<()> {
    if array.len() as u64 == shapes::count(&array.shape) {
        return Ok(());
    }
    Err(Error::WrongShape {
        argument: name.into(),
        found: array.shape.clone().into(),
        expected: format!("a shape of its {} elements", array.len()).into(),
    })
}

/// Finds a vector with gaps where kernels allow none: vectors over classes, and outputs that are written as words.
fn vector_without_stride<'a>(about: &'static About, call: &'a Call) -> Option<&'a Operand> {
    let over_classes = |argument: &Argument| {
        let mut vectors = argument.shapes.iter().filter(|dims| dims.len() == 1).flat_map(|d| *d);
        vectors.all(|dim| matches!(dim, Dim::Classes | Dim::AllClasses))
    };
    let words = |argument: &Argument| matches!(argument.kind, Kind::F32 | Kind::U32 | Kind::I64);
    let read = |name: &str| about.input(name).is_some_and(over_classes);
    let written = |name: &str| about.output(name).is_some_and(|a| over_classes(a) || words(a));
    let read = call.inputs.values().filter(|operand| read(&operand.name));
    let written = call.outputs.values().filter(|operand| written(&operand.name));
    read.chain(written).find(|operand| {
        let Layout { shape, row_stride, .. } = &operand.layout;
        shape.len() == 1 && operand.layout.len() > 1 && *row_stride != 1
    })
}

/// Checks a call on host arrays as [`call`] checks one on operands, as if each array had a buffer of its own.
pub(crate) fn arrays(loss: &dyn Signature, inputs: &Arrays, wanted: &[&str]) -> Result<()> {
    loss.validate()?;
    let about = loss.about();
    let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    names(about, inputs.keys(), wanted.iter())?;
    let shapes = shapes_of(loss, inputs)?.0;
    shapes.all().try_for_each(|shapes| extents(&shapes.dims))?;
    let (mut layouts, mut host) = (BTreeMap::new(), Arrays::new());
    for (name, array) in inputs {
        let Some(argument) = about.input(name) else { continue };
        let dtype = host_dtype(loss, inputs, argument, array)?;
        if argument.host {
            host.insert(name.clone(), array.clone());
        } else {
            layouts.insert(name.clone(), Layout::dense(dtype, &array.shape));
        }
    }
    let mut outputs = BTreeMap::new();
    for name in &wanted {
        let input = |input: &str| layouts.get(input);
        let known = about.output(name).map_or(&shapes.common, |output| shapes.of(output, name));
        let layout = output_layout(loss, (&known.dims, &known.axes), &input, name)?;
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
    Call { host, ..Call::new(inputs, outputs) }.checked(loss, 1)?;
    some_output(about, wanted.len())
}

/// Checks that a call asks for an output.
pub(crate) fn some_output(about: &About, wanted: usize) -> Result<()> {
    if wanted > 0 {
        return Ok(());
    }
    Err(Error::NoOutput { operation: about.name.into(), known: known(about.outputs).into() })
}

/// The storage type that a host array of an input represents.
fn host_dtype(
    loss: &dyn Signature,
    inputs: &Arrays,
    argument: &Argument,
    array: &Array,
) -> Result<Dtype> {
    Ok(match array.data {
        Data::Float(_) => Dtype::F32,
        Data::Int(_) => match argument.kind {
            Kind::Mask => integers_dtype(loss, inputs, argument.name)?.unwrap_or(Dtype::U8),
            Kind::U32 => Dtype::U32,
            Kind::Logits | Kind::I8 => Dtype::I8,
            _ => Dtype::I64,
        },
    })
}

/// The dense layout of an output, from the extents of the inputs. A gradient, or an output that may be written over an
/// input, has the layout of its input; that of i8 logits is f32.
pub(crate) fn output_layout<'l>(
    loss: &dyn Signature,
    (dims, axes): (&BTreeMap<Dim, u64>, &BTreeMap<Dim, Vec<u64>>),
    input: &dyn Fn(&str) -> Option<&'l Layout>,
    name: &str,
) -> Result<Layout> {
    let about = loss.about();
    let Some(argument) = about.output(name) else {
        return Err(unknown_name(about, "output", about.outputs, name));
    };
    let suffix = argument.suffix(name).unwrap_or_default();
    let tensor = |argument: &str| input(&format!("{argument}{suffix}"));
    if let Some(Layout { dtype, shape, class_stride, .. }) = argument.like().and_then(tensor) {
        let dtype = if *dtype == Dtype::I8 { Dtype::F32 } else { *dtype };
        let dense = Layout::dense(dtype, shape);
        return Ok(if *class_stride > 1 { dense.class_stride(*class_stride) } else { dense });
    }
    let dtype = argument.stored(Dtype::F32);
    let first = about.inputs.first().and_then(|first| tensor(first.name));
    if let Some(first) = first.filter(|_| argument.list && argument.spread == Spread::Elements) {
        return Ok(Layout::dense(dtype, &first.shape));
    }
    let rank = first.map_or(1, |layout| layout.shape.len());
    Ok(Layout::dense(dtype, &with_axes(argument.shape_in(loss, rank), dims, axes)))
}

/// The extents that host arrays agree on.
pub(crate) fn dims(loss: &dyn Signature, inputs: &Arrays) -> Result<BTreeMap<Dim, u64>> {
    Ok(shapes_of(loss, inputs)?.0.common.dims)
}

/// The shapes of host arrays, and the shape of each with its rows folded into one axis.
fn shapes_of(
    loss: &dyn Signature,
    inputs: &Arrays,
) -> Result<(CallShapes, BTreeMap<String, Vec<u64>>)> {
    let mut shapes = CallShapes::new(loss, None);
    let mut folded = BTreeMap::new();
    for argument in loss.about().inputs {
        for name in tensors(argument, inputs.keys()) {
            let Some(array) = inputs.get(&name) else { continue };
            let shape = take_array(loss, &mut shapes, argument, &name, inputs, array)?;
            folded.insert(name, shape);
        }
    }
    Ok((shapes, folded))
}

/// The type as which the integers of an input are stored that could also hold floats. Logits are i8. A mask has bytes of
/// 0 and 1, or words of bits if its shape fits one bit an element but not a mask of bytes.
pub(crate) fn integers_dtype(
    loss: &dyn Signature,
    inputs: &Arrays,
    name: &str,
) -> Result<Option<Dtype>> {
    let about = loss.about();
    let argument = about.input(name);
    let first = about.inputs.first().and_then(|first| inputs.get(first.name));
    let (Some(argument), Some(first), Some(array)) = (argument, first, inputs.get(name)) else {
        return Ok(None);
    };
    let Data::Int(values) = &array.data else {
        return Ok(None);
    };
    if argument.kind != Kind::Mask {
        return Ok((argument.kind == Kind::Logits).then_some(Dtype::I8));
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
        argument: name.into(),
        element: element as u64,
        found: values.get(element).map(i64::to_string).unwrap_or_default().into(),
        expected: if is_bits {
            (bytes + ", and also that of words of one bit an element; give floats to keep by bits")
                .into()
        } else {
            bytes.into()
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
    outputs: impl Iterator<Item = &'a String> + Clone,
) -> Result<()> {
    let given: Vec<&String> = inputs.collect();
    unknown(about, "input", about.inputs, given.iter().copied())?;
    unknown(about, "output", about.outputs, outputs.clone())?;
    let is_given = |a: &Argument| given.iter().any(|name| a.suffix(name).is_some());
    match about.inputs.iter().find(|a| a.required && !is_given(a)) {
        Some(missing) => Err(Error::MissingInput {
            operation: about.name.into(),
            argument: missing.name.into(),
            reason: missing.about.into(),
        }),
        None => list::check(about, &given, outputs),
    }
}

fn unknown<'a>(
    about: &About,
    kind: &'static str,
    arguments: &[Argument],
    mut names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    match names.find(|name| !arguments.iter().any(|a| a.suffix(name).is_some())) {
        Some(name) => Err(unknown_name(about, kind, arguments, name)),
        None => Ok(()),
    }
}

fn unknown_name(about: &About, kind: &'static str, arguments: &[Argument], name: &str) -> Error {
    Error::UnknownName {
        operation: about.name.into(),
        kind,
        name: name.into(),
        known: known(arguments).into(),
    }
}

fn known(arguments: &[Argument]) -> String {
    arguments.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", ")
}

pub(super) fn kind(argument: &Argument, name: &str, dtype: Dtype) -> Result<()> {
    let allowed: &[Dtype] = match argument.kind {
        Kind::Float | Kind::WideFloat => &[Dtype::F32, Dtype::F16, Dtype::Bf16],
        Kind::Logits => &[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8],
        Kind::I8 => &[Dtype::I8],
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
        argument: name.into(),
        found: dtype,
        expected: names.join(" or ").into(),
    })
}

/// Checks that the extents are within the limits of a row and of a call.
pub(crate) fn extents(dims: &BTreeMap<Dim, u64>) -> Result<()> {
    for (dim, limit) in [(Dim::Classes, MOST_CLASSES), (Dim::Rows, MOST_ROWS)] {
        if let Some(&found) = dims.get(&dim)
            && found > limit
        {
            return Err(Error::Limit { what: dim.name().into(), found, limit });
        }
    }
    // A call without rows may also have no columns.
    let no_rows = dims.get(&Dim::Rows) == Some(&0);
    for dim in [Dim::Classes, Dim::Hidden, Dim::TeacherHidden] {
        if dims.get(&dim) == Some(&0) && !(no_rows && dim == Dim::Classes) {
            return Err(Error::WrongShape {
                argument: dim.name().into(),
                found: vec![0].into(),
                expected: "at least 1".into(),
            });
        }
    }
    Ok(())
}

/// Checks strides and the end of the buffer.
fn place(argument: &Argument, operand: &Operand, takes_planes: bool) -> Result<()> {
    let layout = &operand.layout;
    let name = || operand.name.clone();
    let planes = argument.shapes.contains(&[Dim::Rows, Dim::Classes].as_slice()) && takes_planes;
    let planes = planes && layout.shape.len() > 1 && layout.has_planes();
    // Kernels count the rows of a plane in one word.
    if layout.class_stride != 1 && !(planes && layout.class_stride <= MOST_ROWS) {
        return Err(Error::ClassStride { argument: name().into(), found: layout.class_stride });
    }
    if let Some((_, stride)) = layout.strips {
        return Err(Error::ClassStride { argument: name().into(), found: stride });
    }
    let least = layout.columns().saturating_mul(layout.class_stride);
    if layout.row_stride < least && layout.rows() > layout.class_stride {
        return Err(Error::WrongStride {
            argument: name().into(),
            found: layout.row_stride,
            least,
        });
    }
    let writes_words = matches!(argument.kind, Kind::F32 | Kind::U32 | Kind::I64);
    if writes_words && layout.shape.len() > 1 && layout.row_stride != least {
        return Err(Error::WrongStride {
            argument: name().into(),
            found: layout.row_stride,
            least,
        });
    }
    place_end(&operand.name, operand)
}

/// Checks that a tensor does not extend past its buffer.
fn place_end(name: &str, operand: &Operand) -> Result<()> {
    let layout = &operand.layout;
    // A binding ends at a whole word, even if the last 16-bit element does not.
    let end =
        layout.byte_range().map(|range| if layout.is_empty() { range.start } else { range.end });
    let needed = end.and_then(|end| end.checked_next_multiple_of(4));
    match needed {
        Some(needed) if needed <= operand.allocation_bytes => Ok(()),
        needed => Err(Error::BufferTooSmall {
            argument: name.into(),
            needed: needed.unwrap_or(u64::MAX),
            found: operand.allocation_bytes,
        }),
    }
}

/// Checks that no written tensor shares bytes with another tensor. It must not share an alignment block either,
/// because the buffer is then bound twice, at offsets that are rounded down.
fn overlaps(about: &'static About, call: &Call, alignment: u64) -> Result<()> {
    for (name, output) in &call.outputs {
        let over = call.written_over(about, name);
        let inputs = call.inputs.iter().filter(|(input, _)| over.as_ref() != Some(input));
        let outputs = call.outputs.iter().filter(|(other, _)| *other > name);
        for (other, operand) in inputs.chain(outputs) {
            if operand.allocation == output.allocation {
                apart(name, output, other, operand, alignment)?;
            }
        }
    }
    Ok(())
}

/// Checks that scratch in a buffer of the call's tensors is apart from all of them, like an output. Tensors in this
/// buffer are bound like the scratch.
pub fn scratch(call: &mut Call, scratch: &Operand, alignment: u64) -> Result<()> {
    let start = scratch.layout.offset;
    if !start.is_multiple_of(alignment) {
        let argument = scratch.name.as_str().into();
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
            "overlap; an output lies over an input only if `Request::in_place` asks for it"
                .to_owned()
        }
    } else if meet(&blocks(&bytes), &blocks(&other_bytes)) {
        format!("share an alignment block of {alignment} bytes of one buffer")
    } else {
        return Ok(());
    };
    Err(Error::Overlap {
        argument: name.into(),
        other: other.into(),
        bytes: bytes.into(),
        other_bytes: other_bytes.into(),
        reason: reason.into(),
    })
}
