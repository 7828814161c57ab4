//! Shows what a call dispatches and how much memory it takes, for any limits, without a GPU.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
};

use serde_json::{Value, json};
use surprisal::{Error, Operation, Plan, Profile, Result, plan::Call};
use surprisal_cli::repro;

use crate::{
    arguments::{Drafted, Report},
    output,
};

/// Dispatches that are listed one by one.
const LISTED: usize = 24;

/// The call to plan.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    drafted: Drafted,
    /// The device's limits: `default` (WebGPU's), `software`, or JSON with what differs from the
    /// default, such as `{"binding_bytes": 2147483647}`.
    #[arg(long, value_name = "JSON|default|software", default_value = "default")]
    limits: String,
    /// Write outputs over their inputs; without names the gradient of the first input.
    #[arg(long, value_name = "NAME", num_args = 0.., require_equals = true, value_delimiter = ',')]
    in_place: Option<Vec<String>>,
    #[command(flatten)]
    report: Report,
    /// Write everything that another engine needs to run the call to this folder: WGSL and SPIR-V of
    /// the kernels, dispatches, parameters and tensors, with a README (see `surprisal replay`).
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

/// Plans and prints.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (loss, draft) = arguments.drafted.draft("plan")?;
    let profile = profile(&arguments.limits)?;
    let in_place = arguments.outputs_in_place(loss.as_ref());
    let (call, plan) = draft.plan_in_place(loss.as_ref(), &profile, &in_place)?;
    let bytes = Bytes::of(&call, &plan);
    if let Some(folder) = &arguments.export {
        repro::export(folder, &plan, &repro::describe(&plan, &call))?;
    }
    let text = || describe(&call, &plan, &bytes, &profile);
    arguments.report.give(text, || {
        let mut value = json!(plan);
        value["call"] = json!(call);
        value["profile"] = json!(profile);
        value["bytes"] = bytes.json();
        value
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// The outputs that are written over their inputs.
    fn outputs_in_place(&self, loss: &dyn Operation) -> BTreeSet<String> {
        match &self.in_place {
            None => BTreeSet::new(),
            Some(names) if names.is_empty() => {
                let first = loss.about().inputs.first();
                first.map(|input| format!("grad.{}", input.name)).into_iter().collect()
            }
            Some(names) => names.iter().cloned().collect(),
        }
    }
}

fn profile(limits: &str) -> Result<Profile> {
    match limits {
        "default" => Ok(Profile::default()),
        "software" => Ok(Profile::default().software(8)),
        text => {
            let bad = |reason: String| Error::InvalidOption {
                operation: "plan".into(),
                option: "limits",
                value: text.into(),
                reason: reason.into(),
            };
            let profile: Profile =
                serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
            if !profile.offset_alignment.is_power_of_two() || profile.offset_alignment < 16 {
                return Err(bad("offset_alignment is a power of two, at least 16".to_owned()));
            }
            if !profile.row_lanes.is_power_of_two() {
                return Err(bad("row_lanes is a power of two".to_owned()));
            }
            if let Some(reason) = profile.tile.invalid() {
                return Err(bad(format!("tile: {reason}")));
            }
            let nothing = [
                u64::from(profile.segment),
                u64::from(profile.workgroups),
                u64::from(profile.workgroup_size),
                u64::from(profile.workgroup_bytes),
                u64::from(profile.busy_workgroups),
                u64::from(profile.element_block),
                u64::from(profile.storage_buffers),
                profile.binding_bytes,
                profile.buffer_bytes,
                profile.dispatch_elements,
                profile.dispatch_products,
                profile.chunk_bytes,
            ];
            if nothing.contains(&0) {
                return Err(bad("every limit is above 0".to_owned()));
            }
            Ok(profile)
        }
    }
}

/// The memory of a call.
struct Bytes {
    inputs: u64,
    outputs: u64,
    scratch: u64,
    parameters: u64,
    unstored: u64,
}

impl Bytes {
    fn of(call: &Call, plan: &Plan) -> Self {
        let inputs: BTreeMap<usize, u64> =
            call.inputs.values().map(|o| (o.allocation, o.allocation_bytes)).collect();
        let outputs: BTreeMap<usize, u64> = call
            .outputs
            .values()
            .filter(|o| !inputs.contains_key(&o.allocation))
            .map(|o| (o.allocation, o.allocation_bytes))
            .collect();
        Self {
            inputs: inputs.values().fold(0, |sum, &bytes| sum.saturating_add(bytes)),
            outputs: outputs.values().fold(0, |sum, &bytes| sum.saturating_add(bytes)),
            scratch: plan.scratch_bytes,
            parameters: plan.params_bytes(),
            unstored: plan.unstored_bytes,
        }
    }

    fn peak(&self) -> u64 {
        [self.outputs, self.scratch, self.parameters]
            .into_iter()
            .fold(self.inputs, u64::saturating_add)
    }

    fn json(&self) -> Value {
        json!({
            "inputs": self.inputs,
            "outputs": self.outputs,
            "scratch": self.scratch,
            "parameters": self.parameters,
            "peak": self.peak(),
            "unstored": self.unstored,
        })
    }
}

fn describe(call: &Call, plan: &Plan, bytes: &Bytes, profile: &Profile) -> String {
    let mut text = format!(
        "{}: {} dispatches of {} kernels in {} window(s) of rows\n\n",
        plan.loss,
        plan.dispatches.len(),
        plan.kernels.len(),
        plan.windows
    );
    if let Some(path) = &plan.path {
        let _ = writeln!(text, "{path}\n");
    }
    let mut table = output::table(&["tensor", "type", "shape", "bytes"]);
    for (kind, operands) in [("in", &call.inputs), ("out", &call.outputs)] {
        for operand in operands.values() {
            let shape: Vec<String> = operand.layout.shape.iter().map(u64::to_string).collect();
            table.add_row([
                format!("{kind} {}", operand.name),
                operand.layout.dtype.to_string(),
                shape.join(" × "),
                output::bytes(operand.allocation_bytes),
            ]);
        }
    }
    let _ = writeln!(text, "{table}\n");
    let mut table = output::table(&["dispatch", "workgroups", "bindings"]);
    let runs = runs(plan);
    let shown = if runs.len() > LISTED { LISTED } else { runs.len() };
    for &(count, dispatch) in &runs[..shown] {
        let kernel = plan.kernels.get(dispatch.kernel);
        let label = kernel.map_or("?", |kernel| kernel.label.as_str());
        let [x, y, z] = dispatch.workgroups;
        let bindings: Vec<String> = kernel
            .into_iter()
            .flat_map(|kernel| &kernel.storage)
            .zip(&dispatch.bindings)
            .map(|(stream, binding)| {
                let end = binding.offset.saturating_add(binding.size);
                format!("{} {}..{end}", stream.name, binding.offset)
            })
            .collect();
        let times = if count > 1 { format!("{count} × ") } else { String::new() };
        table.add_row([format!("{times}{label}"), format!("{x} × {y} × {z}"), bindings.join(", ")]);
    }
    let _ = writeln!(text, "{table}\n");
    if shown < runs.len() {
        let mut table = output::table(&["kernel", "dispatches in all"]);
        for (index, kernel) in plan.kernels.iter().enumerate() {
            let count = plan.dispatches.iter().filter(|d| d.kernel == index).count();
            table.add_row([kernel.label.clone(), count.to_string()]);
        }
        let _ = writeln!(text, "… and so on; --json lists all dispatches\n\n{table}\n");
    }
    let mut table = output::table(&["memory", "bytes"]);
    for (name, bytes) in [
        ("inputs", bytes.inputs),
        ("outputs", bytes.outputs),
        ("scratch", bytes.scratch),
        ("parameters", bytes.parameters),
        ("peak", bytes.peak()),
    ] {
        table.add_row([name.to_owned(), output::bytes(bytes)]);
    }
    if bytes.unstored > 0 {
        table.add_row(["logits, not stored".to_owned(), output::bytes(bytes.unstored)]);
    }
    let _ = writeln!(text, "{table}");
    for operand in call.inputs.values().chain(call.outputs.values()) {
        if operand.allocation_bytes > profile.buffer_bytes {
            let _ = writeln!(
                text,
                "note: `{}` is larger than one buffer may be under these limits ({} bytes)",
                operand.name, profile.buffer_bytes
            );
        }
    }
    text
}

/// The dispatches; consecutive ones with the same kernel and grid are joined into one.
fn runs(plan: &Plan) -> Vec<(usize, &surprisal::plan::Dispatch)> {
    let mut runs: Vec<(usize, &surprisal::plan::Dispatch)> = Vec::new();
    for dispatch in &plan.dispatches {
        match runs.last_mut() {
            Some((count, last))
                if last.kernel == dispatch.kernel && last.workgroups == dispatch.workgroups =>
            {
                *count += 1;
            }
            _ => runs.push((1, dispatch)),
        }
    }
    runs
}
