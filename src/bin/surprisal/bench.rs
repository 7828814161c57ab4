//! Measuring a loss.

use std::process::ExitCode;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {}

/// Measures it.
pub fn run(_arguments: &Arguments, _adapter: Option<&str>) -> surprisal::Result<ExitCode> {
    Err(surprisal::Error::Refused {
        what: "bench".to_owned(),
        message: "it is not written yet".to_owned(),
    })
}
