//! Samples of a softmax with Gumbel noise (catalogue R17).

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    plan::{Plan, kernel::shader, profile::Profile},
    reference::{
        Findings, Real, argmax, array, extents, floats, no_output,
        philox::{philox, words},
    },
    skeleton::{
        operation::{Operation, Options},
        request::request,
        row::{
            self, Broadcast, Field, RowLoss, RowProgram, RowStream, missing, reference::Softmax,
        },
    },
    spec::{
        about::{About, Argument, Dim, Kind, OptionAbout, Signature},
        arguments as arg,
        call::Call,
        declare::{setters, tensors},
        options::{Padding, Reduction, check_temperature},
    },
};

use super::hessian_vector_product::jacobian_product;

/// Samples of a categorical distribution that pass a gradient on: softmax((z + g)/T) with independent Gumbel noise g.
///
/// The largest z_c + g_c is at class c with the probability softmax(z)_c. The softmax of the perturbed logits is a smooth
/// stand-in for that choice, and approaches it as T falls. With `hard` the output is the choice itself, the one-hot vector,
/// while the gradient stays that of the softmax (straight-through).
///
/// The noise is a function of `seed`, `offset`, the row and the class alone: a call that makes the gradient makes the same
/// noise again, and so does another device or another batch size, if the row has the same number. Give each step of a
/// training loop its own `offset`, in the forward call and in the backward call of the step.
///
/// - **Shapes**: logits, output, upstream and grad.logits `[rows, classes]`, each with its own row stride and element offset.
/// - **Types**: all of them `f32`, `f16` or `bf16`; everything in between in f32; outputs are rounded to nearest even.
/// - **Noise**: g = −log(−log u). u is (k + 1/2)/2^23, where k are the upper 23 bits of a word of Philox 4x32-10, so that it
///   is never 0 or 1, and g lies between −2.8 and 16.7. The key are the two words of `seed`, the low one first; the counter
///   are the class divided by 4, the row, and the two words of `offset`; the class modulo 4 chooses among the four words.
///   The words are the same on every device; g and what follows from it agree to the rounding of f32.
/// - **Gradient** from `upstream` v, the gradient of the output: ∂z = y∘(v − ⟨y, v⟩)/T, where y is the softmax. It may be
///   written over the logits.
/// - **Edges**: a `-inf` logit has y = 0 and gradient 0. A NaN or +inf logit, a row that is all `-inf`, or an upstream that is
///   not finite gives NaN for all numbers of that row, which [`crate::Status`] counts. If two perturbed logits are the
///   largest, `hard` takes the lower class.
/// - **Errors**: an invalid call is refused before any GPU work; [`crate::Error`] names the argument and its value.
///   `grad.logits` needs `upstream`.
///
/// Sources: Jang, Gu and Poole 2017, arXiv:1611.01144; Maddison, Mnih and Teh 2017, arXiv:1611.00712; Salmon et al. 2011
/// for Philox.
///
/// ```
/// use surprisal::{Array, Arrays, GumbelSoftmax, cpu};
/// let logits = Array::float(&[1000, 2], [0.0, 3.0_f64.ln()].repeat(1000));
/// let inputs = Arrays::from([("logits".to_owned(), logits)]);
/// let outputs = cpu::run(&GumbelSoftmax::default().hard(true).seed(7), &inputs, &["output"])?;
/// let chosen: f64 = outputs["output"].to_f64().iter().skip(1).step_by(2).sum();
/// assert!((chosen / 1000.0 - 0.75).abs() < 0.05); // softmax(z) = (1/4, 3/4)
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct GumbelSoftmax {
    /// T > 0, which divides the perturbed logits.
    pub temperature: f64,
    /// The output is the one-hot vector of the largest perturbed logit.
    pub hard: bool,
    /// The seed of the noise.
    pub seed: u64,
    /// The number of the draw, such as that of a training step: each one has noise of its own.
    pub offset: u64,
    /// Whether columns of the outputs past the classes are written.
    pub padding: Padding,
}

impl Default for GumbelSoftmax {
    fn default() -> Self {
        Self { temperature: 1.0, hard: false, seed: 0, offset: 0, padding: Padding::Keep }
    }
}

impl GumbelSoftmax {
    setters! {
        temperature: f64, hard: bool, seed: u64, offset: u64, padding: Padding,
    }
}

tensors! {
    /// What [`GumbelSoftmax`] takes; see there for the shapes.
    GumbelSoftmaxInputs {
        /// The logits `[rows, classes]`.
        logits = "logits",
        /// The gradient of the output, `[rows, classes]`.
        upstream = "upstream",
    }
}

tensors! {
    /// What [`GumbelSoftmax`] can hand back; which of them are given decides what is computed.
    GumbelSoftmaxOutputs {
        /// The samples `[rows, classes]`.
        output = "output",
        /// The gradient of the logits.
        gradient = "grad.logits",
        /// The status words.
        status = "status",
    }
}

request!(GumbelSoftmax: GumbelSoftmaxInputs, GumbelSoftmaxOutputs);

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

pub(super) static ABOUT: About = About {
    name: "gumbel_softmax",
    summary: "Samples of a softmax with Gumbel noise, soft or one-hot, and their gradient.",
    formula: "output = softmax((z + g)/T), g = −log(−log u), u uniform",
    pytorch: "torch.nn.functional.gumbel_softmax",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "logits"),
        Argument::optional("upstream", Kind::WideFloat, MATRIX, "the gradient of the output"),
    ],
    outputs: &[
        Argument::optional("output", Kind::Float, MATRIX, "the samples"),
        arg::LOGITS_GRADIENT,
        arg::STATUS,
    ],
    options: &[
        OptionAbout {
            name: "temperature",
            default: "1.0",
            samples: &["0.7"],
            about: "T > 0, which divides the perturbed logits",
        },
        OptionAbout {
            name: "hard",
            default: "false",
            samples: &["true"],
            about: "the output is one-hot; the gradient stays that of the softmax",
        },
        arg::SEED,
        arg::OFFSET,
        arg::PADDING,
    ],
};

impl Signature for GumbelSoftmax {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        check_temperature(ABOUT.name, self.temperature)
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        row::accepts(self, call)
    }
}

impl Operation for GumbelSoftmax {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        row::plan(self, call, profile)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        match arithmetic {
            Arithmetic::F64 => self.compute::<f64>(inputs, wanted),
            Arithmetic::F32 => self.compute::<f32>(inputs, wanted),
        }
    }
}

impl RowLoss for GumbelSoftmax {
    fn program(&self, call: &Call) -> RowProgram {
        let own = shader!("loss/gumbel_softmax.wgsl");
        let ([seed_low, seed_high], [offset_low, offset_high]) =
            (words(self.seed), words(self.offset));
        let mut program = RowProgram {
            reduction: Reduction::Sum,
            padding: self.padding,
            factors: FACTORS,
            uniforms: vec![
                ("seed_low", seed_low.into()),
                ("seed_high", seed_high.into()),
                ("offset_low", offset_low.into()),
                ("offset_high", offset_high.into()),
            ],
            ..RowProgram::jacobian(own, "upstream", call)
        };
        program.sources.push(shader!("random/philox.wgsl"));
        program.streams.push(RowStream::write("output", "output", Broadcast::Elements));
        program.overrides.push(("HARD", self.hard.into()));
        program.tempered(self.temperature)
    }

    fn check(&self, call: &Call) -> Result<()> {
        if call.wants("grad.logits") && !call.has("upstream") {
            return Err(missing(self, "upstream"));
        }
        Ok(())
    }
}

static FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("inverse_sum"),
    Field::f32("centre"),
    Field::f32("mean"),
    Field::u32("place"),
];

/// The numbers of one row.
struct Sample<T> {
    output: Vec<T>,
    gradient: Vec<T>,
}

impl GumbelSoftmax {
    /// −log(−log u) for the class of a row.
    fn noise<T: Real>(&self, row: u32, class: usize) -> T {
        let [low, high] = words(self.offset);
        let bits = philox([(class / 4) as u32, row, low, high], words(self.seed))[class % 4];
        let u = T::of((f64::from(bits >> 9) + 0.5) / 8_388_608.0);
        let log_u = if u > T::of(0.5) { (u - T::one()).ln_1p() } else { u.ln() };
        -(-log_u).ln()
    }

    fn sample<T: Real>(&self, row: u32, logits: &[T], upstream: &[T]) -> Option<Sample<T>> {
        let perturbed: Vec<T> =
            logits.iter().enumerate().map(|(class, &z)| z + self.noise(row, class)).collect();
        if !upstream.iter().all(|v| v.is_finite()) {
            return None;
        }
        let temperature = T::of(self.temperature);
        let Softmax { p, .. } = Softmax::of(&perturbed, temperature)?;
        let gradient = jacobian_product(&p, upstream).map(|slope| slope / temperature).collect();
        let chosen = argmax(&perturbed);
        let one_hot = |class| if class == chosen { T::one() } else { T::zero() };
        let output = if self.hard { (0..p.len()).map(one_hot).collect() } else { p };
        Some(Sample { output, gradient })
    }

    fn compute<T: Real>(&self, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
        let (rows, classes) = extents(ABOUT.name, inputs, "logits")?;
        let shape = [rows, classes];
        let logits: Vec<T> = floats(inputs, "logits", &shape)?.unwrap_or_default();
        let upstream: Option<Vec<T>> = floats(inputs, "upstream", &shape)?;
        if wanted.contains(&"grad.logits") && upstream.is_none() {
            return Err(missing(self, "upstream"));
        }
        let upstream = upstream.unwrap_or_else(|| vec![T::zero(); rows * classes]);
        let mut found = Findings::of_rows();
        let (mut output, mut gradient) = (Vec::new(), Vec::new());
        let columns = classes.max(1);
        for (row, (z, v)) in logits.chunks(columns).zip(upstream.chunks(columns)).enumerate() {
            let sample = self.sample(row as u32, z, v).unwrap_or_else(|| {
                found.bad_row();
                Sample { output: vec![T::nan(); classes], gradient: vec![T::nan(); classes] }
            });
            output.extend(sample.output);
            gradient.extend(sample.gradient);
        }
        let of_name = |&name: &&str| match name {
            "output" => Ok((name.to_owned(), array(&shape, output.iter().copied()))),
            "grad.logits" => Ok((name.to_owned(), array(&shape, gradient.iter().copied()))),
            "status" => Ok((name.to_owned(), found.words())),
            _ => Err(no_output(&ABOUT, name)),
        };
        wanted.iter().map(of_name).collect()
    }
}
