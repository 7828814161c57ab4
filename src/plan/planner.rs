//! Writes a plan, dispatch by dispatch.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Binding, Dispatch, Number, Path, Plan, Role,
    view::{Addressed, View},
};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        kernel::{
            Access, Addressing, Draft, ElementStorage, Kernel, Label, Name, Order, Scalar, Source,
            Stream, record::Declared,
        },
        limits,
        profile::Profile,
        stretches::check_parts,
    },
    spec::{broadcast::Axes, call::Call},
};

/// Writes a [`Plan`]: allocates scratch, and turns views into bindings and parameters.
pub(crate) struct Planner<'a> {
    pub profile: &'a Profile,
    call: &'a Call,
    plan: Plan,
    /// The constants that hold host inputs, by the inputs' names.
    host: BTreeMap<String, usize>,
    /// Where the scratch of adopted plans begins.
    base: Option<u64>,
    /// The dispatch that is being written. Its vectors are used again for the next one.
    draft: Draft,
    bindings: Vec<Binding>,
    params: Vec<u32>,
}

impl<'a> Planner<'a> {
    pub fn new(loss: &str, call: &'a Call, profile: &'a Profile) -> Self {
        Self {
            profile,
            call,
            host: BTreeMap::new(),
            plan: Plan { loss: loss.to_owned(), windows: 1, ..Plan::default() },
            base: None,
            draft: Draft::default(),
            bindings: Vec::with_capacity(8),
            params: Vec::with_capacity(32),
        }
    }

    /// A new part of the scratch, also for a size of zero.
    pub fn scratch(&mut self, layout: Layout) -> View {
        let mut layout = Layout { offset: 0, ..layout };
        let size = layout.dtype.bytes();
        let start =
            self.plan.scratch_bytes.next_multiple_of(self.profile.offset_alignment.max(256));
        // The last quad may be loaded past the end.
        let bytes = layout.end().unwrap_or(u64::MAX >> 8) * size + 16;
        layout.offset = start / size;
        self.plan.scratch_bytes = (start + bytes).next_multiple_of(256);
        View::scratch(layout)
    }

    /// Words that the plan holds.
    pub fn constant(&mut self, words: &[u32]) -> View {
        let constants = &mut self.plan.constants;
        // A binding has at least one word.
        let words = if words.is_empty() { &[0] } else { words };
        constants.push(words.iter().flat_map(|word| word.to_le_bytes()).collect());
        View::constant(constants.len() - 1, words.len() as u64)
    }

    /// What a binding is bound to. Kernels read a host input as any other one; the plan holds its bytes.
    fn bound_to(&mut self, role: Role, dtype: Dtype) -> Role {
        let Role::Input(name) = &role else { return role };
        let Some(array) = self.call.host.get(&**name) else { return role };
        // A skeleton may have given the operand another name, or keep it to itself.
        let operand = self.call.inputs.values().find(|operand| operand.name == **name);
        let dtype = operand.map_or(dtype, |operand| operand.layout.dtype);
        let constants = &mut self.plan.constants;
        let index = self.host.entry(name.to_string()).or_insert_with(|| {
            constants.push(array.to_bytes(dtype));
            constants.len() - 1
        });
        Role::Constant(*index)
    }

    /// Names the plan after another loss.
    pub fn rename(&mut self, loss: &str) {
        loss.clone_into(&mut self.plan.loss);
    }

    /// Sets the number of windows.
    pub fn windows(&mut self, windows: u64) {
        self.plan.windows = windows;
    }

    /// Sets the bytes that stored logits would have taken.
    pub fn unstored(&mut self, bytes: u64) {
        self.plan.unstored_bytes = bytes;
    }

    /// Sets how logits that are not stored are made.
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
        label: Label,
        entry: &'static str,
        sources: impl IntoIterator<Item = Source>,
    ) -> Step<'_, 'a> {
        let Draft { label: named, code, overrides } = &mut self.draft;
        *named = label;
        (code.entry, code.declared) = (entry, Declared::Nothing);
        code.sources.clear();
        code.sources.extend(sources);
        code.streams.clear();
        code.fields.clear();
        overrides.clear();
        self.bindings.clear();
        self.params.clear();
        Step { planner: self, wide: 0 }
    }

    /// Appends the dispatches of another plan. All appended plans use the same scratch, one after another. `role` says
    /// what each binding is bound to here; a binding that it turns into scratch already has its place there.
    pub fn append(&mut self, part: Plan, role: impl Fn(Role) -> Role) {
        let alignment = self.profile.offset_alignment.max(256);
        let base = *self.base.get_or_insert(self.plan.scratch_bytes.next_multiple_of(alignment));
        let kernels: Vec<usize> = part.kernels.into_iter().map(|k| self.kernel(k)).collect();
        let first_constant = self.plan.constants.len();
        self.plan.constants.extend(part.constants);
        for mut dispatch in part.dispatches {
            dispatch.kernel = kernels.get(dispatch.kernel).copied().unwrap_or(usize::MAX);
            for binding in &mut dispatch.bindings {
                match &mut binding.role {
                    Role::Scratch => binding.offset += base,
                    Role::Constant(index) => *index += first_constant,
                    Role::Input(_) | Role::Output(_) => {}
                }
                binding.role = self.bound_to(role(binding.role.clone()), Dtype::F32);
            }
            self.plan.dispatches.push(dispatch);
        }
        self.plan.windows = self.plan.windows.max(part.windows);
        self.plan.scratch_bytes = self.plan.scratch_bytes.max(base + part.scratch_bytes);
    }

    /// The index of a kernel. The plan holds each kernel once under each of its labels.
    fn kernel(&mut self, kernel: Arc<Kernel>) -> usize {
        let kernels = &mut self.plan.kernels;
        // Nearly always it is the same allocation. Comparing the texts of kernels with one label takes longer than
        // planning a dispatch.
        let known = kernels.iter().position(|known| Arc::ptr_eq(known, &kernel)).or_else(|| {
            kernels.iter().position(|known| known.label == kernel.label && *known == kernel)
        });
        known.unwrap_or_else(|| {
            kernels.push(kernel);
            kernels.len() - 1
        })
    }

    pub fn finish(self) -> Plan {
        self.plan
    }
}

/// The parameter with the number of a row's columns, for streams that name no other.
const COLUMNS: &str = "classes";

/// A dispatch that is being written.
pub(crate) struct Step<'p, 'a> {
    planner: &'p mut Planner<'a>,
    /// Elements a load, as 64-bit words, for the f32 streams that follow; 0 for quads of 32-bit words.
    wide: u32,
}

impl Step<'_, '_> {
    /// Says what the kernel knows of the records of rows.
    pub fn declare(self, declared: Declared) -> Self {
        self.planner.draft.code.declared = declared;
        self
    }

    /// Adds a number that changes without a new pipeline.
    pub fn uniform(self, name: impl Into<Name>, value: impl Into<Number>) -> Self {
        let (scalar, word) = match value.into() {
            Number::U32(value) => (Scalar::U32, value),
            Number::F32(value) => (Scalar::F32, value.to_bits()),
        };
        self.planner.draft.code.fields.push((name.into(), scalar));
        self.planner.params.push(word);
        self
    }

    /// Adds several uniforms.
    pub fn uniforms(self, uniforms: impl IntoIterator<Item = (&'static str, Number)>) -> Self {
        uniforms.into_iter().fold(self, |step, (name, value)| step.uniform(name, value))
    }

    /// Sets an override: a value that changes the code.
    pub fn overriding(self, name: &'static str, value: impl Into<u32>) -> Self {
        self.planner.draft.overrides.push((name, value.into()));
        self
    }

    /// Sets several overrides.
    pub fn overrides(self, overrides: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        overrides.into_iter().fold(self, |step, (name, value)| step.overriding(name, value))
    }

    /// Binds the f32 streams that follow as 64-bit words. `elements` is the number of elements a load: 4 where their
    /// rows allow it, or 8 if every view that follows lies [in octets](View::in_octets); 0 ends this.
    pub fn wide(mut self, elements: u32) -> Self {
        self.wide = elements;
        self
    }

    /// How a float tensor is bound: with several elements a load where its rows allow it. Integers in its place are
    /// quantised floats.
    fn storage(&self, view: &View, aligned: bool) -> ElementStorage {
        match view.layout.dtype {
            Dtype::I8 => ElementStorage::Quantized,
            dtype if !aligned => ElementStorage::Elements(dtype),
            Dtype::F32 if self.wide > 0 => ElementStorage::Wide(self.wide),
            dtype => ElementStorage::Quads(dtype),
        }
    }

    /// A float tensor that is read. Without a view, every element reads as `default`.
    pub fn read(self, name: &'static str, view: Option<View>, default: f32) -> Self {
        let Some(view) = view else {
            return self.absent(name, default.to_bits());
        };
        let storage = self.storage(&view, view.aligned());
        self.bind(name, &view, storage, false)
    }

    /// A float tensor that is read. The parameter `columns` holds the number of its columns.
    pub fn read_operand(
        self,
        name: &'static str,
        columns: &'static str,
        view: Option<View>,
        default: f32,
    ) -> Self {
        let step = self.read(name, view, default);
        if let Some(stream) = step.planner.draft.code.streams.last_mut() {
            stream.columns = columns;
        }
        step
    }

    /// A float tensor that is read element by element.
    pub fn read_elements(self, name: &'static str, view: Option<View>, default: f32) -> Self {
        let Some(view) = view else {
            return self.absent(name, default.to_bits());
        };
        let storage = self.storage(&view, false);
        self.bind(name, &view, storage, false)
    }

    /// Numbers that are read one by one: floats, or i8 as the numbers that they are.
    pub fn read_numbers(self, name: &'static str, view: Option<View>, default: f32) -> Self {
        let Some(view) = view else {
            return self.absent(name, default.to_bits());
        };
        let storage = ElementStorage::Elements(view.layout.dtype);
        self.bind(name, &view, storage, false)
    }

    /// A float tensor that is written. It is written in whole quads only where no quad has columns past the row.
    pub fn write(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        let storage = self.storage(&view, view.in_quads());
        self.bind(name, &view, storage, true)
    }

    /// A float tensor that is written element by element.
    pub fn write_elements(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        let storage = ElementStorage::Elements(view.layout.dtype);
        self.bind(name, &view, storage, true)
    }

    /// A float tensor that is read under one name and overwritten under another.
    pub fn read_write(self, name: &'static str, written: &'static str, view: View) -> Self {
        let storage = self.storage(&view, view.in_quads());
        self.overwrite(name, written, view, storage)
    }

    /// A float tensor that is read under one name and overwritten under another, element by element.
    pub fn read_write_elements(
        self,
        name: &'static str,
        written: &'static str,
        view: View,
    ) -> Self {
        let storage = ElementStorage::Elements(view.layout.dtype);
        self.overwrite(name, written, view, storage)
    }

    fn overwrite(
        self,
        name: &'static str,
        written: &'static str,
        view: View,
        storage: ElementStorage,
    ) -> Self {
        let order = view.order();
        let view = View { access: Access::ReadWrite, ..view };
        let step = self.bind(name, &view, storage, false);
        step.stream(Stream {
            name: written,
            storage,
            access: Access::ReadWrite,
            in_place_of: Some(name),
            stored: true,
            columns: COLUMNS,
            addressing: None,
            order,
        })
    }

    /// A float tensor that a walk over all elements reads. Without a view, every element reads as `default`.
    pub fn take(self, name: &'static str, view: Option<Addressed>, default: f32) -> Self {
        let Some(Addressed { view, addressing, axes }) =
            view.map(Addressed::elementwise_if_unaligned)
        else {
            return self.absent(name, default.to_bits()).addressed(1, Addressing::Flat);
        };
        let step = match addressing {
            Addressing::Flat | Addressing::Row => self.read(name, Some(view), default),
            _ => self.read_elements(name, Some(view), default),
        };
        step.addressed(1, addressing).along(name, axes)
    }

    /// A float tensor that a walk over all elements writes.
    pub fn give(self, name: &'static str, view: Option<Addressed>) -> Self {
        let Some(Addressed { view, addressing, .. }) =
            view.map(Addressed::elementwise_if_unaligned)
        else {
            return self.absent(name, 0).addressed(1, Addressing::Flat);
        };
        let step = match addressing {
            Addressing::Flat | Addressing::Row => self.write(name, Some(view)),
            _ => self.write_elements(name, Some(view)),
        };
        step.addressed(1, addressing)
    }

    /// A float tensor that a walk over all elements reads under one name and overwrites under another.
    pub fn take_give(self, name: &'static str, written: &'static str, view: Addressed) -> Self {
        let Addressed { view, addressing, .. } = view.elementwise_if_unaligned();
        self.read_write(name, written, view).addressed(2, addressing)
    }

    /// Sets how a walk finds the elements of the last streams.
    fn addressed(self, streams: usize, addressing: Addressing) -> Self {
        self.planner
            .draft
            .code
            .streams
            .iter_mut()
            .rev()
            .take(streams)
            .for_each(|s| s.addressing = Some(addressing));
        self
    }

    /// Adds the parameters by which a stream that lacks some axes finds its own row.
    fn along(mut self, name: &'static str, axes: Option<(Axes, u64)>) -> Self {
        let Some((axes, first_row)) = axes else { return self };
        self = self.uniform(Name::of(name, "_first"), first_row);
        for (k, group) in (0..).zip(axes.groups()) {
            self = self
                .uniform(Name::of(name, "_below").nth(k), group.below)
                .uniform(Name::of(name, "_extent").nth(k), group.extent)
                .uniform(Name::of(name, "_step").nth(k), group.step);
        }
        self
    }

    /// A mask that a walk over all elements reads. Bytes and bits read as the floats 0 and 1.
    pub fn take_mask(self, name: &'static str, mask: Option<Addressed>) -> Self {
        match mask.map(Addressed::elementwise_if_unaligned) {
            Some(Addressed { view, addressing, axes }) if !view.layout.dtype.is_float() => {
                let bits = view.layout.dtype == Dtype::U32;
                let storage = if bits { ElementStorage::Bits } else { ElementStorage::Bytes };
                self.bind(name, &view, storage, false).addressed(1, addressing).along(name, axes)
            }
            mask => self.take(name, mask, 1.0),
        }
    }

    /// Integers that are read. Without a view, every integer is 0.
    pub fn integers(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else { return self.unbound(name, ElementStorage::AbsentIntegers) };
        let storage = ElementStorage::Integers(view.layout.dtype);
        self.bind(name, &view, storage, false)
    }

    /// Words that are read or written by index.
    pub fn words(self, name: &'static str, view: Option<View>) -> Self {
        let Some(view) = view else {
            return self.absent(name, 0);
        };
        self.bind(name, &view, ElementStorage::Words, false)
    }

    /// An array of a WGSL type that the module declares, from the first byte of the view.
    pub fn table(self, name: &'static str, view: &View, element: &'static str) -> Self {
        self.bind(name, view, ElementStorage::Table(element), false)
    }

    fn absent(self, name: &'static str, bits: u32) -> Self {
        self.unbound(name, ElementStorage::Absent(bits))
    }

    fn unbound(self, name: &'static str, storage: ElementStorage) -> Self {
        self.stream(Stream {
            name,
            storage,
            access: Access::Read,
            in_place_of: None,
            stored: false,
            columns: COLUMNS,
            addressing: None,
            order: Order::Plain,
        })
    }

    fn stream(self, stream: Stream) -> Self {
        self.planner.draft.code.streams.push(stream);
        self
    }

    fn bind(
        mut self,
        name: &'static str,
        view: &View,
        storage: ElementStorage,
        stored: bool,
    ) -> Self {
        let alignment = self.planner.profile.offset_alignment;
        let size = view.layout.dtype.bytes();
        let bytes = view.layout.byte_range().unwrap_or(0..0);
        let offset = bytes.start - bytes.start % alignment;
        let whole = match storage {
            ElementStorage::Quads(dtype) => 4 * dtype.bytes(),
            ElementStorage::Wide(elements) => 4 * u64::from(elements),
            ElementStorage::Table(_) => 16,
            _ => 4,
        };
        // Whole words, of which an empty tensor has one too.
        let first_word = bytes.start - bytes.start % 4;
        let end = bytes.end.max(first_word + 4).next_multiple_of(4).max(offset + whole);
        let quads = matches!(storage, ElementStorage::Quads(_) | ElementStorage::Wide(_));
        let end = if quads { end.next_multiple_of(whole) } else { end };
        if !matches!(storage, ElementStorage::Table(_)) {
            // `Words` are 32-bit words whatever the elements are (a 64-bit count is two words).
            let unit = if storage == ElementStorage::Words { 4 } else { size };
            let base = (bytes.start - offset) / unit;
            let base = if storage == ElementStorage::Bits { 32 * base } else { base };
            // The base may wrap below 0 where the first column is not 0; the sum that makes an index wraps back.
            let base = (base as u32).wrapping_sub(view.first_column as u32);
            self = self.uniform(Name::of(name, "_base"), base);
            let stride = view.layout.row_stride as u32;
            self = self.uniform(Name::of(name, "_stride"), stride);
        }
        let order = view.order();
        let (plane, strip) = view.layout.strips.unwrap_or((view.layout.class_stride, 0));
        if order != Order::Plain {
            self = self.uniform(Name::of(name, "_plane"), plane);
        }
        if order == Order::Strips {
            self = self.uniform(Name::of(name, "_strip"), strip);
        }
        let role = self.planner.bound_to(view.role.clone(), view.layout.dtype);
        let access = view.access;
        self.planner.bindings.push(Binding { role, offset, size: end - offset, access });
        self.stream(Stream {
            name,
            storage,
            access,
            in_place_of: None,
            stored,
            columns: COLUMNS,
            addressing: None,
            order,
        })
    }

    /// Ends the dispatch with this many workgroups.
    pub fn groups(self, groups: u64) -> Result<()> {
        let Some(grid) = limits::grid(self.planner.profile, groups) else {
            return Err(Error::Limit {
                what: format!("workgroups of {}", self.planner.draft.label).into(),
                found: groups,
                limit: u64::from(self.planner.profile.workgroups).pow(2),
            });
        };
        self.grid(grid)
    }

    /// Ends the dispatch with this grid.
    pub fn grid(self, workgroups: [u32; 3]) -> Result<()> {
        let limit = self.planner.profile.binding_bytes;
        if let Some(binding) = self.planner.bindings.iter().find(|b| b.size > limit) {
            return Err(Error::Limit {
                what: format!("bytes of {} in {}", binding.role, self.planner.draft.label).into(),
                found: binding.size,
                limit,
            });
        }
        check_parts(self.planner.plan.dispatches.len() as u64)?;
        let Planner { draft, bindings, params, .. } = &*self.planner;
        let (bindings, params) = (bindings.clone(), params.clone());
        let kernel = draft.kernel();
        let kernel = self.planner.kernel(kernel);
        self.planner.plan.dispatches.push(Dispatch { kernel, bindings, params, workgroups });
        Ok(())
    }
}
