//! The f64 reference of pair losses, as a textbook writes them: normalise, multiply, then use the whole matrix
//! (catalogue P2 to P4).

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
    },
    reference::{Findings, Real, Vectors, array, dot, extents, factor, fits, floats, no_output},
    skeleton::pairs::{self, Columns, PairLoss, Pairing, Term},
    spec::{
        call::Call,
        options::{Empty, Reduction},
        shard::{self, STATE_WORDS},
    },
};

/// Computes every output in `wanted`.
pub(crate) fn run(
    loss: &dyn PairLoss,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => compute::<f64>(loss, inputs, wanted),
        Arithmetic::F32 => compute::<f32>(loss, inputs, wanted),
    }
}

fn compute<T: Real>(loss: &dyn PairLoss, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let pairs = Pairs::<T>::read(loss, inputs, wanted)?;
    let rows: Vec<Row<T>> = (0..pairs.queries.count).map(|row| pairs.row(row)).collect();
    let solved = Solved::new(loss, &pairs, rows);
    wanted.iter().map(|&name| Ok((name.to_owned(), solved.output(loss, name)?))).collect()
}

fn read_vectors<T: Real>(
    loss: &str,
    inputs: &Arrays,
    name: &str,
    normalized: bool,
) -> Result<Vectors<T>> {
    let (count, depth) = extents(loss, inputs, name)?;
    let values: Vec<T> = floats(inputs, name, &[count, depth])?.unwrap_or_default();
    Ok(Vectors::new(values, [count, depth], normalized))
}

/// The inputs of one call, all in one type.
pub(crate) struct Pairs<T> {
    pairing: Pairing,
    pub queries: Vectors<T>,
    pub keys: Vectors<T>,
    targets: Option<Vec<i64>>,
    labels: Option<[Vec<i64>; 2]>,
    ignored: Vec<i64>,
    /// The products ⟨q̂_i, k̂_j⟩, and what `scores` are made of: the same less the margin of positives.
    similarity: Vec<T>,
    x: Vec<T>,
    pub scores: Vec<T>,
    /// The softmax of each column over the rows; `None` where a score is not finite.
    columns: Vec<Option<Softmax<T>>>,
    /// The softmax of each row over the keys, where the call gives it.
    given: Option<Vec<Given<T>>>,
    /// The number of the first key among the keys of all shards, and the number of all these keys.
    first: usize,
    all_keys: usize,
    scale: T,
    upstream: Option<Vec<T>>,
    denominator: Option<T>,
}

impl<T: Real> Pairs<T> {
    pub fn read(loss: &dyn PairLoss, inputs: &Arrays, wanted: &[&str]) -> Result<Self> {
        let name = loss.about().name;
        let pairing = loss.pairing();
        let itself = pairing.columns == Columns::Queries;
        let Pairing { normalize, shard, .. } = pairing;
        let of_queries = if itself { "features" } else { "queries" };
        let of_keys = if itself && shard.is_none() { of_queries } else { "keys" };
        let queries = read_vectors::<T>(name, inputs, of_queries, normalize)?;
        let count = inputs.get(of_keys).and_then(|keys| keys.shape.first()).copied().unwrap_or(0);
        if pairing.term != Term::Nothing {
            let counts = [queries.count as u64, count];
            pairs::check_inputs(loss, &|name| inputs.contains_key(name), wanted, counts)?;
        }
        let keys = read_vectors::<T>(name, inputs, of_keys, normalize)?;
        let first = shard.map_or(0, |shard| shard.first as usize);
        let integers = |name: &str, count: usize| {
            let Some(array) = inputs.get(name) else { return Ok(None) };
            fits(name, array, &[count])?;
            Ok::<_, Error>(Some(array.to_i64()))
        };
        let labels = integers("labels", queries.count)?;
        let own = |labels: &Vec<i64>| {
            if itself { labels[first..first + keys.count].to_vec() } else { labels.clone() }
        };
        let key_labels = integers("key_labels", keys.count)?.or_else(|| labels.as_ref().map(own));
        // The options in the program are the same for every call.
        let options = loss.program(&Call::default());
        let per_row = options.reduction == Reduction::None
            && matches!(inputs.get("upstream"), Some(up) if up.len() != 1);
        let scale: Option<Vec<T>> = floats(inputs, "scale", &[1])?;
        let bias: Option<Vec<T>> = floats(inputs, "bias", &[1])?;
        let denominator: Option<Vec<T>> = floats(inputs, "denominator", &[1])?;
        let mut pairs = Self {
            pairing,
            targets: integers("targets", queries.count)?,
            labels: labels.zip(key_labels).map(|(labels, keys)| [labels, keys]),
            ignored: options.target.ignored().to_vec(),
            similarity: Vec::new(),
            x: Vec::new(),
            scores: Vec::new(),
            columns: Vec::new(),
            given: given(inputs, queries.count)?,
            first,
            all_keys: shard.map_or(keys.count, |shard| shard.classes as usize),
            scale: scale.map_or(T::one() / T::of(pairing.temperature), |scale| scale[0]),
            upstream: floats(inputs, "upstream", &[if per_row { queries.count } else { 1 }])?,
            denominator: denominator.map(|denominator| denominator[0]),
            queries,
            keys,
        };
        let units: Vec<Vec<T>> = (0..pairs.keys.count).map(|key| pairs.keys.unit(key)).collect();
        for row in 0..pairs.queries.count {
            let query = pairs.queries.unit(row);
            pairs.similarity.extend(units.iter().map(|key| dot(&query, key)));
        }
        let margin = T::of(pairing.target_margin);
        for row in 0..pairs.queries.count {
            for key in 0..pairs.keys.count {
                let x = pairs.similarity[row * pairs.keys.count + key];
                pairs.x.push(if pairs.positive(row, key) { x - margin } else { x });
            }
        }
        let bias = bias.map_or(T::zero(), |bias| bias[0]);
        pairs.scores = pairs.x.iter().map(|&x| pairs.scale * x + bias).collect();
        if pairing.columns == Columns::Softmax {
            let keys = pairs.keys.count;
            pairs.columns = match floats(inputs, "column_lse", &[keys])? {
                Some(saved) => saved.into_iter().map(Softmax::saved).collect(),
                None => (0..keys).map(|key| pairs.column_softmax(key)).collect(),
            };
        }
        Ok(pairs)
    }

    fn score(&self, row: usize, key: usize) -> T {
        self.scores[row * self.keys.count + key]
    }

    fn same_label(&self, row: usize, key: usize) -> bool {
        self.labels.as_ref().is_some_and(|[queries, keys]| queries[row] == keys[key])
    }

    fn positive(&self, row: usize, key: usize) -> bool {
        match (self.pairing.columns, &self.targets) {
            (Columns::Queries, _) => row != self.first + key && self.same_label(row, key),
            (_, Some(targets)) => targets[row] == (self.first + key) as i64,
            (_, None) => row == self.first + key,
        }
    }

    /// Whether a pair is part of the softmax of a row with this positive, and of its column.
    fn kept(&self, row: usize, key: usize, positive: usize) -> bool {
        let exceeds = |margin: f64| {
            let limit = self.similarity[positive] + T::of(margin);
            self.similarity[row * self.keys.count + key] > limit && !self.positive(row, key)
        };
        self.candidate(row, key) && !self.pairing.false_negative_margin.is_some_and(exceeds)
    }

    /// Whether a pair is part of the softmax of its row.
    fn in_row(&self, row: usize, key: usize) -> bool {
        let target = self.targets.as_ref().map_or(row as i64, |targets| targets[row]);
        let target = usize::try_from(target).unwrap_or(usize::MAX);
        match self.pairing.false_negative_margin {
            Some(_) if target < self.keys.count => {
                self.kept(row, key, row * self.keys.count + target)
            }
            _ => self.candidate(row, key),
        }
    }

    /// Whether a pair is part of the softmax of its column, whose positive has the column's number.
    fn in_column(&self, row: usize, key: usize) -> bool {
        match self.pairing.false_negative_margin {
            Some(_) => self.kept(row, key, key * self.keys.count + key),
            None => self.candidate(row, key),
        }
    }

    /// Whether a pair may be part of a softmax.
    fn candidate(&self, row: usize, key: usize) -> bool {
        match self.pairing.columns {
            Columns::Queries => row != self.first + key,
            Columns::Keys | Columns::Softmax => {
                !self.same_label(row, key) || self.positive(row, key)
            }
        }
    }

    fn fate(&self, row: usize) -> Fate {
        if let Some(target) = self.targets.as_ref().map(|targets| targets[row]) {
            if self.ignored.contains(&target) {
                return Fate::Ignored;
            }
            if !usize::try_from(target).is_ok_and(|target| target < self.all_keys) {
                return Fate::BadTarget(target);
            }
        }
        if self.positives(row) == 0 {
            return Fate::Ignored;
        }
        let bad = match &self.given {
            Some(given) => given[row].bad,
            None => self.has_bad_score(row),
        };
        if bad { Fate::BadScores } else { Fate::Kept }
    }

    /// The number of positives of a row, in all shards.
    fn positives(&self, row: usize) -> usize {
        match (self.pairing.columns, &self.labels) {
            (Columns::Queries, Some([labels, _])) => {
                let same = |&(other, label): &(usize, &i64)| other != row && *label == labels[row];
                labels.iter().enumerate().filter(same).count()
            }
            _ => 1,
        }
    }

    /// −log p of a row's own pair in its column, where this shard has the column and columns have a softmax. NaN where
    /// one of the column's scores is not finite.
    fn own_back(&self, row: usize) -> Option<T> {
        let key = row.checked_sub(self.first)?;
        let column = self.columns.get(key)?;
        Some(column.map_or_else(T::nan, |softmax| softmax.surprisal(self.score(row, key))))
    }

    /// Whether the part of a row's loss that comes from its own column is NaN.
    fn has_bad_column(&self, row: usize) -> bool {
        let merged = self.given.as_ref().is_some_and(|given| given[row].back.is_nan());
        merged || self.own_back(row).is_some_and(T::is_nan)
    }

    /// The findings about the vectors and the rows, for the status.
    pub fn found(&self) -> Findings {
        let mut found = Findings::of_rows();
        // Where vectors are compared with themselves there are no other keys.
        let keys = (self.pairing.columns != Columns::Queries).then_some(&self.keys);
        let vectors = [Some(&self.queries), keys].into_iter().flatten();
        vectors.for_each(|vectors| vectors.count_zeros(&mut found));
        for row in 0..self.queries.count {
            match self.fate(row) {
                Fate::BadTarget(target) => found.bad_target(row, target),
                Fate::BadScores => found.bad_row(),
                Fate::Kept if self.has_bad_column(row) => found.bad_row(),
                Fate::Ignored | Fate::Kept => {}
            }
        }
        found
    }

    fn has_bad_score(&self, row: usize) -> bool {
        (0..self.keys.count).any(|key| !self.score(row, key).is_finite())
    }

    /// The statistics of a row in this shard: maximum, Σ exp, –, positives, Σ of their scores less the maximum, −log p
    /// of the positive in its column, –, flags.
    fn statistics(&self, row: usize) -> [T; 8] {
        let zero = T::zero();
        if matches!(self.fate(row), Fate::Ignored | Fate::BadTarget(_)) {
            let lowest = T::of(f64::from(f32::MIN));
            return [lowest, zero, zero, zero, zero, zero, zero, zero];
        }
        let finite = |key: &usize| self.score(row, *key).is_finite();
        let keys = || (0..self.keys.count).filter(finite);
        let candidates = || keys().filter(|&key| self.in_row(row, key));
        let softmax = Softmax::of(candidates().map(|key| self.score(row, key)).collect());
        let live = candidates().count() > 0;
        let max = if live { softmax.max } else { T::of(f64::from(f32::MIN)) };
        let (mut positives, mut term) = (zero, zero);
        for key in keys().filter(|&key| self.positive(row, key)) {
            positives += T::one();
            term += self.score(row, key) - max;
        }
        let back = self.own_back(row).unwrap_or(zero);
        let (back, column_bad) = if back.is_nan() { (zero, true) } else { (back, false) };
        let flags =
            u32::from(live) | u32::from(self.has_bad_score(row)) << 1 | u32::from(column_bad) << 2;
        let flags = T::of(f64::from(f32::from_bits(flags)));
        [max, softmax.sum, zero, positives, term, back, zero, flags]
    }

    fn row(&self, row: usize) -> Row<T> {
        let fate = self.fate(row);
        match fate {
            Fate::Ignored => Row { fate, loss: T::zero(), lse: T::zero() },
            Fate::BadTarget(_) => Row { fate, loss: T::nan(), lse: T::zero() },
            Fate::BadScores => Row { fate, loss: T::nan(), lse: T::nan() },
            Fate::Kept if self.pairing.term == Term::Sigmoid => {
                let mut loss = T::zero();
                for key in 0..self.keys.count {
                    loss += softplus(self.misfit(row, key));
                }
                Row { fate, loss, lse: T::zero() }
            }
            Fate::Kept => {
                let softmax = self.row_softmax(row);
                if let Some(given) = self.given.as_ref().map(|given| &given[row]) {
                    let two = self.pairing.columns == Columns::Softmax;
                    let sides = T::of(if two { 2.0 } else { 1.0 });
                    let forth = given.surprisal(self.positives(row));
                    return Row { fate, loss: (forth + given.back) / sides, lse: softmax.lse() };
                }
                let positives = (0..self.keys.count).filter(|&key| self.positive(row, key));
                let (mut sum, mut count) = (T::zero(), T::zero());
                for key in positives {
                    sum += softmax.surprisal(self.score(row, key));
                    count += T::one();
                }
                let mut loss = sum / count;
                if self.pairing.columns == Columns::Softmax {
                    loss = (loss + self.own_back(row).unwrap_or_else(T::nan)) / T::of(2.0);
                }
                Row { fate, loss, lse: softmax.lse() }
            }
        }
    }

    /// −l·s, where l is 1 for a positive pair and −1 for any other pair.
    fn misfit(&self, row: usize, key: usize) -> T {
        let score = self.score(row, key);
        if self.positive(row, key) { -score } else { score }
    }

    fn row_softmax(&self, row: usize) -> Softmax<T> {
        if let Some(given) = &self.given {
            return given[row].softmax;
        }
        let keys = (0..self.keys.count).filter(|&key| self.in_row(row, key));
        Softmax::of(keys.map(|key| self.score(row, key)).collect())
    }

    fn column_softmax(&self, key: usize) -> Option<Softmax<T>> {
        let rows = 0..self.queries.count;
        let whole = rows.clone().all(|row| self.score(row, key).is_finite());
        let candidates = rows.filter(|&row| self.in_column(row, key));
        whole.then(|| Softmax::of(candidates.map(|row| self.score(row, key)).collect()))
    }
}

/// log(1 + exp(t)).
fn softplus<T: Real>(t: T) -> T {
    t.max(T::zero()) + (-t.abs()).exp().ln_1p()
}

fn sigmoid<T: Real>(t: T) -> T {
    let e = (-t.abs()).exp();
    if t < T::zero() { e / (T::one() + e) } else { T::one() / (T::one() + e) }
}

/// What the call gives for a row: its lse, or the statistics of all shards.
struct Given<T> {
    softmax: Softmax<T>,
    /// The sum of the positives' scores less the maximum.
    term: T,
    /// −log p of the positive in its column.
    back: T,
    bad: bool,
}

impl<T: Real> Given<T> {
    /// The mean of −log p over the positives.
    fn surprisal(&self, positives: usize) -> T {
        self.softmax.sum.ln() - self.term / T::of(positives as f64)
    }

    fn of_lse(lse: T) -> Self {
        let softmax = Softmax { max: lse, sum: T::one() };
        Self { softmax, term: T::zero(), back: T::zero(), bad: !lse.is_finite() }
    }

    fn merged<'a>(parts: impl Iterator<Item = &'a [T]> + Clone) -> Self {
        let flags = |part: &[T]| (part[7].wide() as f32).to_bits();
        let live = parts.clone().filter(|part| flags(part) & 1 != 0);
        let max = live.clone().fold(T::neg_infinity(), |max, part| max.max(part[0]));
        let softmax = Softmax { max, sum: T::zero() };
        let bad = max == T::neg_infinity();
        let mut merged = Self { softmax, term: T::zero(), back: T::zero(), bad };
        for part in live {
            merged.softmax.sum += (part[0] - max).exp() * part[1];
            merged.term += part[4] + part[3] * (part[0] - max);
        }
        for part in parts {
            merged.bad |= flags(part) & 2 != 0;
            merged.back += if flags(part) & 4 != 0 { T::nan() } else { part[5] };
        }
        merged
    }
}

/// What the call gives for every row, if it gives anything.
fn given<T: Real>(inputs: &Arrays, rows: usize) -> Result<Option<Vec<Given<T>>>> {
    if inputs.contains_key("statistics") {
        let (found, _) = extents("pairs", inputs, "statistics")?;
        let words = STATE_WORDS as usize;
        let shards = shard::gathered(found as u64, rows as u64)? as usize;
        let all: Vec<T> = floats(inputs, "statistics", &[found, words])?.unwrap_or_default();
        let part = |row: usize, shard: usize| {
            let at = (shard * rows + row) * words;
            &all[at..at + words]
        };
        let merged = |row| Given::merged((0..shards).map(move |shard| part(row, shard)));
        return Ok(Some((0..rows).map(merged).collect()));
    }
    let lse: Option<Vec<T>> = floats(inputs, "lse", &[rows])?;
    Ok(lse.map(|lse| lse.into_iter().map(Given::of_lse).collect()))
}

/// A softmax, exp(s − max)/sum.
#[derive(Clone, Copy)]
struct Softmax<T> {
    max: T,
    sum: T,
}

impl<T: Real> Softmax<T> {
    fn of(scores: Vec<T>) -> Self {
        let max = scores.iter().fold(T::neg_infinity(), |max, &s| max.max(s));
        let mut sum = T::zero();
        for s in scores {
            sum += (s - max).exp();
        }
        Self { max, sum }
    }

    /// The softmax of a saved lse, where the lse is finite.
    fn saved(lse: T) -> Option<Self> {
        lse.is_finite().then(|| Self { max: lse, sum: T::one() })
    }

    fn prob(&self, score: T) -> T {
        (score - self.max).exp() / self.sum
    }

    /// −log p.
    fn surprisal(&self, score: T) -> T {
        self.sum.ln() - (score - self.max)
    }

    fn lse(&self) -> T {
        self.max + self.sum.ln()
    }
}

/// What the target, the labels and the scores of a row decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The row has no positive, so it counts for nothing as a query.
    Ignored,
    /// The target of the row, given here, is not a key: the loss is NaN, the gradient 0.
    BadTarget(i64),
    /// A score is not finite: loss and gradient are NaN.
    BadScores,
    Kept,
}

struct Row<T> {
    fate: Fate,
    loss: T,
    lse: T,
}

/// A call after its first pass.
struct Solved<'a, T> {
    pairs: &'a Pairs<T>,
    reduction: Reduction,
    empty: Empty,
    rows: Vec<Row<T>>,
    /// The softmax of each row over the keys, where columns use it.
    of_rows: Vec<Softmax<T>>,
    sum: T,
    count: i64,
}

impl<'a, T: Real> Solved<'a, T> {
    fn new(loss: &dyn PairLoss, pairs: &'a Pairs<T>, rows: Vec<Row<T>>) -> Self {
        let options = loss.program(&Call::default());
        let mut sum = T::zero();
        for row in &rows {
            sum += row.loss;
        }
        let kept = |row: &&Row<T>| matches!(row.fate, Fate::Kept | Fate::BadScores);
        let count = rows.iter().filter(kept).count() as i64;
        let itself = pairs.pairing.columns == Columns::Queries;
        let of_rows = (0..rows.len()).filter(|_| itself).map(|row| pairs.row_softmax(row));
        Self {
            pairs,
            reduction: options.reduction,
            empty: options.empty,
            of_rows: of_rows.collect(),
            rows,
            sum,
            count,
        }
    }

    fn output(&self, loss: &dyn PairLoss, name: &str) -> Result<Array> {
        let Pairs { queries, keys, .. } = self.pairs;
        let each = |value: fn(&Row<T>) -> T| array(&[self.rows.len()], self.rows.iter().map(value));
        Ok(match name {
            "loss" if self.reduction == Reduction::None => each(|row| row.loss),
            "loss" => array(&[1], [self.reduced()]),
            "lse" => each(|row| row.lse),
            "column_lse" => {
                let lse = |softmax: &Option<Softmax<T>>| softmax.map_or_else(T::nan, |s| s.lse());
                array(&[keys.count], self.pairs.columns.iter().map(lse))
            }
            "statistics" => {
                let rows = self.rows.len();
                array(&[rows, 8], (0..rows).flat_map(|row| self.pairs.statistics(row)))
            }
            "sum" => array(&[1], [self.sum]),
            "denominator" => array(&[1], [T::of(self.count as f64)]),
            "count" => Array::int(&[1], vec![self.count]),
            "grad.queries" | "grad.features" => {
                array(&[queries.count, queries.depth], queries.backward_all(&self.query_gradient()))
            }
            "grad.keys" => {
                array(&[keys.count, keys.depth], keys.backward_all(&self.key_gradient()))
            }
            "grad.scale" => array(&[1], [self.scale_gradient()]),
            "grad.bias" => array(&[1], [self.total(|_| T::one())]),
            "status" => self.pairs.found().words(),
            _ => return Err(no_output(loss.about(), name)),
        })
    }

    /// What the sum is divided by: 1 where the reduction does not divide.
    fn divisor(&self) -> T {
        let own = match self.reduction {
            Reduction::None | Reduction::Sum => T::one(),
            Reduction::Mean | Reduction::Multilabel => T::of(self.count as f64),
            Reduction::Over(denominator) => T::of(denominator),
        };
        self.pairs.denominator.unwrap_or(own)
    }

    fn reduced(&self) -> T {
        let divisor = self.divisor();
        match self.empty {
            _ if self.sum.is_nan() => self.sum,
            Empty::Nan if divisor.is_zero() => T::nan(),
            Empty::Zero if divisor.is_zero() => T::zero(),
            _ => self.sum / divisor,
        }
    }

    /// `upstream/denominator`; 0 for a row without a gradient.
    fn factor(&self, row: usize) -> T {
        let divisor = self.divisor();
        let dropped = matches!(self.rows[row].fate, Fate::Ignored | Fate::BadTarget(_));
        if dropped {
            return T::zero();
        }
        let upstream = self.pairs.upstream.as_ref();
        let upstream = upstream.map_or(T::one(), |up| if up.len() == 1 { up[0] } else { up[row] });
        factor(upstream, divisor)
    }

    /// ∂loss/∂s of each score of a row.
    fn slopes(&self, row: usize) -> Vec<T> {
        let pairs = self.pairs;
        let all = 0..pairs.keys.count;
        let factor = self.factor(row);
        let sides = match pairs.pairing.columns {
            Columns::Softmax => Some(T::of(2.0)),
            // Each score is in two losses: in that of its row, and in that of the row with the number of its column.
            Columns::Queries => Some(T::one()),
            Columns::Keys => None,
        };
        if let Some(sides) = sides {
            let forth = self.softmax_slopes(row, factor);
            let back = all.map(|key| self.back(row, key));
            return forth.into_iter().zip(back).map(|(a, b)| (a + b) / sides).collect();
        }
        if pairs.pairing.term != Term::Sigmoid {
            return self.softmax_slopes(row, factor);
        }
        let slope = |key| match pairs.positive(row, key) {
            _ if factor.is_zero() => T::zero(),
            _ if self.rows[row].fate == Fate::BadScores => T::nan(),
            true => -factor * sigmoid(pairs.misfit(row, key)),
            false => factor * sigmoid(pairs.misfit(row, key)),
        };
        all.map(slope).collect()
    }

    /// The derivatives from the softmax of the row: f·(p − [positive]/P).
    fn softmax_slopes(&self, row: usize, factor: T) -> Vec<T> {
        let pairs = self.pairs;
        let keys = pairs.keys.count;
        if factor.is_zero() {
            return vec![T::zero(); keys];
        }
        if self.rows[row].fate == Fate::BadScores {
            return vec![T::nan(); keys];
        }
        let softmax = pairs.row_softmax(row);
        let count = pairs.positives(row);
        let slope = |key| {
            let prob = pairs.in_row(row, key).then(|| softmax.prob(pairs.score(row, key)));
            let share = if pairs.positive(row, key) { T::one() } else { T::zero() };
            factor * (prob.unwrap_or_else(T::zero) - share / T::of(count as f64))
        };
        (0..keys).map(slope).collect()
    }

    /// The derivative from the softmax of column j over the rows: f_j·(p − [positive]/P).
    fn back(&self, row: usize, key: usize) -> T {
        let pairs = self.pairs;
        let of = pairs.first + key;
        let factor = self.factor(of);
        if factor.is_zero() {
            return T::zero();
        }
        let softmax = match pairs.pairing.columns {
            Columns::Queries if self.rows[of].fate == Fate::BadScores => None,
            Columns::Queries => Some(self.of_rows[of]),
            Columns::Keys | Columns::Softmax => pairs.columns[key],
        };
        let Some(softmax) = softmax else { return T::nan() };
        if !pairs.in_column(row, key) {
            return T::zero();
        }
        let prob = softmax.prob(pairs.score(row, key));
        let share = if pairs.positive(row, key) { T::one() } else { T::zero() };
        factor * (prob - share / T::of(pairs.positives(of) as f64))
    }

    /// Whether the gradient of a row enters any sum. A row that is not kept changes none, even if its vector is NaN.
    fn live(&self, row: usize) -> bool {
        self.pairs.pairing.columns != Columns::Keys || !self.factor(row).is_zero()
    }

    /// ∂loss/∂scale. Where keys and queries are the same vectors, the slope of a score holds that of its mirror image.
    fn scale_gradient(&self) -> T {
        let sides = if self.pairs.pairing.columns == Columns::Queries { 2.0 } else { 1.0 };
        self.total(|pair| self.pairs.x[pair]) / T::of(sides)
    }

    /// The sum of G·weight over all pairs.
    fn total(&self, weight: impl Fn(usize) -> T) -> T {
        let keys = self.pairs.keys.count;
        let mut sum = T::zero();
        for row in 0..self.rows.len() {
            for (key, slope) in self.slopes(row).into_iter().enumerate() {
                // A slope of 0 adds nothing, even if a vector holds NaN.
                if !slope.is_zero() {
                    sum += slope * weight(row * keys + key);
                }
            }
        }
        sum
    }

    /// The gradient of q̂: scale·G·k̂.
    fn query_gradient(&self) -> Vec<T> {
        let Pairs { queries, keys, scale, .. } = self.pairs;
        let units: Vec<Vec<T>> = (0..keys.count).map(|key| keys.unit(key)).collect();
        let mut result = vec![T::zero(); queries.count * queries.depth];
        for row in (0..queries.count).filter(|&row| self.live(row)) {
            let into = &mut result[row * queries.depth..(row + 1) * queries.depth];
            for (slope, key) in self.slopes(row).into_iter().zip(&units) {
                for (into, &key) in into.iter_mut().zip(key) {
                    *into += *scale * slope * key;
                }
            }
        }
        result
    }

    /// The gradient of k̂: scale·Gᵀ·q̂.
    fn key_gradient(&self) -> Vec<T> {
        let Pairs { queries, keys, scale, .. } = self.pairs;
        let mut result = vec![T::zero(); keys.count * keys.depth];
        for row in (0..queries.count).filter(|&row| self.live(row)) {
            let query = queries.unit(row);
            for (slope, into) in self.slopes(row).iter().zip(result.chunks_mut(keys.depth.max(1))) {
                for (into, &query) in into.iter_mut().zip(&query) {
                    *into += *scale * *slope * query;
                }
            }
        }
        result
    }
}
