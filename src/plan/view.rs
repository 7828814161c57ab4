//! A tensor of a dispatch, and how a kernel reaches it.

use std::ops::Range;

use super::Role;
use crate::{
    data::tensor::{Dtype, Layout},
    plan::kernel::{Access, Order, Reach},
    spec::{
        broadcast::Axes,
        call::{Call, Operand},
    },
};

/// A tensor of a dispatch: an operand or a part of the scratch, or a stretch of rows of one.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(super) role: Role,
    pub layout: Layout,
    pub(super) access: Access,
    pub(super) allocation_bytes: u64,
    /// The column that its first one is to a kernel.
    pub(super) first_column: u64,
    /// A factor for every row in products, and how many words apart two of them are.
    pub(super) row_scales: Option<Box<(View, u64)>>,
}

impl Call {
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

impl View {
    pub(super) fn new(role: Role, operand: &Operand, access: Access) -> Self {
        Self {
            role,
            layout: operand.layout.clone(),
            access,
            allocation_bytes: operand.allocation_bytes,
            first_column: 0,
            row_scales: None,
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
            row_scales: None,
        }
    }

    /// The same whose rows products multiply by a factor each: words of the other view, so many words apart.
    pub fn scaled_by(mut self, first: Self, step: u64) -> Self {
        self.row_scales = Some(Box::new((first, step)));
        self
    }

    /// The factors of its rows.
    pub fn row_scales(&self) -> Option<(Self, u64)> {
        let (scales, step) = self.row_scales.as_deref()?;
        let mut scales = scales.clone();
        scales.layout = Layout {
            shape: vec![self.layout.rows().saturating_sub(1) * step + 1],
            row_stride: 1,
            ..scales.layout
        };
        Some((scales, *step))
    }

    /// Rows `rows` of this view.
    pub fn rows(mut self, rows: &Range<u64>) -> Self {
        // With planes, rows are those of whole images, or lie within one.
        self.layout.offset = self.layout.place(rows.start, 0).unwrap_or(u64::MAX >> 8);
        self.layout.shape[0] = rows.end - rows.start;
        if let Some((scales, step)) = self.row_scales.as_deref_mut() {
            scales.layout.offset += rows.start * *step;
        }
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
    pub(super) fn order(&self) -> Order {
        match self.layout.fold {
            Some(_) => Order::Folded,
            None if self.layout.has_planes() => Order::Planes,
            None => Order::Plain,
        }
    }

    /// The axes before the last one as one.
    pub fn folded(mut self) -> Self {
        self.layout = self.layout.folded();
        self
    }

    /// Bytes of the buffer.
    pub fn room(&self) -> u64 {
        self.allocation_bytes
    }

    /// Whether every row starts at a multiple of four elements, and a last quad that reaches past
    /// the row still lies inside the buffer.
    pub(super) fn aligned(&self) -> bool {
        self.aligned_to(4)
    }

    /// Whether every row is four elements after four, from a multiple of four on.
    pub(super) fn in_quads(&self) -> bool {
        self.layout.columns().is_multiple_of(4) && self.aligned()
    }

    /// Whether every row is eight f32 elements after eight, from a multiple of eight on.
    pub fn in_octets(&self) -> bool {
        let octets = self.layout.columns().is_multiple_of(8) && self.aligned_to(8);
        octets && self.layout.dtype == Dtype::F32
    }

    fn aligned_to(&self, elements: u64) -> bool {
        let Layout { row_stride, offset, .. } = self.layout;
        if self.layout.has_planes() || self.layout.fold.is_some() {
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

/// A tensor of a walk over all elements, and how a quad of the walk finds its elements there.
#[derive(Clone, Debug)]
pub(crate) struct Addressed {
    pub view: View,
    pub reach: Reach,
    /// The axes of [`Reach::Axes`], and the first row of the walk.
    pub(super) axes: Option<(Axes, u64)>,
}

impl Addressed {
    pub fn new(view: View, reach: Reach) -> Self {
        Self { view, reach, axes: None }
    }

    /// A tensor that has some of the axes that count the rows, from this row on.
    pub fn along(view: View, axes: Axes, first_row: u64, planes: bool) -> Self {
        let groups = axes.groups().len() as u32;
        let reach = Reach::Axes { groups, columns: axes.has_columns(), planes };
        Self { view, reach, axes: Some((axes, first_row)) }
    }

    /// Quads inside rows are loaded and stored whole; where they cannot be, element by element. Those
    /// of bytes never are: a quad of theirs ends with the window, which is no column of a row.
    pub(super) fn elementwise_if_unaligned(self) -> Self {
        match self.reach {
            Reach::Row if !self.view.aligned() || !self.view.layout.dtype.is_float() => {
                Self { reach: Reach::Each, ..self }
            }
            _ => self,
        }
    }
}
