//! Measurements that are kept under a name, and what got slower since.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use surprisal::{Error, Result};
use surprisal_cli::bench::Spread;

use crate::output;

/// Differences below this share of the time are none, however steady the times are: two runs of the same program on the
/// same machine differ by as much.
const LEAST: f64 = 0.02;
/// How many standard errors of a difference are noise.
const ERRORS: f64 = 3.0;

/// Where measurements are kept, and under which names.
#[derive(Debug, clap::Args)]
pub struct Baselines {
    /// Keep the measurement under this name; one of the same call under it is replaced.
    #[arg(long, value_name = "NAME", value_parser = name)]
    save: Option<String>,
    /// Compare with the measurement of the same call that was kept under this name. The exit status is
    /// 1 if the call got slower by more than the noise.
    #[arg(long, value_name = "NAME", value_parser = name)]
    baseline: Option<String>,
    /// The folder of these measurements. By default `surprisal` in the platform's folder for data.
    #[arg(long = "baselines", value_name = "DIR", env = "SURPRISAL_BASELINES")]
    folder: Option<PathBuf>,
}

/// A name is that of a file.
fn name(name: &str) -> std::result::Result<String, String> {
    let plain = |letter: char| letter.is_alphanumeric() || "-_.".contains(letter);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err("a name has letters, digits, `-`, `_` and `.`".to_owned());
    }
    Ok(name.to_owned())
}

/// A measurement as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured: the call, the adapter and the clock.
    pub call: Value,
    /// How many runs there were.
    pub runs: usize,
    /// Milliseconds of a run.
    pub ms: Spread,
}

/// How a measurement compares with an earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The name of the earlier one.
    baseline: String,
    /// Its median, in milliseconds.
    baseline_ms: f64,
    /// The new median over the old one, minus 1.
    change: f64,
    /// The largest change that is noise.
    noise: f64,
}

impl Comparison {
    fn new(baseline: &str, old: &Measurement, new: &Measurement) -> Self {
        let change = new.ms.median / old.ms.median - 1.0;
        // As errors of the logarithm, those of both measurements add up to that of their ratio.
        let errors = [old, new].map(|m| standard_error(m) / m.ms.median);
        let noise = (ERRORS * errors[0].hypot(errors[1])).exp_m1().max(LEAST);
        Self { baseline: baseline.to_owned(), baseline_ms: old.ms.median, change, noise }
    }

    /// Whether the call got slower by more than the noise.
    pub fn is_slower(&self) -> bool {
        self.change > self.noise
    }

    /// Whether the call got faster by more than the noise.
    fn is_faster(&self) -> bool {
        1.0 / (1.0 + self.change) - 1.0 > self.noise
    }

    /// The comparison in words.
    pub fn describe(&self) -> String {
        let Self { baseline, baseline_ms, change, noise } = self;
        let verdict = if self.is_slower() {
            output::styled(output::BAD, "SLOWER")
        } else if self.is_faster() {
            output::styled(output::GOOD, "faster")
        } else {
            "the same within the noise".to_owned()
        };
        format!(
            "{verdict}: {:+.1} % against `{baseline}` ({baseline_ms:.3} ms); noise is up to {:.1} %\n",
            100.0 * change,
            100.0 * noise
        )
    }
}

/// The standard error of the median, for times that spread as a normal distribution does.
fn standard_error(measurement: &Measurement) -> f64 {
    /// From the 10th to the 90th percentile, in standard deviations.
    const TENTHS: f64 = 2.563;
    /// The median's error is by this larger than the mean's.
    const MEDIAN: f64 = 1.2533;
    let deviation = (measurement.ms.p90 - measurement.ms.p10) / TENTHS;
    MEDIAN * deviation / (measurement.runs.max(1) as f64).sqrt()
}

impl Baselines {
    /// Compares a measurement with its baseline, and keeps it, as far as the command line asks for either.
    pub fn settle(&self, new: &Measurement) -> Result<Option<Comparison>> {
        let compared = self.baseline.as_ref().map(|name| {
            let path = self.file(name)?;
            if !path.exists() {
                let reason = format!("there is no such measurement yet: make one with --save {name}");
                return Err(output::bad_file(&path, reason));
            }
            let kept = kept(&path)?;
            let old = kept.iter().find(|old| old.call == new.call).ok_or_else(|| {
                let reason = format!(
                    "none of its {} measurement(s) is of this call on this adapter: make one with --save {name}",
                    kept.len()
                );
                output::bad_file(&path, reason)
            })?;
            Ok::<_, Error>(Comparison::new(name, old, new))
        });
        let compared = compared.transpose()?;
        if let Some(name) = &self.save {
            let path = self.file(name)?;
            let mut all = if path.exists() { kept(&path)? } else { Vec::new() };
            all.retain(|old| old.call != new.call);
            all.push(new.clone());
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|error| output::bad_file(folder, error))?;
            }
            output::json(&serde_json::json!(all), Some(&path))?;
            output::note(&format!("kept in {}", path.display()));
        }
        Ok(compared)
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.clone().or_else(|| Some(data()?.join("surprisal")));
        let folder = folder.ok_or_else(|| Error::MissingInput {
            operation: "bench".into(),
            argument: "--baselines".into(),
            reason: "this machine names no folder for data".into(),
        })?;
        Ok(folder.join(format!("{name}.json")))
    }
}

/// The measurements in a file.
fn kept(path: &Path) -> Result<Vec<Measurement>> {
    let text = fs::read(path).map_err(|error| output::bad_file(path, error))?;
    serde_json::from_slice(&text).map_err(|error| output::bad_file(path, error))
}

/// The platform's folder for a user's data.
fn data() -> Option<PathBuf> {
    let folder =
        |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if cfg!(windows) {
        return folder("LOCALAPPDATA");
    }
    let home = || folder("HOME");
    if cfg!(target_os = "macos") {
        return Some(home()?.join("Library/Application Support"));
    }
    folder("XDG_DATA_HOME").or_else(|| Some(home()?.join(".local/share")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(median: f64, spread: f64, runs: usize) -> Measurement {
        let ms = Spread { median, p10: median - spread, p90: median + spread };
        Measurement { call: Value::Null, runs, ms }
    }

    #[test]
    fn noise_is_no_slowness() {
        let compare = |old: &Measurement, new: &Measurement| Comparison::new("old", old, new);
        let steady = |median| measured(median, 0.01, 20);
        assert!(compare(&steady(10.0), &steady(10.5)).is_slower());
        assert!(!compare(&steady(10.0), &steady(10.1)).is_slower(), "below the least");
        assert!(!compare(&steady(10.0), &steady(9.0)).is_slower());
        assert!(!compare(&measured(10.0, 3.0, 20), &measured(10.5, 3.0, 20)).is_slower());
        assert!(compare(&measured(1e-6, 0.0, 3), &measured(1.0, 1.0, 3)).is_slower());
        assert!(compare(&measured(10.0, 3.0, 2000), &measured(10.5, 3.0, 2000)).is_slower());
        let faster = compare(&steady(10.0), &steady(9.0)).describe();
        assert!(faster.contains("faster") && faster.contains("-10.0 %"), "{faster}");
    }
}
