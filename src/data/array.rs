//! Numbers on the host: what the CPU reference takes and gives, and what is read back.

use std::collections::BTreeMap;

use crate::data::tensor::Dtype;

/// The elements of an [`Array`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floating point, whatever it was stored as.
    Float(Vec<f64>),
    /// Integers, whatever they were stored as.
    Int(Vec<i64>),
}

/// A dense host tensor of one or two extents.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its extents.
    pub shape: Vec<u64>,
    /// Its elements, row by row.
    pub data: Data,
}

/// Arrays by name: inputs and outputs of the CPU reference.
pub type Arrays = BTreeMap<String, Array>;

/// The arithmetic of a CPU computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// The reference.
    F64,
    /// The yardstick of the tolerance: the same textbook steps in f32.
    F32,
}

impl Array {
    /// A float array.
    pub fn float(shape: &[u64], data: Vec<f64>) -> Self {
        Self { shape: shape.to_vec(), data: Data::Float(data) }
    }

    /// An integer array.
    pub fn int(shape: &[u64], data: Vec<i64>) -> Self {
        Self { shape: shape.to_vec(), data: Data::Int(data) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as f64; integers are converted.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(values) => values.clone(),
            Data::Int(values) => values.iter().map(|&value| value as f64).collect(),
        }
    }

    /// The elements as integers; floats are truncated.
    pub fn to_i64(&self) -> Vec<i64> {
        match &self.data {
            Data::Float(values) => values.iter().map(|&value| value as i64).collect(),
            Data::Int(values) => values.clone(),
        }
    }

    /// The same numbers after a round trip through a storage type (nearest, ties to even).
    pub fn rounded(&self, dtype: Dtype) -> Self {
        match &self.data {
            Data::Float(values) => {
                Self::float(&self.shape, values.iter().map(|&value| round(value, dtype)).collect())
            }
            Data::Int(_) => self.clone(),
        }
    }

    /// The elements as they lie in memory.
    pub fn to_bytes(&self, dtype: Dtype) -> Vec<u8> {
        let floats = || self.to_f64().into_iter();
        let ints = || self.to_i64().into_iter();
        match dtype {
            Dtype::F32 => floats().flat_map(|v| (v as f32).to_le_bytes()).collect(),
            Dtype::F16 => {
                floats().flat_map(|v| half::f16::from_f32(v as f32).to_le_bytes()).collect()
            }
            Dtype::Bf16 => {
                floats().flat_map(|v| half::bf16::from_f32(v as f32).to_le_bytes()).collect()
            }
            Dtype::I32 => ints().flat_map(|v| (v as i32).to_le_bytes()).collect(),
            Dtype::U32 => ints().flat_map(|v| (v as u32).to_le_bytes()).collect(),
            Dtype::I64 => ints().flat_map(i64::to_le_bytes).collect(),
            Dtype::U8 => ints().map(|v| v as u8).collect(),
        }
    }

    /// Reads dense elements from memory; trailing bytes are left out.
    pub fn from_bytes(dtype: Dtype, shape: &[u64], bytes: &[u8]) -> Self {
        let count = shape.iter().product::<u64>() as usize;
        match dtype {
            Dtype::F32 => Self::float(
                shape,
                words(bytes, count).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            ),
            Dtype::F16 => Self::float(
                shape,
                words(bytes, count).map(|b| half::f16::from_le_bytes(b).to_f64()).collect(),
            ),
            Dtype::Bf16 => Self::float(
                shape,
                words(bytes, count).map(|b| half::bf16::from_le_bytes(b).to_f64()).collect(),
            ),
            Dtype::I32 => Self::int(
                shape,
                words(bytes, count).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            ),
            Dtype::U32 => Self::int(
                shape,
                words(bytes, count).map(|b| i64::from(u32::from_le_bytes(b))).collect(),
            ),
            Dtype::I64 => Self::int(shape, words(bytes, count).map(i64::from_le_bytes).collect()),
            Dtype::U8 => Self::int(shape, bytes.iter().take(count).map(|&b| b.into()).collect()),
        }
    }
}

fn words<const N: usize>(bytes: &[u8], count: usize) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied().take(count)
}

/// A number after a round trip through a storage type.
pub fn round(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => half::f16::from_f32(value as f32).to_f64(),
        Dtype::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        Dtype::F32 => f64::from(value as f32),
        Dtype::I32 | Dtype::U32 | Dtype::I64 | Dtype::U8 => value,
    }
}
