//! A call as plain data: what is dispatched, on which bytes, with which numbers.
//!
//! A [`Plan`] is made from shapes and limits alone. It can be printed, serialised, tested without a
//! GPU, and replayed by anything that can run WGSL; encoding only walks through it.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    check,
    error::{Error, Result},
    kernel::{Access, Form, Kernel, Order, Reach, Scalar, Source, Stream},
    loss::{Dim, Loss},
    profile::Profile,
    tensor::{Dtype, Layout},
};

/// A tensor of a call without its buffer: which allocation it lies in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Operand {
    /// The name under which it was given.
    pub name: String,
    /// Where its elements lie.
    pub layout: Layout,
    /// Which buffer: operands with the same number share one.
    pub allocation: usize,
    /// Bytes of that buffer.
    pub allocation_bytes: u64,
}

/// A checked call: shapes, types and places of everything given and asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Call {
    /// The inputs given.
    pub inputs: BTreeMap<String, Operand>,
    /// The outputs asked for.
    pub outputs: BTreeMap<String, Operand>,
    /// The gradient of the first input is written over it.
    pub in_place: bool,
    /// Buffers written by a call that this one is a part of.
    #[cfg_attr(feature = "serde", serde(default))]
    pub siblings: Vec<usize>,
    /// The extents that the operands agree on.
    pub dims: BTreeMap<Dim, u64>,
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let words = [Self::State, Self::StatusWords, Self::BitWords, Self::Top];
        [Self::Rows, Self::Classes, Self::Hidden, Self::One]
            .into_iter()
            .chain(words)
            .chain([Self::Gathered, Self::AllClasses, Self::Parts])
            .find(|dim| format!("{dim:?}").eq_ignore_ascii_case(&name.replace('_', "")))
            .ok_or_else(|| serde::de::Error::custom(format!("no extent `{name}`")))
    }
}

impl Call {
    /// Checks operands against a loss's description and finds the extents they agree on.
    pub fn checked(
        loss: &dyn Loss,
        inputs: BTreeMap<String, Operand>,
        outputs: BTreeMap<String, Operand>,
        in_place: bool,
        profile: &Profile,
    ) -> Result<Self> {
        check::call(loss, inputs, outputs, in_place, profile.offset_alignment)
    }

    /// An extent; 0 where no operand has it.
    pub fn dim(&self, dim: Dim) -> u64 {
        self.dims.get(&dim).copied().unwrap_or(0)
    }

    /// Whether an input was given.
    pub fn has(&self, input: &str) -> bool {
        self.inputs.contains_key(input)
    }

    /// Whether an output is asked for.
    pub fn wants(&self, output: &str) -> bool {
        self.outputs.contains_key(output)
    }

    /// An input as a view.
    pub(crate) fn input(&self, name: &str) -> Option<View> {
        let operand = self.inputs.get(name)?;
        // One buffer bound for reading and for writing is refused even where the ranges are apart.
        let shared = self.outputs.values().any(|o| o.allocation == operand.allocation)
            || self.siblings.contains(&operand.allocation);
        let access = if shared { Access::ReadWrite } else { Access::Read };
        Some(View::new(Role::Input(operand.name.clone()), operand, access))
    }

    /// An output as a view.
    pub(crate) fn output(&self, name: &str) -> Option<View> {
        let operand = self.outputs.get(name)?;
        Some(View::new(Role::Output(operand.name.clone()), operand, Access::ReadWrite))
    }
}

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
}

/// A tensor of a dispatch: an operand or a part of the scratch, or a stretch of rows of one.
#[derive(Clone, Debug)]
pub(crate) struct View {
    role: Role,
    pub layout: Layout,
    access: Access,
    allocation_bytes: u64,
    /// The column that its first one is to a kernel.
    first_column: u64,
}

impl View {
    fn new(role: Role, operand: &Operand, access: Access) -> Self {
        Self {
            role,
            layout: operand.layout.clone(),
            access,
            allocation_bytes: operand.allocation_bytes,
            first_column: 0,
        }
    }

    /// Rows `rows` of this view.
    pub fn rows(mut self, rows: &Range<u64>) -> Self {
        // With planes, rows are those of whole images, or lie within one.
        self.layout.offset = self.layout.place(rows.start, 0).unwrap_or(u64::MAX >> 8);
        self.layout.shape[0] = rows.end - rows.start;
        self
    }

    /// Elements `elements` of a tensor without gaps, as one row.
    pub fn flat(mut self, elements: &Range<u64>) -> Self {
        let shape = vec![1, elements.end - elements.start];
        let offset = self.layout.offset + elements.start;
        self.layout = Layout { shape, row_stride: 0, class_stride: 1, offset, ..self.layout };
        self
    }

    /// Columns `columns` of this matrix.
    pub fn columns(mut self, columns: &Range<u64>) -> Self {
        self.layout.offset += columns.start * self.layout.class_stride;
        if let Some(extent) = self.layout.shape.get_mut(1) {
            *extent = columns.end - columns.start;
        }
        self
    }

    /// This matrix as columns `first`… of a wider one, of which the rest is nowhere.
    pub fn placed_at_column(mut self, first: u64) -> Self {
        self.first_column = first;
        self
    }

    /// A vector over classes as a matrix with one row for all.
    pub fn for_every_row(mut self) -> Self {
        let len = self.layout.len();
        self.layout = Layout { shape: vec![1, len], row_stride: 0, ..self.layout };
        self
    }

    /// Another layout of the same element size at the same place.
    pub fn reshaped(mut self, layout: Layout) -> Self {
        self.layout = Layout { offset: self.layout.offset, ..layout };
        self
    }

    /// In which order its elements lie.
    fn order(&self) -> Order {
        match self.layout.fold {
            Some(_) => Order::Folded,
            None if self.layout.has_planes() => Order::Planes,
            None => Order::Plain,
        }
    }

    /// Bytes of the buffer.
    pub fn room(&self) -> u64 {
        self.allocation_bytes
    }

    /// Whether every row starts at a multiple of four elements, and a last quad that reaches past
    /// the row still lies inside the buffer.
    fn aligned(&self) -> bool {
        let Layout { row_stride, offset, .. } = self.layout;
        if self.layout.has_planes() || self.layout.fold.is_some() {
            return false;
        }
        let columns = self.layout.columns();
        let reach = (self.layout.rows().saturating_sub(1)) * row_stride
            + offset
            + columns.next_multiple_of(4);
        offset.is_multiple_of(4)
            && row_stride.is_multiple_of(4)
            && reach * self.layout.dtype.bytes() <= self.allocation_bytes
    }
}

/// A tensor of a walk over all elements, and how a quad of the walk finds its elements there.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub view: View,
    pub reach: Reach,
}

impl Reached {
    /// Quads inside rows are loaded and stored whole; where they cannot be, element by element. Those
    /// of bytes never are: a quad of theirs ends with the window, which is no column of a row.
    fn demoted(self) -> Self {
        match self.reach {
            Reach::Row if !self.view.aligned() || !self.view.layout.dtype.is_float() => {
                Self { reach: Reach::Each, ..self }
            }
            _ => self,
        }
    }
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
/// is given closes them (a saved lse, the statistics of shards). No result has other bits for it.
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
    /// Why.
    pub why: &'static str,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, classes, passes, why, .. } = self;
        let what = if self.whole_rows { "chunks of whole rows" } else { "blocks of classes" };
        let times = if *passes > 1 { "made twice" } else { "made once" };
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
            for (place, word) in block.chunks_exact_mut(4).zip(&dispatch.params) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// Ranges of dispatches that are short enough for a submission each, in order: everything in one,
    /// except where [`Profile::submission_dispatches`] says otherwise (on OpenGL).
    ///
    /// A dispatch is planned to take a tenth of a second at most, so that a range of ten keeps within a
    /// second. Callers of [`crate::Prepared::encode`] who record on their own encoder cut there with
    /// [`crate::Prepared::encode_part`], an encoder and a submission for each range.
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

/// Writes a [`Plan`]: hands out scratch, and turns views into bindings and parameters.
pub(crate) struct Planner<'a> {
    pub profile: &'a Profile,
    plan: Plan,
    /// Where the scratch of adopted plans begins.
    base: Option<u64>,
}

impl<'a> Planner<'a> {
    pub fn new(loss: &str, profile: &'a Profile) -> Self {
        Self {
            profile,
            plan: Plan { loss: loss.to_owned(), windows: 1, ..Plan::default() },
            base: None,
        }
    }

    /// A part of the scratch of its own, zero-sized requests included.
    pub fn scratch(&mut self, layout: Layout) -> View {
        let mut layout = Layout { offset: 0, ..layout };
        let size = layout.dtype.bytes();
        let start =
            self.plan.scratch_bytes.next_multiple_of(self.profile.offset_alignment.max(256));
        // A last quad may be loaded past the end.
        let bytes = layout.end().unwrap_or(u64::MAX >> 8) * size + 16;
        layout.offset = start / size;
        self.plan.scratch_bytes = (start + bytes).next_multiple_of(256);
        View {
            role: Role::Scratch,
            layout,
            access: Access::ReadWrite,
            allocation_bytes: u64::MAX,
            first_column: 0,
        }
    }

    /// Names the plan after another loss.
    pub fn rename(&mut self, loss: &str) {
        loss.clone_into(&mut self.plan.loss);
    }

    /// Sets the number of windows.
    pub fn windows(&mut self, windows: u64) {
        self.plan.windows = windows;
    }

    /// Sets what storing the logits would have taken.
    pub fn unstored(&mut self, bytes: u64) {
        self.plan.unstored_bytes = bytes;
    }

    /// Sets how logits that are not stored go by.
    pub fn path(&mut self, path: Path) {
        self.plan.path = Some(path);
    }

    /// The loss that the plan is named after.
    pub fn loss(&self) -> &str {
        &self.plan.loss
    }

    /// Begins a dispatch.
    pub fn dispatch(
        &mut self,
        label: String,
        entry: &'static str,
        sources: &[Source],
    ) -> Step<'_, 'a> {
        Step {
            planner: self,
            kernel: Kernel {
                label,
                entry,
                sources: sources.to_vec(),
                streams: Vec::new(),
                fields: Vec::new(),
                overrides: Vec::new(),
            },
            bindings: Vec::new(),
            params: Vec::new(),
        }
    }

    /// Takes over the dispatches of a plan of its own, whose scratch is free again after them;
    /// `role` says what they are bound to here, and what becomes scratch lies there already.
    pub fn adopt(&mut self, part: Plan, role: impl Fn(Role) -> Role) {
        let alignment = self.profile.offset_alignment.max(256);
        let base = *self.base.get_or_insert(self.plan.scratch_bytes.next_multiple_of(alignment));
        let kernels: Vec<usize> = part.kernels.into_iter().map(|k| self.kernel(k)).collect();
        for mut dispatch in part.dispatches {
            dispatch.kernel = kernels.get(dispatch.kernel).copied().unwrap_or(usize::MAX);
            for binding in &mut dispatch.bindings {
                if binding.role == Role::Scratch {
                    binding.offset += base;
                }
                binding.role = role(binding.role.clone());
            }
            self.plan.dispatches.push(dispatch);
        }
        self.plan.windows = self.plan.windows.max(part.windows);
        self.plan.scratch_bytes = self.plan.scratch_bytes.max(base + part.scratch_bytes);
    }

    /// The number of a kernel; each is there once.
    fn kernel(&mut self, kernel: Kernel) -> usize {
        let known = self.plan.kernels.iter().position(|k| *k == kernel);
        known.unwrap_or_else(|| {
            self.plan.kernels.push(kernel);
            self.plan.kernels.len() - 1
        })
    }

    pub fn finish(self) -> Plan {
        self.plan
    }
}

/// The parameter that counts a row's columns, where a stream says nothing else.
const COLUMNS: &str = "classes";

/// A dispatch being written.
pub(crate) struct Step<'p, 'a> {
    planner: &'p mut Planner<'a>,
    kernel: Kernel,
    bindings: Vec<Binding>,
    params: Vec<u32>,
}

impl Step<'_, '_> {
    /// A number that changes without a new pipeline.
    pub fn number(mut self, name: impl Into<String>, value: impl Into<Number>) -> Self {
        let (scalar, word) = match value.into() {
            Number::U32(value) => (Scalar::U32, value),
            Number::F32(value) => (Scalar::F32, value.to_bits()),
        };
        self.kernel.fields.push((name.into(), scalar));
        self.params.push(word);
        self
    }

    /// Several numbers.
    pub fn numbers(self, numbers: impl IntoIterator<Item = (String, Number)>) -> Self {
        numbers.into_iter().fold(self, |step, (name, value)| step.number(name, value))
    }

    /// A value that shapes the code.
    pub fn shape(mut self, name: &'static str, value: impl Into<u32>) -> Self {
        self.kernel.overrides.push((name, value.into()));
        self
    }

    /// Several of them.
    pub fn shapes(self, shapes: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        shapes.into_iter().fold(self, |step, (name, value)| step.shape(name, value))
    }

    /// A float tensor that is read, or the value that stands for it.
    pub fn read(self, name: &'static str, view: Option<View>, default: f32) -> Self {
        let Some(view) = view else {
            return self.absent(name, default.to_bits());
        };
        let form = if view.aligned() {
            Form::Quads(view.layout.dtype)
        } else {
            Form::Elements(view.layout.dtype)
        };
        self.bind(name, view, form, false)
    }

    /// A float tensor whose rows have as many columns as parameter `columns` says.
    pub fn read_operand(
        self,
        name: &'static str,
        columns: &'static str,
        view: Option<View>,
        default: f32,
    ) -> Self {
        let mut step = self.read(name, view, default);
        if let Some(stream) = step.kernel.streams.last_mut() {
            stream.columns = columns;
        }
        step
    }

    /// A float tensor that is read element by element.
    pub fn read_elements(self, name: &'static str, view: Option<View>, default: f32) -> Self {
        let Some(view) = view else {
            return self.absent(name, default.to_bits());
        };
        let form = Form::Elements(view.layout.dtype);
        self.bind(name, view, form, false)
    }

    /// A float tensor that is written: whole quads only where no column past the row is in one.
    pub fn write(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        let form = if view.aligned() && view.layout.columns().is_multiple_of(4) {
            Form::Quads(view.layout.dtype)
        } else {
            Form::Elements(view.layout.dtype)
        };
        self.bind(name, view, form, true)
    }

    /// A float tensor that is written element by element.
    pub fn write_elements(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        let form = Form::Elements(view.layout.dtype);
        self.bind(name, view, form, true)
    }

    /// A float tensor that is read under one name and then written over under another.
    pub fn read_write(self, name: &'static str, written: &'static str, view: View) -> Self {
        let quads = view.aligned() && view.layout.columns().is_multiple_of(4);
        let dtype = view.layout.dtype;
        let form = if quads { Form::Quads(dtype) } else { Form::Elements(dtype) };
        let order = view.order();
        let view = View { access: Access::ReadWrite, ..view };
        let mut step = self.bind(name, view, form.clone(), false);
        step.kernel.streams.push(Stream {
            name: written,
            form,
            access: Access::ReadWrite,
            in_place_of: Some(name),
            stored: true,
            columns: COLUMNS,
            reach: None,
            order,
        });
        step
    }

    /// A float tensor that a walk over all elements reads, or the value that stands for it.
    pub fn take(self, name: &'static str, view: Option<Reached>, default: f32) -> Self {
        let Some(Reached { view, reach }) = view.map(Reached::demoted) else {
            return self.absent(name, default.to_bits()).reached(1, Reach::Flat);
        };
        let step = match reach {
            Reach::Flat | Reach::Row => self.read(name, Some(view), default),
            _ => self.read_elements(name, Some(view), default),
        };
        step.reached(1, reach)
    }

    /// A float tensor that a walk over all elements writes.
    pub fn give(self, name: &'static str, view: Option<Reached>) -> Self {
        let Some(Reached { view, reach }) = view.map(Reached::demoted) else {
            return self.absent(name, 0).reached(1, Reach::Flat);
        };
        let step = match reach {
            Reach::Flat | Reach::Row => self.write(name, Some(view)),
            _ => self.write_elements(name, Some(view)),
        };
        step.reached(1, reach)
    }

    /// A float tensor that a walk over all elements reads under one name and writes over under
    /// another.
    pub fn take_give(self, name: &'static str, written: &'static str, view: Reached) -> Self {
        let Reached { view, reach } = view.demoted();
        self.read_write(name, written, view).reached(2, reach)
    }

    /// How a walk reaches the last streams.
    fn reached(mut self, streams: usize, reach: Reach) -> Self {
        self.kernel.streams.iter_mut().rev().take(streams).for_each(|s| s.reach = Some(reach));
        self
    }

    /// A mask that a walk over all elements reads, as the floats 0 and 1 where it is bytes or bits.
    pub fn take_mask(self, name: &'static str, mask: Option<Reached>) -> Self {
        match mask.map(Reached::demoted) {
            Some(Reached { view, reach }) if !view.layout.dtype.is_float() => {
                let bits = view.layout.dtype == Dtype::U32;
                let form = if bits { Form::Bits } else { Form::Bytes };
                self.bind(name, view, form, false).reached(1, reach)
            }
            mask => self.take(name, mask, 1.0),
        }
    }

    /// Integers that are read, if there are any.
    pub fn integers(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else { return self.unbound(name, Form::AbsentIntegers) };
        let form = Form::Integers(view.layout.dtype);
        self.bind(name, view, form, false)
    }

    /// Words that are read or written by index.
    pub fn words(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        self.bind(name, view, Form::Words, false)
    }

    /// An array of a WGSL type of the module, from the view's first byte.
    pub fn table(self, name: &'static str, view: &View, element: &'static str) -> Self {
        self.bind(name, view.clone(), Form::Table(element), false)
    }

    fn absent(self, name: &'static str, bits: u32) -> Self {
        self.unbound(name, Form::Absent(bits))
    }

    fn unbound(mut self, name: &'static str, form: Form) -> Self {
        let order = Order::Plain;
        self.kernel.streams.push(Stream {
            name,
            form,
            access: Access::Read,
            in_place_of: None,
            stored: false,
            columns: COLUMNS,
            reach: None,
            order,
        });
        self
    }

    fn bind(mut self, name: &'static str, view: View, form: Form, stored: bool) -> Self {
        let alignment = self.planner.profile.offset_alignment;
        let size = view.layout.dtype.bytes();
        let bytes = view.layout.byte_range().unwrap_or(0..0);
        let offset = bytes.start - bytes.start % alignment;
        let whole = match form {
            Form::Quads(dtype) => 4 * dtype.bytes(),
            Form::Table(_) => 16,
            _ => 4,
        };
        let end = bytes.end.max(bytes.start + 4).next_multiple_of(4).max(offset + whole);
        let end = if matches!(form, Form::Quads(_)) { end.next_multiple_of(whole) } else { end };
        if !matches!(form, Form::Table(_)) {
            // Words are counted as such whatever the elements are (a 64-bit count is two).
            let unit = if form == Form::Words { 4 } else { size };
            let base = (bytes.start - offset) / unit;
            let base = if form == Form::Bits { 32 * base } else { base };
            // Below 0 where the first column is not 0: indices are sums that wrap.
            let base = (base as u32).wrapping_sub(view.first_column as u32);
            self = self.number(format!("{name}_base"), base);
            let stride = view.layout.row_stride as u32;
            self = self.number(format!("{name}_stride"), stride);
        }
        let order = view.order();
        let (plane, fold) = view.layout.fold.unwrap_or((view.layout.class_stride, 0));
        if order != Order::Plain {
            self = self.number(format!("{name}_plane"), plane);
        }
        if order == Order::Folded {
            self = self.number(format!("{name}_fold"), fold);
        }
        self.bindings.push(Binding {
            role: view.role,
            offset,
            size: end - offset,
            access: view.access,
        });
        self.kernel.streams.push(Stream {
            name,
            form,
            access: view.access,
            in_place_of: None,
            stored,
            columns: COLUMNS,
            reach: None,
            order,
        });
        self
    }

    /// Ends the dispatch with this many workgroups.
    pub fn groups(self, groups: u64) -> Result<()> {
        let Some(grid) = self.planner.profile.grid(groups) else {
            return Err(Error::Limit {
                what: format!("workgroups of {}", self.kernel.label),
                found: groups,
                limit: u64::from(self.planner.profile.workgroups).pow(2),
            });
        };
        self.grid(grid)
    }

    /// Ends the dispatch with this grid.
    pub fn grid(self, workgroups: [u32; 3]) -> Result<()> {
        let limit = self.planner.profile.binding_bytes;
        if let Some(binding) = self.bindings.iter().find(|b| b.size > limit) {
            return Err(Error::Limit {
                what: format!("bytes of {:?} in {}", binding.role, self.kernel.label),
                found: binding.size,
                limit,
            });
        }
        let kernel = self.planner.kernel(self.kernel);
        self.planner.plan.dispatches.push(Dispatch {
            kernel,
            bindings: self.bindings,
            params: self.params,
            workgroups,
        });
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
