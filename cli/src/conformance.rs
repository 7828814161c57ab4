//! Reference cases and self-checks on a backend: what `surprisal check` and the tests run.

use surprisal::{
    Arithmetic, Arrays, Dtype, Error, Gpu, Operation, Result, adapter,
    cases::Case,
    cpu,
    operations::{self, Entry},
    testing,
};

/// Where a case is computed.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The f64 reference.
    Cpu,
    /// A GPU.
    Gpu(Gpu),
}

impl Backend {
    /// What a report calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu (f64 reference)".to_owned(),
            Self::Gpu(gpu) => adapter::describe(gpu.info()),
        }
    }
}

/// How one expected tensor of a case came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within the tolerance.
    Passed,
    /// Outside it.
    Failed,
    /// The loss, or what the case asks of it, does not exist here.
    Unsupported,
    /// The call was refused or lost.
    Error,
}

/// One expected tensor of one case on one adapter.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// The case.
    pub id: String,
    /// Its loss.
    pub loss: String,
    /// The backend.
    pub adapter: String,
    /// The expected tensor, as in the case's `expect`.
    pub tensor: String,
    /// How it came out.
    pub status: Verdict,
    /// Largest absolute error.
    pub max_abs_error: f64,
    /// Largest absolute error over the largest expected magnitude.
    pub max_rel_error: f64,
    /// Flat index of the worst element.
    pub worst: usize,
    /// The tolerance on the absolute error.
    pub tolerance: f64,
    /// What was refused, if something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Outcome {
    fn blank(case: &Case, adapter: &str, tensor: &str) -> Self {
        Self {
            id: case.id.clone(),
            loss: case.loss.clone(),
            adapter: adapter.to_owned(),
            tensor: tensor.to_owned(),
            status: Verdict::Error,
            max_abs_error: 0.0,
            max_rel_error: 0.0,
            worst: 0,
            tolerance: 0.0,
            message: None,
        }
    }
}

/// What a case asks for that is not here yet, in words: its operation, or one of its options, inputs and outputs.
///
/// Such a case is no failure: files may be ahead of what is computed.
pub fn missing(case: &Case) -> Option<String> {
    let Some(entry) = operations::find(&case.loss) else {
        return Some(format!("operation `{}`", case.loss));
    };
    let about = entry.about;
    let options = case.options.as_object();
    let mut options = options.into_iter().flat_map(|options| options.keys());
    let known = |name: &String| about.options.iter().any(|option| option.name == name);
    let option = options.find(|name| !known(name)).map(|name| format!("option `{name}`"));
    let mut inputs = case.inputs.keys().filter(|name| about.input(name).is_none());
    let mut outputs = case.expect.keys().filter(|name| about.output(name).is_none());
    let input = || inputs.next().map(|name| format!("input `{name}`"));
    option.or_else(input).or_else(|| outputs.next().map(|name| format!("output `{name}`")))
}

/// Runs a case on a backend, its floats stored as `dtype`: one outcome an expected tensor.
///
/// With `f32` storage the truth is what the case expects. With 16-bit storage it is the f64
/// reference on the rounded inputs, since the case was computed from others.
pub fn run(case: &Case, backend: &Backend, dtype: Dtype) -> Vec<Outcome> {
    examine(case, backend, dtype).0
}

/// What a case was compared with, and what came out: for reports that show more than a verdict.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The inputs as they were stored.
    pub inputs: Arrays,
    /// What should have come out.
    pub truth: Arrays,
    /// What came out.
    pub actual: Arrays,
}

/// [`run`], with the numbers behind the outcomes where the call was not refused.
pub fn examine(case: &Case, backend: &Backend, dtype: Dtype) -> (Vec<Outcome>, Option<Evidence>) {
    let adapter = backend.name();
    let blank = |tensor: &String| Outcome::blank(case, &adapter, tensor);
    let (Some(entry), None) = (operations::find(&case.loss), missing(case)) else {
        let message = missing(case).map(|what| format!("there is no {what} yet"));
        let unsupported = |tensor| Outcome {
            status: Verdict::Unsupported,
            message: message.clone(),
            ..blank(tensor)
        };
        return (case.expect.keys().map(unsupported).collect(), None);
    };
    match attempt(case, entry, backend, dtype) {
        Ok((compared, evidence)) => {
            let outcome = |(tensor, compared): (String, testing::Comparison)| Outcome {
                status: if compared.passed { Verdict::Passed } else { Verdict::Failed },
                max_abs_error: compared.max_abs_error,
                max_rel_error: compared.max_rel_error,
                worst: compared.worst,
                tolerance: compared.tolerance,
                ..blank(&tensor)
            };
            (compared.into_iter().map(outcome).collect(), Some(evidence))
        }
        Err(error) => {
            let refused = |tensor| Outcome { message: Some(error.to_string()), ..blank(tensor) };
            (case.expect.keys().map(refused).collect(), None)
        }
    }
}

fn attempt(
    case: &Case,
    entry: &Entry,
    backend: &Backend,
    dtype: Dtype,
) -> Result<(Vec<(String, testing::Comparison)>, Evidence)> {
    let loss = (entry.parse)(&case.options)?;
    let wanted: Vec<&str> = case.expect.keys().map(String::as_str).collect();
    let inputs = testing::rounded(loss.as_ref(), &case.inputs, dtype);
    let naive = cpu::compute(loss.as_ref(), &inputs, &wanted, Arithmetic::F32)?;
    let reference = cpu::run(loss.as_ref(), &inputs, &wanted)?;
    let truth = if dtype == Dtype::F32 { case.expect.clone() } else { reference.clone() };
    let actual = compute(loss.as_ref(), &inputs, &wanted, backend, dtype)?;
    let classes = testing::classes(loss.as_ref(), &inputs);
    let compared = wanted
        .iter()
        .map(|&name| {
            let get = |arrays: &Arrays| {
                arrays.get(name).cloned().ok_or_else(|| Error::MissingInput {
                    loss: case.loss.clone(),
                    argument: name.to_owned(),
                    reason: "it did not come back".to_owned(),
                })
            };
            let storage = testing::stored_output(loss.as_ref(), name, dtype);
            let yardstick = [&get(&naive)?, &get(&reference)?];
            let compared = testing::compare_by(
                name,
                &get(&actual)?,
                &get(&truth)?,
                yardstick,
                storage,
                classes,
            );
            Ok((name.to_owned(), compared))
        })
        .collect::<Result<_>>()?;
    Ok((compared, Evidence { inputs, truth, actual }))
}

/// Computes outputs on a backend, whatever the status says of the targets.
pub fn compute(
    loss: &dyn Operation,
    inputs: &Arrays,
    wanted: &[&str],
    backend: &Backend,
    dtype: Dtype,
) -> Result<Arrays> {
    match backend {
        Backend::Cpu => cpu::run(loss, inputs, wanted),
        // What is computed on the host is so beside every adapter.
        Backend::Gpu(_) if loss.is_host() => cpu::run(loss, inputs, wanted),
        Backend::Gpu(gpu) => Ok(gpu.run_arrays(loss, inputs, dtype, wanted)?.outcome_blocking()?.0),
    }
}
