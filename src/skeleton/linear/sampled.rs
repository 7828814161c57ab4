//! A linear layer of which only the scores of the targets and of some samples are computed.
//!
//! The vectors of the sampled classes are gathered into a small weight, and the products of [`Layer`] take it as they take
//! any weight. The scores of the targets, and their part in the gradients, are a vector a row each.

use super::{Gradient, Layer, LinearOptions, OWN, RowBlock, Scores, Start, Sums};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{
        Plan, View,
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
        profile::Profile,
        stretches::stretches,
    },
    skeleton::row::Rows,
    spec::{
        call::Call,
        options::{Accumulate, WeightLayout},
    },
};

/// What several kernels share: the vector of a class, the gradient of a target's score, the entries of a sparse gradient.
const WEIGHT: Source = shader!("linear/weight.wgsl");
const TARGET_SLOPE: Source = shader!("linear/target_slope.wgsl");
const ENTRIES: Source = shader!("linear/entries.wgsl");

/// Checks the options that a layer of samples does not have.
pub(super) fn check(name: &str, accumulate: Accumulate, normalize: bool) -> Result<()> {
    if normalize {
        return Err(Error::option(name, "normalize", normalize, "samples are not normalised"));
    }
    if accumulate != Accumulate::Nothing {
        let reason = "the gradients of samples are not added to what is there";
        return Err(Error::option(name, "accumulate", format!("{accumulate:?}"), reason));
    }
    Ok(())
}

/// The values that a dense gradient is gathered from: those of the samples, and behind them those of the rows' targets.
struct Gathered {
    output: View,
    values: View,
}

/// The operands of a layer of samples.
struct Sampled<'a> {
    /// The layer of the gathered weight.
    layer: Layer<'a>,
    samples: u64,
    weight: View,
    transposed: bool,
    bias: Option<View>,
    hidden_gradient: Option<View>,
    target_gradient: Option<View>,
    dense: Option<Gathered>,
    dense_bias: Option<Gathered>,
    /// The targets of all rows, for the dense gradients.
    targets: View,
    /// What each step adds up, over the rows, in the outputs of the samples.
    sums: Vec<Sums>,
}

/// The plan of a row loss on the scores of samples and targets.
pub(super) fn plan(
    mut rows: Rows,
    options: LinearOptions,
    call: &Call,
    profile: &Profile,
) -> Result<Plan> {
    let samples = rows.samples();
    let full = Layer::of(options, &OWN, call, profile)?;
    let target_gradient = call.output("grad.target_weight");
    let outputs = [call.output("grad.hidden"), target_gradient.clone()];
    let matrices = std::iter::once(&full.hidden).chain(outputs.iter().flatten());
    let windows = rows.windows(matrices, u64::MAX)?;
    rows.begin(&windows)?;
    let row_bytes = 4 * (samples + 1).next_multiple_of(4);
    let budget = options.chunk_bytes.unwrap_or(profile.chunk_bytes).min(profile.binding_bytes / 2);
    let most = (budget / row_bytes).min(rows.short()).max(1).min(full.rows.max(1));
    let mut parts = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        for part in stretches(window.end - window.start, most)? {
            let part = window.start + part.start..window.start + part.end;
            parts.push(RowBlock { number: parts.len(), index, rows: part, most });
        }
    }
    let chunk = rows.sampled_chunk(most);
    let mut sampled = Sampled::new(&mut rows, &full, call, parts.len())?;
    sampled.target_gradient = target_gradient;
    if let Some(part) = parts.first() {
        sampled.gather_weight(&mut rows, part)?;
    } else {
        let none = chunk.clone().rows(&(0..0)).columns(&(0..samples));
        for sums in &sampled.sums {
            sampled.layer.columns_step(&mut rows, sums, &RowBlock::NONE, &none)?;
        }
    }
    for part in &parts {
        sampled.step(
            &mut rows,
            part,
            &chunk.clone().rows(&(0..part.rows.end - part.rows.start)),
        )?;
    }
    sampled.dense_gradients(&mut rows, parts.first())?;
    rows.end(&windows)
}

impl<'a> Sampled<'a> {
    fn new(rows: &mut Rows, full: &Layer<'a>, call: &Call, steps: usize) -> Result<Self> {
        let (samples, depth) = (rows.samples(), full.depth);
        if depth > MOST_ITERATIONS {
            let what = "numbers of a hidden state".into();
            return Err(Error::Limit { what, found: depth, limit: MOST_ITERATIONS });
        }
        let all = samples + full.rows;
        let mut gathered = |name: &str, depth: u64| {
            let output = call.output(name)?;
            let values = rows.planner.scratch(Layout::matrix(Dtype::F32, all.max(1), depth));
            Some(Gathered { output, values })
        };
        let dense = gathered("grad.weight", depth);
        let dense_bias = gathered("grad.bias", 1);
        if (dense.is_some() || dense_bias.is_some()) && all > MOST_ITERATIONS {
            let what = "samples and rows of a dense gradient".into();
            return Err(Error::Limit { what, found: all, limit: MOST_ITERATIONS });
        }
        let targets = rows.planner.scratch(Layout::vector(Dtype::U32, full.rows.max(1)));
        let own = Layout::matrix(Dtype::F32, samples, depth);
        let weight = rows.planner.scratch(own);
        let options = LinearOptions { weight_layout: WeightLayout::ClassesHidden, ..full.options };
        let layer = Layer {
            options,
            classes: samples,
            most_classes: samples,
            multiply_adds: (full.rows * samples).saturating_mul(depth),
            weight_elements: samples.saturating_mul(depth),
            weight,
            bias: None,
            ..full.clone()
        };
        let of_samples = |gathered: &Option<Gathered>| {
            Some(gathered.as_ref()?.values.clone().rows(&(0..samples)))
        };
        let of_bias = of_samples(&dense_bias).map(|values| {
            let stride = values.layout.row_stride;
            values.reshaped(Layout::matrix(Dtype::F32, 1, samples).class_stride(stride))
        });
        let mut sums = |weight_gradient: Option<View>, bias_gradient: Option<View>| {
            let layer = Layer { weight_gradient, bias_gradient, ..layer.clone() };
            layer.sums(rows, steps)
        };
        let sums =
            vec![sums(of_samples(&dense), of_bias), sums(call.output("grad.sampled_weight"), None)];
        Ok(Self {
            samples,
            weight: full.weight.clone(),
            transposed: full.options.weight_layout == WeightLayout::HiddenClasses,
            bias: full.bias.clone(),
            hidden_gradient: call.output("grad.hidden"),
            target_gradient: None,
            dense,
            dense_bias,
            targets,
            sums,
            layer,
        })
    }

    /// Gathers the vectors of the sampled classes.
    fn gather_weight(&self, rows: &mut Rows, part: &RowBlock) -> Result<()> {
        let depth = self.layer.depth;
        let groups = rows.groups_of(self.samples * depth);
        rows.sampled_step(
            "gather_weight",
            &[WEIGHT, shader!("linear/gather_weight.wgsl")],
            part.index,
            &part.rows,
        )
        .overriding("TRANSPOSED", self.transposed)
        .uniform("depth", depth.max(1))
        .read_elements("weight", Some(self.weight.clone()), 0.0)
        .write_elements("gathered", Some(self.layer.weight.clone()))
        .groups(groups)
    }

    /// A stretch of rows: its scores, its losses, and its part in all gradients.
    fn step(&self, rows: &mut Rows, part: &RowBlock, chunk: &View) -> Result<()> {
        let scores = chunk.clone().columns(&(0..self.samples));
        if self.samples > 0 {
            self.layer.scores(rows, part, &scores)?;
        }
        self.finish_scores(rows, part, chunk)?;
        let wants = self.hidden_gradient.is_some() || self.wants_weight();
        let gradient = if wants { Gradient::InPlace } else { Gradient::Nowhere };
        rows.stream(part.index, &part.rows, &Scores { scores: chunk.clone(), gradient })?;
        if !wants {
            return Ok(());
        }
        // In place, the gradient of the hidden states overwrites the states: it comes last.
        for sums in &self.sums {
            self.layer.columns_step(rows, sums, part, &scores)?;
        }
        self.target_part(rows, part, chunk)
    }

    fn wants_weight(&self) -> bool {
        let of_samples = self.sums.iter().any(|sums| sums.weight.is_some() || sums.bias.is_some());
        of_samples || self.target_gradient.is_some()
    }

    /// Makes the scores of the targets, and ends those of the samples.
    fn finish_scores(&self, rows: &mut Rows, part: &RowBlock, chunk: &View) -> Result<()> {
        let (count, depth) = (part.rows.end - part.rows.start, self.layer.depth);
        let hidden = self.layer.hidden.clone().rows(&part.rows);
        let groups = rows.groups_of(count);
        rows.sampled_step(
            "target_scores",
            &[WEIGHT, shader!("linear/target_scores.wgsl")],
            part.index,
            &part.rows,
        )
        .overriding("TRANSPOSED", self.transposed)
        .uniform("depth", depth)
        .read_elements("weight", Some(self.weight.clone()), 0.0)
        .read_elements("hidden", Some(hidden), 0.0)
        .write_elements("scores", Some(chunk.clone()))
        .groups(groups)?;
        let (counts, groups) = (rows.expected_counts(), rows.groups_of(count * (self.samples + 1)));
        rows.sampled_step(
            "end_scores",
            &[shader!("linear/end_scores.wgsl")],
            part.index,
            &part.rows,
        )
        .read_elements("bias", self.bias.clone(), 0.0)
        .read_elements("log_expected_count", counts, 0.0)
        .read_write_elements("logits", "scores", chunk.clone())
        .groups(groups)
    }

    /// What the targets of some rows add to the gradients, and the gradient of the hidden states.
    fn target_part(&self, rows: &mut Rows, part: &RowBlock, chunk: &View) -> Result<()> {
        let (count, depth) = (part.rows.end - part.rows.start, self.layer.depth);
        let hidden = self.layer.hidden.clone().rows(&part.rows);
        let start = self
            .hidden_gradient
            .is_some()
            .then(|| rows.shared("hidden_start", Layout::matrix(Dtype::F32, count, depth)));
        let own = self.samples + part.rows.start..self.samples + part.rows.end;
        let values =
            |gathered: &Option<Gathered>| Some(gathered.as_ref()?.values.clone().rows(&own));
        let target_gradient = self.target_gradient.clone().map(|view| view.rows(&part.rows));
        let groups = rows.groups_of(count * depth.max(1));
        rows.sampled_step(
            "target_part",
            &[WEIGHT, TARGET_SLOPE, shader!("linear/target_part.wgsl")],
            part.index,
            &part.rows,
        )
        .overriding("TRANSPOSED", self.transposed)
        .uniform("depth", depth.max(1))
        .read_elements("weight", Some(self.weight.clone()), 0.0)
        .read_elements("hidden", Some(hidden), 0.0)
        .read_elements("scores", Some(chunk.clone()), 0.0)
        .write_elements("start", start.clone())
        .write_elements("target_gradient", target_gradient)
        .groups(groups)?;
        if self.dense.is_some() || self.dense_bias.is_some() {
            let hidden = self.layer.hidden.clone().rows(&part.rows);
            let first = part.rows.start;
            rows.sampled_step(
                "target_values",
                &[TARGET_SLOPE, shader!("linear/target_values.wgsl")],
                part.index,
                &part.rows,
            )
            .uniform("depth", depth.max(1))
            .uniform("first", first)
            .read_elements("hidden", Some(hidden), 0.0)
            .read_elements("scores", Some(chunk.clone()), 0.0)
            .write_elements("values", values(&self.dense))
            .write_elements("bias_values", values(&self.dense_bias))
            .words("targets", Some(self.targets.clone()))
            .groups(groups)?;
        }
        let (Some(start), Some(output)) = (start, &self.hidden_gradient) else { return Ok(()) };
        let scores = chunk.clone().columns(&(0..self.samples));
        let output = output.clone().rows(&part.rows);
        self.layer.rows_product(rows, part, &scores, Start::From(start), output)
    }

    /// The dense gradients: zeros, and the sum of all values of each class that occurs.
    fn dense_gradients(&self, rows: &mut Rows, part: Option<&RowBlock>) -> Result<()> {
        let all = [(&self.dense, self.transposed), (&self.dense_bias, true)];
        for gathered in all.iter().filter_map(|(gathered, _)| gathered.as_ref()) {
            let view = gathered.output.clone();
            let view = if view.layout.shape.len() == 1 { view.for_every_row() } else { view };
            rows.zero(&Gradient::To(view.clone()), &view)?;
        }
        let (Some(part), true) = (part, self.dense.is_some() || self.dense_bias.is_some()) else {
            return Ok(());
        };
        let entries = self.samples + self.layer.rows;
        let links = rows.planner.scratch(Layout::vector(Dtype::U32, 2 * entries));
        let groups = rows.groups_of(entries);
        rows.sampled_step(
            "links",
            &[ENTRIES, shader!("linear/links.wgsl")],
            part.index,
            &part.rows,
        )
        .uniform("entries", entries)
        .words("targets", Some(self.targets.clone()))
        .words("chain", Some(links.clone()))
        .groups(groups)?;
        for (gathered, transposed) in all {
            let Some(Gathered { output, values }) = gathered else { continue };
            let output = output.clone();
            let output =
                if output.layout.shape.len() == 1 { output.for_every_row() } else { output };
            let depth = values.layout.columns();
            let groups = rows.groups_of(entries * depth);
            rows.sampled_step(
                "gather_gradient",
                &[ENTRIES, shader!("linear/gather_gradient.wgsl")],
                part.index,
                &part.rows,
            )
            .overriding("TRANSPOSED", transposed)
            .uniform("entries", entries)
            .uniform("depth", depth.max(1))
            .words("targets", Some(self.targets.clone()))
            .words("chain", Some(links.clone()))
            .read_elements("values", Some(values.clone()), 0.0)
            .write_elements("gradient", Some(output))
            .groups(groups)?;
        }
        Ok(())
    }
}
