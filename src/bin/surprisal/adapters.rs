//! The adapters there are, what surprisal makes of them, and why an expected one is missing.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use surprisal::{
    Error, Gpu, Result,
    adapter::{self, Kind},
    survey::{self, Fault, Survey, worker},
    wgpu,
};

use crate::output;

/// How to list them.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
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

/// An adapter as a child process that opens no device describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its number in the default order.
    pub number: usize,
    /// What [`adapter::describe`] calls it.
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

/// This program once more. Where it cannot be found, running it says so.
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

/// All adapters, in the default order. This process loads every driver for that; one that hangs is
/// waited for, with a word about it.
pub fn all() -> Vec<wgpu::Adapter> {
    let (done, waiting) = mpsc::channel::<()>();
    thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            output::note(&format!(
                "WARNING: a graphics driver has not answered for {} s; `surprisal adapters` says \
                 which, and how to leave it out",
                PATIENCE.as_secs()
            ));
        }
    });
    let adapters = pollster::block_on(adapter::adapters());
    drop(done);
    adapters
}

/// Opens the adapter that is wanted, and says so loudly if that is software beside a GPU.
pub fn open(wanted: Option<&str>) -> Result<Gpu> {
    let adapters = all();
    let found: Vec<Found> = adapters.iter().enumerate().map(|(n, a)| Found::new(n, a)).collect();
    let index = choose(&found, wanted)?;
    warn(&found, index);
    open_number(&adapters, index)
}

/// Which adapter is meant.
pub fn choose(found: &[Found], wanted: Option<&str>) -> Result<usize> {
    let names: Vec<&str> = found.iter().map(|found| found.description.as_str()).collect();
    adapter::choose_named(&names, wanted)
}

/// Opens an adapter by its number.
pub fn open_number(adapters: &[wgpu::Adapter], index: usize) -> Result<Gpu> {
    match adapters.get(index) {
        Some(adapter) => pollster::block_on(Gpu::open_on(adapter)),
        None => Err(Error::NoAdapter {
            wanted: format!(" has number {index}"),
            found: format!("{} adapter(s)", adapters.len()),
        }),
    }
}

/// Says on stderr that software is about to do what a GPU here could do.
pub fn warn(all: &[Found], index: usize) {
    let Some(used) = all.get(index).filter(|found| found.kind == Kind::Software) else {
        return;
    };
    let name = &used.description;
    let kinds: Vec<Kind> = all.iter().map(|found| found.kind).collect();
    if let Some(gpu) = adapter::overlooked(&kinds, index).and_then(|gpu| all.get(gpu)) {
        output::note(&format!(
            "WARNING: {name} is a SOFTWARE adapter, and this machine has a GPU: {} (use it with \
             --adapter {})",
            gpu.description, gpu.number
        ));
    } else if let Some(node) = Machine::look().nodes.first() {
        output::note(&format!(
            "WARNING: {name} is a SOFTWARE adapter, and this machine has a GPU device node ({}) \
             that no driver serves; `surprisal adapters` says why",
            node.path.display()
        ));
    }
}

/// Lists.
pub fn run(arguments: &Arguments, wanted: Option<&str>) -> Result<ExitCode> {
    if let Some(number) = arguments.describe {
        worker::say(describe_opened(&all(), number))?;
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
            let mut facts = facts(found, &survey, patience);
            facts["default"] = (default == Some(found.number)).into();
            facts
        })
        .collect();
    if arguments.json {
        let missing: Vec<Value> = findings
            .iter()
            .map(|finding| json!({ "problem": finding.problem, "remedy": finding.remedy }))
            .collect();
        output::json(&json!({ "adapters": shown, "missing": missing }), None)?;
    } else {
        output::print(&describe(&shown, &findings));
    }
    Ok(ExitCode::SUCCESS)
}

/// The features that could matter, and what they mean here.
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
    ("IMMEDIATES", wgpu::Features::IMMEDIATES, "not used: parameters are uniforms"),
];

/// An adapter in numbers and words. The device is opened in a child process: a driver that crashes or
/// hangs there, or that shares a process badly with another one, must not end the listing.
fn facts(found: &Found, survey: &Survey, patience: Duration) -> Value {
    let mut facts = json!(found);
    let (opened, problem) = match describe_in_child(found.number, survey, patience) {
        Ok(value) => (value, Value::Null),
        Err(reason) => (Value::Null, Value::from(reason)),
    };
    facts["report"] = opened["report"].clone();
    facts["cooperative_matrices"] = opened["matrices"].clone();
    facts["profile"] = opened["profile"].clone();
    facts["problem"] = problem;
    facts
}

fn describe_in_child(number: usize, survey: &Survey, patience: Duration) -> Result<Value, String> {
    let mut command = this_program();
    command.args(["adapters", "--describe", &number.to_string()]).stderr(Stdio::null());
    survey.without_faults(&mut command);
    let mut text = String::new();
    let end = worker::run(command, patience, |line| text.push_str(line));
    let end = end.map_err(|error| error.to_string())?;
    let described: Result<Value, _> = serde_json::from_str(&text);
    match described {
        Ok(value) => match value["problem"].as_str() {
            Some(problem) => Err(problem.to_owned()),
            None => Ok(value),
        },
        Err(_) => Err(end.to_string()),
    }
}

/// The child: opens an adapter, and says what it came to.
fn describe_opened(adapters: &[wgpu::Adapter], number: usize) -> Value {
    match open_number(adapters, number) {
        Ok(gpu) => {
            let found = adapters.get(number).map(|adapter| matrices(adapter, &gpu));
            json!({ "report": gpu.report(), "profile": gpu.profile(), "matrices": found })
        }
        Err(error) => json!({ "problem": format!("could not be opened: {error}") }),
    }
}

/// What a probe finds of an adapter's cooperative matrices; the device is another one where there are
/// any, opened for them.
fn matrices(adapter: &wgpu::Adapter, plain: &Gpu) -> String {
    let probed = if Gpu::cooperative_features(adapter).is_empty() {
        plain.with_cooperative_matrices(adapter)
    } else {
        pollster::block_on(experimental(adapter))
            .and_then(|gpu| gpu.with_cooperative_matrices(adapter))
    };
    match probed {
        Ok((_, found)) if found.f16 == found.f32 => found.f16.to_string(),
        Ok((_, found)) => format!("f16: {}; f32: {}", found.f16, found.f32),
        Err(error) => format!("no ({error})"),
    }
}

/// Opens a device with the experimental features that cooperative matrices need.
#[expect(unsafe_code, reason = "wgpu wants its experimental features signed for")]
async fn experimental(adapter: &wgpu::Adapter) -> Result<Gpu> {
    let (features, required_limits) = Gpu::wishes(adapter);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("surprisal"),
        required_features: features | Gpu::cooperative_features(adapter),
        required_limits,
        // SAFETY: this is a child process that describes one adapter and ends; a bug of wgpu's in these
        // features meets nothing that matters.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..wgpu::DeviceDescriptor::default()
    };
    let opened = adapter.request_device(&descriptor).await;
    let (device, queue) = opened.map_err(|error| Error::DeviceLost(error.to_string()))?;
    Ok(Gpu::from_wgpu(&device, &queue))
}

fn describe(adapters: &[Value], findings: &[Finding]) -> String {
    let mut text = String::new();
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let header = ["", "adapter", "backend", "driver", "kind", "default"];
    let mut table = output::table(&header);
    for adapter in adapters {
        let columns = ["number", "name", "backend", "driver", "kind"];
        let default = if adapter["default"] == true { "*" } else { "" };
        let words = columns.map(|column| word(&adapter[column]));
        table.add_row(words.into_iter().chain([default.to_owned()]));
    }
    if adapters.is_empty() {
        text.push_str("no adapter\n");
    } else {
        let _ = writeln!(text, "{table}");
    }
    for adapter in adapters {
        let _ = writeln!(text, "\n{}: {}", word(&adapter["number"]), word(&adapter["name"]));
        let limits = &adapter["limits"];
        for (name, unit) in [
            ("binding_bytes", "bytes a binding"),
            ("buffer_bytes", "bytes a buffer"),
            ("storage_buffers", "storage buffers a stage"),
            ("workgroup_size", "invocations a workgroup"),
            ("workgroup_bytes", "bytes of workgroup memory"),
            ("offset_alignment", "bytes between binding offsets"),
        ] {
            let _ = writeln!(text, "    {:>12} {unit}", word(&limits[name]));
        }
        let sizes = &limits["subgroup_sizes"];
        let _ =
            writeln!(text, "    {:>12} lanes a subgroup", format!("{}..{}", sizes[0], sizes[1]));
        for feature in adapter["features"].as_array().into_iter().flatten() {
            let has = if feature["has"] == Value::Bool(true) { "yes" } else { "no" };
            let (name, meaning) = (word(&feature["name"]), word(&feature["meaning"]));
            let _ = writeln!(text, "    {name}: {has} ({meaning})");
        }
        for line in adapter["report"].as_array().into_iter().flatten().skip(2) {
            let _ = writeln!(text, "    {}", word(line));
        }
        if let Value::String(found) = &adapter["cooperative_matrices"] {
            let _ = writeln!(text, "    cooperative matrices, if asked for: {found}");
        }
        if let Value::String(problem) = &adapter["problem"] {
            let _ = writeln!(text, "    PROBLEM: {problem}");
        }
    }
    for finding in findings {
        let _ = writeln!(text, "\nMISSING: {}\n    remedy: {}", finding.problem, finding.remedy);
    }
    text
}

/// A GPU's device node.
#[derive(Clone, Debug)]
struct Node {
    path: PathBuf,
    /// Whether this user may read and write it.
    usable: bool,
    vendor: Vendor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Nvidia,
    /// Windows's GPU in WSL.
    Dxg,
    /// Whatever has a render node: AMD, Intel, and others.
    Render,
}

/// What can be seen of graphics on this machine without a driver.
#[derive(Clone, Debug, Default)]
struct Machine {
    linux: bool,
    nodes: Vec<Node>,
    /// /dev/dri is there, and this user may not look into it.
    hidden: bool,
    loader: bool,
    /// File names of the Vulkan drivers' manifests that the loader reads.
    manifests: Vec<String>,
    /// The value of `VK_DRIVER_FILES` or `VK_ICD_FILENAMES`, and the files in it that are not there.
    chosen: Option<(String, Vec<String>)>,
    /// The NVIDIA kernel module's version.
    nvidia_version: Option<String>,
}

/// An adapter that is not there, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    problem: String,
    remedy: String,
}

impl Machine {
    fn look() -> Self {
        if !cfg!(target_os = "linux") {
            return Self::default();
        }
        let chosen = survey::chosen_manifests();
        let missing = |value: &String| {
            let paths = std::env::split_paths(value).filter(|path| !path.exists());
            paths.map(|path| path.display().to_string()).collect()
        };
        Self {
            linux: true,
            nodes: nodes(),
            hidden: fs::read_dir(RENDER)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied),
            loader: has_loader(),
            manifests: survey::manifests()
                .iter()
                .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
                .collect(),
            chosen: chosen.map(|value| (value.clone(), missing(&value))),
            nvidia_version: nvidia_version(),
        }
    }

    /// What is wrong, given the adapters that were found and the drivers that do not answer.
    fn findings(&self, found: &[Found], survey: &Survey) -> Vec<Finding> {
        let silent = |fault: &Fault| Finding { problem: fault.to_string(), remedy: remedy(survey) };
        let mut findings: Vec<Finding> = survey.faults.iter().map(silent).collect();
        if !self.linux {
            if found.is_empty() {
                findings.push(Finding {
                    problem: "the system offers no adapter".to_owned(),
                    remedy: "install or update the graphics driver; `--backend cpu` works without"
                        .to_owned(),
                });
            }
            return findings;
        }
        if !self.loader {
            findings.push(Finding {
                problem:
                    "the Vulkan loader (libvulkan.so.1) is not installed, so no Vulkan driver \
                          can be used"
                        .to_owned(),
                remedy: "install it: apt-get install libvulkan1 (Debian, Ubuntu), dnf install \
                         vulkan-loader (Fedora)"
                    .to_owned(),
            });
        }
        if let Some((value, missing)) = &self.chosen {
            if !missing.is_empty() {
                findings.push(Finding {
                    problem: format!(
                        "VK_DRIVER_FILES or VK_ICD_FILENAMES names files that do not exist: {}",
                        missing.join(", ")
                    ),
                    remedy: "correct or unset the variable".to_owned(),
                });
            } else if !self.nodes.is_empty() && !found.iter().any(|found| found.kind.is_physical())
            {
                findings.push(Finding {
                    problem: format!(
                        "VK_DRIVER_FILES or VK_ICD_FILENAMES restricts the drivers to {value}"
                    ),
                    remedy: "unset the variable to see the others".to_owned(),
                });
            }
        }
        self.nvidia(found, &mut findings);
        self.render(found, &mut findings);
        self.dxg(found, &mut findings);
        if found.is_empty() && findings.is_empty() {
            findings.push(Finding {
                problem: "there is no GPU device node and no software driver".to_owned(),
                remedy:
                    "for a software adapter: apt-get install mesa-vulkan-drivers libvulkan1, or \
                         scripts/setup; `--backend cpu` works without any"
                        .to_owned(),
            });
        }
        findings
    }

    fn nvidia(&self, found: &[Found], findings: &mut Vec<Finding>) {
        const NVIDIA: u32 = 0x10de;
        let mut nodes = self.nodes.iter().filter(|node| node.vendor == Vendor::Nvidia).peekable();
        let Some(first) = nodes.peek().map(|node| node.path.display().to_string()) else {
            return;
        };
        if found.iter().any(|found| found.vendor == NVIDIA && found.kind.is_physical()) {
            return;
        }
        let version = self.nvidia_version.as_deref();
        let package = version.and_then(|v| v.split('.').next()).unwrap_or("VERSION");
        let exactly = version.map(|v| format!(" (kernel module {v})")).unwrap_or_default();
        if let Some(node) = nodes.find(|node| !node.usable) {
            findings.push(Finding {
                problem: format!("{} may not be opened by this user", node.path.display()),
                remedy: "in a container, start it with the NVIDIA runtime (--gpus all); otherwise \
                         give this user read and write permission on /dev/nvidia*"
                    .to_owned(),
            });
        } else if self.manifests.iter().any(|file| file.contains("nvidia")) {
            findings.push(Finding {
                problem: format!(
                    "an NVIDIA GPU is here ({first}) and so is its Vulkan manifest, but the driver \
                     did not start"
                ),
                remedy: format!(
                    "the driver's libraries must be there and of the kernel module's version\
                     {exactly}: in a container set NVIDIA_DRIVER_CAPABILITIES=all; otherwise \
                     reinstall libnvidia-gl-{package}; libX11 and libXext are needed too (apt-get \
                     install libx11-6 libxext6). VK_LOADER_DEBUG=all says what fails"
                ),
            });
        } else {
            findings.push(Finding {
                problem: format!(
                    "an NVIDIA GPU is here ({first}), but no NVIDIA Vulkan driver (nvidia_icd.json) \
                     is in this system or container"
                ),
                remedy: format!(
                    "in a container: NVIDIA_DRIVER_CAPABILITIES=all (the default leaves graphics \
                     out) with --gpus all; otherwise install the driver's graphics part, of the \
                     kernel module's version{exactly}: apt-get install libnvidia-gl-{package}"
                ),
            });
        }
    }

    fn render(&self, found: &[Found], findings: &mut Vec<Finding>) {
        if self.hidden {
            findings.push(Finding {
                problem: format!("{RENDER} may not be read by this user"),
                remedy: format!(
                    "sudo chmod a+rx {RENDER}; in a container, start it with --device {RENDER}"
                ),
            });
        }
        let nodes: Vec<&Node> =
            self.nodes.iter().filter(|node| node.vendor == Vendor::Render).collect();
        let Some(first) = nodes.first() else {
            return;
        };
        if found.iter().any(|found| found.kind.is_physical()) {
            return;
        }
        if let Some(node) = nodes.iter().find(|node| !node.usable) {
            findings.push(Finding {
                problem: format!("{} may not be opened by this user", node.path.display()),
                remedy:
                    "add the user to the node's group and log in again: sudo usermod -aG render \
                         $USER; for a container: --device /dev/dri --group-add \
                         $(stat -c %g /dev/dri/renderD128)"
                        .to_owned(),
            });
            return;
        }
        let nvidia_alone = self.nodes.iter().any(|node| node.vendor == Vendor::Nvidia)
            && nodes.len() <= self.nodes.iter().filter(|n| n.vendor == Vendor::Nvidia).count();
        if nvidia_alone {
            // The render node is the NVIDIA GPU's own, of which enough was said.
            return;
        }
        let mesa = ["radeon", "intel", "nouveau", "virtio", "asahi", "freedreno", "broadcom"];
        let installed =
            self.manifests.iter().any(|file| mesa.iter().any(|driver| file.contains(driver)));
        let path = first.path.display();
        findings.push(if installed {
            Finding {
                problem: format!("{path} is here, but no Vulkan driver installed here serves it"),
                remedy: "the GPU may be too old for Vulkan or too new for this Mesa: update \
                         mesa-vulkan-drivers; VK_LOADER_DEBUG=all says what was tried"
                    .to_owned(),
            }
        } else {
            Finding {
                problem: format!("{path} is here, but no Vulkan driver for it"),
                remedy: "install one: apt-get install mesa-vulkan-drivers libvulkan1 (Debian, \
                         Ubuntu), dnf install mesa-vulkan-drivers (Fedora)"
                    .to_owned(),
            }
        });
    }

    fn dxg(&self, found: &[Found], findings: &mut Vec<Finding>) {
        let here = self.nodes.iter().any(|node| node.vendor == Vendor::Dxg);
        if here && !found.iter().any(|found| found.kind.is_physical()) {
            findings.push(Finding {
                problem: "this is WSL with a GPU (/dev/dxg), but no Vulkan driver for it"
                    .to_owned(),
                remedy:
                    "a Mesa with the dzn driver (mesa-vulkan-drivers of a recent Ubuntu), or run \
                         the Windows build"
                        .to_owned(),
            });
        }
    }
}

/// Where render nodes are.
const RENDER: &str = "/dev/dri";

fn nodes() -> Vec<Node> {
    let names = |folder: &str, wanted: fn(&str) -> bool| -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    };
    let numbered =
        |name: &str| name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let node = |path: PathBuf, vendor| {
        let usable = fs::OpenOptions::new().read(true).write(true).open(&path).is_ok();
        Node { path, usable, vendor }
    };
    let nvidia = names("/dev", numbered).into_iter().map(|path| node(path, Vendor::Nvidia));
    let render = names(RENDER, |name| name.starts_with("renderD"))
        .into_iter()
        .map(|path| node(path, Vendor::Render));
    let dxg = names("/dev", |name| name == "dxg").into_iter().map(|path| node(path, Vendor::Dxg));
    nvidia.chain(render).chain(dxg).collect()
}

/// Whether the dynamic linker would find the Vulkan loader.
fn has_loader() -> bool {
    const NAME: &str = "libvulkan.so.1";
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    let cached = cache.windows(NAME.len()).any(|window| window == NAME.as_bytes());
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = ["/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"];
    cached
        || std::env::split_paths(&path)
            .chain(usual.iter().map(PathBuf::from))
            .any(|folder| folder.join(NAME).exists())
}

/// The version in a line such as `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`.
fn nvidia_version() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let number = |word: &&str| {
        word.contains('.') && word.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
    };
    text.lines().next()?.split_whitespace().find(number).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(nodes: &[(&str, bool, Vendor)], manifests: &[&str]) -> Machine {
        Machine {
            linux: true,
            nodes: nodes
                .iter()
                .map(|&(path, usable, vendor)| Node { path: path.into(), usable, vendor })
                .collect(),
            loader: true,
            manifests: manifests.iter().map(|&name| name.to_owned()).collect(),
            ..Machine::default()
        }
    }

    fn only(machine: &Machine) -> Finding {
        let mut findings = machine.findings(&[], &Survey::default());
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn an_nvidia_gpu_without_a_driver_is_named_with_its_remedy() {
        let mut container = machine(&[("/dev/nvidia0", true, Vendor::Nvidia)], &["lvp_icd.json"]);
        container.nvidia_version = Some("550.54.15".to_owned());
        let finding = only(&container);
        assert!(finding.problem.contains("/dev/nvidia0"), "{finding:?}");
        assert!(finding.remedy.contains("NVIDIA_DRIVER_CAPABILITIES=all"), "{finding:?}");
        assert!(finding.remedy.contains("libnvidia-gl-550"), "{finding:?}");
    }

    #[test]
    fn a_driver_that_did_not_start_is_told_from_one_that_is_not_there() {
        let gpu = machine(&[("/dev/nvidia0", true, Vendor::Nvidia)], &["nvidia_icd.json"]);
        assert!(only(&gpu).problem.contains("did not start"));
    }

    #[test]
    fn an_unreadable_render_node_asks_for_its_group() {
        let gpu =
            machine(&[("/dev/dri/renderD128", false, Vendor::Render)], &["radeon_icd.x86_64.json"]);
        let finding = only(&gpu);
        assert!(finding.problem.contains("/dev/dri/renderD128"), "{finding:?}");
        assert!(finding.remedy.contains("usermod -aG render"), "{finding:?}");
    }

    #[test]
    fn a_folder_of_nodes_that_cannot_be_read_is_named() {
        let hidden = Machine { hidden: true, ..machine(&[], &["radeon_icd.x86_64.json"]) };
        let finding = only(&hidden);
        assert!(finding.problem.contains("/dev/dri may not be read"), "{finding:?}");
        assert!(finding.remedy.contains("--device /dev/dri"), "{finding:?}");
    }

    #[test]
    fn a_render_node_without_a_driver_asks_for_mesa() {
        let gpu = machine(&[("/dev/dri/renderD128", true, Vendor::Render)], &[]);
        assert!(only(&gpu).remedy.contains("mesa-vulkan-drivers"));
    }

    #[test]
    fn a_missing_loader_comes_first() {
        let mut gpu = machine(&[("/dev/dri/renderD128", true, Vendor::Render)], &[]);
        gpu.loader = false;
        let findings = gpu.findings(&[], &Survey::default());
        assert!(findings[0].remedy.contains("libvulkan1"), "{findings:?}");
    }

    #[test]
    fn a_bare_machine_is_offered_software() {
        assert!(only(&machine(&[], &[])).remedy.contains("scripts/setup"));
    }
}
