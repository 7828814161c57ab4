//! The reference: every loss in plain f64 on the CPU, written from its formula alone.
//!
//! It makes two passes over a row, subtracts the maximum, and sums in the order of the elements. It shares nothing
//! with the kernels, so that a comparison can find a mistake in either. The same steps in f32 define the tolerance.

mod findings;
pub(crate) mod philox;
mod vectors;

use num_traits::Float;

use crate::{
    data::{
        array::{Array, Arrays, Data},
        error::{Error, Result},
    },
    spec::{about::About, quantized},
};

pub use findings::Findings;
pub(crate) use vectors::{Vectors, dot};

/// A float type that the reference computes in.
pub trait Real: Float + std::ops::AddAssign + 'static {
    /// Rounds a number to this type.
    fn of(value: f64) -> Self;
    /// Converts the number to f64.
    fn wide(self) -> f64;
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

/// A product in which 0 times infinity is 0 (0·log 0 is 0 in losses). NaN times anything is NaN.
pub(crate) fn times<T: Real>(a: T, b: T) -> T {
    let zero = a.is_zero() || b.is_zero();
    if zero && !a.is_nan() && !b.is_nan() { T::zero() } else { a * b }
}

/// The factor of a gradient: `above/divisor`. The factor is 0 where either is 0, even if the other one is NaN or
/// infinite: then no gradient is propagated.
pub(crate) fn factor<T: Real>(above: T, divisor: T) -> T {
    if above.is_zero() || divisor.is_zero() { T::zero() } else { above / divisor }
}

/// The factor of a row's gradient: `weight·upstream/divisor`. A row of weight 0 has the factor 0 whatever its upstream
/// gradient is.
pub(crate) fn row_factor<T: Real>(weight: T, upstream: T, divisor: T) -> T {
    if weight.is_zero() { T::zero() } else { factor(times(weight, upstream), divisor) }
}

/// The class with the largest score; the lowest one on a tie.
pub(crate) fn argmax<T: Real>(u: &[T]) -> usize {
    (1..u.len()).fold(0, |best, class| if u[class] > u[best] { class } else { best })
}

/// Whether a number is a temperature: positive, and normal in f32 as its inverse is.
pub(crate) fn is_temperature<T: Real>(tau: T) -> bool {
    let limit = 126f64.exp2();
    (1.0 / limit..=limit).contains(&tau.wide())
}

/// The error for an output that this call does not have.
pub(crate) fn no_output(about: &About, name: &str) -> Error {
    let others = about.outputs.iter().map(|output| output.name).filter(|other| *other != name);
    Error::UnknownName {
        operation: about.name.into(),
        kind: "output",
        name: name.into(),
        known: others.collect::<Vec<_>>().join(", ").into(),
    }
}

/// The two extents of an input that must be given.
pub(crate) fn extents(loss: &str, inputs: &Arrays, name: &str) -> Result<(usize, usize)> {
    let array = inputs.get(name).ok_or_else(|| Error::MissingInput {
        operation: loss.into(),
        argument: name.into(),
        reason: "it is always needed".into(),
    })?;
    match array.shape[..] {
        [rows, columns] => Ok((rows as usize, columns as usize)),
        _ => Err(wrong_shape(name, array, "two extents")),
    }
}

/// An input as floats, if it is given. The length is checked here too, because [`Operation::reference`] can be called
/// without the checks of [`run`].
pub(crate) fn floats<T: Real>(
    inputs: &Arrays,
    name: &str,
    shape: &[usize],
) -> Result<Option<Vec<T>>> {
    let Some(array) = inputs.get(name) else {
        return Ok(None);
    };
    fits(name, array, shape)?;
    Ok(Some(match &array.data {
        Data::Float(values) => values.iter().map(|&value| T::of(value)).collect(),
        Data::Int(values) => values.iter().map(|&value| T::of(value as f64)).collect(),
    }))
}

/// Scores `[rows, classes]`. Integers stand for scale·(integer − zero point); a scale that is NaN or too large makes its
/// whole row NaN.
pub(crate) fn scores<T: Real>(
    inputs: &Arrays,
    name: &str,
    [rows, classes]: [usize; 2],
) -> Result<Vec<T>> {
    let mut scores = floats::<T>(inputs, name, &[rows, classes])?.unwrap_or_default();
    if inputs.get(name).is_some_and(|array| matches!(array.data, Data::Float(_))) {
        return Ok(scores);
    }
    let (scales, zero_points) =
        (each_row(inputs, quantized::SCALE, rows)?, each_row(inputs, quantized::ZERO_POINT, rows)?);
    for (row, scores) in scores.chunks_mut(classes.max(1)).enumerate() {
        let of_row = |values: &Option<Vec<T>>, none| {
            values.as_ref().and_then(|values| values.get(row).copied()).unwrap_or(none)
        };
        let scale = of_row(&scales, T::one());
        let zero_point = of_row(&zero_points, T::zero());
        let scale = if scale.wide().abs() <= quantized::MOST_SCALE { scale } else { T::nan() };
        for score in scores {
            *score = scale * (*score - zero_point);
        }
    }
    Ok(scores)
}

/// One number a row: those of the input, or its only one for all rows.
fn each_row<T: Real>(inputs: &Arrays, name: &str, rows: usize) -> Result<Option<Vec<T>>> {
    let is_one = inputs.get(name).is_some_and(|array| array.shape == [1]);
    let values = floats::<T>(inputs, name, &[if is_one { 1 } else { rows }])?;
    Ok(values.map(|values| if is_one { values.repeat(rows) } else { values }))
}

/// Checks that an array has this shape, and as many elements as the shape says.
pub(crate) fn fits(name: &str, array: &Array, shape: &[usize]) -> Result<()> {
    let same = array.shape.len() == shape.len()
        && array.shape.iter().zip(shape).all(|(&found, &expected)| found == expected as u64)
        && array.len() == shape.iter().product::<usize>();
    if same { Ok(()) } else { Err(wrong_shape(name, array, &format!("{shape:?}"))) }
}

pub(crate) fn wrong_shape(name: &str, array: &Array, expected: &str) -> Error {
    Error::WrongShape {
        argument: name.into(),
        found: array.shape.clone().into(),
        expected: format!("{expected} ({} elements given)", array.len()).into(),
    }
}

/// An array of this shape from numbers of either type.
pub(crate) fn array<T: Real>(shape: &[usize], values: impl IntoIterator<Item = T>) -> Array {
    let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
    Array::float(&shape, values.into_iter().map(T::wide).collect())
}
