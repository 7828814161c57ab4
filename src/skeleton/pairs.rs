//! The pair skeleton: losses of the score matrix between two sets of vectors. The matrix is never stored whole.
//!
//! The scores are those of a linear layer whose weight is the other set of vectors, so the products, the chunks and
//! the row kernels come from [`crate::linear`] and [`crate::row`]. This skeleton adds two things: a table with one
//! entry a vector (its inverse norm and its label), which the row kernels multiply by; and a second walk over the
//! chunks where a key has a softmax of its own, because its gradient is not known before every row has been read.

pub(crate) mod reference;
mod table;
mod walk;

use crate::{
    data::error::{Error, Result},
    plan::{
        Plan, View,
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
        profile::Profile,
    },
    skeleton::{
        linear::{Layer, LinearOptions},
        row::{
            self, Broadcast, Field, Given, LabelScore, Reduced, RowLoss, RowOutput, RowProgram,
            RowStream, Rows, StateLayout, missing,
        },
        vectors::needs_own_sum,
    },
    spec::{
        about::Dim,
        call::Call,
        check,
        options::{Accumulate, WeightLayout},
        shard::Shard,
    },
};

/// How a pair loss makes and uses its pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairing {
    /// Whether vectors are divided by their norms.
    pub normalize: bool,
    /// Where the columns' part of the gradient comes from.
    pub columns: Columns,
    /// What a row's loss is made of.
    pub term: Term,
    /// What products are divided by where the call gives no `scale`.
    pub temperature: f64,
    /// What is taken from the similarity of every positive.
    pub target_margin: f64,
    /// By how much the similarity of a key may exceed the positive's, if there is a limit.
    pub false_negative_margin: Option<f64>,
    /// The most bytes of the chunk of scores.
    pub chunk_bytes: Option<u64>,
    /// Which gradients are added to what their tensors hold.
    pub accumulate: Accumulate,
    /// Set where the keys are a shard of all keys.
    pub shard: Option<Shard>,
}

/// What the columns of the scores are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Only keys: the gradient of a row follows from the row alone.
    Keys,
    /// Keys that have a softmax over the queries.
    Softmax,
    /// The queries themselves: the softmax of a column is that of the row with the same number.
    Queries,
}

/// What a row's loss is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// The softmax over its keys.
    Softmax,
    /// A sigmoid of each score.
    Sigmoid,
    /// There is no loss: the call asks for the scores themselves.
    Nothing,
}

/// A loss of pairs.
pub(crate) trait PairLoss: RowLoss {
    /// How the loss makes and uses its pairs.
    fn pairing(&self) -> Pairing;

    /// Checks what only this loss can refuse, by the inputs given, the outputs wanted, and the numbers of queries and
    /// keys.
    fn check_pairs(
        &self,
        _given: &dyn Fn(&str) -> bool,
        _wanted: &[&str],
        _extents: [u64; 2],
    ) -> Result<()> {
        Ok(())
    }
}

/// The tensors that every pair functor reads beside the scores.
static STREAMS: [RowStream; 5] = [
    RowStream::read("query_table", Broadcast::Elements),
    RowStream::read("key_table", Broadcast::One),
    RowStream::read("column_table", Broadcast::One),
    RowStream::read("scale", Broadcast::Rows),
    RowStream::read("bias", Broadcast::Rows),
];

/// The by-products of the softmax of a row. `s` and `x` belong to the row's positive pair; the kernel `join` reads
/// them.
static SOFTMAX_OUTPUTS: &[RowOutput] = &[
    RowOutput::number("lse"),
    RowOutput::number("scale").reduced(Reduced::Sum("grad.scale")),
    RowOutput::number("s"),
    RowOutput::number("x"),
];

static SOFTMAX_FACTORS: &[Field] =
    &[Field::f32("top"), Field::f32("inverse_sum"), Field::f32("factor"), Field::f32("share")];

/// What every pair loss declares. With `diagonal`, the positive of each query is the key with the same number.
pub(crate) fn program(own: Source, pairing: Pairing, diagonal: bool) -> RowProgram {
    let Pairing { temperature, target_margin, columns, shard, .. } = pairing;
    // The loss of two directions is their mean.
    let share = if columns == Columns::Softmax { 0.5 } else { 1.0 };
    RowProgram {
        shard,
        sources: vec![shader!("pairs.wgsl"), shader!("pairs/open.wgsl"), own],
        streams: STREAMS.to_vec(),
        uniforms: vec![
            ("scale", (1.0 / temperature).into()),
            ("target_margin", target_margin.into()),
            ("share", share.into()),
            ("diagonal", u32::from(diagonal).into()),
            ("first_class", first(shard).into()),
        ],
        ..RowProgram::default()
    }
}

/// The program of a loss that is a softmax over the keys.
pub(crate) fn softmax_program(own: Source, pairing: Pairing, diagonal: bool) -> RowProgram {
    let filter = pairing.false_negative_margin;
    let mut base = program(own, pairing, diagonal);
    base.uniforms.push(("false_negative_margin", filter.unwrap_or_default().into()));
    RowProgram {
        sources: vec![
            shader!("pairs.wgsl"),
            shader!("pairs/column.wgsl"),
            shader!("pairs/softmax.wgsl"),
            own,
        ],
        state: StateLayout { words: 8, shardable: true },
        outputs: SOFTMAX_OUTPUTS,
        factors: SOFTMAX_FACTORS,
        // A row whose keys are filtered compares each of them with its positive.
        label_score: if filter.is_some() { LabelScore::Streaming } else { LabelScore::Closing },
        given: if filter.is_some() { Given::Stream } else { Given::All },
        overrides: vec![
            ("MARGIN", (pairing.target_margin != 0.0).into()),
            ("FILTERS", filter.is_some().into()),
        ],
        ..base
    }
}

fn first(shard: Option<Shard>) -> u64 {
    shard.map_or(0, |shard| shard.first)
}

/// Checks that f32 holds a temperature and its inverse, the scale.
pub(crate) fn check_temperature(loss: &str, temperature: f64) -> Result<()> {
    let normal = (temperature as f32).is_normal() && ((1.0 / temperature) as f32).is_normal();
    if temperature > 0.0 && normal {
        return Ok(());
    }
    Err(Error::option(loss, "temperature", temperature, "τ is above 0 and within f32"))
}

/// Checks that f32 holds a margin.
pub(crate) fn check_margin(loss: &str, option: &'static str, margin: f64) -> Result<()> {
    if (margin as f32).is_finite() {
        return Ok(());
    }
    Err(Error::option(loss, option, margin, "the margin is within f32"))
}

/// Checks what every pair loss refuses.
pub(crate) fn check(loss: &dyn PairLoss, call: &Call) -> Result<()> {
    let wanted: Vec<&str> = call.outputs.keys().map(String::as_str).collect();
    let extents = [call.dim(Dim::Rows), call.dim(Dim::Classes)];
    check_inputs(loss, &|name| call.has(name), &wanted, extents)
}

/// The same checks for a call on the host.
pub(crate) fn check_inputs(
    loss: &dyn PairLoss,
    given: &dyn Fn(&str) -> bool,
    wanted: &[&str],
    [queries, keys]: [u64; 2],
) -> Result<()> {
    for (gradient, input) in [("grad.scale", "scale"), ("grad.bias", "bias")] {
        if wanted.contains(&gradient) && !given(input) {
            return Err(missing(loss, input));
        }
    }
    let other = wanted.iter().find(|name| !name.starts_with("grad.") && **name != "status");
    if let Some(other) = other.filter(|_| given("lse")) {
        return Err(Error::Conflict {
            operation: loss.about().name.into(),
            argument: "lse".into(),
            other: (*other).into(),
            reason: "a saved lse is for gradients alone".into(),
        });
    }
    let Pairing { shard, columns, .. } = loss.pairing();
    if let Some(shard) = shard {
        shard.check_columns(loss.about().name, "keys", keys)?;
    }
    let all_keys = shard.map_or(keys, |shard| shard.classes);
    if columns != Columns::Queries && !given("targets") && all_keys < queries {
        return Err(Error::WrongShape {
            argument: "keys".into(),
            found: vec![all_keys].into(),
            expected: format!("at least {queries} keys, or `targets`: key i is query i's positive")
                .into(),
        });
    }
    loss.check_pairs(given, wanted, [queries, keys])
}

/// Checks that a pair loss can answer a call.
pub(crate) fn accepts(loss: &dyn PairLoss, call: &Call) -> Result<()> {
    row::accepts(loss, &paired(loss, call)?)
}

/// The call with the extent of its columns, also where the columns are the same vectors as the rows.
fn paired(loss: &dyn PairLoss, call: &Call) -> Result<Call> {
    let mut call = call.clone();
    let Pairing { columns, shard, .. } = loss.pairing();
    if columns == Columns::Queries && shard.is_none() {
        // The rows are the columns as well.
        call.dims.insert(Dim::Classes, call.dim(Dim::Rows));
        check::extents(&call.dims)?;
    }
    Ok(call)
}

/// The plan of a pair loss.
pub(crate) fn plan(loss: &dyn PairLoss, call: &Call, profile: &Profile) -> Result<Plan> {
    let call = paired(loss, call)?;
    let mut rows = Rows::new(loss, &call, profile)?;
    rows.adds_sums = loss.pairing().accumulate.shared();
    let mut pairs = Pairs::new(loss, &call, profile)?;
    let windows = rows.windows([&pairs.layer.hidden].into_iter(), u64::MAX)?;
    let tables = pairs.tables(&mut rows)?;
    rows.begin(&windows)?;
    rows.planner.unstored(pairs.layer.rows * pairs.layer.classes * 4);
    let passes = pairs.passes(&rows);
    let walk = pairs.layer.walk(&mut rows, &windows, passes)?;
    match pairs.pairing.columns {
        Columns::Keys => pairs.one_walk(&mut rows, &tables, &walk)?,
        _ => pairs.two_walks(&mut rows, &tables, &walk, &windows)?,
    }
    rows.end(&windows)
}

/// The operands of a pair loss.
pub(crate) struct Pairs<'a> {
    pairing: Pairing,
    pub profile: &'a Profile,
    pub layer: Layer<'a>,
    labels: Option<View>,
    key_labels: Option<View>,
    wants_scale: bool,
    /// The lse of the columns' softmax: the saved one of an earlier call, and where this call saves it.
    column_lse: [Option<View>; 2],
    statistics: Option<View>,
}

impl<'a> Pairs<'a> {
    pub fn new(loss: &dyn PairLoss, call: &Call, profile: &'a Profile) -> Result<Self> {
        let pairing = loss.pairing();
        let itself = pairing.columns == Columns::Queries;
        let queries = if itself { "features" } else { "queries" };
        let keys = if itself && pairing.shard.is_none() { queries } else { "keys" };
        let needed = |name| call.input(name).ok_or_else(|| missing(loss, name));
        let labels = call.input("labels");
        // The f32 sum beside a gradient of the keys counts as a part of the chunk's default budget.
        let keys_gradient = call.output("grad.keys").filter(|output| {
            needs_own_sum(output) || (pairing.normalize && pairing.accumulate.shared())
        });
        let beside =
            keys_gradient.map_or(0, |_| call.dim(Dim::Classes) * call.dim(Dim::Hidden) * 4);
        let layer = Layer {
            options: LinearOptions {
                weight_layout: WeightLayout::ClassesHidden,
                chunk_bytes: pairing.chunk_bytes,
                accumulate: pairing.accumulate,
                normalize: pairing.normalize,
            },
            profile,
            rows: call.dim(Dim::Rows),
            classes: call.dim(Dim::Classes),
            most_classes: call.dim(Dim::Classes),
            depth: call.dim(Dim::Hidden),
            multiply_adds: (call.dim(Dim::Rows) * call.dim(Dim::Classes))
                .saturating_mul(call.dim(Dim::Hidden)),
            weight_elements: call.dim(Dim::Classes).saturating_mul(call.dim(Dim::Hidden)),
            hidden: needed(queries)?,
            weight: needed(keys)?,
            bias: None,
            hidden_gradient: call.output(&format!("grad.{queries}")),
            raw_hidden_gradient: None,
            weight_gradient: call.output("grad.keys"),
            bias_gradient: None,
            adds_bias: false,
            in_place: false,
            others: Vec::new(),
            slots: None,
            beside,
            // For the softmax of a column, one lane walks all rows of a chunk.
            most_rows: match pairing.columns {
                Columns::Softmax => MOST_ITERATIONS,
                _ => u64::MAX,
            },
            needs_whole_rows: false,
        };
        layer.check_depth()?;
        let own = |labels: View| match pairing.shard {
            Some(Shard { first, .. }) if itself => labels.rows(&(first..first + layer.classes)),
            _ => labels,
        };
        let key_labels = call.input("key_labels").or_else(|| labels.clone().map(own));
        Ok(Self {
            pairing,
            profile,
            layer,
            labels,
            key_labels,
            wants_scale: call.wants("grad.scale"),
            column_lse: [call.input("column_lse"), call.output("column_lse")],
            statistics: call.output("statistics"),
        })
    }
}
