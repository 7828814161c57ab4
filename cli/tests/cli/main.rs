//! The command line as a user runs it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod adapters;
mod command;
mod commands;
mod eval;
mod folders;
mod grammar;
