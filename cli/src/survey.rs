//! Finds the adapters by asking in child processes: a driver may crash or hang as soon as it is loaded, and must not
//! take the other drivers with it.

pub mod worker;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use worker::End;

use surprisal::{Result, wgpu};

/// wgpu's variable that names the backends to use.
const BACKENDS: &str = "WGPU_BACKEND";
/// The Vulkan loader's variables that name the drivers to load; the second one is for loaders before 1.3.207.
const MANIFESTS: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/// A child's answer about the adapters, and the drivers that had to be left out to get it.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The child's lines; empty if no driver answers.
    pub lines: Vec<String>,
    /// The drivers that do not answer.
    pub faults: Vec<Fault>,
    /// Variables that leave the faulty drivers out.
    environment: Vec<(&'static str, String)>,
}

/// A driver that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A Vulkan driver's manifest, or a backend.
    pub driver: String,
    /// How the child ended that asked only this driver.
    pub end: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the driver of {} does not answer: {}", self.driver, self.end)
    }
}

impl Survey {
    /// Runs `command`, which [says](worker::say) this machine's adapters in lines. If it fails, or says nothing for as
    /// long as `patience`, each driver is asked alone, and then all that answered are asked together. An error says why
    /// the command could not be run.
    pub fn take(patience: Duration, command: impl Fn() -> Command) -> Result<Self> {
        Self::among(&Driver::all(), patience, command)
    }

    fn among(
        drivers: &[Driver],
        patience: Duration,
        command: impl Fn() -> Command,
    ) -> Result<Self> {
        let ask = |drivers: &[&Driver]| -> Result<_> {
            let environment = environment(drivers);
            let mut command = command();
            command.envs(environment.iter().map(|(name, value)| (name, value)));
            let mut lines = Vec::new();
            Ok(match worker::run(command, patience, |line| lines.push(line.to_owned()))? {
                End::Exited(status) if status.success() => Ok((lines, environment)),
                end => Err(end.to_string()),
            })
        };
        // Without any restriction first, because there may be a driver whose manifest is not known here.
        let all = match ask(&[])? {
            Ok((lines, _)) => return Ok(Self { lines, ..Self::default() }),
            Err(end) => end,
        };
        let mut survey = Self::default();
        let mut good: Vec<&Driver> = Vec::new();
        for driver in drivers {
            match ask(&[driver])? {
                Ok(_) => good.push(driver),
                Err(end) => survey.faults.push(Fault { driver: driver.to_string(), end }),
            }
        }
        if good.is_empty() {
            return Ok(survey);
        }
        match ask(&good)? {
            Ok((lines, environment)) => {
                if survey.faults.is_empty() {
                    let driver = "a manifest that was not found here, or all at once".to_owned();
                    survey.faults.push(Fault { driver, end: all });
                }
                Ok(Self { lines, environment, ..survey })
            }
            Err(end) => {
                let driver = "several drivers together".to_owned();
                survey.faults.push(Fault { driver, end });
                Ok(survey)
            }
        }
    }

    /// Hides the drivers that do not answer from a command.
    pub fn without_faults(&self, command: &mut Command) {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    /// The shell settings that leave these drivers out everywhere.
    pub fn remedy(&self) -> String {
        let words =
            self.environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// A driver or backend that can be asked alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Driver {
    backend: &'static str,
    /// The manifest, for Vulkan.
    manifest: Option<PathBuf>,
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.manifest {
            Some(manifest) => write!(f, "{}", manifest.display()),
            None => write!(f, "the backend {}", self.backend),
        }
    }
}

impl Driver {
    /// The drivers of this machine, except those that the environment leaves out already.
    fn all() -> Vec<Self> {
        let wanted = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all());
        let known = [
            (wgpu::Backends::VULKAN, "vulkan"),
            (wgpu::Backends::METAL, "metal"),
            (wgpu::Backends::DX12, "dx12"),
            (wgpu::Backends::GL, "gl"),
        ];
        let here = wgpu::Instance::enabled_backend_features() & wanted;
        let backends = known.into_iter().filter(|(backend, _)| here.contains(*backend));
        backends.flat_map(|(_, backend)| Self::of(backend)).collect()
    }

    fn of(backend: &'static str) -> Vec<Self> {
        let manifests = if backend == "vulkan" { manifests() } else { Vec::new() };
        if manifests.is_empty() {
            return vec![Self { backend, manifest: None }];
        }
        let driver = |manifest| Self { backend, manifest: Some(manifest) };
        manifests.into_iter().map(driver).collect()
    }
}

/// A word, quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._:,+-".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Variables with which a process sees only these drivers; none if no driver is named.
fn environment(drivers: &[&Driver]) -> Vec<(&'static str, String)> {
    let mut environment = Vec::new();
    let backends: BTreeSet<&str> = drivers.iter().map(|driver| driver.backend).collect();
    if !backends.is_empty() {
        environment.push((BACKENDS, backends.into_iter().collect::<Vec<_>>().join(",")));
    }
    let manifests = drivers.iter().filter_map(|driver| driver.manifest.as_ref());
    if let Ok(paths) = std::env::join_paths(manifests)
        && !paths.is_empty()
    {
        let paths = paths.to_string_lossy().into_owned();
        environment.extend(MANIFESTS.map(|name| (name, paths.clone())));
    }
    environment
}

/// The drivers that the user chose for the Vulkan loader, if any.
pub fn chosen_manifests() -> Option<String> {
    MANIFESTS.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The manifests that the Vulkan loader reads: the chosen ones, or those in its folders.
pub fn manifests() -> Vec<PathBuf> {
    let json_files = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect()
    };
    if let Some(chosen) = chosen_manifests() {
        return std::env::split_paths(&chosen)
            .flat_map(|path| if path.is_dir() { json_files(&path) } else { vec![path] })
            .filter(|path| path.exists())
            .collect();
    }
    let variable = |name: &str, default: &str| {
        std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or(default.to_owned())
    };
    let home = variable("HOME", "/");
    let lists = [
        variable("XDG_CONFIG_HOME", &format!("{home}/.config")),
        variable("XDG_CONFIG_DIRS", "/etc/xdg"),
        "/etc".to_owned(),
        variable("XDG_DATA_HOME", &format!("{home}/.local/share")),
        variable("XDG_DATA_DIRS", "/usr/local/share:/usr/share"),
    ];
    lists
        .iter()
        .flat_map(|list| std::env::split_paths(list).collect::<Vec<_>>())
        .flat_map(|folder| json_files(&folder.join("vulkan/icd.d")))
        .collect()
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    /// A survey of a machine with three drivers, where this script lists the adapters.
    fn on_a_machine(script: &str) -> Survey {
        let vulkan = |manifest: &str| Driver { backend: "vulkan", manifest: Some(manifest.into()) };
        let gl = Driver { backend: "gl", manifest: None };
        Survey::among(&[vulkan("/a.json"), vulkan("/b.json"), gl], PATIENCE, || {
            let mut command = worker::child(script);
            MANIFESTS.iter().chain([&BACKENDS]).for_each(|name| _ = command.env_remove(name));
            command
        })
        .unwrap()
    }

    #[test]
    fn drivers_that_answer_are_asked_once() {
        let survey = on_a_machine("echo a driver; say one; say two");
        assert_eq!(survey.lines, ["one", "two"]);
        assert_eq!((survey.faults.len(), survey.remedy()), (0, String::new()));
    }

    #[test]
    fn a_driver_that_hangs_is_named_and_left_out() {
        // A process that loads b.json, alone or with all others, never returns.
        let start = Instant::now();
        let survey = on_a_machine(
            r#"case ${VK_DRIVER_FILES-/b.json}$WGPU_BACKEND in
            */b.json*vulkan | /b.json) exec sleep 60 ;;
            esac
            say "$WGPU_BACKEND $VK_DRIVER_FILES $VK_ICD_FILENAMES""#,
        );
        assert_eq!(survey.lines, ["gl,vulkan /a.json /a.json"]);
        let end = "no answer in 0.5 s: its driver hangs".to_owned();
        assert_eq!(survey.faults, [Fault { driver: "/b.json".to_owned(), end }]);
        assert!(survey.remedy().contains("VK_DRIVER_FILES=/a.json"), "{survey:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_backend_that_crashes_leaves_the_others() {
        let survey = on_a_machine(
            "case ${WGPU_BACKEND-gl} in *gl*) kill -ABRT $$ ;; esac; say $VK_DRIVER_FILES",
        );
        assert_eq!(survey.lines, ["/a.json:/b.json"]);
        assert_eq!(survey.faults.len(), 1, "{survey:?}");
        assert_eq!(survey.faults[0].driver, "the backend gl");
    }

    #[test]
    fn drivers_that_only_hang_together_are_said_to() {
        let survey = on_a_machine(
            "case ${VK_DRIVER_FILES-all}$WGPU_BACKEND in all | *a.json:*) exit 7 ;; esac",
        );
        assert_eq!(survey.faults.len(), 1, "{survey:?}");
        assert!(survey.faults[0].to_string().contains("together"), "{survey:?}");
    }

    #[test]
    fn a_machine_without_a_driver_that_answers_has_no_adapters() {
        let survey = on_a_machine("exit 1");
        assert_eq!((survey.lines.len(), survey.faults.len()), (0, 3), "{survey:?}");
        assert_eq!(survey.remedy(), "");
    }

    #[test]
    fn a_survey_that_cannot_be_run_blames_no_driver() {
        let gl = Driver { backend: "gl", manifest: None };
        let error = Survey::among(&[gl], PATIENCE, || Command::new("/no/such/program"));
        assert!(error.unwrap_err().to_string().contains("/no/such/program"));
    }

    #[test]
    fn a_remedy_can_be_given_to_a_shell() {
        let path = "/a folder/it's $HOME.json";
        let survey = Survey {
            environment: vec![("ONE", "a,b".to_owned()), ("TWO", path.to_owned())],
            ..Survey::default()
        };
        assert!(survey.remedy().starts_with("ONE=a,b TWO='"));
        let script = format!("export {}; say \"$ONE|$TWO\"", survey.remedy());
        let mut lines = Vec::new();
        worker::run(worker::child(&script), PATIENCE, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, [format!("a,b|{path}")]);
    }
}
