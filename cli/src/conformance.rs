//! Reference cases and self-checks on a backend, as `surprisal check` and the tests run them.

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
    /// The name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu (f64 reference)".to_owned(),
            Self::Gpu(gpu) => adapter::describe(gpu.info()),
        }
    }
}

/// The result of one expected tensor of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within the tolerance.
    Passed,
    /// Outside the tolerance.
    Failed,
    /// The loss, or something that the case needs of it, does not exist here.
    Unsupported,
    /// The call was refused, or the device was lost.
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
    /// The verdict.
    pub status: Verdict,
    /// Largest absolute error.
    pub max_abs_error: f64,
    /// Largest absolute error over the largest expected magnitude.
    pub max_rel_error: f64,
    /// Flat index of the worst element.
    pub worst: usize,
    /// The tolerance on the absolute error.
    pub tolerance: f64,
    /// What was refused, if anything was.
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

/// What a case needs that does not exist here yet, in words: its operation, or one of its options, inputs or outputs.
///
/// Such a case is not a failure: case files may be ahead of the code.
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

/// Runs a case on a backend, with its floats stored as `dtype`; returns one outcome per expected tensor.
///
/// With `f32` storage, the results are compared with what the case expects. With 16-bit storage, they are compared with
/// the f64 reference on the rounded inputs, because the case was computed from the unrounded ones.
pub fn run(case: &Case, backend: &Backend, dtype: Dtype) -> Vec<Outcome> {
    examine(case, backend, dtype).0
}

/// The numbers behind a verdict: what a case was compared with, and what was computed.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The inputs as they were stored.
    pub inputs: Arrays,
    /// The expected outputs.
    pub truth: Arrays,
    /// The computed outputs.
    pub actual: Arrays,
}

/// Like [`run`], but also returns the numbers behind the outcomes, if the call was not refused.
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
            let refused = |tensor| Outcome { message: Some(error.chain()), ..blank(tensor) };
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
                    operation: case.loss.clone().into(),
                    argument: name.into(),
                    reason: "it did not come back".into(),
                })
            };
            let storage = testing::stored_output(loss.as_ref(), &inputs, name, dtype);
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

/// Computes outputs on a backend, even if the status reports bad targets.
pub fn compute(
    loss: &dyn Operation,
    inputs: &Arrays,
    wanted: &[&str],
    backend: &Backend,
    dtype: Dtype,
) -> Result<Arrays> {
    match backend {
        Backend::Cpu => cpu::run(loss, inputs, wanted),
        // Host operations are computed on the host, whatever the adapter.
        Backend::Gpu(_) if loss.is_host() => cpu::run(loss, inputs, wanted),
        Backend::Gpu(gpu) => Ok(gpu.run_arrays(loss, inputs, dtype, wanted)?.outcome_blocking()?.0),
    }
}
