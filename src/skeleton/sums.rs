//! Folds tallies in a fixed order until one workgroup can take them, and then computes the scalars.

use crate::{
    data::{error::Result, tensor::Dtype},
    plan::{
        Planner, Step, View,
        kernel::{Label, Source, shader, size},
    },
    spec::{
        call::Call,
        options::{Empty, Reduction},
    },
};

/// Words of a tally, and the number of tallies that one workgroup folds.
pub(crate) const TALLY_WORDS: u64 = size::TALLY as u64;
pub(crate) const BLOCK: u64 = size::BLOCK as u64;

/// The reductions around a skeleton's main pass, and the labels of its kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    /// The name of the skeleton.
    pub skeleton: &'static str,
    /// The name of the loss.
    pub loss: &'static str,
    /// The type of the loss's first input.
    pub dtype: Dtype,
}

impl Totals {
    pub fn label(&self, kernel: &'static str) -> Label {
        let Self { skeleton, loss, dtype } = *self;
        Label { skeleton, kernel, loss: Some(loss), dtype: Some(dtype) }
    }

    /// Begins a dispatch of one of the small kernels around the main pass.
    pub fn around<'p, 'a>(
        &self,
        planner: &'p mut Planner<'a>,
        entry: &'static str,
        sources: &[Source],
    ) -> Step<'p, 'a> {
        let lanes = planner.profile.tally_lanes();
        planner
            .dispatch(self.label(entry), entry, sources.iter().copied())
            .overriding("WORKGROUP", lanes)
    }

    /// Folds `count` tallies, the first of them `first`, until one workgroup can take the rest. Returns the place and
    /// the number of the rest.
    pub fn fold(
        &self,
        planner: &mut Planner<'_>,
        tallies: &View,
        first: u64,
        count: u64,
    ) -> Result<(u64, u64)> {
        let (mut first, mut count, base) = (first, count, first);
        let mut next = base + count;
        while count > BLOCK {
            let folded = count.div_ceil(BLOCK);
            self.around(planner, "fold", &[shader!("tally.wgsl"), shader!("fold.wgsl")])
                .uniform("first", first)
                .uniform("tallies", count)
                .uniform("folded", next)
                .table("tallies", tallies, "Tally")
                .groups(folded)?;
            (first, count, next) = (next, folded, next + folded);
        }
        Ok((first, count))
    }

    /// Zeroes a gradient's columns between the last column and the row stride.
    pub fn pad(
        &self,
        planner: &mut Planner<'_>,
        gradient: Option<View>,
        columns: u64,
    ) -> Result<()> {
        let Some(view) = gradient else { return Ok(()) };
        let (rows, stride) = (view.layout.rows(), view.layout.row_stride);
        // A gradient whose columns are planes has no padding columns.
        if stride <= columns || rows == 0 || view.layout.has_planes() {
            return Ok(());
        }
        let mut padding = view;
        padding.layout.offset += columns;
        padding.layout.shape = vec![rows, stride - columns];
        // The buffer may end before the padding of the last row.
        if padding.layout.byte_range().is_none_or(|bytes| bytes.end > padding.room()) {
            padding.layout.shape[0] = rows - 1;
        }
        let rows = padding.layout.rows();
        if rows == 0 {
            return Ok(());
        }
        let padding_columns = stride - columns;
        self.around(planner, "pad", &[shader!("pad.wgsl")])
            .uniform("rows", rows)
            .uniform("classes", padding_columns)
            .write_elements("gradient", Some(padding))
            .groups(rows)
    }

    /// Writes the scalars from `count` tallies at `first`, and from the tally that the header kept.
    pub fn finish(
        &self,
        planner: &mut Planner<'_>,
        call: &Call,
        ending: Ending,
        tallies: &View,
        (first, count): (u64, u64),
    ) -> Result<()> {
        let scalar = |name| call.output(name);
        self.around(
            planner,
            "finish",
            &[
                shader!("tally.wgsl"),
                shader!("quotient.wgsl"),
                shader!("status.wgsl"),
                shader!("finish.wgsl"),
            ],
        )
        .uniform("empty_is_zero", u32::from(ending.empty == Empty::Zero))
        .uniform("float_targets", u32::from(ending.float_targets))
        .uniform("first", first)
        .uniform("tallies", count)
        .uniform("kept", ending.kept)
        .uniform("accumulates_status", u32::from(call.accumulates_status))
        .table("tallies", tallies, "Tally")
        .words("loss", scalar("loss").filter(|_| ending.reduction != Reduction::None))
        .words("sum", scalar("sum"))
        .words("denominator", scalar("denominator"))
        .words("count", scalar("count"))
        .words("correct_count", ending.counted.and_then(scalar))
        .words("perplexity", scalar("perplexity"))
        .words("monitored", ending.monitored.and_then(scalar))
        .words("status", scalar("status"))
        .groups(1)
    }
}

/// How the scalars are computed from the tallies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// How losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Bad targets are floats, not indices.
    pub float_targets: bool,
    /// The output that is the mean of what the loss monitors.
    pub monitored: Option<&'static str>,
    /// The output that is the number of rows that were counted together with the losses.
    pub counted: Option<&'static str>,
    /// The tally that the header kept.
    pub kept: u64,
}

/// What a sum is divided by: a code that `shaders/divisor.wgsl` knows, and a number of the host. `given` says that the
/// caller's denominator is on the GPU.
pub(crate) fn divisor(reduction: Reduction, given: bool) -> (u32, f64) {
    match reduction {
        _ if given => (4, 1.0),
        Reduction::None => (0, 1.0),
        Reduction::Sum => (1, 1.0),
        Reduction::Mean | Reduction::Multilabel => (2, 1.0),
        Reduction::Over(d) => (3, d),
    }
}
