//! Shows what a call dispatches and how much memory it takes, for any limits, without a GPU.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use serde_json::{Value, json};
use surprisal::{
    Dtype, Error, Layout, Operation, Plan, Profile, Result,
    loss::{About, Argument, Dim, Kind},
    plan::{Call, Operand, kernel::Kernel},
};
use surprisal_cli::repro;

use crate::{
    arguments::{Chosen, Report, float_type},
    output,
};

/// Dispatches that are listed one by one.
const LISTED: usize = 24;

/// The call to plan.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
    /// How many rows.
    #[arg(long)]
    rows: u64,
    /// How many classes or keys, for losses that have them.
    #[arg(long)]
    classes: Option<u64>,
    /// The depth of a hidden state, for losses that have one.
    #[arg(long, default_value_t = 256)]
    hidden: u64,
    /// The type of float inputs and gradients: f32, f16 or bf16.
    #[arg(long, default_value = "f32", value_parser = float_type)]
    dtype: Dtype,
    /// Outputs; the loss and the gradients of the required inputs by default.
    #[arg(long, value_name = "OUTPUT", value_delimiter = ',')]
    want: Vec<String>,
    /// Optional inputs that are given, beside those that the call needs.
    #[arg(long, value_name = "INPUT", value_delimiter = ',')]
    with: Vec<String>,
    /// The device's limits: `default` (WebGPU's), `software`, or JSON with what differs from the
    /// default, such as `{"binding_bytes": 2147483647}`.
    #[arg(long, value_name = "JSON|default|software", default_value = "default")]
    limits: String,
    /// Write outputs over their inputs; without names the gradient of the first input.
    #[arg(long, value_name = "NAME", num_args = 0.., require_equals = true, value_delimiter = ',')]
    in_place: Option<Vec<String>>,
    #[command(flatten)]
    report: Report,
    /// Write the assembled WGSL of every kernel to this folder.
    #[arg(long, value_name = "DIR")]
    wgsl: Option<PathBuf>,
    /// Write everything that another engine needs to run the call to this folder, with a README.
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

/// Plans and prints.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let loss = arguments.chosen.parse()?;
    if arguments.classes.is_none() && loss.about().columns() == Some(Dim::Classes) {
        return Err(Error::MissingInput {
            operation: arguments.chosen.name.clone().into(),
            argument: "--classes".into(),
            reason: "this loss has them".into(),
        });
    }
    let profile = profile(&arguments.limits)?;
    let (call, plan) = Draft::new(arguments, loss.as_ref()).plan(&profile)?;
    let bytes = Bytes::of(&call, &plan);
    if let Some(folder) = &arguments.wgsl {
        write_modules(folder, &plan.kernels)?;
    }
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

/// A call in preparation: its inputs and outputs, and the shape chosen for each.
struct Draft<'a> {
    arguments: &'a Arguments,
    loss: &'a dyn Operation,
    inputs: BTreeSet<String>,
    outputs: BTreeSet<String>,
    /// The index of the shape that is tried for an argument; 0 by default.
    shapes: BTreeMap<String, usize>,
}

impl<'a> Draft<'a> {
    fn new(arguments: &'a Arguments, loss: &'a dyn Operation) -> Self {
        let about = loss.about();
        let required = || about.inputs.iter().filter(|input| input.required);
        let inputs: BTreeSet<String> =
            required().map(|input| input.name.to_owned()).chain(arguments.with.clone()).collect();
        let outputs = if arguments.want.is_empty() {
            let gradients = required().map(|input| format!("grad.{}", input.name));
            let has = |name: &String| about.outputs.iter().any(|output| output.name == name);
            std::iter::once("loss".to_owned()).chain(gradients).filter(has).collect()
        } else {
            arguments.want.iter().cloned().collect()
        };
        Self { arguments, loss, inputs, outputs, shapes: BTreeMap::new() }
    }

    /// Plans the call. An input that turns out to be needed is added. A shape that does not fit the options is replaced
    /// by the argument's next shape.
    fn plan(mut self, profile: &Profile) -> Result<(Call, Plan)> {
        loop {
            let planned = self
                .call(profile)
                .and_then(|call| self.loss.plan(&call, profile).map(|plan| (call, plan)));
            match planned {
                Err(Error::MissingInput { argument, .. })
                    if self.loss.about().inputs.iter().any(|a| *a.name == *argument)
                        && !self.inputs.contains(&*argument) =>
                {
                    self.inputs.insert(argument.into());
                }
                Err(Error::WrongShape { argument, .. }) if self.next_shape(&argument) => {}
                done => return done,
            }
        }
    }

    fn next_shape(&mut self, argument: &str) -> bool {
        let name = argument.strip_prefix("grad.").unwrap_or(argument);
        let about = self.loss.about();
        let shapes = about.inputs.iter().find(|a| a.name == name).map_or(0, |a| a.shapes.len());
        let tried = self.shapes.entry(name.to_owned()).or_default();
        *tried += 1;
        *tried < shapes
    }

    fn call(&self, profile: &Profile) -> Result<Call> {
        let about = self.loss.about();
        let mut allocations = 0;
        let mut operands = |names: &BTreeSet<String>, arguments: &[Argument], kind| {
            let mut operands = BTreeMap::new();
            for name in names {
                let argument = argument(about, arguments, kind, name)?;
                let layout = self.layout(argument)?;
                let bytes = layout.byte_range().map_or(u64::MAX, |range| range.end);
                let operand = Operand {
                    name: name.clone(),
                    layout,
                    allocation: allocations,
                    allocation_bytes: bytes.checked_next_multiple_of(16).unwrap_or(bytes).max(16),
                };
                allocations += 1;
                operands.insert(name.clone(), operand);
            }
            Ok(operands)
        };
        let inputs = operands(&self.inputs, about.inputs, "input")?;
        let mut outputs = operands(&self.outputs, about.outputs, "output")?;
        let in_place = self.outputs_in_place();
        for name in &in_place {
            outputs.remove(name);
        }
        let in_place =
            surprisal::low_level::in_place::give_tensors(about, &in_place, &inputs, &mut outputs)?;
        for (name, operand) in &mut outputs {
            operand.name.clone_from(name);
        }
        let call = Call { in_place, ..Call::new(inputs, outputs) };
        call.checked(self.loss, profile.offset_alignment)
    }

    fn outputs_in_place(&self) -> BTreeSet<String> {
        match &self.arguments.in_place {
            None => BTreeSet::new(),
            Some(names) if names.is_empty() => {
                let first = self.loss.about().inputs.first();
                first.map(|input| format!("grad.{}", input.name)).into_iter().collect()
            }
            Some(names) => names.iter().cloned().collect(),
        }
    }

    fn layout(&self, argument: &Argument) -> Result<Layout> {
        let name = argument.name.strip_prefix("grad.").unwrap_or(argument.name);
        let nth = self.shapes.get(name).copied().unwrap_or(0);
        let rank = self.loss.about().inputs.first().and_then(|first| first.shapes.first());
        let usual = argument.shape_in(self.loss, rank.map_or(1, |shape| shape.len()));
        // A gradient has the shape of its input.
        let input = self.loss.about().inputs.iter().find(|input| input.name == name);
        let shapes = input.unwrap_or(argument).shapes;
        let dims = shapes.get(nth).copied().filter(|_| nth > 0).unwrap_or(usual);
        let shape: Vec<u64> = dims.iter().map(|&d| self.extent(d)).collect();
        let elements = shape.iter().try_fold(1u64, |all, &extent| all.checked_mul(extent));
        if elements.is_none_or(|elements| elements > u64::MAX >> 8) {
            return Err(Error::WrongShape {
                argument: argument.name.into(),
                found: shape.into(),
                expected: "fewer than 2^56 elements".into(),
            });
        }
        Ok(Layout::dense(self.dtype(argument), &shape))
    }

    fn extent(&self, dim: Dim) -> u64 {
        match dim {
            // The statistics of one shard; those of each other shard have the same size.
            Dim::Rows | Dim::Gathered => self.arguments.rows,
            Dim::Classes => self.arguments.classes.unwrap_or(0),
            Dim::Fakes => self.arguments.classes.unwrap_or(self.arguments.rows),
            Dim::Hidden => self.arguments.hidden,
            Dim::State => surprisal::row::STATE_WORDS,
            Dim::StatusWords => surprisal::Status::WORDS,
            dim => self.loss.extents().into_iter().find(|(d, _)| *d == dim).map_or(1, |(_, e)| e),
        }
    }

    fn dtype(&self, argument: &Argument) -> Dtype {
        match argument.kind {
            Kind::F32 | Kind::WideFloat => Dtype::F32,
            Kind::U32 => Dtype::U32,
            Kind::Index | Kind::Label | Kind::I64 => Dtype::I64,
            _ => self.arguments.dtype,
        }
    }
}

fn argument<'a>(
    about: &About,
    arguments: &'a [Argument],
    kind: &'static str,
    name: &str,
) -> Result<&'a Argument> {
    arguments.iter().find(|argument| argument.name == name).ok_or_else(|| Error::UnknownName {
        operation: about.name.into(),
        kind,
        name: name.into(),
        known: arguments.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", ").into(),
    })
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

fn write_modules(folder: &std::path::Path, kernels: &[Arc<Kernel>]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| output::bad_file(folder, error))?;
    for (index, kernel) in kernels.iter().enumerate() {
        let mut text = String::new();
        for (name, value) in &kernel.overrides {
            let _ = writeln!(text, "// {name} = {value}");
        }
        text.push_str(&kernel.wgsl);
        let path = folder.join(format!("{index:02}.{}.wgsl", kernel.label));
        output::write(&path, text.as_bytes())?;
    }
    Ok(())
}
