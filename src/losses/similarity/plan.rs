//! The scores themselves as a result, and the largest of each row.

use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    losses::Similarity,
    plan::{
        Plan, View, kernel::shader, limits::MOST_ITERATIONS, profile::Profile, stretches::stretches,
    },
    skeleton::{
        linear::{Part, Passes},
        pairs::Pairs,
        row::{Gradient, Rows, Scores},
    },
    spec::call::Call,
};

/// The plan of the scores themselves: written by the row kernels' second stream in the place of a
/// gradient, and searched for the largest while a chunk is there.
pub(crate) fn similarity(loss: &Similarity, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut rows = Rows::new(loss, call, profile)?;
    let mut pairs = Pairs::new(loss, call, profile)?;
    let matrix = call.output("scores");
    let matrices = [Some(&pairs.layer.hidden), matrix.as_ref()];
    let windows = rows.windows(matrices.into_iter().flatten(), u64::MAX)?;
    pairs.tables(&mut rows)?;
    rows.begin(&windows)?;
    let top = call.output("top_scores").is_some() || call.output("top_indices").is_some();
    pairs.layer.needs_whole_rows = top;
    let walk = pairs.layer.walk(&mut rows, &windows, Passes { held: 1, whole: 1, blocks: 1 })?;
    let outputs = top.then(|| {
        ["top_scores", "top_indices"].map(|name| {
            let words = Layout::matrix(Dtype::U32, pairs.layer.rows, loss.k.into());
            call.output(name).unwrap_or_else(|| rows.planner.scratch(words))
        })
    });
    for part in &walk.parts {
        let gradient = || match &matrix {
            Some(scores) => Gradient::To(scores.clone().rows(&part.rows)),
            None => Gradient::Nowhere,
        };
        if walk.is_whole() {
            let chunk = walk.block(part, &(0..pairs.layer.classes));
            pairs.layer.scores(&mut rows, part, &chunk)?;
            let scores = Scores { scores: chunk.clone(), gradient: gradient() };
            rows.main(part.index, &part.rows, &scores)?;
            if let Some(outputs) = &outputs {
                pairs.top(&mut rows, part, &chunk, outputs)?;
            }
        } else {
            pairs.layer.close(&mut rows, &walk, part, |rows, block, scores| {
                let scores = Scores { scores: scores.clone(), gradient: gradient() };
                rows.gradient_of(part.index, &part.rows, block, &scores)
            })?;
        }
    }
    rows.end(&windows)
}

impl Pairs<'_> {
    /// The largest scores of a chunk's rows: as many ranks a dispatch as its loops allow.
    fn top(
        &self,
        rows: &mut Rows,
        Part { index, rows: part, .. }: &Part,
        chunk: &View,
        [scores, indices]: &[View; 2],
    ) -> Result<()> {
        let lanes = u64::from(self.profile.lanes());
        let walk = self.layer.classes.div_ceil(4 * lanes) + 16;
        if walk > MOST_ITERATIONS {
            let (what, limit) = ("keys of a top k".to_owned(), (MOST_ITERATIONS - 16) * 4 * lanes);
            return Err(Error::Limit { what, found: self.layer.classes, limit });
        }
        let k = scores.layout.columns();
        for ranks in stretches(k, MOST_ITERATIONS / walk) {
            let streams = rows.streams(part, false);
            let step = rows
                .step("top", shader!("pairs/top.wgsl"), *index, part)
                .number("k", k)
                .number("first", ranks.start)
                .number("end", ranks.end)
                .words("statistics", None)
                .words("top_scores", Some(scores.clone().rows(part)))
                .words("top_indices", Some(indices.clone().rows(part)))
                .read("logits", Some(chunk.clone()), 0.0)
                .write("gradient", None);
            crate::skeleton::row::functor_streams(step, streams).groups(part.end - part.start)?;
        }
        Ok(())
    }
}
