//! `surprisal`: lists the adapters, describes the losses, shows what a call costs, checks whether the results are
//! right, measures their speed, and computes one loss on a file.
//!
//! Exit status: 0 for success, 1 if checks failed, 2 for bad usage or bad input (one line on stderr that starts with
//! `error:`).

mod adapters;
mod arguments;
mod bench;
mod check;
mod eval;
mod files;
mod images;
mod losses;
mod output;
mod plan;
mod replay;
mod repro;
mod selfchecks;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Fused losses and their gradients as WGSL compute shaders.
#[derive(Parser)]
#[command(name = "surprisal", version, about, propagate_version = true)]
struct CommandLine {
    /// Use the adapter whose name, backend or driver contains this, or the one of this number in
    /// the default order (also: the variable `SURPRISAL_ADAPTER`).
    #[arg(long, global = true, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Print results and errors alone: no notes, no warnings, no progress.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the adapters: limits, features, what they mean here, and why an expected one is missing.
    Adapters(adapters::Arguments),
    /// List the losses, or describe one: inputs, outputs, options, formula, torch equivalent.
    Losses(losses::Arguments),
    /// Print what a call dispatches and what memory it takes. Needs no GPU.
    Plan(plan::Arguments),
    /// Run reference cases and self-checks on every adapter in turn.
    Check(check::Arguments),
    /// Rerun a folder that `check --repro` or `plan --export` wrote, without the loss code.
    Replay(replay::Arguments),
    /// Measure a loss.
    Bench(bench::Arguments),
    /// Compute one loss on .npy, .npz or .safetensors files.
    Eval(eval::Arguments),
    /// Print the completions of a shell. In bash, `source <(surprisal completions bash)` switches them on.
    Completions(shell::Completions),
    /// Print the manual page, or write those of all commands.
    Man(shell::Man),
}

/// Keeps Wayland's library quiet.
///
/// Symptom: "error: XDG_RUNTIME_DIR is invalid or not set" on stderr of every command that looks for adapters. Cause:
/// wgpu's OpenGL backend asks that library for a display, and it complains where the variable is not set, as in many
/// containers. Remedy: a folder without any display in it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a change of the environment is only safe without other threads")]
fn name_runtime_folder() {
    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    let folder = std::env::var_os(VARIABLE);
    if folder.is_none_or(|folder| !std::path::Path::new(&folder).is_absolute()) {
        // SAFETY: the program begins here, and has no other thread yet.
        unsafe { std::env::set_var(VARIABLE, "/nonexistent") };
    }
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    name_runtime_folder();
    let CommandLine { adapter, quiet, command } = CommandLine::parse();
    if quiet {
        output::be_quiet();
    }
    let adapter = adapter.as_deref();
    let done = match &command {
        Command::Adapters(arguments) => adapters::run(arguments, adapter),
        Command::Losses(arguments) => losses::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Check(arguments) => check::run(arguments, adapter),
        Command::Replay(arguments) => replay::run(arguments, adapter),
        Command::Bench(arguments) => bench::run(arguments, adapter),
        Command::Eval(arguments) => eval::run(arguments, adapter),
        Command::Completions(arguments) => Ok(arguments.run()),
        Command::Man(arguments) => arguments.run(),
    };
    done.unwrap_or_else(|error| {
        output::complain(&error);
        ExitCode::from(2)
    })
}
