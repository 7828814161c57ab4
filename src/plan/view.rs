//! A tensor of a dispatch, and how a kernel accesses it.

use std::ops::Range;

use super::Role;
use crate::{
    data::tensor::{Dtype, Layout},
    plan::kernel::{Access, Addressing, Order},
    spec::{
        broadcast::Axes,
        call::{Call, Operand},
    },
};

/// A tensor of a dispatch: an operand, a part of the scratch, or a stretch of rows of either.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(super) role: Role,
    pub layout: Layout,
    pub(super) access: Access,
    pub(super) allocation_bytes: u64,
    /// The number of the first column, as the kernel counts columns.
    pub(super) first_column: u64,
    /// The factors of its vectors in products.
    pub(super) factors: Option<Box<Factors>>,
    /// Whether its rows are all rows of a window, while those of the dispatch are slots (`shaders/row/order.wgsl`).
    pub(super) by_row: bool,
}

/// Factors that products multiply the rows or the columns of an operand by: one or two words each.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    /// The words, from the first vector's on.
    pub words: View,
    /// The distance from one vector's words to the next vector's.
    pub step: u64,
    /// The distance from the first word of a vector to the second, if there is one.
    pub second: Option<u64>,
    /// Whether the vectors are columns.
    pub of_columns: bool,
}

impl Call {
    /// An input as a view.
    pub(crate) fn input(&self, name: &str) -> Option<View> {
        let operand = self.inputs.get(name)?;
        // wgpu refuses one buffer that is bound for reading and for writing, even if the ranges are disjoint.
        let shared = self.outputs.values().any(|o| o.allocation == operand.allocation)
            || self.siblings.contains(&operand.allocation);
        let access = if shared { Access::ReadWrite } else { Access::Read };
        Some(View::new(Role::Input(operand.name.as_str().into()), operand, access))
    }

    /// An output as a view.
    pub(crate) fn output(&self, name: &str) -> Option<View> {
        let operand = self.outputs.get(name)?;
        Some(View::new(Role::Output(operand.name.as_str().into()), operand, Access::ReadWrite))
    }
}

impl View {
    pub(super) fn new(role: Role, operand: &Operand, access: Access) -> Self {
        Self {
            role,
            layout: operand.layout.clone(),
            access,
            allocation_bytes: operand.allocation_bytes,
            first_column: 0,
            factors: None,
            by_row: false,
        }
    }

    /// Words that the plan holds.
    pub(super) fn constant(index: usize, words: u64) -> Self {
        Self {
            role: Role::Constant(index),
            layout: Layout::vector(Dtype::U32, words),
            access: Access::Read,
            allocation_bytes: 4 * words,
            first_column: 0,
            factors: None,
            by_row: false,
        }
    }

    /// Words of the scratch from this byte on.
    pub(super) fn scratch(layout: Layout) -> Self {
        Self {
            role: Role::Scratch,
            layout,
            access: Access::ReadWrite,
            allocation_bytes: u64::MAX,
            first_column: 0,
            factors: None,
            by_row: false,
        }
    }

    /// The same view, whose rows products multiply by factors: words of the view `first`, `step` words apart.
    pub fn scaled_by(mut self, words: Self, step: u64) -> Self {
        self.factors = Some(Box::new(Factors { words, step, second: None, of_columns: false }));
        self
    }

    /// The same view, whose rows or columns products multiply by two factors each: their product may not be a number of
    /// f32 that devices keep.
    pub fn divided_by(mut self, words: Self, step: u64, second: u64, of_columns: bool) -> Self {
        self.factors = Some(Box::new(Factors { words, step, second: Some(second), of_columns }));
        self
    }

    /// The same view, of all rows of a window, for dispatches whose rows are slots.
    pub fn by_row(mut self) -> Self {
        self.by_row = true;
        self
    }

    /// Whether its rows are those of a window while those of the dispatch are slots.
    pub fn is_by_row(&self) -> bool {
        self.by_row
    }

    /// The factors of its vectors. The columns of a last quad that extends past the row have factors too.
    pub fn factors(&self) -> Option<Factors> {
        let mut factors = (**self.factors.as_ref()?).clone();
        let vectors = if factors.of_columns {
            self.layout.columns().next_multiple_of(4)
        } else {
            self.layout.rows()
        };
        let reach = vectors.saturating_sub(1) * factors.step + factors.second.unwrap_or(0) + 1;
        let layout = &mut factors.words.layout;
        (layout.shape, layout.row_stride) = (vec![reach], 1);
        Some(factors)
    }

    /// These rows of the view.
    pub fn rows(mut self, rows: &Range<u64>) -> Self {
        // With planes, the rows must be those of whole images, or lie within one image.
        self.layout.offset = self.layout.place(rows.start, 0).unwrap_or(u64::MAX >> 8);
        self.layout.shape[0] = rows.end - rows.start;
        if let Some(factors) = self.factors.as_deref_mut().filter(|factors| !factors.of_columns) {
            factors.words.layout.offset += rows.start * factors.step;
        }
        self
    }

    /// These elements of a tensor without gaps, as one row.
    pub fn flat(mut self, elements: &Range<u64>) -> Self {
        let shape = vec![1, elements.end - elements.start];
        let offset = self.layout.offset + elements.start;
        self.layout = Layout { shape, row_stride: 0, class_stride: 1, offset, ..self.layout };
        self
    }

    /// These columns of the matrix.
    pub fn columns(mut self, columns: &Range<u64>) -> Self {
        self.layout.offset += columns.start * self.layout.class_stride;
        if let Some(extent) = self.layout.shape.get_mut(1) {
            *extent = columns.end - columns.start;
        }
        if let Some(factors) = self.factors.as_deref_mut().filter(|factors| factors.of_columns) {
            factors.words.layout.offset += columns.start * factors.step;
        }
        self
    }

    /// The same matrix, as a kernel sees it that counts its columns from `first`: a part of a wider matrix that does
    /// not exist.
    pub fn placed_at_column(mut self, first: u64) -> Self {
        self.first_column = first;
        self
    }

    /// A vector over classes as a matrix whose rows are all this vector.
    pub fn for_every_row(mut self) -> Self {
        let len = self.layout.len();
        self.layout = Layout { shape: vec![1, len], row_stride: 0, ..self.layout };
        self
    }

    /// Another layout with the same element size at the same place.
    pub fn reshaped(mut self, layout: Layout) -> Self {
        self.layout = Layout { offset: self.layout.offset, ..layout };
        self
    }

    /// The order of the elements in memory.
    pub(super) fn order(&self) -> Order {
        match self.layout.strips {
            Some(_) => Order::Strips,
            None if self.layout.has_planes() => Order::Planes,
            None => Order::Plain,
        }
    }

    /// The view with all axes before the last one folded into one.
    pub fn folded(mut self) -> Self {
        self.layout = self.layout.folded();
        self
    }

    /// The bytes of the buffer.
    pub fn room(&self) -> u64 {
        self.allocation_bytes
    }

    /// Whether every row starts at a multiple of four elements, and a last quad that extends past the row still lies
    /// inside the buffer.
    pub(super) fn aligned(&self) -> bool {
        self.aligned_to(4)
    }

    /// Whether every row consists of whole quads that start at multiples of four elements.
    pub(super) fn in_quads(&self) -> bool {
        self.layout.columns().is_multiple_of(4) && self.aligned()
    }

    /// Whether every row is f32 and consists of groups of eight elements that start at multiples of eight.
    pub fn in_octets(&self) -> bool {
        let octets = self.layout.columns().is_multiple_of(8) && self.aligned_to(8);
        octets && self.layout.dtype == Dtype::F32
    }

    fn aligned_to(&self, elements: u64) -> bool {
        let Layout { row_stride, offset, .. } = self.layout;
        if self.layout.has_planes() || self.layout.strips.is_some() {
            return false;
        }
        let columns = self.layout.columns();
        let reach = (self.layout.rows().saturating_sub(1)) * row_stride
            + offset
            + columns.next_multiple_of(elements);
        offset.is_multiple_of(elements)
            && row_stride.is_multiple_of(elements)
            && reach * self.layout.dtype.bytes() <= self.allocation_bytes
    }
}

/// A tensor in a walk over all elements, and how a quad of the walk finds its elements in it.
#[derive(Clone, Debug)]
pub(crate) struct Addressed {
    pub view: View,
    pub addressing: Addressing,
    /// The axes of [`Addressing::Axes`], and the first row of the walk.
    pub(super) axes: Option<(Axes, u64)>,
}

impl Addressed {
    pub fn new(view: View, addressing: Addressing) -> Self {
        Self { view, addressing, axes: None }
    }

    /// A tensor that has only some of the axes that count the rows; the walk begins at `first_row`.
    pub fn along(view: View, axes: Axes, first_row: u64, planes: bool) -> Self {
        let groups = axes.groups().len() as u32;
        let addressing = Addressing::Axes { groups, columns: axes.has_columns(), planes };
        Self { view, addressing, axes: Some((axes, first_row)) }
    }

    /// Loads and stores whole quads inside rows where possible, otherwise element by element. Bytes are always loaded
    /// element by element, because their quads are cut off at the end of the window, which is not a column of a row.
    pub(super) fn elementwise_if_unaligned(self) -> Self {
        match self.addressing {
            Addressing::Row if !self.view.aligned() || !self.view.layout.dtype.is_float() => {
                Self { addressing: Addressing::Each, ..self }
            }
            _ => self,
        }
    }
}
