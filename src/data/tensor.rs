//! A borrowed view of a buffer, and its layout, which does not depend on wgpu.

use crate::data::error::{Error, Result};
pub(crate) use wgpu::Buffer;

/// The type of a tensor's elements in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16; no adapter feature is needed.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// Signed 32-bit.
    I32,
    /// Unsigned 32-bit.
    U32,
    /// Signed 64-bit, low word first.
    I64,
    /// Bytes: 0 or not 0.
    U8,
    /// Signed 8-bit.
    I8,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::I8 => "i8",
        }
    }

    /// Whether this is one of `f32`, `f16`, `bf16`.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Half the distance between 1 and the next number: the relative rounding error of a float type.
    pub const fn half_ulp(self) -> f64 {
        match self {
            Self::F16 => 1.0 / 2048.0,
            Self::Bf16 => 1.0 / 256.0,
            _ => 1.0 / 16_777_216.0,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let integers = [Self::I32, Self::U32, Self::I64, Self::U8, Self::I8];
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .chain(integers)
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| format!("`{name}` is not one of f32, f16, bf16, i32, u32, i64, u8, i8"))
    }
}

/// Where the elements of a tensor lie in its buffer.
///
/// Element (row, column) lies at `offset + row · row_stride + column`, in elements. With a class stride S above 1,
/// each column is a plane of S rows, as the channels of images are. The element then lies at
/// `offset + (row / S) · row_stride + row % S + column · S`, and an image has S rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Layout {
    /// The type of the elements.
    pub dtype: Dtype,
    /// The extents: one for a vector, more for rows of columns. The last axis is the columns; all axes before it count
    /// the rows.
    pub shape: Vec<u64>,
    /// The distance from one row to the next, in elements; with a class stride above 1, from one image to the next.
    pub row_stride: u64,
    /// The distance from one column to the next, in elements: 1, or height · width where the channels are planes.
    #[cfg_attr(feature = "serde", serde(default = "one"))]
    pub class_stride: u64,
    /// Elements before the first one.
    pub offset: u64,
    /// For columns in several strips: the number of columns of a strip, and the distance from one strip to the next.
    /// Only plans have this; a call with it is refused.
    #[cfg_attr(feature = "serde", serde(skip))]
    #[doc(hidden)]
    pub strips: Option<(u64, u64)>,
}

fn product(extents: &[u64]) -> u64 {
    extents.iter().copied().fold(1, u64::saturating_mul)
}

#[cfg(feature = "serde")]
fn one() -> u64 {
    1
}

impl Layout {
    fn new(dtype: Dtype, shape: Vec<u64>, row_stride: u64) -> Self {
        Self { dtype, shape, row_stride, class_stride: 1, offset: 0, strips: None }
    }

    /// A dense vector.
    pub fn vector(dtype: Dtype, len: u64) -> Self {
        Self::new(dtype, vec![len], 1)
    }

    /// A dense matrix, row by row.
    pub fn matrix(dtype: Dtype, rows: u64, columns: u64) -> Self {
        Self::new(dtype, vec![rows, columns], columns)
    }

    /// A dense tensor of any rank.
    pub fn dense(dtype: Dtype, shape: &[u64]) -> Self {
        match shape {
            [_, .., columns] => Self::new(dtype, shape.to_vec(), *columns),
            _ => Self::new(dtype, shape.to_vec(), 1),
        }
    }

    /// The same layout with rows (or images, with a class stride) this far apart.
    #[must_use]
    pub fn row_stride(mut self, elements: u64) -> Self {
        self.row_stride = elements;
        self
    }

    /// The same layout with columns that are planes of this many rows, and images one right behind the other.
    #[must_use]
    pub fn class_stride(mut self, elements: u64) -> Self {
        self.class_stride = elements;
        self.row_stride = elements.saturating_mul(self.columns());
        self
    }

    /// Dense images [N, C, H, W], or [N, C, d…] with any other number of axes. A row is a pixel, a column is a
    /// channel.
    pub fn nchw<const AXES: usize>(dtype: Dtype, shape: [u64; AXES]) -> Self {
        let extent = |axis: usize| shape.get(axis).copied().unwrap_or(1);
        let pixels = shape.iter().skip(2).fold(1, |all: u64, &extent| all.saturating_mul(extent));
        Self::matrix(dtype, extent(0).saturating_mul(pixels), extent(1)).class_stride(pixels)
    }

    /// Whether the columns are planes.
    pub fn has_planes(&self) -> bool {
        self.class_stride > 1
    }

    /// The place of an element in the buffer, or `None` if it does not fit `u64`.
    pub fn place(&self, row: u64, column: u64) -> Option<u64> {
        let plane = self.class_stride.max(1);
        let (row, column) = if let Some((width, stride)) = self.strips {
            let stretch = (column / width.max(1)).checked_mul(stride)?;
            (row.checked_mul(self.row_stride)?, stretch.checked_add(column % width.max(1))?)
        } else {
            let image = (row / plane).checked_mul(self.row_stride)?;
            (image.checked_add(row % plane)?, column.checked_mul(plane)?)
        };
        self.offset.checked_add(row)?.checked_add(column)
    }

    /// The elements that a row extends over (with planes: the part of an image that one row stands for).
    pub(crate) fn row_span(&self) -> u64 {
        match self.strips {
            Some(_) => self.end().unwrap_or(u64::MAX).saturating_sub(self.offset),
            None => self.row_stride.div_ceil(self.class_stride.max(1)),
        }
    }

    /// The same layout with another offset in the buffer.
    #[must_use]
    pub fn offset(mut self, elements: u64) -> Self {
        self.offset = elements;
        self
    }

    /// The number of elements, without padding.
    pub fn len(&self) -> u64 {
        product(&self.shape)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are gaps between successive elements.
    pub fn has_gaps(&self) -> bool {
        let apart = self.rows() > 1 && self.row_stride != self.columns();
        apart || self.has_planes() || self.strips.is_some()
    }

    /// The extent of the last axis; 1 for a vector.
    pub fn columns(&self) -> u64 {
        match self.shape.as_slice() {
            [_, .., columns] => *columns,
            _ => 1,
        }
    }

    /// The number of rows: the product of the axes before the last one, or the length of a vector.
    pub fn rows(&self) -> u64 {
        match self.shape.as_slice() {
            [leading @ .., _] if !leading.is_empty() => product(leading),
            _ => self.shape.first().copied().unwrap_or(1),
        }
    }

    /// The same elements with the axes before the last one folded into one.
    pub(crate) fn folded(mut self) -> Self {
        if self.shape.len() > 2 {
            self.shape = vec![self.rows(), self.columns()];
        }
        self
    }

    /// The same elements as a vector, if they lie side by side.
    pub(crate) fn flattened(mut self) -> Option<Self> {
        if self.shape.len() > 1 {
            if self.has_gaps() {
                return None;
            }
            (self.shape, self.row_stride) = (vec![self.len()], 1);
        }
        Some(self)
    }

    /// The number of elements from the start of the buffer to the end of the last row, or `None` if it does not fit
    /// `u64`.
    pub fn end(&self) -> Option<u64> {
        if self.is_empty() {
            return Some(self.offset);
        }
        self.place(self.rows() - 1, self.columns() - 1)?.checked_add(1)
    }

    /// The bytes of the buffer that the tensor extends over.
    pub fn byte_range(&self) -> Option<std::ops::Range<u64>> {
        let size = self.dtype.bytes();
        Some(self.offset.checked_mul(size)?..self.end()?.checked_mul(size)?)
    }
}

/// A borrowed view of a `wgpu` buffer: no ownership, no copy.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # fn demo(buffer: &wgpu::Buffer) {
/// use surprisal::{Dtype, Tensor};
/// // 32 rows of 50257 logits, padded to 50304, 128 elements into a pooled buffer.
/// let logits = Tensor::matrix(buffer, Dtype::Bf16, 32, 50_257).row_stride(50_304).offset(128);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// The buffer that holds the elements.
    pub buffer: &'a wgpu::Buffer,
    /// Where the elements lie in the buffer.
    pub layout: Layout,
}

impl<'a> Tensor<'a> {
    /// A tensor with this layout.
    pub fn new(buffer: &'a wgpu::Buffer, layout: Layout) -> Self {
        Self { buffer, layout }
    }

    /// A dense vector at the start of the buffer.
    pub fn vector(buffer: &'a wgpu::Buffer, dtype: Dtype, len: u64) -> Self {
        Self::new(buffer, Layout::vector(dtype, len))
    }

    /// A dense tensor of any rank at the start of the buffer: the last axis is the columns, all axes before it are the
    /// rows.
    pub fn dense(buffer: &'a wgpu::Buffer, dtype: Dtype, shape: &[u64]) -> Self {
        Self::new(buffer, Layout::dense(dtype, shape))
    }

    /// A dense tensor at the start of a binding, as pooled allocators hand them out: a buffer, the byte at which the
    /// binding begins, and its size. As in wgpu, a binding without a size ends with its buffer.
    ///
    /// [`Error::WrongOffset`] if the first byte is not a multiple of the size of an element, and
    /// [`Error::BufferTooSmall`] if the tensor does not fit the binding. Device limits on the offsets of bindings do
    /// not apply: the tensor may begin at any element.
    ///
    /// ```no_run
    /// # fn demo(pool: &wgpu::Buffer) -> surprisal::Result<()> {
    /// use surprisal::{Dtype, Tensor};
    /// let binding = wgpu::BufferBinding { buffer: pool, offset: 96, size: None };
    /// let logits = Tensor::from_binding(binding, Dtype::F16, &[8, 1000])?;
    /// # Ok(()) }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "an allocator's answer is handed on")]
    pub fn from_binding(
        binding: wgpu::BufferBinding<'a>,
        dtype: Dtype,
        shape: &[u64],
    ) -> Result<Self> {
        let wgpu::BufferBinding { buffer, offset, size } = binding;
        let rest = buffer.size().saturating_sub(offset);
        let found = size.map_or(rest, |size| rest.min(size.get()));
        let tensor = Self::dense(buffer, dtype, shape);
        let needed = tensor.layout.byte_range().map_or(u64::MAX, |bytes| bytes.end);
        if needed > found {
            return Err(Error::BufferTooSmall { argument: "binding".into(), needed, found });
        }
        tensor.byte_offset(offset)
    }

    /// A dense matrix at the start of the buffer.
    pub fn matrix(buffer: &'a wgpu::Buffer, dtype: Dtype, rows: u64, columns: u64) -> Self {
        Self::new(buffer, Layout::matrix(dtype, rows, columns))
    }

    /// Dense images [N, C, H, W]. A row is a pixel and a column is a channel, so no transposed copy is needed.
    /// PyTorch's other shapes with the classes on axis 1, [N, C, d…], are given in the same way.
    ///
    /// [`Tensor::matrix`] with [`Tensor::class_stride`] is the general form; images [N, H, W, C] are plain matrices of
    /// N·H·W rows. Row losses ([`crate::CrossEntropy`], [`crate::Dice`]) need all channels of a pixel in one binding,
    /// which limits the size of an image (128 MiB with WebGPU's default limits). Element losses take images of any
    /// size.
    pub fn nchw<const AXES: usize>(
        buffer: &'a wgpu::Buffer,
        dtype: Dtype,
        shape: [u64; AXES],
    ) -> Self {
        Self::new(buffer, Layout::nchw(dtype, shape))
    }

    /// The same tensor with rows (or images, with a class stride) `elements` apart.
    #[must_use]
    pub fn row_stride(mut self, elements: u64) -> Self {
        self.layout.row_stride = elements;
        self
    }

    /// The same tensor with columns that are planes of `elements` rows, and images one right behind the other.
    #[must_use]
    pub fn class_stride(mut self, elements: u64) -> Self {
        self.layout = self.layout.class_stride(elements);
        self
    }

    /// The same tensor, `elements` into the buffer.
    #[must_use]
    pub fn offset(mut self, elements: u64) -> Self {
        self.layout.offset = elements;
        self
    }

    /// The same tensor, `bytes` into the buffer. [`Error::WrongOffset`] if `bytes` is not a multiple of the size of an
    /// element.
    pub fn byte_offset(self, bytes: u64) -> Result<Self> {
        let multiple = self.layout.dtype.bytes();
        if !bytes.is_multiple_of(multiple) {
            let argument = format!("{} tensor", self.layout.dtype).into();
            return Err(Error::WrongOffset { argument, found: bytes, multiple });
        }
        Ok(self.offset(bytes / multiple))
    }
}

/// Tensors by name: the dynamic form of the inputs and outputs of every loss.
pub type Named<'a> = std::collections::BTreeMap<String, Tensor<'a>>;
