//! Finds the row counts that need kernels of their own, from plans alone.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
};

use crate::{
    data::error::Result,
    plan::{Plan, kernel::Kernel},
};

/// Up to this row count, every one is planned; a plan takes some microseconds.
const DENSE: u64 = 512;
/// From there on, the row counts that are planned grow by this share.
const GROWTH: u64 = 8;

/// Row counts of a range whose calls together need every kernel that a call with a row count of the range needs: the
/// first of the range, and each one that needs a kernel which no smaller one needs.
///
/// `plan` makes the plan of a call with so many rows. No device is needed, and nothing is compiled. A last batch with
/// fewer rows than the others may need other kernels, because small products have other tiles: compile the kernels of
/// these row counts before the first step, and no later step waits for a compiler.
///
/// Up to 512 rows, every row count is planned. Beyond, row counts an eighth apart are planned, and where two of them
/// need different kernels, those between them are searched for the change.
///
/// ```
/// use std::collections::BTreeMap;
/// use surprisal::{CrossEntropy, Dtype, Layout, Operation, Profile};
/// use surprisal::plan::{Call, Operand, row_counts};
/// let (loss, profile) = (CrossEntropy::default(), Profile::default());
/// let operand = |name: &str, layout: Layout, allocation: usize| {
///     let name = name.to_owned();
///     (name.clone(), Operand { name, layout, allocation, allocation_bytes: 1 << 30 })
/// };
/// let counts = row_counts(1..=256, |rows| {
///     let logits = operand("logits", Layout::matrix(Dtype::F32, rows, 50_000), 0);
///     let targets = operand("targets", Layout::vector(Dtype::I64, rows), 1);
///     let value = operand("loss", Layout::vector(Dtype::F32, 1), 2);
///     let call = Call::new(BTreeMap::from([logits, targets]), BTreeMap::from([value]));
///     loss.plan(&call.checked(&loss, profile.offset_alignment)?, &profile)
/// })?;
/// assert_eq!(counts.first(), Some(&1));
/// # Ok::<(), surprisal::Error>(())
/// ```
pub fn row_counts(
    rows: RangeInclusive<u64>,
    mut plan: impl FnMut(u64) -> Result<Plan>,
) -> Result<Vec<u64>> {
    let mut planned = BTreeMap::new();
    let mut kernels = |rows| Ok(plan(rows)?.kernels.into_iter().collect::<HashSet<Arc<Kernel>>>());
    let mut last: Option<u64> = None;
    for at in grid(&rows) {
        planned.insert(at, kernels(at)?);
        if let Some(before) = last {
            search(before, at, &mut planned, &mut kernels)?;
        }
        last = Some(at);
    }
    let mut known = HashSet::new();
    let mut is_new = |all: HashSet<Arc<Kernel>>| {
        let before = known.len();
        known.extend(all);
        known.len() > before
    };
    Ok(planned.into_iter().filter_map(|(rows, all)| is_new(all).then_some(rows)).collect())
}

/// The row counts that are planned in any case, in order.
fn grid(rows: &RangeInclusive<u64>) -> impl Iterator<Item = u64> {
    let (first, last) = (*rows.start(), *rows.end());
    let next = move |at: &u64| {
        let step = if *at < DENSE { 1 } else { *at / GROWTH };
        (*at < last).then(|| at.saturating_add(step).min(last))
    };
    std::iter::successors((first <= last).then_some(first), next)
}

/// Plans row counts between two that need different kernels, until every change is between neighbours.
fn search(
    low: u64,
    high: u64,
    planned: &mut BTreeMap<u64, HashSet<Arc<Kernel>>>,
    kernels: &mut impl FnMut(u64) -> Result<HashSet<Arc<Kernel>>>,
) -> Result<()> {
    if high - low < 2 || planned.get(&low) == planned.get(&high) {
        return Ok(());
    }
    let middle = low.midpoint(high);
    planned.insert(middle, kernels(middle)?);
    search(low, middle, planned, kernels)?;
    search(middle, high, planned, kernels)
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn the_grid_has_both_ends() {
        let all = |rows| grid(&rows).collect::<Vec<_>>();
        assert_eq!(all(3..=7), [3, 4, 5, 6, 7]);
        assert_eq!(all(600..=800), [600, 675, 759, 800]);
        assert_eq!(all(510..=700), [510, 511, 512, 576, 648, 700]);
        assert_eq!(all(5..=5), [5]);
        assert!(all(std::ops::RangeInclusive::new(6, 5)).is_empty());
        assert_eq!(all(u64::MAX - 1..=u64::MAX), [u64::MAX - 1, u64::MAX]);
    }
}
