//! What shells and `man` want to know about the command line.

use std::{path::PathBuf, process::ExitCode};

use clap::CommandFactory as _;
use surprisal::Result;

use crate::{CommandLine, output};

/// The name of the program.
const NAME: &str = "surprisal";

/// Which shell.
#[derive(clap::Args)]
pub struct Completions {
    /// The shell that reads what is printed.
    shell: clap_complete::Shell,
}

impl Completions {
    /// Prints the completions.
    pub fn run(&self) -> ExitCode {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), NAME, &mut text);
        output::print(&String::from_utf8_lossy(&text));
        ExitCode::SUCCESS
    }
}

/// Which manual pages.
#[derive(clap::Args)]
pub struct Man {
    /// Write the pages of all commands into this folder, instead of printing the first one.
    folder: Option<PathBuf>,
}

impl Man {
    /// Prints the page of the program, or writes all pages.
    pub fn run(&self) -> Result<ExitCode> {
        let command = CommandLine::command();
        if let Some(folder) = &self.folder {
            std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(command, folder))
                .map_err(|error| output::bad_file(folder, error))?;
        } else {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(command).render(&mut text);
            rendered.map_err(|error| output::bad_file("stdout".as_ref(), error))?;
            output::print(&String::from_utf8_lossy(&text));
        }
        Ok(ExitCode::SUCCESS)
    }
}
