//! The scores of pairs, and the largest scores of each row (catalogue P5).

mod plan;
mod reference;

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, kernel::shader, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        pairs::{self, Columns, PairLoss, Pairing, Term},
        request::request,
        row::{self, RowLoss, RowProgram, StateLayout},
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Accumulate, Reduction},
    },
};

/// The similarities of queries and keys: the whole matrix, or the top k of each row without storing the matrix.
///
/// s_ij = scale·⟨q_i, k_j⟩ (of q/‖q‖ and k/‖k‖ with `normalize`), where scale is 1/τ or an input.
///
/// - **Shapes**: queries `[rows, hidden]`, keys `[classes, hidden]`, scale `[1]`; scores `[rows, classes]` in `f32`,
///   `f16` or `bf16`; top_scores (`f32`) and top_indices (`u32`) `[rows, k]`, dense.
/// - **Order** of the top k: from high to low, the lower index first where scores are equal; NaN before all others, as
///   in `torch.topk`.
/// - **Memory** beside inputs and outputs: O(rows + classes) and one chunk of at most `chunk_bytes`. The top k needs
///   whole rows of scores: a budget for less than one row is then an error.
/// - **Shards** of the keys: make one call a shard, add the number of the shard's first key to its `top_indices`, put
///   the lists of the shards one after another in the order of their keys, and take the k largest with a stable sort.
///   Of equal scores the lowest index then comes first, as in one call.
/// - **Cost** of the top k: k walks over a row of scores, so it is meant for k up to a few tens.
/// - **Gradient**: none; use a loss of the scores instead.
/// - **Edges**: with `normalize`, a vector of zeros has score 0 with everything, and [`crate::Status::zero_vectors`]
///   counts it. A score that is NaN or infinite becomes NaN, and [`crate::Status::bad_rows`] counts its row.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value. k must be
///   at most the number of keys.
///
/// ```
/// use surprisal::{Array, Arrays, Similarity, cpu};
/// let inputs = Arrays::from([
///     ("queries".to_owned(), Array::float(&[1, 2], vec![1.0, 0.0])),
///     ("keys".to_owned(), Array::float(&[3, 2], vec![0.0, 1.0, 2.0, 0.0, 3.0, 3.0])),
/// ]);
/// let outputs = cpu::run(&Similarity::default().k(2), &inputs, &["top_indices", "top_scores"])?;
/// assert_eq!(outputs["top_indices"].to_i64(), [2, 1]);
/// assert_eq!(outputs["top_scores"].to_f64(), [3.0, 2.0]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Similarity {
    /// τ > 0; the scale is 1/τ if it is not an input.
    pub temperature: f64,
    /// Divide queries and keys by their norms (cosine similarities).
    pub normalize: bool,
    /// The number of largest scores of each row that are wanted.
    pub k: u32,
    /// The most bytes of the chunk of scores; `None` lets the plan choose.
    pub chunk_bytes: Option<u64>,
}

impl Default for Similarity {
    fn default() -> Self {
        Self { temperature: 1.0, normalize: false, k: 1, chunk_bytes: None }
    }
}

impl Similarity {
    setters! {
        temperature: f64, normalize: bool, k: u32, chunk_bytes: Option<u64>,
    }
}

tensors! {
    /// The inputs of [`Similarity`].
    SimilarityInputs {
        /// Queries `[rows, hidden]`.
        queries = "queries",
        /// Keys `[classes, hidden]`.
        keys = "keys",
        /// The factor of the similarities `[1]`; replaces the temperature.
        scale = "scale",
    }
}

tensors! {
    /// The outputs of [`Similarity`].
    SimilarityOutputs {
        /// The scores `[rows, classes]`.
        scores = "scores",
        /// The k largest scores of each row `[rows, k]`.
        top_scores = "top_scores",
        /// The keys of these scores `[rows, k]`.
        top_indices = "top_indices",
        /// The status words.
        status = "status",
    }
}

request!(Similarity: SimilarityInputs, SimilarityOutputs);

const TOP: &[&[Dim]] = &[&[Dim::Rows, Dim::Top]];

pub(super) static ABOUT: About = About {
    name: "similarity",
    summary: "Scores of queries with keys: the matrix itself, or the top k of each row without it.",
    formula: "s = scale·⟨q_i, k_j⟩",
    pytorch: "torch.topk(queries @ keys.T / temperature, k)",
    inputs: &[arg::QUERIES, arg::KEYS, arg::SCALE],
    outputs: &[
        Argument::optional("scores", Kind::Float, &[&[Dim::Rows, Dim::Classes]], "the scores"),
        Argument::optional("top_scores", Kind::F32, TOP, "the k largest scores of each row"),
        Argument::optional("top_indices", Kind::U32, TOP, "their keys"),
        arg::STATUS,
    ],
    options: &[
        OptionAbout {
            name: "temperature",
            default: "1.0",
            samples: &["1.7"],
            about: "τ > 0: the scale is 1/τ",
        },
        OptionAbout {
            name: "normalize",
            default: "false",
            samples: &["true"],
            about: "queries and keys are divided by their norms (cosines)",
        },
        OptionAbout {
            name: "k",
            default: "1",
            samples: &["3"],
            about: "how many of a row's largest scores",
        },
        arg::CHUNK_BYTES,
    ],
};

impl Similarity {
    /// Checks that there are at least k keys.
    pub(crate) fn check_keys(&self, keys: u64) -> Result<()> {
        if u64::from(self.k) <= keys {
            return Ok(());
        }
        Err(Error::option(ABOUT.name, "k", self.k, format!("there are {keys} keys")))
    }
}

impl Signature for Similarity {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn extents(&self) -> Vec<(Dim, u64)> {
        vec![(Dim::Top, self.k.into())]
    }

    fn validate(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::option(ABOUT.name, "k", self.k, "at least 1"));
        }
        pairs::check_temperature(ABOUT.name, self.temperature)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        row::accepts(self, call)
    }
}

impl Operation for Similarity {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        plan::similarity(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        reference::run(self, inputs, wanted, arithmetic)
    }
}

impl RowLoss for Similarity {
    fn program(&self, call: &Call) -> RowProgram {
        let own = shader!("loss/similarity.wgsl");
        let mut program = RowProgram {
            reduction: Reduction::Sum,
            state: StateLayout::words(1),
            overrides: vec![("HAS_SCALE", call.has("scale").into())],
            ..pairs::program(own, self.pairing(), false)
        };
        program.sources.push(row::PLACE);
        program
    }

    fn check(&self, call: &Call) -> Result<()> {
        self.check_keys(call.dim(Dim::Classes))
    }
}

impl PairLoss for Similarity {
    fn pairing(&self) -> Pairing {
        Pairing {
            normalize: self.normalize,
            columns: Columns::Keys,
            term: Term::Nothing,
            temperature: self.temperature,
            target_margin: 0.0,
            false_negative_margin: None,
            chunk_bytes: self.chunk_bytes,
            accumulate: Accumulate::Nothing,
            shard: None,
        }
    }
}
