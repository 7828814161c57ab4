//! Lists the adapters, what surprisal can do on them, and why an expected one is missing.

mod describe;
mod machine;

use std::{
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use machine::Machine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use surprisal::{
    Error, Gpu, Result,
    adapter::{self, Kind},
    wgpu,
};
use surprisal_cli::survey::{Survey, worker};

use crate::{arguments::Report, output};

/// How to list them.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    report: Report,
    /// Give a driver this long to answer, and a device as long to open.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Say a line of JSON an adapter, and open none (a child process of whoever wants to know).
    #[arg(long, hide = true)]
    survey: bool,
    /// Open the adapter of this number alone and describe it (a child process of the listing).
    #[arg(long, hide = true, value_name = "NUMBER")]
    describe: Option<usize>,
}

/// How long a driver may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The features that may matter, and their meaning for surprisal.
const FEATURES: &[(&str, wgpu::Features, &str)] = &[
    (
        "TIMESTAMP_QUERY",
        wgpu::Features::TIMESTAMP_QUERY,
        "`bench` times dispatches on the device, beside the wall clock",
    ),
    (
        "SHADER_F16",
        wgpu::Features::SHADER_F16,
        "not needed: f16 and bf16 are decoded by integers, sums are f32",
    ),
    (
        "SUBGROUP",
        wgpu::Features::SUBGROUP,
        "lanes load score tiles for each other on software adapters; sums never need it",
    ),
    (
        "SHADER_INT64",
        wgpu::Features::SHADER_INT64,
        "score tiles load two f32 to a word on software adapters; no sum needs it",
    ),
    ("IMMEDIATES", wgpu::Features::IMMEDIATES, "not used: parameters are uniforms"),
];

/// An adapter as described by a child process that opens no device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its number in the default order.
    pub number: usize,
    /// The description that [`adapter::describe`] returns.
    pub description: String,
    name: String,
    backend: String,
    driver: String,
    pub kind: Kind,
    vendor: u32,
    limits: Value,
    features: Value,
}

impl Found {
    fn new(number: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let features: Vec<Value> = FEATURES
            .iter()
            .map(|(name, feature, meaning)| {
                let has = adapter.features().contains(*feature);
                json!({ "name": name, "has": has, "meaning": meaning })
            })
            .collect();
        Self {
            number,
            description: adapter::describe(&info),
            kind: Kind::of(&info),
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            vendor: info.vendor,
            limits: json!({
                "binding_bytes": limits.max_storage_buffer_binding_size,
                "buffer_bytes": limits.max_buffer_size,
                "storage_buffers": limits.max_storage_buffers_per_shader_stage,
                "workgroup_size": limits.max_compute_invocations_per_workgroup,
                "workgroup_bytes": limits.max_compute_workgroup_storage_size,
                "offset_alignment": limits.min_storage_buffer_offset_alignment,
                "subgroup_sizes": [info.subgroup_min_size, info.subgroup_max_size],
            }),
            features: features.into(),
            name: info.name,
        }
    }
}

/// A command that runs this program again. If its path cannot be found, running the command reports that.
pub fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| "surprisal".into()))
}

/// The adapters whose drivers answer within `patience`, in the default order.
pub fn survey(patience: Duration) -> Result<(Vec<Found>, Survey)> {
    let survey = Survey::take(patience, || {
        let mut command = this_program();
        command.args(["adapters", "--survey"]).stderr(Stdio::null());
        command
    })?;
    let found = survey.lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    Ok((found.collect(), survey))
}

/// What to do about drivers that do not answer.
pub fn remedy(survey: &Survey) -> String {
    match survey.remedy() {
        without if without.is_empty() => "update or remove it".to_owned(),
        without => format!("update or remove it; what leaves it out everywhere: {without}"),
    }
}

/// All adapters, in the default order. Loads every driver into this process; waits for a driver that hangs, and prints
/// a message about it.
pub fn all() -> Vec<wgpu::Adapter> {
    let (done, waiting) = mpsc::channel::<()>();
    thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            output::warn(&format!(
                "a graphics driver has not answered for {} s; `surprisal adapters` says \
                 which, and how to leave it out",
                PATIENCE.as_secs()
            ));
        }
    });
    let adapters = pollster::block_on(adapter::adapters());
    drop(done);
    adapters
}

/// Opens the wanted adapter, and warns loudly if it is software although a GPU exists.
pub fn open(wanted: Option<&str>) -> Result<Gpu> {
    let adapters = all();
    let found: Vec<Found> = adapters.iter().enumerate().map(|(n, a)| Found::new(n, a)).collect();
    let index = choose(&found, wanted)?;
    warn(&found, index);
    open_number(&adapters, index)
}

/// The index of the wanted adapter.
pub fn choose(found: &[Found], wanted: Option<&str>) -> Result<usize> {
    let names: Vec<&str> = found.iter().map(|found| found.description.as_str()).collect();
    adapter::choose_named(&names, wanted)
}

/// Opens an adapter by its number.
pub fn open_number(adapters: &[wgpu::Adapter], index: usize) -> Result<Gpu> {
    match adapters.get(index) {
        Some(adapter) => pollster::block_on(Gpu::open_on(adapter)),
        None => Err(Error::NoAdapter {
            wanted: format!(" has number {index}").into(),
            found: format!("{} adapter(s)", adapters.len()).into(),
        }),
    }
}

/// Warns on stderr that software is used although this machine has a GPU.
pub fn warn(all: &[Found], index: usize) {
    let Some(used) = all.get(index).filter(|found| found.kind == Kind::Software) else {
        return;
    };
    let name = &used.description;
    let kinds: Vec<Kind> = all.iter().map(|found| found.kind).collect();
    if let Some(gpu) = adapter::overlooked(&kinds, index).and_then(|gpu| all.get(gpu)) {
        output::warn(&format!(
            "{name} is a SOFTWARE adapter, and this machine has a GPU: {} (use it with \
             --adapter {})",
            gpu.description, gpu.number
        ));
    } else if let Some(node) = Machine::look().nodes.first() {
        output::warn(&format!(
            "{name} is a SOFTWARE adapter, and this machine has a GPU device node ({}) \
             that no driver serves; `surprisal adapters` says why",
            node.path.display()
        ));
    }
}

/// Lists.
pub fn run(arguments: &Arguments, wanted: Option<&str>) -> Result<ExitCode> {
    if let Some(number) = arguments.describe {
        worker::say(describe::describe_opened(&all(), number))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.survey {
        for (number, adapter) in all().iter().enumerate() {
            worker::say(json!(Found::new(number, adapter)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let patience = Duration::from_secs(arguments.timeout);
    let (found, survey) = survey(patience)?;
    let findings = Machine::look().findings(&found, &survey);
    let asked = adapter::wanted(wanted).is_some();
    let default = match choose(&found, wanted) {
        Ok(index) => found.get(index).map(|found| found.number),
        Err(error) if asked => return Err(error),
        Err(_) => None,
    };
    let shown: Vec<Value> = found
        .iter()
        .filter(|found| !asked || default == Some(found.number))
        .map(|found| {
            let mut facts = describe::facts(found, &survey, patience);
            facts["default"] = (default == Some(found.number)).into();
            facts
        })
        .collect();
    let missing = || {
        let missing = findings
            .iter()
            .map(|finding| json!({ "problem": finding.problem, "remedy": finding.remedy }));
        missing.collect::<Value>()
    };
    arguments.report.give(
        || describe::describe(&shown, &findings),
        || json!({ "adapters": shown, "missing": missing() }),
    )?;
    let usable = shown.iter().any(|adapter| adapter["problem"].is_null());
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
