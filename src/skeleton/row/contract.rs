//! What a row loss declares to its skeleton, as plain data. The WGSL that follows from it is written in
//! `plan/kernel/record.rs`.

use std::sync::Arc;

use super::Tree;
use crate::{
    data::error::{Error, Result},
    plan::{
        Number,
        kernel::{Source, record::RowRecord, shader},
        profile::Profile,
    },
    spec::{
        broadcast::Broadcast,
        call::Call,
        options::{Empty, Padding, Reduction},
        shard::Shard,
    },
};

pub use crate::plan::kernel::record::{
    Field, FieldKind, OutputKind, Reduced, Rounds, RowNumber, RowOutput, StateLayout,
};

/// What a row functor needs of its skeleton: plain data, made from a call.
///
/// A field that a loss does not need keeps its default. The WGSL side of the contract is at the top of
/// `shaders/row.wgsl`.
#[derive(Clone, Debug, Default)]
pub struct RowProgram {
    /// How row losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Whether gradient columns past the classes are written.
    pub padding: Padding,
    /// Set where the columns are a shard of all classes. Targets are indices among all classes.
    pub shard: Option<Shard>,
    /// The input that is streamed, `logits` in WGSL. `logits` where it is not set.
    pub scores: Option<&'static str>,
    /// The output that `emit` stores with `gradient_store`. `grad.` and the name of the scores where it is not set.
    pub gradient: Option<&'static str>,
    /// The functor's WGSL files.
    pub sources: Vec<Source>,
    /// The tensors that the functor reads or writes beside the scores and their gradient.
    pub streams: Vec<RowStream>,
    /// An input of one float that the functor reads with `scalar_bits`. It comes with the header of the row table, so
    /// that it takes no binding of the kernels that stream rows. It is 1 where the call does not give it.
    pub scalar: Option<&'static str>,
    /// Inputs of one float a row that `close` reads with `row_number`. They come with the row's record, so that they
    /// take no binding of the kernels that stream rows.
    pub numbers: &'static [RowNumber],
    /// Which columns of a row are read.
    pub columns: Columns,
    /// What the input `targets` holds.
    pub target: Target,
    /// What each row that is kept adds to the denominator of a mean.
    pub counted: Counted,
    /// The mergeable state that a stretch of columns is reduced to.
    pub state: StateLayout,
    /// By-products of a row: words of its record, and fields of the WGSL struct `Closed` with the same names.
    pub outputs: &'static [RowOutput],
    /// What `close` leaves for `emit`: fields of the WGSL struct `Closed`.
    pub factors: &'static [Field],
    /// What `settle` leaves for the second round: fields of the WGSL struct `Settled`. With fewer than two rounds the
    /// fields exist, so that a functor may name them, but they hold nothing.
    pub settled: &'static [Field],
    /// How often a row is reduced before its gradient is written.
    pub rounds: Rounds,
    /// Before each row is reduced, the column of its `select`-th largest score is found; 0 for no search.
    pub select: u32,
    /// When the functor reads the score of the label, or of a column beside the label.
    pub label_score: LabelScore,
    /// What a call with a saved `lse` does not have to compute.
    pub given: Given,
    /// Values of the functor's overrides: what changes the code. Each combination is compiled separately.
    pub overrides: Vec<(&'static str, u32)>,
    /// The functor's uniforms, read as `params.NAME`: what changes without a new pipeline.
    pub uniforms: Vec<(&'static str, Number)>,
}

/// A tensor that a functor reads or writes beside the scores and their gradient.
#[derive(Clone, Copy, Debug)]
pub struct RowStream {
    /// Its name in WGSL.
    pub name: &'static str,
    /// The name of the input that is read, or of the output that is written.
    pub argument: &'static str,
    /// The axes over which it extends.
    pub broadcast: Broadcast,
    /// Whether it is read or written.
    pub access: StreamAccess,
    /// How its elements are reached.
    pub element: StreamElement,
    /// The value of every element of an input that is not given.
    pub default: f32,
}

impl RowStream {
    /// A float input under its own name. Its elements read as 0 where it is not given.
    pub const fn read(name: &'static str, broadcast: Broadcast) -> Self {
        let (access, element) = (StreamAccess::Read, StreamElement::Float);
        Self { name, argument: name, broadcast, access, element, default: 0.0 }
    }

    /// A float output. It is stored only where the call asks for it.
    pub const fn write(name: &'static str, argument: &'static str, broadcast: Broadcast) -> Self {
        let access = StreamAccess::Write;
        Self { argument, access, ..Self::read(name, broadcast) }
    }

    /// The same stream with another value for an input that is not given.
    #[must_use]
    pub const fn or(self, default: f32) -> Self {
        Self { default, ..self }
    }

    /// The same stream with another type of elements.
    #[must_use]
    pub const fn of(self, element: StreamElement) -> Self {
        Self { element, ..self }
    }
}

/// What a functor does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAccess {
    /// The functor reads an input.
    Read,
    /// The functor writes an output in `emit`.
    Write,
}

/// The type of a stream's elements, with the accessors that the functor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamElement {
    /// `f32`, `f16` or `bf16`: `NAME_at(row, column)`, `NAME_quad(row, column)`, `NAME_store(row, column, bits)`.
    Float,
    /// Integers of a row: `NAME_at(row)` gives two words, sign-extended.
    Integer,
    /// `u32` words by index: `NAME_read(at)`.
    Words,
}

/// Which columns of a row are read, and so have a gradient that is not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// All.
    #[default]
    All,
    /// The columns are the nodes of a tree, and targets are leaves: the nodes on the path from the root to the leaf, and
    /// their siblings. The functor's contract is at the top of `shaders/row/tree.wgsl`.
    Tree(Arc<Tree>),
    /// The classes that the input `samples` names, and the target behind them, which is the last column. A sample that is
    /// the row's target, or no class, has the score `-inf`. Kernels of the skeleton make these scores
    /// (`shaders/row/sampled.wgsl`).
    Sampled,
}

/// What the input `targets` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// There is no such input, or it is one of the functor's own streams.
    #[default]
    None,
    /// The index of a column; rows with one of the ignored indices (at most four) count for nothing.
    Index {
        /// The ignored indices.
        ignored: Vec<i64>,
    },
    /// The indices of several columns, each with a weight (the input `target_weight`, or 1). The functor reads them
    /// with `shaders/row/targets.wgsl`.
    Several {
        /// The ignored indices: such a target counts for nothing, and a row of nothing else does not either.
        ignored: Vec<i64>,
    },
}

impl Target {
    /// The indices whose rows count for nothing.
    pub fn ignored(&self) -> &[i64] {
        match self {
            Self::None => &[],
            Self::Index { ignored } | Self::Several { ignored } => ignored,
        }
    }
}

/// What a row that is kept adds to the denominator of a mean: the product of the weights named here, or 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The row's `row_weight`.
    pub row_weights: bool,
    /// The weight of the target's class: the stream of this name, over the classes of all shards.
    pub class_weights: Option<&'static str>,
}

/// When a functor calls `label_score`, for the score of the label or of a column beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelScore {
    /// Never.
    #[default]
    Unused,
    /// In `close`.
    Closing,
    /// Already in `open`: every score of the row is compared with that of the label.
    Streaming,
}

/// What a call with a saved `lse` does not have to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Given {
    /// Nothing: rows are reduced all the same.
    #[default]
    Nothing,
    /// The rounds of the reduction. `close` still reads the score of the label.
    Stream,
    /// Everything that reads scores before the gradient.
    All,
}

/// `struct Row`, `open`, `reopen` and `row_streams` for functors that need no further knowledge of a row.
pub const OPEN: Source = shader!("row/open.wgsl");
/// The scores of a softmax as finite numbers: `score_of`, `live`, `exponential`.
pub const SCORES: Source = shader!("row/scores.wgsl");
/// How rows that have no loss of their own are closed: `row_is_dropped`, `closed_dropped`, `closed_bad`.
pub const DROPPED: Source = shader!("row/dropped.wgsl");
/// The share of each column in the targets of a row, for functors of [`Target::Several`]: `target_quad`.
pub const TARGETS: Source = shader!("row/targets.wgsl");
/// The order of a row's columns, for functors that use the selected column ([`RowProgram::select`]).
pub const PLACE: Source = shader!("row/place.wgsl");
/// A row's part in the gradient of the input `temperature`.
pub(crate) const TEMPERATURE_SLOPE: RowOutput =
    RowOutput::slope("temperature_slope", "grad.temperature");
/// The state of `shaders/row/softmax.wgsl`.
const SOFTMAX_STATE: StateLayout = StateLayout::words(16);

impl RowProgram {
    /// A functor on the shared softmax of `shaders/row/softmax.wgsl`, reduced in this many rounds. The program also
    /// needs a temperature: see [`tempered`](Self::tempered).
    pub fn softmax(own: Source, rounds: Rounds) -> Self {
        let mut sources = vec![OPEN, DROPPED, SCORES, shader!("row/softmax.wgsl")];
        sources.extend((rounds == Rounds::Two).then_some(shader!("row/settle.wgsl")));
        sources.push(own);
        Self { sources, rounds, state: SOFTMAX_STATE, ..Self::default() }
    }

    /// A functor that compares two distributions (`shaders/row/divergence.wgsl`). The program also needs a temperature.
    pub(crate) fn divergence(own: Source, rounds: Rounds) -> Self {
        Self::softmax(own, rounds).and(shader!("row/divergence.wgsl"))
    }

    /// A functor that follows from the entropy of a softmax and its mean score (`shaders/row/entropy.wgsl`). A second
    /// round finds the variance of the scores. The program also needs a temperature.
    pub(crate) fn entropy(own: Source, rounds: Rounds) -> Self {
        let settled: &[Field] =
            &const { [Field::f32("top"), Field::f32("inverse_sum"), Field::f32("depth")] };
        Self { settled, ..Self::softmax(own, rounds).and(shader!("row/entropy.wgsl")) }
    }

    /// A functor that multiplies the Jacobian of a softmax by a vector, the input of this name
    /// (`shaders/row/jacobian.wgsl`). Without that input there is nothing for a second round to find. The program also
    /// needs a temperature.
    pub(crate) fn jacobian(own: Source, vector: &'static str, call: &Call) -> Self {
        let settled: &[Field] =
            &const { [Field::f32("top"), Field::f32("inverse_sum"), Field::f32("centre")] };
        let rounds = if call.has(vector) { Rounds::Two } else { Rounds::One };
        let softmax = Self::softmax(own, rounds).and(shader!("row/jacobian.wgsl"));
        let vector =
            RowStream { argument: vector, ..RowStream::read("vector", Broadcast::Elements) };
        let overrides = vec![("KEEPS_PLACES", 1)];
        Self { settled, streams: vec![vector], overrides, ..softmax }
    }

    /// The same program with another WGSL file.
    fn and(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// A functor that compares every score with that of the label (`shaders/row/compared.wgsl`), with this state. It
    /// needs a uniform `margin`.
    pub(crate) fn compared(own: Source, state: StateLayout) -> Self {
        let sources = vec![DROPPED, PLACE, shader!("row/compared.wgsl"), own];
        Self { sources, state, label_score: LabelScore::Streaming, ..Self::default() }
    }

    /// The same program with the temperature of its softmaxes. Every functor on the shared softmax needs one.
    #[must_use]
    pub fn tempered(mut self, temperature: f64) -> Self {
        self.uniforms.extend([
            ("temperature", temperature.into()),
            ("double_inverse_temperature", (2.0 / temperature).into()),
            // The arguments of exponentials must fit f32; they are differences divided by the temperature.
            ("half_reach", (1.7e38 * temperature.min(1.0)).into()),
        ]);
        self
    }

    /// The same program with the temperature that the call's input `temperature` holds, or else with this one.
    pub(crate) fn tempered_by(mut self, call: &Call, temperature: f64) -> Self {
        let given = call.has("temperature");
        self.scalar = Some("temperature");
        self.overrides.push(("TEMPERATURE_GIVEN", given.into()));
        self.tempered(temperature)
    }

    /// Checks that a workgroup has room for a state.
    pub(crate) fn check(&self, profile: &Profile) -> Result<()> {
        let (found, limit) = (u64::from(self.state.words) * 4, profile.workgroup_bytes.into());
        if found <= limit {
            return Ok(());
        }
        Err(Error::Limit { what: "bytes of a row's state".into(), found, limit })
    }

    /// The name of the input that is streamed.
    pub(crate) fn streamed(&self) -> &'static str {
        self.scores.unwrap_or("logits")
    }

    /// The name of the output that holds the gradient of the scores.
    pub(crate) fn gradient_name(&self) -> String {
        self.gradient.map_or_else(|| format!("grad.{}", self.streamed()), str::to_owned)
    }

    /// Whether the upstream gradient is a stream of the functor: one value for each score, not for each row.
    pub(crate) fn streams_upstream(&self) -> bool {
        self.streams.iter().any(|stream| stream.argument == "upstream")
    }

    /// The outputs that `emit` stores: the gradient of the scores, and those of the functor's streams.
    pub(crate) fn emitted(&self) -> impl Iterator<Item = String> {
        let written = self.streams.iter().filter(|s| s.access == StreamAccess::Write);
        let written = written.filter(|s| s.broadcast == Broadcast::Elements);
        std::iter::once(self.gradient_name()).chain(written.map(|s| s.argument.to_owned()))
    }

    /// The words of a row that live from one kernel to the next.
    pub(crate) fn record(&self, quantized: bool) -> RowRecord {
        let Self { outputs, factors, settled, rounds, state, numbers, .. } = *self;
        RowRecord { outputs, factors, settled, rounds, state, numbers, quantized }
    }
}
