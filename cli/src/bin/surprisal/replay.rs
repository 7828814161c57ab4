//! Reruns recordings without the loss code.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use serde::Serialize;
use serde_json::json;
use surprisal::{Gpu, Result};
use surprisal_cli::repro::{self, Replayed};

use crate::{adapters, arguments::Report, output, repro as folders};

/// Which recordings.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder that `check --repro` or `plan --export` wrote, or one that holds such folders.
    folder: PathBuf,
    #[command(flatten)]
    report: Report,
}

/// One folder, and what came out of its call.
#[derive(Serialize)]
struct Recording {
    folder: PathBuf,
    title: String,
    /// The adapter on which the call ran when the folder was written, if it ran.
    recorded_on: Option<String>,
    /// The outputs that the folder says what to expect of.
    outputs: Vec<Replayed>,
}

impl Recording {
    fn replay(folder: PathBuf, gpu: &Gpu) -> Result<Self> {
        let (_, call) = repro::load(&folder)?;
        let outputs = repro::replay(&folder, gpu)?;
        Ok(Self { folder, title: call.title, recorded_on: call.adapter, outputs })
    }

    fn passed(&self) -> bool {
        self.outputs.iter().all(|output| output.passed)
    }

    fn describe(&self) -> String {
        let Self { folder, title, recorded_on, outputs } = self;
        let on = recorded_on.as_deref().unwrap_or("no adapter");
        let mut text = format!("{}\n{title}\nrecorded on {on}\n", folder.display());
        if outputs.is_empty() {
            text += "it ran; the folder does not say what its outputs should be\n";
            return text;
        }
        let mut table =
            output::table(&["tensor", "result", "largest error", "at", "tolerance", "bits"]);
        for output in outputs {
            table.add_row([
                output.name.clone(),
                if output.passed { "passed" } else { "FAILED" }.to_owned(),
                format!("{:.3e}", output.max_abs_error),
                output.worst.to_string(),
                format!("{:.3e}", output.tolerance),
                if output.same_bits { "as recorded" } else { "other than recorded" }.to_owned(),
            ]);
        }
        let _ = writeln!(text, "{table}");
        text
    }
}

/// Replays and compares.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    let folders = folders::folders(&arguments.folder)?;
    let gpu = adapters::open(adapter)?;
    let adapter = surprisal::adapter::describe(gpu.info());
    let replay = |folder| Recording::replay(folder, &gpu);
    let recordings = folders.into_iter().map(replay).collect::<Result<Vec<_>>>()?;
    let text = || {
        let on = (!output::is_quiet()).then(|| format!("adapter: {adapter}\n"));
        on.into_iter()
            .chain(recordings.iter().map(Recording::describe))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let passed = recordings.iter().all(Recording::passed);
    let value = || json!({ "adapter": adapter, "passed": passed, "recordings": recordings });
    arguments.report.give(text, value)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
