//! The f64 reference of element losses, as a textbook writes them: element after element.

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
        tensor::Dtype,
    },
    reference::{Findings, Real, array, factor, fits, floats, no_output, times},
    skeleton::element::{ElementLoss, ElementOptions, broadcast_of, check_names},
    spec::{
        broadcast::{Broadcast, Extents},
        check,
        options::{Empty, MaskedMean, Reduction},
    },
};

/// What a loss computes for one element.
#[derive(Clone, Copy, Debug)]
pub struct Point<T> {
    /// The loss of the element.
    pub loss: T,
    /// The derivatives with respect to the first and the second input.
    pub slopes: [T; 2],
    /// An input outside the domain of the loss, such as a negative count: the element then has no
    /// loss.
    pub bad: Option<T>,
    /// The value that is monitored.
    pub monitored: T,
}

impl<T: Real> Point<T> {
    /// A loss of one input.
    pub fn new(loss: T, slope: T) -> Self {
        Self::of_two(loss, [slope, T::zero()])
    }

    /// A loss of two inputs.
    pub fn of_two(loss: T, slopes: [T; 2]) -> Self {
        Self { loss, slopes, bad: None, monitored: T::zero() }
    }

    /// An element without a loss because of this input.
    pub fn bad(value: T) -> Self {
        Self { bad: Some(value), ..Self::of_two(T::nan(), [T::zero(); 2]) }
    }

    /// An element with a NaN among its inputs: loss and derivatives are NaN.
    pub fn nan() -> Self {
        Self::of_two(T::nan(), [T::nan(); 2])
    }

    /// The same result with a monitored value.
    #[must_use]
    pub fn monitoring(self, monitored: T) -> Self {
        Self { monitored, ..self }
    }
}

/// 1/(1 + exp(−x)).
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    if x > T::zero() { T::one() / (T::one() + (-x).exp()) } else { x.exp() / (T::one() + x.exp()) }
}

/// log(1 + exp(x)).
pub(crate) fn softplus<T: Real>(x: T) -> T {
    x.max(T::zero()) + (-x.abs()).exp().ln_1p()
}

/// Computes every output in `wanted` from [`ElementLoss::at`], for the
/// [`Operation::reference`](crate::Operation::reference) of an element loss of one's own.
pub fn compute<L: ElementLoss>(
    loss: &L,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute_in::<L, f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute_in::<L, f32>(loss, inputs, wanted),
    }
}

fn compute_in<L: ElementLoss, T: Real>(
    loss: &L,
    inputs: &Arrays,
    wanted: &[&str],
) -> Result<Arrays> {
    check_names(loss, &|name| inputs.contains_key(name), wanted.iter().copied())?;
    let overridden = loss.overridden(&|name| inputs.contains_key(name));
    let loss = overridden.as_ref().unwrap_or(loss);
    let solved = Solved::<T>::new(loss, inputs)?;
    wanted.iter().map(|&name| Ok((name.to_owned(), solved.output(loss, name)?))).collect()
}

/// An input, and which of its elements belongs to which element of the scores.
struct Spread<T> {
    values: Vec<T>,
    broadcast: Broadcast,
}

impl<T: Real> Spread<T> {
    /// One number for all elements.
    fn one(value: T) -> Self {
        Self { values: vec![value], broadcast: Broadcast::One }
    }

    /// The input of this name, or its default.
    fn read<L: ElementLoss>(
        loss: &L,
        inputs: &Arrays,
        name: &str,
        extents: &Extents,
        default: T,
    ) -> Result<Self> {
        let Some(given) = inputs.get(name) else {
            return Ok(Self::one(default));
        };
        let shape: Vec<usize> = given.shape.iter().map(|&extent| extent as usize).collect();
        let values = floats(inputs, name, &shape)?.unwrap_or_default();
        Ok(Self { values, broadcast: broadcast_of(loss, extents, name, &given.shape)? })
    }

    fn at(&self, extents: &Extents, at: usize) -> T {
        match self.broadcast {
            Broadcast::Elements => self.values[at],
            Broadcast::One => self.values[0],
            other => self.values[extents.index(other, at as u64) as usize],
        }
    }
}

/// A mask of bytes (an element counts where its byte is not 0) or of bits.
fn integer_mask<L: ElementLoss, T: Real>(
    loss: &L,
    inputs: &Arrays,
    stored: Dtype,
    extents: &Extents,
) -> Result<Spread<T>> {
    if stored == Dtype::U8 {
        let mut bytes = Spread::<T>::read(loss, inputs, "mask", extents, T::one())?;
        for byte in bytes.values.iter_mut().filter(|byte| !byte.is_zero()) {
            *byte = T::one();
        }
        return Ok(bytes);
    }
    let words = inputs.get("mask").map(Array::to_i64).unwrap_or_default();
    if words.len() as u64 != extents.count().div_ceil(32) {
        return Err(Error::WrongShape {
            argument: "mask".into(),
            found: vec![words.len() as u64].into(),
            expected: format!("[{}] words of 32 elements", extents.count().div_ceil(32)).into(),
        });
    }
    let bit = |at: usize| words.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1);
    let count = extents.count() as usize;
    let values = (0..count).map(|at| if bit(at) { T::one() } else { T::zero() }).collect();
    Ok(Spread { values, broadcast: Broadcast::Elements })
}

/// The gradient of an input, summed over the elements that share one element of the input.
struct Gradient<T> {
    shape: Vec<u64>,
    own: Spread<T>,
}

impl<T: Real> Gradient<T> {
    /// A gradient of zeros in the shape of the stream's input, if the call has this input.
    fn of<L: ElementLoss>(
        loss: &L,
        inputs: &Arrays,
        nth: usize,
        extents: &Extents,
    ) -> Result<Option<Self>> {
        let given = loss.streams().get(nth).and_then(|s| Some((s.name, inputs.get(s.name)?)));
        let Some((name, given)) = given else {
            return Ok(None);
        };
        let broadcast = broadcast_of(loss, extents, name, &given.shape)?;
        let own = Spread { values: vec![T::zero(); given.len()], broadcast };
        Ok(Some(Self { shape: given.shape.clone(), own }))
    }

    fn add(&mut self, extents: &Extents, at: usize, slope: T) {
        match self.own.broadcast {
            Broadcast::Elements => self.own.values[at] = slope,
            other => self.own.values[extents.index(other, at as u64) as usize] += slope,
        }
    }

    fn array(&self) -> Array {
        Array::float(&self.shape, self.own.values.iter().map(|value| value.wide()).collect())
    }
}

/// A call whose elements have been computed.
struct Solved<T> {
    extents: Extents,
    losses: Vec<T>,
    gradients: [Option<Gradient<T>>; 2],
    /// The derivatives of each element, and the factor that multiplies them: 0 where the element
    /// counts for nothing.
    slopes: Vec<[T; 2]>,
    above: Vec<T>,
    sum: T,
    denominator: T,
    divisor: T,
    count: i64,
    monitored: T,
    found: Findings,
    options: ElementOptions,
}

impl<T: Real> Solved<T> {
    fn new<L: ElementLoss>(loss: &L, inputs: &Arrays) -> Result<Self> {
        let (streams, options) = (loss.streams(), loss.options());
        let first = streams.first().and_then(|stream| inputs.get(stream.name));
        let first = first.ok_or_else(|| missing(loss, streams.first().map_or("", |s| s.name)))?;
        let extents = Extents::of(&first.shape);
        let read = |name, default| Spread::read(loss, inputs, name, &extents, default);
        let tensors: Vec<Spread<T>> = streams
            .iter()
            .map(|stream| read(stream.name, T::of(f64::from(stream.default))))
            .collect::<Result<_>>()?;
        let target = streams.iter().position(|stream| stream.name == "targets");
        if let Some(upstream) = inputs.get("upstream")
            && options.reduction != Reduction::None
        {
            fits("upstream", upstream, &[1])?;
        }
        let (weight, upstream) = (read("weight", T::one())?, read("upstream", T::one())?);
        let mask = match check::integers_dtype(loss, inputs, "mask")? {
            Some(stored) => integer_mask(loss, inputs, stored, &extents)?,
            None => read("mask", T::one())?,
        };
        let (count, columns) = (extents.count() as usize, extents.columns as usize);
        let gradient = |nth| Gradient::of(loss, inputs, nth, &extents);
        let mut solved = Self {
            losses: vec![T::zero(); count],
            gradients: [gradient(0)?, gradient(1)?],
            slopes: vec![[T::zero(); 2]; count],
            above: vec![T::zero(); count],
            sum: T::zero(),
            denominator: T::zero(),
            divisor: T::one(),
            count: 0,
            monitored: T::zero(),
            found: Findings::of_elements(),
            options,
            extents: extents.clone(),
        };
        let unknown = |x: &[T]| match (options.unknown, target) {
            (Some(unknown), Some(target)) => {
                let unknown = T::of(f64::from(unknown as f32));
                x[target] == unknown || (x[target].is_nan() && unknown.is_nan())
            }
            _ => false,
        };
        for at in 0..count {
            let x: Vec<T> = tensors.iter().map(|tensor| tensor.at(&extents, at)).collect();
            let mask = mask.at(&extents, at);
            if mask.is_zero() || unknown(&x) {
                continue;
            }
            solved.count += 1;
            solved.denominator += mask;
            let point = loss.at(&x);
            let share = times(weight.at(&extents, at), mask);
            let loss = if point.bad.is_some() { T::nan() } else { times(share, point.loss) };
            match point.bad {
                Some(value) => solved.found.bad_value(at / columns, value.wide()),
                None if loss.is_nan() => solved.found.bad_row(),
                None => {}
            }
            solved.losses[at] = loss;
            solved.sum += solved.losses[at];
            solved.monitored += if point.loss.is_nan() { T::nan() } else { point.monitored };
            solved.above[at] = times(share, upstream.at(&extents, at));
            solved.slopes[at] = point.slopes;
        }
        solved.divide(inputs)?;
        Ok(solved)
    }

    /// Finds what the sum is divided by, and divides the gradients by the same number.
    fn divide(&mut self, inputs: &Arrays) -> Result<()> {
        let given: Option<Vec<T>> = floats(inputs, "denominator", &[1])?;
        if self.options.denominator == MaskedMean::All {
            self.denominator = T::of(self.extents.count() as f64);
        }
        if self.options.reduction == Reduction::Multilabel {
            self.denominator = T::of(self.extents.rows as f64);
        }
        let own = match self.options.reduction {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => self.denominator,
            Reduction::Over(d) => T::of(d),
        };
        self.divisor = given.and_then(|values| values.first().copied()).unwrap_or(own);
        let Self { gradients, slopes, above, divisor, extents, .. } = self;
        for (nth, gradient) in gradients.iter_mut().enumerate() {
            let Some(gradient) = gradient else { continue };
            for (at, (slopes, &above)) in slopes.iter().zip(above.iter()).enumerate() {
                let factor = factor(above, *divisor);
                if !factor.is_zero() {
                    gradient.add(extents, at, times(factor, slopes[nth]));
                }
            }
        }
        Ok(())
    }

    fn output<L: ElementLoss>(&self, loss: &L, name: &str) -> Result<Array> {
        let streams = loss.streams().iter().zip(&self.gradients);
        let gradient = streams
            .filter_map(|(stream, gradient)| Some((stream.name, gradient.as_ref()?)))
            .find(|(stream, _)| name.strip_prefix("grad.") == Some(*stream));
        Ok(match name {
            "loss" if self.options.reduction == Reduction::None => self.elements(&self.losses),
            "loss" => array(&[1], [self.quotient(self.sum, self.divisor)]),
            "sum" => array(&[1], [self.sum]),
            "denominator" => array(&[1], [self.denominator]),
            "count" => Array::int(&[1], vec![self.count]),
            _ if loss.monitor() == Some(name) => {
                array(&[1], [self.quotient(self.monitored, T::of(self.count as f64))])
            }
            "status" => self.found.words(),
            _ => match gradient {
                Some((_, gradient)) => gradient.array(),
                None => return Err(no_output(loss.about(), name)),
            },
        })
    }

    fn elements(&self, values: &[T]) -> Array {
        Array::float(self.extents.shape(), values.iter().map(|value| value.wide()).collect())
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

fn missing<L: ElementLoss>(loss: &L, argument: &str) -> Error {
    Error::MissingInput {
        operation: loss.about().name.into(),
        argument: argument.into(),
        reason: "the elements are its".into(),
    }
}
