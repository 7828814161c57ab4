//! Arrays of numbers on the host: the inputs and outputs of the CPU reference, and what is read back.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Deref, DerefMut},
};

use crate::data::{
    error::{Error, Result},
    tensor::Dtype,
};

/// The elements of an [`Array`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Data {
    /// Floating-point numbers, whatever type they were stored as.
    Float(Vec<f64>),
    /// Integers, whatever type they were stored as.
    Int(Vec<i64>),
}

/// A dense host tensor of any rank: the last axis is the columns, all axes before it are the rows.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Array {
    /// The extents.
    pub shape: Vec<u64>,
    /// The elements, row by row.
    pub data: Data,
}

/// Arrays by name: inputs and outputs of the CPU reference, and what is read back from the GPU. It is used as the map
/// that it holds.
///
/// ```
/// use surprisal::{Array, Arrays};
/// let outputs = Arrays::from([("loss".to_owned(), Array::float(&[1], vec![0.5]))]);
/// assert_eq!(outputs.scalar("loss")?, 0.5);
/// assert_eq!(outputs["loss"].shape, [1]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Arrays(BTreeMap<String, Array>);

impl Arrays {
    /// No arrays.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds an array, and returns the one that had its name before.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) -> Option<Array> {
        self.0.insert(name.into(), array)
    }

    /// The only element of an array.
    ///
    /// # Errors
    ///
    /// If there is no such array, or if it has no elements or several.
    pub fn scalar(&self, name: &str) -> Result<f64> {
        let array = self.array(name)?;
        match *array.to_f64() {
            [value] => Ok(value),
            _ => Err(Error::WrongShape {
                argument: name.into(),
                found: array.shape.clone().into(),
                expected: "one element".into(),
            }),
        }
    }

    /// The array of this name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn array(&self, name: &str) -> Result<&Array> {
        self.0.get(name).ok_or_else(|| Error::NoArray {
            name: name.into(),
            known: self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ").into(),
        })
    }
}

impl Deref for Arrays {
    type Target = BTreeMap<String, Array>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Arrays {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<const N: usize> From<[(String, Array); N]> for Arrays {
    fn from(arrays: [(String, Array); N]) -> Self {
        Self(arrays.into())
    }
}

impl FromIterator<(String, Array)> for Arrays {
    fn from_iter<I: IntoIterator<Item = (String, Array)>>(arrays: I) -> Self {
        Self(arrays.into_iter().collect())
    }
}

impl Extend<(String, Array)> for Arrays {
    fn extend<I: IntoIterator<Item = (String, Array)>>(&mut self, arrays: I) {
        self.0.extend(arrays);
    }
}

impl IntoIterator for Arrays {
    type Item = (String, Array);
    type IntoIter = btree_map::IntoIter<String, Array>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Arrays {
    type Item = (&'a String, &'a Array);
    type IntoIter = btree_map::Iter<'a, String, Array>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The arithmetic of a CPU computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// The reference.
    F64,
    /// The reference's steps in f32, which define the tolerance.
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

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
        }
    }

    /// Whether there are no elements.
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

    /// The same numbers after rounding to a storage type and back (to nearest, ties to even).
    #[must_use]
    pub fn rounded(&self, dtype: Dtype) -> Self {
        match &self.data {
            Data::Float(values) => {
                Self::float(&self.shape, values.iter().map(|&value| round(value, dtype)).collect())
            }
            Data::Int(_) => self.clone(),
        }
    }

    /// The bytes of the elements in memory.
    pub fn to_bytes(&self, dtype: Dtype) -> Vec<u8> {
        let floats = || self.to_f64().into_iter();
        let ints = || self.to_i64().into_iter();
        match dtype {
            Dtype::F32 => floats().flat_map(|v| (v as f32).to_le_bytes()).collect(),
            Dtype::F16 => floats().flat_map(|v| f16(v).to_le_bytes()).collect(),
            Dtype::Bf16 => floats().flat_map(|v| bf16(v).to_le_bytes()).collect(),
            Dtype::I32 => ints().flat_map(|v| (v as i32).to_le_bytes()).collect(),
            Dtype::U32 => ints().flat_map(|v| (v as u32).to_le_bytes()).collect(),
            Dtype::I64 => ints().flat_map(i64::to_le_bytes).collect(),
            Dtype::U8 => ints().map(|v| v as u8).collect(),
            Dtype::I8 => ints().flat_map(|v| (v as i8).to_le_bytes()).collect(),
        }
    }

    /// Reads dense elements from memory; trailing bytes are ignored.
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
            Dtype::I8 => Self::int(
                shape,
                words(bytes, count).map(|b| i64::from(i8::from_le_bytes(b))).collect(),
            ),
        }
    }
}

fn words<const N: usize>(bytes: &[u8], count: usize) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied().take(count)
}

/// A number after rounding to a storage type and back.
pub fn round(value: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => f16(value).to_f64(),
        Dtype::Bf16 => bf16(value).to_f64(),
        Dtype::F32 => f64::from(value as f32),
        Dtype::I32 | Dtype::U32 | Dtype::I64 | Dtype::U8 | Dtype::I8 => value,
    }
}

/// A 16-bit number, rounded once (nearest, ties to even).
fn f16(value: f64) -> half::f16 {
    half::f16::from_f32(to_odd(value))
}

/// [`f16`] for bf16.
fn bf16(value: f64) -> half::bf16 {
    half::bf16::from_f32(to_odd(value))
}

/// An f32 that rounds to the same 16-bit number as the f64 itself.
///
/// Symptom: 1 + 2⁻¹¹ + 2⁻⁴⁰ becomes 1 in f16. Cause: the nearest f32 is 1 + 2⁻¹¹, a tie that the second rounding
/// breaks downwards. Remedy: the digits that f32 cannot hold are cut off, and the last bit is set instead, so that no
/// number becomes a tie.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if value.is_nan() || f64::from(near) == value {
        return near;
    }
    let up = f64::from(near).abs() > value.abs();
    f32::from_bits((near.to_bits() - u32::from(up)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_to_16_bits_once() {
        let tiny = (-40f64).exp2();
        for (half_ulp, dtype) in [((-11f64).exp2(), Dtype::F16), ((-8f64).exp2(), Dtype::Bf16)] {
            for sign in [1.0, -1.0] {
                let rounded = |value: f64| round(sign * value, dtype) * sign;
                assert_eq!(rounded(1.0 + half_ulp + tiny), 1.0 + 2.0 * half_ulp, "{dtype}");
                assert_eq!(rounded(1.0 + half_ulp), 1.0, "a tie goes to the even one");
                assert_eq!(rounded(1.0 + 3.0 * half_ulp), 1.0 + 4.0 * half_ulp);
                assert_eq!(rounded(1.0 + 3.0 * half_ulp - tiny), 1.0 + 2.0 * half_ulp);
                let bytes = Array::float(&[1], vec![sign * (1.0 + half_ulp + tiny)]);
                let back = Array::from_bytes(dtype, &[1], &bytes.to_bytes(dtype));
                assert_eq!(back.to_f64(), [sign * (1.0 + 2.0 * half_ulp)]);
            }
        }
        // A number between two subnormals, and numbers at the ends of the range.
        let step = (-24f64).exp2();
        assert_eq!(round(0.5 * step + (-60f64).exp2(), Dtype::F16), step);
        assert_eq!(round(0.5 * step, Dtype::F16), 0.0);
        assert_eq!(round(1e-300, Dtype::F16), 0.0);
        assert_eq!(round(65_519.999_999_999, Dtype::F16), 65_504.0);
        for dtype in [Dtype::F16, Dtype::Bf16] {
            assert_eq!(round(1e300, dtype), f64::INFINITY);
            assert_eq!(round(f64::NEG_INFINITY, dtype), f64::NEG_INFINITY);
            assert!(round(f64::NAN, dtype).is_nan());
        }
    }
}
