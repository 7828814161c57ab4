//! Covering arrays: few rows in which every two values of every two factors meet.
//!
//! The search is greedy. A pair that no row has yet is put into a valid row, which is mended until it is valid
//! again, and then every other factor takes the value that meets most new pairs. Of several such rows the one is kept
//! that meets most new pairs for its price. What is valid, and what it costs, is asked of the caller, who also says which
//! factors a refusal is about: those are the ones to change.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// One value of each factor, by its number.
pub type Row = Vec<u8>;

/// Two values of two factors, the lower factor first: (factor, value) each.
pub type Pair = [(usize, u8); 2];

/// Why a row is not valid.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The factors that it is about, as far as that is known: those to change.
    pub about: Vec<usize>,
    /// The words for it.
    pub reason: String,
}

/// A covering array, and the pairs that no valid row has.
#[derive(Debug)]
pub struct Covering {
    /// The rows; the first ones meet most pairs.
    pub rows: Vec<Row>,
    /// The pairs that every attempt was refused with, and one of the reasons.
    pub refused: Vec<(Pair, String)>,
}

/// Whose rows are covered.
pub trait Domain {
    /// Whether a row is valid, as far as that is quickly found.
    fn check(&mut self, row: &Row) -> Result<(), Refusal>;

    /// What a row that has passed the check costs beside those that are taken, if it is valid.
    fn price(&mut self, row: &Row) -> Result<usize, Refusal>;

    /// A row is taken.
    fn take(&mut self, row: &Row);
}

/// Rows of which the best one is taken.
const CANDIDATES: usize = 8;
/// Attempts to find a valid row with a pair, and the changes that mend one.
const ATTEMPTS: usize = 40;
const MENDS: usize = 12;
/// Factors that an attempt begins with changed at random.
const SHAKEN: usize = 3;

/// Covers the pairs of factors with so many values each; the same seed gives the same rows.
pub fn cover(values: &[u8], seed: u64, domain: &mut dyn Domain) -> Covering {
    let mut search = Search::new(values, seed, domain);
    let mut pairs = all_pairs(values);
    pairs.shuffle(&mut search.random);
    loop {
        pairs.retain(|&pair| search.open(pair));
        let mut best: Option<(f64, Row)> = None;
        for &pair in pairs.iter().take(CANDIDATES) {
            match search.complete(pair) {
                Ok((row, worth)) => {
                    if best.as_ref().is_none_or(|(most, _)| worth > *most) {
                        best = Some((worth, row));
                    }
                }
                Err(reason) => search.refuse(pair, reason),
            }
        }
        match best {
            Some((_, row)) => search.add(row),
            None if pairs.is_empty() => break,
            None => {}
        }
    }
    Covering { rows: search.rows, refused: search.refused }
}

impl Covering {
    /// The first rows that meet so many in a hundred of the pairs that the whole array meets, and those after
    /// them that have a value of their own. The last pairs cost most: half of the rows meet a twentieth of the pairs.
    pub fn meeting(&self, percent: usize) -> Vec<&Row> {
        let all = self.rows.iter().flat_map(pairs_of).collect::<BTreeSet<Pair>>().len();
        let (mut pairs, mut values) = (BTreeSet::new(), BTreeSet::new());
        let mut chosen = Vec::new();
        for row in &self.rows {
            let has_own = row.iter().copied().enumerate().any(|value| !values.contains(&value));
            if 100 * pairs.len() < percent * all || has_own {
                pairs.extend(pairs_of(row));
                values.extend(row.iter().copied().enumerate());
                chosen.push(row);
            }
        }
        chosen
    }
}

/// The pairs of a row.
pub fn pairs_of(row: &Row) -> impl Iterator<Item = Pair> {
    (0..row.len()).flat_map(move |b| (0..b).map(move |a| [(a, row[a]), (b, row[b])]))
}

/// All pairs of factors with so many values each.
pub fn all_pairs(values: &[u8]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (b, &of_b) in values.iter().enumerate() {
        for (a, &of_a) in values[..b].iter().enumerate() {
            pairs.extend((0..of_a).flat_map(|x| (0..of_b).map(move |y| [(a, x), (b, y)])));
        }
    }
    pairs
}

struct Search<'a> {
    values: &'a [u8],
    /// Each factor's first value among those of all factors.
    first: Vec<usize>,
    /// What is known of two values among those of all factors.
    known: Vec<Known>,
    rows: Vec<Row>,
    refused: Vec<(Pair, String)>,
    random: StdRng,
    domain: &'a mut dyn Domain,
    answers: HashMap<Row, Result<(), Refusal>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Open,
    Met,
    Refused,
}

impl<'a> Search<'a> {
    fn new(values: &'a [u8], seed: u64, domain: &'a mut dyn Domain) -> Self {
        let first: Vec<usize> = values
            .iter()
            .scan(0, |next, &count| Some(std::mem::replace(next, *next + usize::from(count))))
            .collect();
        let all: usize = values.iter().map(|&count| usize::from(count)).sum();
        Self {
            values,
            first,
            known: vec![Known::Open; all * all],
            rows: Vec::new(),
            refused: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            domain,
            answers: HashMap::new(),
        }
    }

    fn place(&self, [(a, x), (b, y)]: Pair) -> usize {
        let all = self.known.len().isqrt();
        (self.first[a] + usize::from(x)) * all + self.first[b] + usize::from(y)
    }

    fn open(&self, pair: Pair) -> bool {
        self.known[self.place(pair)] == Known::Open
    }

    /// The new pairs of a row for each unit of its price, and one that every row costs.
    fn worth(&mut self, row: &Row) -> Result<f64, Refusal> {
        let price = self.domain.price(row)?;
        let new = pairs_of(row).filter(|&pair| self.open(pair)).count();
        Ok(new as f64 / (1 + price) as f64)
    }

    fn add(&mut self, row: Row) {
        self.domain.take(&row);
        for pair in pairs_of(&row) {
            let place = self.place(pair);
            self.known[place] = Known::Met;
        }
        // What one candidate was refused with may be in another one.
        let refused = std::mem::take(&mut self.refused).into_iter();
        let still = refused.filter(|(pair, _)| self.known[self.place(*pair)] == Known::Refused);
        self.refused = still.collect();
        self.rows.push(row);
    }

    fn refuse(&mut self, pair: Pair, reason: String) {
        let place = self.place(pair);
        self.known[place] = Known::Refused;
        self.refused.push((pair, reason));
    }

    /// Whether a row is valid; a refused pair in it spares the question.
    fn ask(&mut self, row: &Row) -> Result<(), Refusal> {
        if let Some(answer) = self.answers.get(row) {
            return answer.clone();
        }
        let refused = pairs_of(row).find(|&pair| self.known[self.place(pair)] == Known::Refused);
        if let Some([(a, _), (b, _)]) = refused {
            let reason = "a refused pair".to_owned();
            return Err(Refusal { about: vec![a, b], reason });
        }
        let answer = self.domain.check(row);
        self.answers.insert(row.clone(), answer.clone());
        answer
    }

    /// A valid row with a pair and what it is worth, or why there is none.
    fn complete(&mut self, pair: Pair) -> Result<(Row, f64), String> {
        let mut reason = None;
        for attempt in 0..ATTEMPTS {
            let mut row = match self.rows.len() {
                // Attempts begin with the first values, which ask for least, or with a row.
                all if attempt % 4 > 0 && all > 0 => {
                    self.rows[self.random.random_range(0..all)].clone()
                }
                _ => vec![0; self.values.len()],
            };
            for _ in 0..SHAKEN.min(attempt) {
                let factor = self.random.random_range(0..row.len());
                row[factor] = self.random.random_range(0..self.values[factor]);
            }
            for (factor, value) in pair {
                row[factor] = value;
            }
            match self.mend(row, pair) {
                Ok((row, worth)) => {
                    let full = self.fill(row.clone(), pair);
                    return Ok(self.worth(&full).map_or((row, worth), |worth| (full, worth)));
                }
                Err(refusal) => reason = reason.or(Some(refusal.reason)),
            }
        }
        Err(reason.unwrap_or_default())
    }

    /// Changes what refusals are about, but for the pair, until the row is valid.
    fn mend(&mut self, mut row: Row, pair: Pair) -> Result<(Row, f64), Refusal> {
        let fixed = pair.map(|(factor, _)| factor);
        for _ in 0..MENDS {
            let refusal = match self.ask(&row).and_then(|()| self.worth(&row)) {
                Ok(worth) => return Ok((row, worth)),
                Err(refusal) => refusal,
            };
            // A refusal of just the two is one that this attempt cannot mend.
            if refusal.about.len() == 2 && refusal.about.iter().all(|f| fixed.contains(f)) {
                return Err(refusal);
            }
            let free: Vec<usize> =
                refusal.about.iter().copied().filter(|factor| !fixed.contains(factor)).collect();
            let factor = if free.is_empty() {
                self.random.random_range(0..row.len())
            } else {
                free[self.random.random_range(0..free.len())]
            };
            if !fixed.contains(&factor) && self.values[factor] > 1 {
                let other = self.random.random_range(1..self.values[factor]);
                // The first value is the one that most rows can have.
                let first = row[factor] != 0 && self.random.random_bool(0.6);
                row[factor] = if first { 0 } else { (row[factor] + other) % self.values[factor] };
            }
        }
        let worth = self.ask(&row).and_then(|()| self.worth(&row))?;
        Ok((row, worth))
    }

    /// Lets every factor outside the pair have the value that meets most new pairs.
    fn fill(&mut self, mut row: Row, pair: Pair) -> Row {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.retain(|factor| pair.iter().all(|(fixed, _)| fixed != factor));
        order.shuffle(&mut self.random);
        for factor in order {
            let now = row[factor];
            let mut gains: Vec<(usize, u8)> = (0..self.values[factor])
                .map(|value| (self.gain(&row, factor, value), value))
                .filter(|&(gain, value)| value == now || gain > self.gain(&row, factor, now))
                .collect();
            gains.sort_by_key(|&(gain, value)| (std::cmp::Reverse(gain), shuffled(&row, value)));
            for (_, value) in gains {
                row[factor] = value;
                if value == now || self.ask(&row).is_ok() {
                    break;
                }
            }
        }
        row
    }

    /// The new pairs of a factor's value with the others of a row.
    fn gain(&self, row: &Row, factor: usize, value: u8) -> usize {
        let with = |other: usize| {
            let (mine, its) = ((factor, value), (other, row[other]));
            if factor < other { [mine, its] } else { [its, mine] }
        };
        (0..row.len()).filter(|&other| other != factor && self.open(with(other))).count()
    }
}

/// An order of equals that differs from row to row.
fn shuffled(row: &Row, value: u8) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row, value).hash(&mut hasher);
    hasher.finish()
}
