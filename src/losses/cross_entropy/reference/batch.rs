//! The inputs of one call as numbers.

use super::{
    NAME,
    shards::{Merged, read_merged},
};
use crate::{
    data::{
        array::{Array, Arrays},
        error::{Error, Result},
    },
    losses::CrossEntropy,
    reference::{Real, fits, floats, is_temperature},
    spec::options::Reduction,
};

/// The upstream gradients of by-products, and the saved entropy.
pub(super) struct Pulls<T> {
    pub(super) log_prob: Option<Vec<T>>,
    pub(super) entropy: Option<Vec<T>>,
    pub(super) lse: Option<Vec<T>>,
    pub(super) saved_entropy: Option<Vec<T>>,
    /// Whether the loss itself is in the gradient.
    pub(super) loss_takes_part: bool,
}

impl<T: Real> Pulls<T> {
    fn read(inputs: &Arrays, rows: usize) -> Result<Self> {
        let each = |name| floats::<T>(inputs, name, &[rows]);
        let [log_prob, entropy, lse] =
            [each("upstream.log_prob")?, each("upstream.entropy")?, each("upstream.lse")?];
        let none = log_prob.is_none() && entropy.is_none() && lse.is_none();
        let loss_takes_part = none || inputs.contains_key("upstream");
        Ok(Self { log_prob, entropy, lse, saved_entropy: each("entropy")?, loss_takes_part })
    }

    /// Whether a by-product of this row has a gradient.
    pub(super) fn any(&self, row: usize) -> bool {
        self.of(row).iter().any(|pull| !pull.is_zero())
    }

    /// The upstream gradients of log_prob, entropy and lse of a row.
    pub(super) fn of(&self, row: usize) -> [T; 3] {
        [&self.log_prob, &self.entropy, &self.lse]
            .map(|pull| pull.as_ref().map_or(T::zero(), |pull| pull[row]))
    }
}

/// The targets of the rows.
pub(super) enum Targets<T> {
    Index(Vec<i64>),
    Probs(Vec<T>),
    /// Each row's indices with their weights.
    Several(Vec<Vec<(i64, T)>>),
}

/// The inputs of one call, all in one type.
pub(super) struct Batch<T> {
    pub(super) rows: usize,
    pub(super) classes: usize,
    pub(super) logits: Vec<T>,
    pub(super) targets: Targets<T>,
    pub(super) weight: Option<Vec<T>>,
    pub(super) logit_bias: Option<Vec<T>>,
    /// τ: of the input, or of the option. NaN where the input holds no temperature.
    pub(super) temperature: T,
    pub(super) row_weight: Option<Vec<T>>,
    pub(super) upstream: Option<Vec<T>>,
    pub(super) denominator: Option<T>,
    pub(super) lse: Option<Vec<T>>,
    pub(super) pulls: Pulls<T>,
    /// The rows merged from the statistics of all shards.
    pub(super) merged: Option<Vec<Merged<T>>>,
}

impl<T: Real> Batch<T> {
    /// Reads every input but the logits. Class weights have another name in the linear layer.
    pub(super) fn read(
        loss: &CrossEntropy,
        inputs: &Arrays,
        logits: Vec<T>,
        [rows, classes]: [usize; 2],
    ) -> Result<Self> {
        let targets = read_targets(inputs, [rows, classes])?;
        let per_row = loss.reduction == Reduction::None
            && matches!(inputs.get("upstream"), Some(up) if up.len() != 1);
        let upstream = floats(inputs, "upstream", &[if per_row { rows } else { 1 }])?;
        let denominator = floats(inputs, "denominator", &[1])?;
        if denominator.is_some() && loss.reduction == Reduction::None {
            return Err(conflict("denominator", "reduction", "`none` divides by nothing"));
        }
        Ok(Self {
            rows,
            classes,
            logits,
            targets,
            weight: floats(inputs, "weight", &[loss.all_classes(classes as u64) as usize])?,
            logit_bias: floats(inputs, "logit_bias", &[classes])?,
            temperature: temperature(loss, inputs)?,
            row_weight: floats(inputs, "row_weight", &[rows])?,
            upstream,
            denominator: denominator.and_then(|values| values.first().copied()),
            lse: floats(inputs, "lse", &[rows])?,
            pulls: Pulls::read(inputs, rows)?,
            merged: read_merged(inputs, rows)?,
        })
    }

    /// Subtracts the margin from the logit of each target that is a class here.
    pub(super) fn lower_targets(&mut self, loss: &CrossEntropy) {
        let Targets::Index(targets) = &self.targets else { return };
        let first = loss.shard.map_or(0, |shard| shard.first as i64);
        let rows = self.logits.chunks_mut(self.classes.max(1));
        for (row, &target) in rows.zip(targets) {
            let column = target.checked_sub(first).and_then(|column| usize::try_from(column).ok());
            if let Some(logit) = column.and_then(|column| row.get_mut(column)) {
                *logit = *logit - T::of(loss.target_margin);
            }
        }
    }

    /// An element of a tensor; 1 if the tensor is left out.
    pub(super) fn or_one(values: Option<&Vec<T>>, index: usize) -> T {
        values.map_or(T::one(), |values| values[index])
    }

    pub(super) fn row_weight(&self, row: usize) -> T {
        Self::or_one(self.row_weight.as_ref(), row)
    }

    pub(super) fn upstream(&self, row: usize) -> T {
        match &self.upstream {
            Some(values) if values.len() == 1 => values[0],
            values => Self::or_one(values.as_ref(), row),
        }
    }
}

/// The temperature, if its inverse is a normal number of f32 too.
fn temperature<T: Real>(loss: &CrossEntropy, inputs: &Arrays) -> Result<T> {
    let given = floats::<T>(inputs, "temperature", &[1])?.and_then(|tau| tau.first().copied());
    Ok(match given {
        None => T::of(loss.temperature),
        Some(tau) if is_temperature(tau) => tau,
        Some(_) => T::nan(),
    })
}

fn read_targets<T: Real>(inputs: &Arrays, [rows, classes]: [usize; 2]) -> Result<Targets<T>> {
    let is_several = super::super::Targets::of_arrays(inputs) == super::super::Targets::Several;
    if let Some(indices) = inputs.get("targets").filter(|_| is_several) {
        return read_several(inputs, indices, rows);
    }
    if let Some(indices) = inputs.get("targets") {
        fits("targets", indices, &[rows])?;
        return Ok(Targets::Index(indices.to_i64()));
    }
    let probs = floats(inputs, "target_probs", &[rows, classes])?;
    Ok(Targets::Probs(probs.unwrap_or_default()))
}

fn read_several<T: Real>(inputs: &Arrays, indices: &Array, rows: usize) -> Result<Targets<T>> {
    let shape: Vec<usize> = indices.shape.iter().map(|&extent| extent as usize).collect();
    let weights = floats::<T>(inputs, "target_weight", &shape)?;
    let weights = weights.unwrap_or_else(|| vec![T::one(); indices.len()]);
    let pairs: Vec<(i64, T)> = indices.to_i64().into_iter().zip(weights).collect();
    let each = shape.get(1).copied().unwrap_or(1);
    let row = |row: usize| pairs.iter().skip(row * each).take(each).copied().collect();
    Ok(Targets::Several((0..rows).map(row).collect()))
}

fn conflict(argument: &str, other: &str, reason: &str) -> Error {
    Error::Conflict {
        operation: NAME.into(),
        argument: argument.into(),
        other: other.into(),
        reason: reason.into(),
    }
}
