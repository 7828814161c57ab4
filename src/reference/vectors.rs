//! Vectors that are divided by their norms, and the backward pass of that.

use super::{Findings, Real};

/// Vectors with their norms.
pub(crate) struct Vectors<T> {
    pub count: usize,
    pub depth: usize,
    values: Vec<T>,
    /// The power of two by which each normalised vector in `values` was multiplied, so that its squares neither
    /// overflow nor underflow.
    scale: Vec<T>,
    /// 1/‖v‖ of each vector; 0 for a vector of zeros, and 1 where vectors are not normalised.
    inverse: Vec<T>,
    normalized: bool,
}

impl<T: Real> Vectors<T> {
    /// Vectors of this many elements, one after another.
    pub fn new(mut values: Vec<T>, [count, depth]: [usize; 2], normalized: bool) -> Self {
        let vectors = values.chunks_mut(depth.max(1)).take(count);
        let mut inverse = vec![T::one(); count];
        let mut scale = vec![T::one(); count];
        let known = inverse.iter_mut().zip(&mut scale);
        for (vector, (inverse, scale)) in vectors.zip(known).filter(|_| normalized) {
            let largest = vector.iter().fold(T::zero(), |top, v| top.max(v.abs()));
            let is_zero = largest < T::of(f64::from(f32::MIN_POSITIVE));
            if !is_zero && largest.is_finite() {
                *scale = T::of((-largest.wide().log2().floor()).exp2());
            }
            let mut sum = T::zero();
            for v in vector {
                *v = *v * *scale;
                sum += *v * *v;
            }
            *inverse = match is_zero && !sum.is_nan() {
                true => T::zero(),
                false if sum.is_infinite() => T::nan(),
                false => T::one() / sum.sqrt(),
            };
        }
        Self { count, depth, values, scale, inverse, normalized }
    }

    /// v/‖v‖.
    pub fn unit(&self, index: usize) -> Vec<T> {
        let vector = &self.values[index * self.depth..(index + 1) * self.depth];
        vector.iter().map(|&v| v * self.inverse[index]).collect()
    }

    /// The gradient of v from that of v/‖v‖: r·(∂ − û·⟨∂, û⟩), r = scale/‖scale·v‖.
    pub fn backward(&self, index: usize, gradient: &[T]) -> Vec<T> {
        let inverse = self.inverse[index];
        if !self.normalized || inverse.is_nan() {
            return gradient.to_vec();
        }
        let unit = self.unit(index);
        let along = dot(gradient, &unit);
        let scale = self.scale[index];
        gradient.iter().zip(&unit).map(|(&g, &u)| inverse * (g - u * along) * scale).collect()
    }

    /// The gradients of all vectors from those of the unit vectors.
    pub fn backward_all(&self, gradient: &[T]) -> Vec<T> {
        let of = |(index, gradient)| self.backward(index, gradient);
        gradient.chunks(self.depth.max(1)).enumerate().flat_map(of).collect()
    }

    /// Counts the vectors of zeros, which have no direction.
    pub fn count_zeros(&self, found: &mut Findings) {
        let zeros = self.inverse.iter().filter(|inverse| inverse.is_zero());
        zeros.for_each(|_| found.zero_vector());
    }
}

pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sum = T::zero();
    for (&a, &b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}
