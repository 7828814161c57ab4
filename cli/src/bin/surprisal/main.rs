//! `surprisal`: lists the adapters, describes the losses, shows what a call costs, checks whether the results are
//! right, measures their speed, and computes one loss on a file.
//!
//! Exit status: 0 for success, 1 if checks failed, 2 for bad usage or bad input (one line on stderr that starts with
//! `error:`).

mod adapters;
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
mod sweep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Fused losses and their gradients as WGSL compute shaders.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct CommandLine {
    /// Use the adapter whose name, backend or driver contains this, or the one of this number in
    /// the default order (also: the variable `SURPRISAL_ADAPTER`).
    #[arg(long, global = true, value_name = "SUBSTRING")]
    adapter: Option<String>,
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
    /// Rerun a folder that `check --repro` wrote, without the loss code.
    Replay(replay::Arguments),
    /// Measure a loss.
    Bench(bench::Arguments),
    /// Compute one loss on .npy, .npz or .safetensors files.
    Eval(eval::Arguments),
}

fn main() -> ExitCode {
    let CommandLine { adapter, command } = CommandLine::parse();
    let adapter = adapter.as_deref();
    let done = match &command {
        Command::Adapters(arguments) => adapters::run(arguments, adapter),
        Command::Losses(arguments) => losses::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Check(arguments) => check::run(arguments, adapter),
        Command::Replay(arguments) => replay::run(arguments, adapter),
        Command::Bench(arguments) => bench::run(arguments, adapter),
        Command::Eval(arguments) => eval::run(arguments, adapter),
    };
    done.unwrap_or_else(|error| {
        output::complain(&error);
        ExitCode::from(2)
    })
}
