//! Reruns recordings without the loss code.

use std::{path::PathBuf, process::ExitCode};

use surprisal::Result;
use surprisal_cli::repro;

use crate::{adapters, output, repro as folders};

/// Which recordings.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder that `check --repro` wrote, or one that holds such folders.
    folder: PathBuf,
}

/// Replays and compares.
pub fn run(arguments: &Arguments, adapter: Option<&str>) -> Result<ExitCode> {
    let folders = folders::folders(&arguments.folder)?;
    let gpu = adapters::open(adapter)?;
    output::line(&format!("adapter: {}", surprisal::adapter::describe(gpu.info())));
    let mut failed = false;
    for folder in folders {
        let (_, call) = repro::load(&folder)?;
        let on = call.adapter.as_deref().unwrap_or("no adapter");
        output::line(&format!("\n{}\nrecorded on {on}", call.title));
        let mut table =
            output::table(&["tensor", "result", "largest error", "at", "tolerance", "bits"]);
        for replayed in repro::replay(&folder, &gpu)? {
            failed |= !replayed.passed;
            table.add_row([
                replayed.name,
                if replayed.passed { "passed" } else { "FAILED" }.to_owned(),
                format!("{:.3e}", replayed.max_abs_error),
                replayed.worst.to_string(),
                format!("{:.3e}", replayed.tolerance),
                if replayed.same_bits { "as recorded" } else { "other than recorded" }.to_owned(),
            ]);
        }
        output::line(&table.to_string());
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
