//! The f64 reference of row losses, as a textbook writes them: row after row.
//!
//! A loss gives the loss and the gradient of one row ([`RowFormula`]). This file decides for all row losses which rows
//! are kept, what they weigh and how they are reduced.

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
    },
    reference::{
        Findings, Real, array, extents, fits, floats, is_temperature, no_output, row_factor,
        scores, times,
    },
    skeleton::{
        operation::Operation,
        row::{OutputKind, Reduced, RowOutput},
    },
    spec::options::{Empty, Reduction},
};

/// How rows are kept, weighed and reduced.
pub(crate) struct Rules {
    pub reduction: Reduction,
    pub empty: Empty,
    /// Targets whose rows count for nothing.
    pub ignored: Vec<i64>,
    /// A mean divides by the weights of the rows, not by their number.
    pub weighted_rows: bool,
}

/// A row loss with the options that all row losses have.
pub(crate) trait Ruled: Operation {
    /// How rows are kept, weighed and reduced.
    fn rules(&self) -> Rules;
}

/// A row loss that is given by the formula of one row.
pub(crate) trait RowFormula: Ruled + Sized {
    /// The name of its scores.
    const SCORES: &'static str = "logits";
    /// The name of the output that holds the gradient of the scores, if it is not `grad.` and their name.
    const GRADIENT: Option<&'static str> = None;
    /// The names of its inputs `[rows, classes]` beside the scores.
    const BESIDE: &'static [&'static str] = &[];
    /// The names of its inputs `[classes]`.
    const OF_CLASSES: &'static [&'static str] = &[];
    /// The names of its inputs of any length that all rows share.
    const SHARED: &'static [&'static str] = &[];
    /// The names of its inputs of one element.
    const SCALARS: &'static [&'static str] = &[];
    /// Its by-products, all of them numbers or slopes, in the order in which [`Point::by_products`] gives them.
    const OUTPUTS: &'static [RowOutput] = &[];

    /// Checks what only this loss can refuse: its own options, and options that exclude each other.
    fn check(&self) -> Result<()>;

    /// Checks what only this loss can refuse of a call with these inputs and this number of classes.
    fn check_given(&self, _given: &dyn Fn(&str) -> bool, _classes: u64) -> Result<()> {
        Ok(())
    }

    /// Counts what is wrong with inputs that all rows of a call with these extents share.
    fn inspect(&self, _inputs: &Arrays, _extents: [usize; 2], _found: &mut Findings) {}

    /// What a row adds to the denominator of a mean, before row weights.
    fn counted<T: Real>(&self, _row: &Row<'_, T>) -> T {
        T::one()
    }

    /// The column that a target stands for, if there is one. A class is the column of the same number.
    fn column<T: Real>(&self, row: &Row<'_, T>, target: i64) -> Option<usize> {
        usize::try_from(target).ok().filter(|&class| class < row.logits.len())
    }

    /// The loss of one row, and its gradient.
    fn at<T: Real>(&self, row: &Row<'_, T>) -> Point<T>;
}

/// The numbers of one row.
pub(crate) struct Row<'a, T> {
    /// The scores of the row.
    pub logits: &'a [T],
    /// The column of the row's target, where targets are indices.
    pub target: Option<usize>,
    beside: Vec<(&'static str, &'a [T])>,
}

impl<T> Row<'_, T> {
    /// The row's part of another matrix, a vector over the classes, or a scalar, if the call has this input.
    pub fn get(&self, name: &str) -> Option<&[T]> {
        self.beside.iter().find(|(beside, _)| *beside == name).map(|(_, values)| *values)
    }
}

impl<T: Real> Row<'_, T> {
    /// The input `temperature`, or the option; NaN for an input that is no temperature.
    pub fn temperature(&self, option: f64) -> T {
        match self.get("temperature").and_then(|values| values.first()) {
            None => T::of(option),
            Some(&given) if is_temperature(given) => given,
            Some(_) => T::nan(),
        }
    }
}

/// The loss of one row and its gradient, before weights and denominators.
pub(crate) struct Point<T> {
    /// The loss.
    pub loss: T,
    /// The derivative with respect to each score.
    pub gradient: Vec<T>,
    /// The by-products, in the order of [`RowFormula::OUTPUTS`]. A row without a loss leaves them out: they are NaN.
    pub by_products: Vec<T>,
    /// Whether the status counts the row.
    pub bad: bool,
    /// Whether the gradient is 0 whatever it is multiplied by.
    flat: bool,
    /// The columns that the loss depends on: elsewhere, the gradient is 0 whatever it is multiplied by. All where this is
    /// `None`.
    columns: Option<Vec<usize>>,
}

impl<T: Real> Point<T> {
    /// A row with a loss.
    pub fn new(loss: T, gradient: Vec<T>) -> Self {
        Self { loss, gradient, by_products: Vec::new(), bad: false, flat: false, columns: None }
    }

    /// The same row, whose loss depends on these columns alone.
    pub fn of_columns(self, columns: Vec<usize>) -> Self {
        Self { columns: Some(columns), ..self }
    }

    /// The same row with its by-products.
    pub fn with(self, by_products: Vec<T>) -> Self {
        Self { by_products, ..self }
    }

    /// A row whose numbers have no loss: the loss, the gradient and the by-products are NaN.
    pub fn bad(classes: usize) -> Self {
        Self { bad: true, ..Self::new(T::nan(), vec![T::nan(); classes]) }
    }

    /// A row whose loss is infinite and has no finite gradient.
    pub fn infinite(classes: usize) -> Self {
        Self { bad: true, ..Self::dropped(T::infinity(), classes) }
    }

    /// A row that counts for nothing, or whose target is bad.
    fn dropped(loss: T, classes: usize) -> Self {
        Self { flat: true, ..Self::new(loss, vec![T::zero(); classes]) }
    }

    /// The same row with this number of by-products.
    fn filled(mut self, by_products: usize) -> Self {
        let none = if self.loss.is_nan() { T::nan() } else { T::zero() };
        self.by_products.resize(by_products, none);
        self
    }

    /// A row of weight 0: only its by-products are computed.
    fn weightless(self) -> Self {
        let none = Self::dropped(T::zero(), self.gradient.len());
        Self { by_products: self.by_products, ..none }
    }
}

/// The softmax of a row, and its logarithm.
pub(crate) struct Softmax<T> {
    /// p of each class.
    pub p: Vec<T>,
    /// log p of each class.
    pub log_p: Vec<T>,
    /// The sum of the other classes' p, which is 1 − p without cancellation.
    pub others: Vec<T>,
}

impl<T: Real> Softmax<T> {
    /// softmax(z/τ); `None` if τ or a score is NaN, if a score is +inf, or if all scores are -inf.
    pub fn of(z: &[T], temperature: T) -> Option<Self> {
        if temperature.is_nan() || z.iter().any(|z| z.is_nan()) {
            return None;
        }
        let max = z.iter().copied().fold(T::neg_infinity(), T::max);
        if max.is_infinite() {
            return None;
        }
        // Subtract before dividing, so that a common offset of the scores costs no digit.
        let u: Vec<T> = z.iter().map(|&z| (z - max) / temperature).collect();
        let e: Vec<T> = u.iter().map(|&u| u.exp()).collect();
        let sum = total(e.iter().copied());
        let log_sum = sum.ln();
        let largest = u.iter().position(num_traits::Zero::is_zero);
        // Only the largest class can have a p near 1.
        let rest =
            total(e.iter().enumerate().filter(|&(c, _)| Some(c) != largest).map(|(_, &e)| e));
        let p: Vec<T> = e.iter().map(|&e| e / sum).collect();
        let other = |(c, &p): (usize, &T)| {
            if Some(c) == largest { rest / sum } else { T::one() - p }
        };
        let others = p.iter().enumerate().map(other).collect();
        let log_p = u.iter().map(|&u| u - log_sum).collect();
        Some(Self { p, log_p, others })
    }

    /// log p of a class. The logarithm of a p near 1 is that of what it lacks.
    pub fn log_of(&self, class: usize) -> T {
        let others = self.others[class];
        if others < T::of(0.5) { (-others).ln_1p() } else { self.log_p[class] }
    }

    /// −Σ p·log p.
    pub fn entropy(&self) -> T {
        let there = self.p.iter().enumerate().filter(|(_, p)| !p.is_zero());
        total(there.map(|(class, &p)| -p * self.log_of(class)))
    }
}

/// The sum in the order of the elements.
pub(crate) fn total<T: Real>(values: impl Iterator<Item = T>) -> T {
    let mut sum = T::zero();
    for value in values {
        sum += value;
    }
    sum
}

/// Computes every output in `wanted`.
pub(crate) fn run<L: RowFormula>(
    loss: &L,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64, L>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<f32, L>(loss, inputs, wanted),
    }
}

fn compute<T: Real, L: RowFormula>(loss: &L, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let solved = Solved::<T>::new(loss, inputs)?;
    let gradient = L::GRADIENT.map_or_else(|| format!("grad.{}", L::SCORES), str::to_owned);
    let output = |&name: &&str| match solved.output(L::OUTPUTS, name)? {
        _ if name == gradient => Ok((name.to_owned(), array(&solved.shape, solved.gradient()))),
        Some(output) => Ok((name.to_owned(), output)),
        None => Err(no_output(loss.about(), name)),
    };
    wanted.iter().map(output).collect()
}

/// The inputs that have one element a row, or one element for all rows.
struct Given<T> {
    targets: Option<Vec<i64>>,
    row_weight: Option<Vec<T>>,
    upstream: Option<Vec<T>>,
    denominator: Option<T>,
}

impl<T: Real> Given<T> {
    fn read(loss: &dyn Operation, inputs: &Arrays, rows: usize) -> Result<Self> {
        let targets = match inputs.get("targets") {
            Some(targets) => {
                fits("targets", targets, &[rows])?;
                Some(targets.to_i64())
            }
            None => None,
        };
        let per_row = loss.is_per_row();
        let each = per_row && inputs.get("upstream").is_some_and(|up| up.len() != 1);
        let denominator: Option<Vec<T>> = floats(inputs, "denominator", &[1])?;
        if per_row && denominator.is_some() {
            return Err(Error::Conflict {
                operation: loss.about().name.into(),
                argument: "denominator".into(),
                other: "reduction".into(),
                reason: "nothing is divided with reduction `none`".into(),
            });
        }
        Ok(Self {
            targets,
            row_weight: floats(inputs, "row_weight", &[rows])?,
            upstream: floats(inputs, "upstream", &[if each { rows } else { 1 }])?,
            denominator: denominator.and_then(|values| values.first().copied()),
        })
    }

    /// The element of a row. A vector that is left out gives 1, a vector of one element the same value for every row.
    fn of(values: Option<&Vec<T>>, row: usize) -> T {
        let value = values.and_then(|values| values.get(row).or_else(|| values.first()));
        value.copied().unwrap_or_else(T::one)
    }

    fn row_weight(&self, row: usize) -> T {
        Self::of(self.row_weight.as_ref(), row)
    }
}

/// What the target of a row decides before the scores of the row are read.
enum Fate {
    /// The row is kept. If targets are indices, this is its class.
    Kept(Option<usize>),
    Ignored,
    BadTarget(i64),
}

fn fate(target: Option<i64>, ignored: &[i64], column: impl FnOnce(i64) -> Option<usize>) -> Fate {
    match target {
        None => Fate::Kept(None),
        Some(target) if ignored.contains(&target) => Fate::Ignored,
        Some(target) => match column(target) {
            None => Fate::BadTarget(target),
            column => Fate::Kept(column),
        },
    }
}

/// A row of a matrix.
fn of_row<T>(values: &[T], row: usize, classes: usize) -> &[T] {
    values.get(row * classes..(row + 1) * classes).unwrap_or_default()
}

/// A call whose rows have been computed.
struct Solved<T> {
    shape: [usize; 2],
    rules: Rules,
    given: Given<T>,
    points: Vec<Point<T>>,
    sum: T,
    denominator: T,
    count: i64,
    found: Findings,
}

impl<T: Real> Solved<T> {
    fn new<L: RowFormula>(loss: &L, inputs: &Arrays) -> Result<Self> {
        let (rows, classes) = extents(loss.about().name, inputs, L::SCORES)?;
        let shape = [rows, classes];
        loss.check_given(&|name| inputs.contains_key(name), classes as u64)?;
        let logits: Vec<T> = scores(inputs, L::SCORES, shape)?;
        let mut beside = Vec::new();
        for &name in L::BESIDE {
            beside.extend(floats(inputs, name, &shape)?.map(|values: Vec<T>| (name, values)));
        }
        let mut shared = Vec::new();
        let length = |name: &str| inputs.get(name).map_or(0, Array::len);
        let vectors = L::OF_CLASSES.iter().map(|&name| (name, classes));
        let vectors = vectors.chain(L::SHARED.iter().map(|&name| (name, length(name))));
        for (name, length) in vectors.chain(L::SCALARS.iter().map(|&name| (name, 1))) {
            shared.extend(floats(inputs, name, &[length])?.map(|values: Vec<T>| (name, values)));
        }
        let mut solved = Self {
            shape,
            rules: loss.rules(),
            given: Given::read(loss, inputs, rows)?,
            points: Vec::with_capacity(rows),
            sum: T::zero(),
            denominator: T::zero(),
            count: 0,
            found: Findings::of_rows(),
        };
        loss.inspect(inputs, shape, &mut solved.found);
        for row in 0..rows {
            let beside = beside.iter().map(|(name, values)| (*name, of_row(values, row, classes)));
            let shared = shared.iter().map(|(name, values)| (*name, &values[..]));
            let beside = beside.chain(shared).collect();
            let logits = of_row(&logits, row, classes);
            solved.push(loss, row, Row { logits, target: None, beside });
        }
        Ok(solved)
    }

    fn push<L: RowFormula>(&mut self, loss: &L, index: usize, mut row: Row<'_, T>) {
        let classes = self.shape[1];
        let target = self.given.targets.as_ref().and_then(|targets| targets.get(index).copied());
        let weight = self.given.row_weight(index);
        let fate = fate(target, &self.rules.ignored, |target| loss.column(&row, target));
        let kept = matches!(fate, Fate::Kept(_));
        let mut point = match fate {
            Fate::Ignored => Point::dropped(T::zero(), classes),
            Fate::BadTarget(target) => {
                self.found.bad_target(index, target);
                Point::dropped(T::nan(), classes)
            }
            Fate::Kept(class) => {
                row.target = class;
                self.count += 1;
                let share = if self.rules.weighted_rows { weight } else { T::one() };
                self.denominator += times(share, loss.counted(&row));
                // The loss of a row with weight 0 is 0, even if its scores hold a NaN.
                let point = loss.at(&row).filled(L::OUTPUTS.len());
                if weight.is_zero() { point.weightless() } else { point }
            }
        };
        // Rows that are not read have no by-products.
        point.by_products.resize(L::OUTPUTS.len(), T::zero());
        point.loss = times(weight, point.loss);
        if point.bad || (kept && point.loss.is_nan()) {
            self.found.bad_row();
        }
        self.sum += point.loss;
        self.points.push(point);
    }

    /// What the sum is divided by: 1 where the reduction does not divide.
    fn divisor(&self) -> T {
        let own = match self.rules.reduction {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => self.denominator,
            Reduction::Over(denominator) => T::of(denominator),
        };
        self.given.denominator.unwrap_or(own)
    }

    /// A sum over rows, divided.
    fn quotient(&self, sum: T, divisor: T) -> T {
        match self.rules.empty {
            _ if sum.is_nan() => sum,
            Empty::Nan if divisor.is_zero() => T::nan(),
            Empty::Zero if divisor.is_zero() => T::zero(),
            _ => sum / divisor,
        }
    }

    /// What the gradient of a row is multiplied by.
    fn factor(&self, row: usize) -> T {
        let upstream = Given::of(self.given.upstream.as_ref(), row);
        row_factor(self.given.row_weight(row), upstream, self.divisor())
    }

    /// A by-product of each row. A slope is multiplied by the factor of the row's gradient.
    fn by_product(&self, at: usize, kind: OutputKind) -> impl Iterator<Item = T> {
        self.points.iter().enumerate().map(move |(row, point)| {
            let value = point.by_products.get(at).copied().unwrap_or_else(T::zero);
            let factor = self.factor(row);
            match kind {
                OutputKind::Slope if point.flat || factor.is_zero() => T::zero(),
                OutputKind::Slope => factor * value,
                _ => value,
            }
        })
    }

    /// The by-product of this name, one number a row, or the number that all rows are reduced to.
    fn by_products(&self, outputs: &[RowOutput], name: &str) -> Option<Array> {
        if let Some(at) = outputs.iter().position(|output| output.name == name) {
            return Some(array(&[self.shape[0]], self.by_product(at, OutputKind::Number)));
        }
        outputs.iter().enumerate().find_map(|(at, output)| {
            let sum = total(self.by_product(at, output.kind));
            match output.reduced {
                Reduced::Sum(reduced) if reduced == name => Some(array(&[1], [sum])),
                Reduced::Mean(reduced) if reduced == name => {
                    Some(array(&[1], [self.quotient(sum, T::of(self.count as f64))]))
                }
                _ => None,
            }
        })
    }

    fn gradient(&self) -> Vec<T> {
        let of_row = |(row, point): (usize, &Point<T>)| -> Vec<T> {
            let factor = self.factor(row);
            if point.flat || factor.is_zero() {
                return vec![T::zero(); point.gradient.len()];
            }
            match &point.columns {
                None => point.gradient.iter().map(|&g| factor * g).collect(),
                Some(columns) => {
                    let mut gradient = vec![T::zero(); point.gradient.len()];
                    for &column in columns {
                        gradient[column] = factor * point.gradient[column];
                    }
                    gradient
                }
            }
        };
        self.points.iter().enumerate().flat_map(of_row).collect()
    }

    /// The output of this name, if the loss has one.
    fn output(&self, outputs: &[RowOutput], name: &str) -> Result<Option<Array>> {
        let per_row = self.rules.reduction == Reduction::None;
        Ok(Some(match name {
            "loss" if per_row => array(&[self.shape[0]], self.points.iter().map(|row| row.loss)),
            "loss" => array(&[1], [self.quotient(self.sum, self.divisor())]),
            "sum" => array(&[1], [self.sum]),
            "denominator" => array(&[1], [self.denominator]),
            "count" => Array::int(&[1], vec![self.count]),
            "status" => self.found.words(),
            _ => return Ok(self.by_products(outputs, name)),
        }))
    }
}
