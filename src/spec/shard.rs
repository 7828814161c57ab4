//! Losses whose columns (classes, keys) are split into several shards (catalogue P6).

use crate::data::error::{Error, Result};

/// Words of a row's mergeable state in the output `statistics`. For softmax losses they are (max u, Σ exp(u − max),
/// Σ exp(u − max)·(u − max), Σ coefficient, Σ coefficient·(u − max), argmax, rank, flags), the last three as the bits
/// of a `u32`. The coefficient of a column is the weight that the loss gives to −log p of this column. With a [`Shard`],
/// the seventh word is the target's u instead of a rank.
pub const STATE_WORDS: u64 = 8;
/// The columns of a call, where all columns are split into several shards: on other bindings, other GPUs or other
/// machines.
///
/// The same steps serve [`crate::CrossEntropy`], [`crate::LinearCrossEntropy`], [`crate::InfoNce`] and
/// [`crate::SupCon`]. Every shard has all rows, its own columns, and targets that are indices among all columns. It
/// makes two calls of one loss value, whose option `shard` gives the place of its columns:
///
/// 1. The first call writes the output `statistics` `[rows, 8]`: the state of each row over the shard's columns.
/// 2. An all-gather collects the statistics, one shard after another: `[shards·rows, 8]`. (For several shards in one
///    process these are slices of one buffer.)
/// 3. The second call has them as input `statistics`, the same on every shard. They are merged in their order, so
///    loss, lse and by-products have the same bits on every shard (with the same device and driver), and the gradients
///    are made from them. All statistics must fit one binding, which allows 4 M rows of shards at WebGPU's default
///    limits.
///
/// The gradients of columns (logits, W, bias, keys) are complete. The gradients of what all shards share (hidden
/// states, queries, features, scale) are parts, which must be summed over the shards.
///
/// Eight zeros are the statistics of a row without columns; a shard without columns contributes these.
/// [`crate::SigmoidContrastive`] needs no statistics: the sums of its shards are simply added.
///
/// Source: the vocabulary-parallel cross-entropy of Megatron-LM (Shoeybi et al. 2019).
///
/// ```
/// use surprisal::{Array, Arrays, CrossEntropy, Shard, cpu};
/// let all = [(0, vec![1.0, 2.0]), (2, vec![3.0])]; // two shards of three classes
/// let shard = |first| CrossEntropy::default().shard(Some(Shard { first, classes: 3 }));
/// let inputs = |logits: &[f64]| Arrays::from([
///     ("logits".to_owned(), Array::float(&[1, logits.len() as u64], logits.to_vec())),
///     ("targets".to_owned(), Array::int(&[1], vec![2])),
/// ]);
/// let mut gathered = Vec::new();
/// for (first, logits) in &all {
///     let outputs = cpu::run(&shard(*first), &inputs(logits), &["statistics"])?;
///     gathered.extend(outputs["statistics"].to_f64());
/// }
/// let statistics = Array::float(&[2, 8], gathered); // the collective
/// for (first, logits) in &all {
///     let mut inputs = inputs(logits);
///     inputs.insert("statistics".to_owned(), statistics.clone());
///     let outputs = cpu::run(&shard(*first), &inputs, &["loss", "grad.logits"])?;
///     assert!((outputs["loss"].to_f64()[0] - 0.407_605_964).abs() < 1e-9);
///     assert_eq!(outputs["grad.logits"].len(), logits.len());
/// }
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Shard {
    /// The number of the call's first column among all columns.
    pub first: u64,
    /// The number of columns in all shards.
    pub classes: u64,
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "column {} of {}", self.first, self.classes)
    }
}

/// Outputs that a shard can give without the others.
const OF_ONE: [&str; 5] = ["statistics", "column_lse", "status", "denominator", "count"];

/// The most columns of all shards: a class must fit a word of the statistics.
const MOST_COLUMNS: u64 = i32::MAX as u64;

impl Shard {
    /// Checks that the first column is one of all columns.
    pub(crate) fn validate(shard: Option<Self>, loss: &str) -> Result<()> {
        match shard {
            Some(shard) if shard.first >= shard.classes => {
                Err(Error::option(loss, "shard", shard, "`first` is below `classes`"))
            }
            Some(shard) if shard.classes > MOST_COLUMNS => Err(Error::Limit {
                what: "columns of all shards".into(),
                found: shard.classes,
                limit: MOST_COLUMNS,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that this many columns, from the first one on, are among all columns.
    pub(crate) fn check_columns(self, loss: &str, argument: &str, columns: u64) -> Result<()> {
        if columns <= self.classes.saturating_sub(self.first) {
            return Ok(());
        }
        conflict(loss, argument, &format!("{columns} columns reach past {self}"))
    }

    /// Checks that a shard's call either asks only for what a shard alone can give, or has the statistics of all
    /// shards.
    pub(crate) fn check(
        shard: Option<Self>,
        loss: &str,
        given: &dyn Fn(&str) -> bool,
        wanted: &[&str],
    ) -> Result<()> {
        let gathered = given("statistics");
        if shard.is_none() {
            let reason = "without it the columns are all there are";
            return if gathered { conflict(loss, "statistics", reason) } else { Ok(()) };
        }
        if given("lse") {
            return conflict(loss, "lse", "a shard's gradients are made from `statistics`");
        }
        if wanted.contains(&"rank") {
            return conflict(loss, "rank", "the target's score is not known where it is not");
        }
        if gathered && wanted.contains(&"statistics") {
            return conflict(loss, "statistics", "they are given, or asked for");
        }
        match wanted.iter().find(|name| !gathered && !OF_ONE.contains(name)) {
            Some(name) => Err(Error::MissingInput {
                operation: loss.into(),
                argument: "statistics".into(),
                reason: format!("`{name}` of a shard needs those of all shards").into(),
            }),
            None => Ok(()),
        }
    }
}

fn conflict(loss: &str, argument: &str, reason: &str) -> Result<()> {
    Err(Error::Conflict {
        operation: loss.into(),
        argument: argument.into(),
        other: "shard".into(),
        reason: reason.into(),
    })
}

/// The number of shards whose statistics are given.
pub(crate) fn gathered(found: u64, rows: u64) -> Result<u64> {
    if (rows == 0 && found == 0) || (rows > 0 && found > 0 && found.is_multiple_of(rows)) {
        return Ok(found / rows.max(1));
    }
    Err(Error::WrongShape {
        argument: "statistics".into(),
        found: vec![found, crate::spec::shard::STATE_WORDS].into(),
        expected: format!("a multiple of {rows} rows").into(),
    })
}
