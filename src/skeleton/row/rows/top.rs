//! Finds the largest columns of each row in their order, where only a few are wanted. `select` finds a single place.

use std::ops::Range;

use super::{Rows, stream::functor_streams};
use crate::{
    data::error::{Error, Result},
    plan::{View, kernel::shader, limits::MOST_ITERATIONS, stretches::stretches},
};

impl Rows<'_> {
    /// Finds the scores and the columns of the `k` largest scores of each row. One walk finds one rank, and a dispatch
    /// makes as many walks as the limit of its loops allows.
    pub fn largest(
        &mut self,
        index: usize,
        rows: &Range<u64>,
        scores: &View,
        k: u64,
        [top_scores, top_indices]: &[View; 2],
    ) -> Result<()> {
        let lanes = u64::from(self.lanes().0);
        let walk = self.classes.div_ceil(4 * lanes) + 16;
        if walk > MOST_ITERATIONS {
            let (what, limit) = ("columns of a top k".into(), (MOST_ITERATIONS - 16) * 4 * lanes);
            return Err(Error::Limit { what, found: self.classes, limit });
        }
        for ranks in stretches(k, MOST_ITERATIONS / walk)? {
            let streams = self.streams(rows, false);
            let step = self
                .step("top", shader!("row/top.wgsl"), index, rows)
                .uniform("k", k)
                .uniform("first", ranks.start)
                .uniform("end", ranks.end)
                .words("statistics", None)
                .words("top_scores", Some(top_scores.clone().rows(rows)))
                .words("top_indices", Some(top_indices.clone().rows(rows)))
                .read("logits", Some(scores.clone()), 0.0)
                .write("gradient", None);
            functor_streams(step, streams).groups(rows.end - rows.start)?;
        }
        Ok(())
    }
}
