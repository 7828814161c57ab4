//! A borrowed view of a buffer, and its wgpu-free half: the layout.

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
    /// The upper half of a binary32.
    Bf16,
    /// Signed 32-bit.
    I32,
    /// Unsigned 32-bit.
    U32,
    /// Signed 64-bit, low word first.
    I64,
    /// Bytes: 0 or not 0.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name, as in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U8 => "u8",
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
        [Self::F32, Self::F16, Self::Bf16, Self::I32, Self::U32, Self::I64, Self::U8]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| format!("`{name}` is not one of f32, f16, bf16, i32, u32, i64, u8"))
    }
}

/// Where a tensor's elements lie in its buffer: everything about it but the buffer.
///
/// Element (row, column) lies at `offset + row · row_stride + column`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Layout {
    /// The type of the elements.
    pub dtype: Dtype,
    /// One or two extents.
    pub shape: Vec<u64>,
    /// Elements from one row to the next.
    pub row_stride: u64,
    /// Elements before the first one.
    pub offset: u64,
}

impl Layout {
    /// A dense vector.
    pub fn vector(dtype: Dtype, len: u64) -> Self {
        Self { dtype, shape: vec![len], row_stride: 1, offset: 0 }
    }

    /// A dense matrix, row by row.
    pub fn matrix(dtype: Dtype, rows: u64, columns: u64) -> Self {
        Self { dtype, shape: vec![rows, columns], row_stride: columns, offset: 0 }
    }

    /// A dense tensor of one or two extents.
    pub fn dense(dtype: Dtype, shape: &[u64]) -> Self {
        match shape {
            [rows, columns] => Self::matrix(dtype, *rows, *columns),
            _ => Self { dtype, shape: shape.to_vec(), row_stride: 1, offset: 0 },
        }
    }

    /// The same with rows further apart.
    pub fn row_stride(mut self, elements: u64) -> Self {
        self.row_stride = elements;
        self
    }

    /// The same starting further into its buffer.
    pub fn offset(mut self, elements: u64) -> Self {
        self.offset = elements;
        self
    }

    /// Number of elements, padding not counted.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether elements that follow each other lie apart.
    pub fn has_gaps(&self) -> bool {
        self.rows() > 1 && self.row_stride != self.columns()
    }

    /// The extent of the last dimension.
    pub fn columns(&self) -> u64 {
        if self.shape.len() == 2 { self.shape[1] } else { 1 }
    }

    /// The extent of the first dimension.
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements from the buffer's start to the end of the last row, or `None` past `u64`.
    pub fn end(&self) -> Option<u64> {
        if self.is_empty() {
            return Some(self.offset);
        }
        (self.rows() - 1)
            .checked_mul(self.row_stride)?
            .checked_add(self.columns())?
            .checked_add(self.offset)
    }

    /// Bytes of the buffer that the tensor touches.
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
    /// Where in it they lie.
    pub layout: Layout,
}

impl<'a> Tensor<'a> {
    /// A tensor with a layout of its own.
    pub fn new(buffer: &'a wgpu::Buffer, layout: Layout) -> Self {
        Self { buffer, layout }
    }

    /// A dense vector at the buffer's start.
    pub fn vector(buffer: &'a wgpu::Buffer, dtype: Dtype, len: u64) -> Self {
        Self::new(buffer, Layout::vector(dtype, len))
    }

    /// A dense matrix at the buffer's start.
    pub fn matrix(buffer: &'a wgpu::Buffer, dtype: Dtype, rows: u64, columns: u64) -> Self {
        Self::new(buffer, Layout::matrix(dtype, rows, columns))
    }

    /// The same with rows `elements` apart.
    pub fn row_stride(mut self, elements: u64) -> Self {
        self.layout.row_stride = elements;
        self
    }

    /// The same, `elements` into the buffer.
    pub fn offset(mut self, elements: u64) -> Self {
        self.layout.offset = elements;
        self
    }
}

/// Tensors by name: the dynamic form of every loss's inputs and outputs.
pub type Named<'a> = std::collections::BTreeMap<String, Tensor<'a>>;
