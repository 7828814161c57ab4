//! Child processes that answer in lines. A driver that crashes or hangs takes its child along and
//! nothing else.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How a child came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, or by its driver.
    Exited(ExitStatus),
    /// By us: it said nothing for this long.
    Silent(Duration),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "its process ended: {status}"),
            Self::Silent(patience) => {
                write!(f, "no answer in {} s: its driver hangs", patience.as_secs_f64())
            }
        }
    }
}

/// Runs a command, hands each line that it says to `hear`, and ends it where it says nothing for as
/// long as `patience`. An error says why it could not be run.
pub fn run(
    mut command: Command,
    patience: Duration,
    mut hear: impl FnMut(&str),
) -> Result<End, String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| error.to_string())?;
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Not joined: a process that the child started may hold its end of the pipe open.
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
    }
    loop {
        match lines.recv_timeout(patience) {
            Ok(line) => hear(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().map_err(|error| error.to_string())?;
                reap(child);
                return Ok(End::Silent(patience));
            }
        }
    }
    // Nothing more will be heard of it; it may still hang on its way out.
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(End::Exited(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().map_err(|error| error.to_string())?;
    reap(child);
    Ok(End::Silent(patience))
}

/// Waits for a killed child aside: one that is stuck in its driver outlives even that.
fn reap(mut child: Child) {
    thread::spawn(move || child.wait());
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> (Result<End, String>, Vec<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let end = run(command, patience, |line| lines.push(line.to_owned()));
        (end, lines)
    }

    #[test]
    fn a_child_that_answers_is_heard_to_its_end() {
        let (end, lines) = shell("echo one; echo two; exit 3", Duration::from_secs(60));
        assert!(matches!(end, Ok(End::Exited(status)) if status.code() == Some(3)), "{end:?}");
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_child_that_falls_silent_is_ended() {
        let start = Instant::now();
        let patience = Duration::from_millis(300);
        let (end, lines) = shell("echo one; exec sleep 60", patience);
        assert_eq!(end, Ok(End::Silent(patience)));
        assert_eq!(lines, ["one"]);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn patience_begins_anew_with_every_line() {
        let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done";
        let (end, lines) = shell(script, Duration::from_millis(900));
        assert!(matches!(end, Ok(End::Exited(status)) if status.success()), "{end:?}");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        assert!(run(Command::new("/no/such/program"), Duration::MAX, |_| ()).is_err());
    }
}
