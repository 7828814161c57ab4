//! The pair skeleton: losses of a score matrix between two sets of vectors, never stored whole.
//!
//! The scores are those of a linear layer whose weight is the other set, so the products, the chunk
//! and the row kernels are [`crate::linear`]'s and [`crate::row`]'s own. What is added: one entry a
//! vector (its inverse norm and its label) that the row kernels multiply by, and, where a key has a
//! softmax of its own, a second walk over the chunks, because no gradient is known before every
//! row has been seen.

pub(crate) mod reference;
mod table;
mod walk;

use crate::{
    data::{
        error::{Error, Result},
        tensor::Dtype,
    },
    plan::{
        Plan, View,
        kernel::{Source, shader},
        limits::MOST_ITERATIONS,
        profile::Profile,
    },
    skeleton::{
        linear::{Layer, LinearOptions, ScorePasses},
        row::{
            self, Broadcast, Field, Given, LabelScore, Reduced, RowLoss, RowOutput, RowProgram,
            RowStream, Rows, StateLayout, missing,
        },
    },
    spec::{about::Dim, call::Call, check, options::WeightLayout, shard::Shard},
};

/// How a pair loss pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairing {
    /// Vectors are divided by their norms.
    pub normalize: bool,
    /// Where the columns' part of the gradient comes from.
    pub columns: Columns,
    /// What a row's loss is made of.
    pub term: Term,
    /// What products are divided by where the call gives no `scale`.
    pub temperature: f64,
    /// The most bytes for the chunk of scores.
    pub chunk_bytes: Option<u64>,
    /// The keys are a shard of all keys.
    pub shard: Option<Shard>,
}

/// What the columns of the scores are, beside keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Keys and nothing more: a row's gradient follows from the row.
    Keys,
    /// Keys that have a softmax over the queries.
    Softmax,
    /// The queries themselves: a column's softmax is that of its row.
    Queries,
}

/// What a row's loss is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// The softmax over its keys.
    Softmax,
    /// A sigmoid of each score.
    Sigmoid,
    /// There is no loss: the scores themselves are wanted.
    Nothing,
}

/// A loss of pairs.
pub(crate) trait PairLoss: RowLoss {
    /// How it pairs.
    fn pairing(&self) -> Pairing;

    /// What only this loss can refuse, of the inputs given, the outputs wanted, and the numbers of
    /// queries and keys.
    fn check_pairs(
        &self,
        _given: &dyn Fn(&str) -> bool,
        _wanted: &[&str],
        _extents: [u64; 2],
    ) -> Result<()> {
        Ok(())
    }
}

/// The tensors of every pair functor beside the scores.
static STREAMS: [RowStream; 5] = [
    RowStream::read("query_table", Broadcast::Elements),
    RowStream::read("key_table", Broadcast::One),
    RowStream::read("column_table", Broadcast::One),
    RowStream::read("scale", Broadcast::Rows),
    RowStream::read("bias", Broadcast::Rows),
];

/// By-products of a row's softmax. `s` and `x` are those of its positive pair, for `join`.
static SOFTMAX_OUTPUTS: &[RowOutput] = &[
    RowOutput::number("lse"),
    RowOutput::number("scale").reduced(Reduced::Sum("grad.scale")),
    RowOutput::number("s"),
    RowOutput::number("x"),
];

static SOFTMAX_FACTORS: &[Field] =
    &[Field::f32("top"), Field::f32("inverse_sum"), Field::f32("factor"), Field::f32("share")];

/// What every pair loss declares. With `diagonal` the positive of each query is the key of the same number.
pub(crate) fn program(own: Source, pairing: Pairing, diagonal: bool) -> RowProgram {
    let Pairing { temperature, columns, shard, .. } = pairing;
    // The loss of two directions is their mean.
    let share = if columns == Columns::Softmax { 0.5 } else { 1.0 };
    RowProgram {
        shard,
        sources: vec![shader!("pairs.wgsl"), own],
        streams: STREAMS.to_vec(),
        uniforms: vec![
            ("scale", (1.0 / temperature).into()),
            ("share", share.into()),
            ("diagonal", u32::from(diagonal).into()),
            ("first_class", first(shard).into()),
        ],
        ..RowProgram::default()
    }
}

/// The same for a loss that is a softmax over the keys.
pub(crate) fn softmax_program(own: Source, pairing: Pairing, diagonal: bool) -> RowProgram {
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
        label_score: LabelScore::Closing,
        given: Given::All,
        ..program(own, pairing, diagonal)
    }
}

fn first(shard: Option<Shard>) -> u64 {
    shard.map_or(0, |shard| shard.first)
}

/// Whether a temperature, and the scale that is its inverse, are within f32.
pub(crate) fn check_temperature(loss: &str, temperature: f64) -> Result<()> {
    let normal = (temperature as f32).is_normal() && ((1.0 / temperature) as f32).is_normal();
    if temperature > 0.0 && normal {
        return Ok(());
    }
    Err(Error::option(loss, "temperature", temperature, "τ is above 0 and within f32"))
}

/// What a pair loss refuses.
pub(crate) fn check(loss: &dyn PairLoss, call: &Call) -> Result<()> {
    let wanted: Vec<&str> = call.outputs.keys().map(String::as_str).collect();
    let extents = [call.dim(Dim::Rows), call.dim(Dim::Classes)];
    check_inputs(loss, &|name| call.has(name), &wanted, extents)
}

/// The same for a call on the host.
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
            loss: loss.about().name.to_owned(),
            argument: "lse".to_owned(),
            other: (*other).to_owned(),
            reason: "a saved lse is for gradients alone".to_owned(),
        });
    }
    let Pairing { shard, columns, .. } = loss.pairing();
    if let Some(shard) = shard {
        shard.check_columns(loss.about().name, "keys", keys)?;
    }
    let all_keys = shard.map_or(keys, |shard| shard.classes);
    if columns != Columns::Queries && !given("targets") && all_keys < queries {
        return Err(Error::WrongShape {
            argument: "keys".to_owned(),
            found: vec![all_keys],
            expected: format!("at least {queries} keys, or `targets`: key i is query i's positive"),
        });
    }
    loss.check_pairs(given, wanted, [queries, keys])
}

/// Whether a pair loss can answer a call.
pub(crate) fn accepts(loss: &dyn PairLoss, call: &Call) -> Result<()> {
    row::accepts(loss, &paired(loss, call)?)
}

/// The call with its rows as columns too, where these are the same vectors.
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
    let columns = loss.pairing().columns;
    let mut rows = Rows::new(loss, &call, profile)?;
    let mut pairs = Pairs::new(loss, &call, profile)?;
    let windows = rows.windows([&pairs.layer.hidden].into_iter(), u64::MAX)?;
    let tables = pairs.tables(&mut rows)?;
    rows.begin(&windows)?;
    rows.planner.unstored(pairs.layer.rows * pairs.layer.classes * 4);
    let again = !rows.closes() && (pairs.wants_gradients() || pairs.wants_scale);
    let whole = u64::from(again && columns != Columns::Keys) + 1;
    let passes = ScorePasses { held: 1, whole, blocks: u64::from(again) + 1 };
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
    /// Of the columns' softmax: what was saved of it, and where it is to be saved.
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
        // By default the f32 sum beside a 16-bit gradient of the keys is a part of the chunk's budget.
        let keys_gradient = call.output("grad.keys").filter(needs_own_sum);
        let beside =
            keys_gradient.map_or(0, |_| call.dim(Dim::Classes) * call.dim(Dim::Hidden) * 4);
        let layer = Layer {
            options: LinearOptions {
                weight_layout: WeightLayout::ClassesHidden,
                chunk_bytes: pairing.chunk_bytes,
                accumulate: false,
            },
            profile,
            rows: call.dim(Dim::Rows),
            classes: call.dim(Dim::Classes),
            depth: call.dim(Dim::Hidden),
            multiply_adds: (call.dim(Dim::Rows) * call.dim(Dim::Classes))
                .saturating_mul(call.dim(Dim::Hidden)),
            weight_elements: call.dim(Dim::Classes).saturating_mul(call.dim(Dim::Hidden)),
            hidden: needed(queries)?,
            weight: needed(keys)?,
            bias: None,
            hidden_gradient: call.output(&format!("grad.{queries}")),
            weight_gradient: call.output("grad.keys"),
            bias_gradient: None,
            in_place: false,
            beside,
            // A lane walks all rows of a chunk for its columns' softmax.
            most_rows: match pairing.columns {
                Columns::Softmax => MOST_ITERATIONS,
                _ => u64::MAX,
            },
            needs_whole_rows: false,
        };
        let deepest = MOST_ITERATIONS / 2 * 4 * u64::from(profile.tally_lanes());
        if layer.depth > deepest {
            let what = Dim::Hidden.name().to_owned();
            return Err(Error::Limit { what, found: layer.depth, limit: deepest });
        }
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

/// A 16-bit gradient is made in f32 before the normalisation's backward rounds it.
fn needs_own_sum(output: &View) -> bool {
    output.layout.dtype != Dtype::F32
}
