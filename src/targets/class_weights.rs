//! Weights that make rare classes count more (catalogue, section 5).

use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::{Error, Result},
    },
    reference::{Real, array, no_output},
    skeleton::operation::Operation,
    spec::about::{About, Argument, Dim, Kind, OptionAbout, Signature},
};

/// How the weight of a class follows from its number of occurrences n.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Weighting {
    /// 1/n.
    Inverse,
    /// (1 − β)/(1 − βⁿ): the inverse of the effective number of samples, to which each further sample adds less (Cui
    /// et al. 2019, arXiv:1901.05555). β = 0 gives all classes the same weight; β → 1 approaches
    /// [`Weighting::Inverse`].
    Effective {
        /// β, from 0 to below 1.
        beta: f64,
    },
}

impl Weighting {
    fn weight<T: Real>(self, count: u64) -> T {
        let n = T::of(count.max(1) as f64);
        match self {
            Self::Inverse => T::one() / n,
            // `exp_m1` and the like keep the digits of both differences from 1 where β is near 1.
            Self::Effective { beta } => {
                let log_beta = T::of(beta).ln();
                log_beta.exp_m1() / (n * log_beta).exp_m1()
            }
        }
    }

    fn check(self) -> Result<()> {
        match self {
            Self::Effective { beta } if !(0.0..1.0).contains(&beta) => {
                Err(Error::option(ABOUT.name, "beta", beta, "β lies in [0, 1)"))
            }
            _ => Ok(()),
        }
    }
}

/// Class weights for the input `weight` of a loss, from the number of occurrences of each class. Their mean is 1.
///
/// A class that does not occur counts as if it occurred once. No classes give no weights.
///
/// # Errors
///
/// [`Error::InvalidOption`] for a β outside [0, 1).
///
/// ```
/// use surprisal::targets::{Weighting, class_weights};
///
/// assert_eq!(class_weights(&[3, 1], Weighting::Inverse)?, [0.5, 1.5]);
/// # Ok::<(), surprisal::Error>(())
/// ```
pub fn class_weights(counts: &[u64], weighting: Weighting) -> Result<Vec<f64>> {
    weighting.check()?;
    Ok(weights(counts, weighting))
}

fn weights<T: Real>(counts: &[u64], weighting: Weighting) -> Vec<T> {
    let weights: Vec<T> = counts.iter().map(|&count| weighting.weight(count)).collect();
    let mut sum = T::zero();
    for &weight in &weights {
        sum += weight;
    }
    let mean = sum / T::of(counts.len() as f64);
    weights.into_iter().map(|weight| weight / mean).collect()
}

/// The [`Weighting`], as an option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Method {
    /// [`Weighting::Inverse`].
    #[default]
    Inverse,
    /// [`Weighting::Effective`].
    Effective,
}

/// [`class_weights`] as an operation: `counts` → `weights`, on the host.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct ClassWeights {
    /// How the weights follow from the counts.
    pub method: Method,
    /// β of the effective number of samples.
    pub beta: f64,
}

impl Default for ClassWeights {
    fn default() -> Self {
        Self { method: Method::Inverse, beta: 0.999 }
    }
}

impl ClassWeights {
    fn weighting(&self) -> Weighting {
        match self.method {
            Method::Inverse => Weighting::Inverse,
            Method::Effective => Weighting::Effective { beta: self.beta },
        }
    }
}

pub(super) static ABOUT: About = About {
    name: "class_weights",
    summary: "Class weights from how often each class occurs.",
    formula: "w = 1/n, or (1 − β)/(1 − βⁿ); then w/mean(w). n is at least 1",
    pytorch: "none; sklearn.utils.class_weight.compute_class_weight",
    inputs: &[Argument::required(
        "counts",
        Kind::Index,
        &[&[Dim::Classes]],
        "how often each class occurs",
    )],
    outputs: &[Argument::optional(
        "weights",
        Kind::Float,
        &[&[Dim::Classes]],
        "the weights, of mean 1",
    )],
    options: &[
        OptionAbout {
            name: "method",
            default: "\"inverse\"",
            samples: &["\"effective\""],
            about: "\"inverse\": 1/n; \"effective\": by the effective number of samples",
        },
        OptionAbout {
            name: "beta",
            default: "0.999",
            samples: &["0.9"],
            about: "β of \"effective\", from 0 to below 1",
        },
    ],
};

impl Signature for ClassWeights {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn validate(&self) -> Result<()> {
        Weighting::Effective { beta: self.beta }.check()
    }

    fn is_per_row(&self) -> bool {
        false
    }

    fn is_host(&self) -> bool {
        true
    }
}

impl Operation for ClassWeights {
    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        let counts = counts(inputs)?;
        let weights = match arithmetic {
            Arithmetic::F64 => array(&[counts.len()], weights::<f64>(&counts, self.weighting())),
            Arithmetic::F32 => array(&[counts.len()], weights::<f32>(&counts, self.weighting())),
        };
        let output = |&name: &&str| match name {
            "weights" => Ok((name.to_owned(), weights.clone())),
            _ => Err(no_output(&ABOUT, name)),
        };
        wanted.iter().map(output).collect()
    }
}

/// The counts, of which none may be negative.
fn counts(inputs: &Arrays) -> Result<Vec<u64>> {
    let counts = inputs.get("counts").map(Array::to_i64).unwrap_or_default();
    let count = |(element, &found): (usize, &i64)| {
        u64::try_from(found).map_err(|_| Error::InputValue {
            argument: "counts".into(),
            element: element as u64,
            found: found.to_string().into(),
            expected: "0 or more".into(),
        })
    };
    counts.iter().enumerate().map(count).collect()
}
