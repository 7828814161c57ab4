//! The plan of scores as results, and of the largest scores of each row.

use crate::{
    data::{
        error::Result,
        tensor::{Dtype, Layout},
    },
    losses::Similarity,
    plan::{Plan, profile::Profile},
    skeleton::{
        linear::ScorePasses,
        pairs::Pairs,
        row::{Gradient, Rows, Scores},
    },
    spec::call::Call,
};

/// The plan of the scores. The second stream of the row kernels writes them like a gradient, and
/// the largest scores are found while their chunk is in memory.
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
    let walk =
        pairs.layer.walk(&mut rows, &windows, ScorePasses { held: 1, whole: 1, blocks: 1 })?;
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
                rows.largest(part.index, &part.rows, &chunk, loss.k.into(), outputs)?;
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
