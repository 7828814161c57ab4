//! Losses of one score at a time as a textbook writes them: element after element.

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
        tensor::Dtype,
    },
    reference::{Findings, Real, array, fits, floats, no_output, times},
    skeleton::element::{ElementLoss, ElementOptions, check_names},
    spec::{
        broadcast::Broadcast,
        check,
        extents::Extents,
        options::{Empty, MaskedMean, Reduction},
    },
};

/// What a loss says of one element.
pub(crate) struct Point<T> {
    /// Its loss.
    pub loss: T,
    /// The derivatives by the first and by the second input.
    pub slopes: [T; 2],
    /// What was given and is no such thing, such as a negative count: there is no loss then.
    pub bad: Option<T>,
    /// What is watched beside it.
    pub watched: T,
}

impl<T: Real> Point<T> {
    /// A loss of one input.
    pub fn new(loss: T, slope: T) -> Self {
        Self::of_two(loss, [slope, T::zero()])
    }

    /// A loss of two inputs.
    pub fn of_two(loss: T, slopes: [T; 2]) -> Self {
        Self { loss, slopes, bad: None, watched: T::zero() }
    }

    /// No loss, because of this number.
    pub fn bad(value: T) -> Self {
        Self { bad: Some(value), ..Self::of_two(T::nan(), [T::zero(); 2]) }
    }

    /// NaN, where an input is.
    pub fn nan() -> Self {
        Self::of_two(T::nan(), [T::nan(); 2])
    }

    /// The same with something to watch.
    pub fn watching(self, watched: T) -> Self {
        Self { watched, ..self }
    }
}

/// What is a loss's own.
pub(crate) trait Formula: ElementLoss {
    /// Whether its own options are in their domains.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Overrides of its WGSL: what shapes the code, by the inputs that are there.
    fn code(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// Parameters of its WGSL.
    fn constants(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Whether its options have it watch something.
    fn watches(&self) -> bool {
        true
    }

    /// Whether these inputs, told by their names, go with its options.
    fn agrees(&self, _given: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }

    /// The loss of an element, from its inputs in the order of [`ElementLoss::streams`].
    fn at<T: Real>(&self, x: &[T]) -> Point<T>;
}

/// 1/(1 + exp(−x)).
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    if x > T::zero() { T::one() / (T::one() + (-x).exp()) } else { x.exp() / (T::one() + x.exp()) }
}

/// log(1 + exp(x)).
pub(crate) fn softplus<T: Real>(x: T) -> T {
    x.max(T::zero()) + (-x.abs()).exp().ln_1p()
}

/// Computes every output in `wanted`.
pub(crate) fn run<L: Formula>(
    loss: &L,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<L, f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<L, f32>(loss, inputs, wanted),
    }
}

fn compute<L: Formula, T: Real>(loss: &L, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    check_names(loss, &|name| inputs.contains_key(name), wanted.iter().copied())?;
    let solved = Solved::<T>::new(loss, inputs)?;
    wanted.iter().map(|&name| Ok((name.to_owned(), solved.output(loss, name)?))).collect()
}

/// An input spread over all elements.
fn spread<T: Real>(inputs: &Arrays, name: &str, extents: Extents, default: T) -> Result<Vec<T>> {
    let count = extents.count() as usize;
    let Some(given) = inputs.get(name) else {
        return Ok(vec![default; count]);
    };
    let shape: Vec<usize> = given.shape.iter().map(|&extent| extent as usize).collect();
    let values: Vec<T> = floats(inputs, name, &shape)?.unwrap_or_default();
    let columns = extents.columns.max(1) as usize;
    Ok(match extents.span(name, &given.shape)? {
        Broadcast::Elements => values,
        Broadcast::Columns => (0..count).map(|at| values[at % columns]).collect(),
        Broadcast::Rows => (0..count).map(|at| values[at / columns]).collect(),
        Broadcast::One => vec![values[0]; count],
    })
}

/// A mask of bytes, which keep where they are not 0, or of bits.
fn integer_mask<T: Real>(inputs: &Arrays, stored: Dtype, extents: Extents) -> Result<Vec<T>> {
    if stored == Dtype::U8 {
        let bytes: Vec<T> = spread(inputs, "mask", extents, T::one())?;
        return Ok(bytes.iter().map(|b| if b.is_zero() { T::zero() } else { T::one() }).collect());
    }
    let words = inputs.get("mask").map(Array::to_i64).unwrap_or_default();
    if words.len() as u64 != extents.count().div_ceil(32) {
        return Err(Error::WrongShape {
            argument: "mask".to_owned(),
            found: vec![words.len() as u64],
            expected: format!("[{}] words of 32 elements", extents.count().div_ceil(32)),
        });
    }
    let bit = |at: usize| words.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1);
    let count = extents.count() as usize;
    Ok((0..count).map(|at| if bit(at) { T::one() } else { T::zero() }).collect())
}

/// A call, computed.
struct Solved<T> {
    shape: Vec<usize>,
    losses: Vec<T>,
    gradients: [Vec<T>; 2],
    sum: T,
    denominator: T,
    divisor: T,
    count: i64,
    watched: T,
    found: Findings,
    options: ElementOptions,
}

impl<T: Real> Solved<T> {
    fn new<L: Formula>(loss: &L, inputs: &Arrays) -> Result<Self> {
        let (streams, options) = (loss.streams(), loss.options());
        let first = streams.first().and_then(|stream| inputs.get(stream.name));
        let first = first.ok_or_else(|| missing(loss, streams.first().map_or("", |s| s.name)))?;
        let extents = Extents::of(&first.shape);
        let tensors: Vec<Vec<T>> = streams
            .iter()
            .map(|stream| spread(inputs, stream.name, extents, T::of(f64::from(stream.default))))
            .collect::<Result<_>>()?;
        let target = streams.iter().position(|stream| stream.name == "targets");
        if let Some(upstream) = inputs.get("upstream")
            && options.reduction != Reduction::None
        {
            fits("upstream", upstream, &[1])?;
        }
        let one = |name| spread(inputs, name, extents, T::one());
        let (weight, upstream) = (one("weight")?, one("upstream")?);
        let mask = match check::integer_mask(loss, inputs, "mask")? {
            Some(stored) => integer_mask(inputs, stored, extents)?,
            None => one("mask")?,
        };
        let (count, columns) = (extents.count() as usize, extents.columns as usize);
        let mut solved = Self {
            shape: first.shape.iter().map(|&extent| extent as usize).collect(),
            losses: vec![T::zero(); count],
            gradients: [vec![T::zero(); count], vec![T::zero(); count]],
            sum: T::zero(),
            denominator: T::zero(),
            divisor: T::one(),
            count: 0,
            watched: T::zero(),
            found: Findings::of_elements(),
            options,
        };
        let unknown = |x: &[T]| match (options.unknown, target) {
            (Some(unknown), Some(target)) => {
                let unknown = T::of(f64::from(unknown as f32));
                x[target] == unknown || (x[target].is_nan() && unknown.is_nan())
            }
            _ => false,
        };
        for at in 0..count {
            let x: Vec<T> = tensors.iter().map(|tensor| tensor[at]).collect();
            if mask[at].is_zero() || unknown(&x) {
                continue;
            }
            solved.count += 1;
            solved.denominator += mask[at];
            let point = loss.at(&x);
            let share = weight[at] * mask[at];
            let loss = if point.bad.is_some() { T::nan() } else { times(share, point.loss) };
            match point.bad {
                Some(value) => solved.found.bad_value(at / columns, value.wide()),
                None if loss.is_nan() => solved.found.bad_row(),
                None => {}
            }
            solved.losses[at] = loss;
            solved.sum += solved.losses[at];
            solved.watched += if point.loss.is_nan() { T::nan() } else { point.watched };
            for (gradient, slope) in solved.gradients.iter_mut().zip(point.slopes) {
                let factor = share * upstream[at];
                gradient[at] = if factor.is_zero() { T::zero() } else { factor * slope };
            }
        }
        solved.divide(inputs, extents)?;
        Ok(solved)
    }

    /// Finds what the sum is divided by, and divides the gradients by it.
    fn divide(&mut self, inputs: &Arrays, extents: Extents) -> Result<()> {
        let given: Option<Vec<T>> = floats(inputs, "denominator", &[1])?;
        if self.options.denominator == MaskedMean::All {
            self.denominator = T::of(extents.count() as f64);
        }
        if self.options.reduction == Reduction::Multilabel {
            self.denominator = T::of(extents.rows as f64);
        }
        let own = match self.options.reduction {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => self.denominator,
            Reduction::Over(d) => T::of(d),
        };
        self.divisor = given.and_then(|values| values.first().copied()).unwrap_or(own);
        for gradient in self.gradients.iter_mut().flatten() {
            *gradient = if self.divisor.is_zero() { T::zero() } else { *gradient / self.divisor };
        }
        Ok(())
    }

    fn output<L: Formula>(&self, loss: &L, name: &str) -> Result<Array> {
        let gradient = |nth: usize| loss.streams().get(nth).map(|s| format!("grad.{}", s.name));
        Ok(match name {
            "loss" if self.options.reduction == Reduction::None => self.elements(&self.losses),
            "loss" => array(&[1], [self.quotient(self.sum, self.divisor)]),
            "sum" => array(&[1], [self.sum]),
            "denominator" => array(&[1], [self.denominator]),
            "count" => Array::int(&[1], vec![self.count]),
            _ if loss.watched() == Some(name) => {
                array(&[1], [self.quotient(self.watched, T::of(self.count as f64))])
            }
            _ if gradient(0).is_some_and(|own| own == name) => self.elements(&self.gradients[0]),
            _ if gradient(1).is_some_and(|own| own == name) => self.elements(&self.gradients[1]),
            "status" => self.found.words(),
            _ => return Err(no_output(loss.about(), name)),
        })
    }

    fn elements(&self, values: &[T]) -> Array {
        array(&self.shape, values.iter().copied())
    }

    fn quotient(&self, sum: T, divisor: T) -> T {
        match self.options.empty {
            _ if sum.is_nan() => sum,
            Empty::Nan if divisor.is_zero() => T::nan(),
            Empty::Zero if divisor.is_zero() => T::zero(),
            _ => sum / divisor,
        }
    }
}

fn missing<L: Formula>(loss: &L, argument: &str) -> Error {
    Error::MissingInput {
        loss: loss.about().name.to_owned(),
        argument: argument.to_owned(),
        reason: "the elements are its".to_owned(),
    }
}
