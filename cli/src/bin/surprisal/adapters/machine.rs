//! What this machine shows of its graphics without a driver, and why an expected adapter is missing.

use std::{fs, path::PathBuf};

use surprisal_cli::survey::{self, Fault, Survey};

use super::{Found, remedy};

/// A GPU's device node.
#[derive(Clone, Debug)]
pub struct Node {
    pub path: PathBuf,
    /// Whether this user may read and write it.
    usable: bool,
    vendor: Vendor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Nvidia,
    /// Windows's GPU in WSL.
    Dxg,
    /// Any GPU with a render node: AMD, Intel, and others.
    Render,
}

/// What this machine shows of its graphics without a driver.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    linux: bool,
    pub nodes: Vec<Node>,
    /// /dev/dri exists, but this user may not read it.
    hidden: bool,
    loader: bool,
    /// File names of the Vulkan drivers' manifests that the loader reads.
    manifests: Vec<String>,
    /// The value of `VK_DRIVER_FILES` or `VK_ICD_FILENAMES`, and the files in it that do not exist.
    chosen: Option<(String, Vec<String>)>,
    /// The NVIDIA kernel module's version.
    nvidia_version: Option<String>,
}

/// A missing adapter, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub problem: String,
    pub remedy: String,
}

impl Machine {
    pub fn look() -> Self {
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

    /// The problems found, given the adapters that exist and the drivers that do not answer.
    pub fn findings(&self, found: &[Found], survey: &Survey) -> Vec<Finding> {
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
            // The render node belongs to the NVIDIA GPU, which has been reported already.
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

/// The folder of render nodes.
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
