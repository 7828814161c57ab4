//! Runs the child processes of the adapters in parallel: software drivers compile a shader on one core, which is most
//! of the time of a first run.

use std::{
    io::{self, IsTerminal as _, PipeReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use libtest_mimic::Arguments;
use surprisal_cli::survey::Survey;

use crate::{CHILD, FAILED};

/// The number of adapters that fail. The output of the children is printed in the order of the adapters: the first
/// one's at once, a later one's when its turn has come.
pub fn failed(names: &[String], survey: &Survey, arguments: &Arguments) -> usize {
    let at_once = arguments.test_threads.unwrap_or(names.len()).max(1);
    let numbered: Vec<(usize, &String)> = names.iter().enumerate().collect();
    let groups = numbered.chunks(at_once).map(|adapters| {
        let start = |&(number, _): &(usize, _)| Running::start(number, survey, arguments);
        let children: Vec<Running> = adapters.iter().map(start).collect();
        let ends = adapters.iter().zip(children);
        ends.filter_map(|(&(number, name), child)| {
            if !arguments.list {
                println!("\nadapter {number}: {name}");
            }
            (!child.passes(name)).then_some(number)
        })
        .count()
    });
    groups.sum()
}

/// The process with the tests of one adapter, and its output.
struct Running {
    child: Child,
    printed: Receiver<Vec<u8>>,
}

impl Running {
    fn start(number: usize, survey: &Survey, arguments: &Arguments) -> Self {
        // stdout and stderr share one pipe, so that a panic's message stays beside the name of its test.
        let (reader, stdout) = io::pipe().unwrap();
        let stderr = stdout.try_clone().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        survey.without_faults(&mut command);
        command.args(std::env::args_os().skip(1)).env(CHILD, number.to_string());
        if arguments.color.is_none() && io::stdout().is_terminal() {
            command.args(["--color", "always"]);
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        // `command` is dropped at the end of this function, and with it our ends of the pipe; otherwise it would never
        // close.
        Self { child: command.spawn().unwrap(), printed: drained(reader) }
    }

    /// Prints the output of the child until it ends, and returns whether its tests passed.
    fn passes(mut self, name: &str) -> bool {
        for bytes in self.printed {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).unwrap();
        }
        let status = self.child.wait().unwrap();
        if !status.success() && status.code() != Some(FAILED.into()) {
            println!("{name}: the tests' process died ({status}) in the test named last above");
        }
        status.success()
    }
}

/// Reads a pipe to its end even if nobody listens, because a child must not wait for its turn to print.
fn drained(mut pipe: PipeReader) -> Receiver<Vec<u8>> {
    let (sender, printed) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = io::Read::read(&mut pipe, &mut bytes) {
            if sender.send(bytes[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    printed
}
