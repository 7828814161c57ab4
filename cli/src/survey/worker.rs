//! Child processes that answer in lines. A driver that crashes or hangs takes down only its own child.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use surprisal::{Error, Result};

/// The mark in front of what a child says: drivers print to stdout too, and their lines must not count as answers.
pub const MARK: &str = "surprisal child: ";

/// Says a line to the parent, from within a child.
pub fn say(line: impl std::fmt::Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let said = writeln!(stdout, "{MARK}{line}").and_then(|()| stdout.flush());
    said.map_err(|error| Error::file_from("stdout".as_ref(), "it cannot be written", error))
}

/// What a child said in a line of its output, if it said something.
fn said(line: &[u8]) -> Option<String> {
    // A driver may leave its own line unfinished, or print bytes that are not text.
    let line = String::from_utf8_lossy(line);
    line.split_once(MARK).map(|(_, said)| said.trim_end_matches('\r').to_owned())
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, or because of its driver.
    Exited(ExitStatus),
    /// We ended it, because it said nothing for this long.
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

/// Runs a command, passes each line that it [says](say) to `hear`, and ends it if it says nothing for as long as
/// `patience`. An error says why it could not be run, which is not a driver's fault.
pub fn run(mut command: Command, patience: Duration, mut hear: impl FnMut(&str)) -> Result<End> {
    let program = command.get_program().to_string_lossy().into_owned();
    let refused = |what: &str, error: io::Error| {
        let reason = format!("as a child process it could not be {what}");
        Error::file_from(program.as_ref(), reason, error)
    };
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| refused("started", error))?;
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Do not join this thread: a process that the child started may hold its end of the pipe open.
        thread::spawn(move || {
            let lines = BufReader::new(stdout).split(b'\n').map_while(io::Result::ok);
            let said = lines.filter_map(|line| said(&line));
            said.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
    }
    loop {
        match lines.recv_timeout(patience) {
            Ok(line) => hear(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().map_err(|error| refused("ended", error))?;
                reap(child);
                return Ok(End::Silent(patience));
            }
        }
    }
    // The child says nothing more, but may still hang while it exits.
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().map_err(|error| refused("waited for", error))? {
            return Ok(End::Exited(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().map_err(|error| refused("ended", error))?;
    reap(child);
    Ok(End::Silent(patience))
}

/// Waits for a killed child in the background: a child that is stuck in its driver survives even that.
fn reap(mut child: Child) {
    thread::spawn(move || child.wait());
}

/// A child that runs this script, in which `say` stands for [`say`].
#[cfg(all(test, unix))]
pub(super) fn child(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("say() {{ echo \"{MARK}$*\"; }}\n{script}")]);
    command
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> (Result<End>, Vec<String>) {
        let command = child(script);
        let mut lines = Vec::new();
        let end = run(command, patience, |line| lines.push(line.to_owned()));
        (end, lines)
    }

    #[test]
    fn a_child_that_answers_is_heard_to_its_end() {
        let (end, lines) = shell("say one; say two; exit 3", Duration::from_secs(60));
        assert!(matches!(end, Ok(End::Exited(status)) if status.code() == Some(3)), "{end:?}");
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_child_that_falls_silent_is_ended() {
        let start = Instant::now();
        let patience = Duration::from_millis(300);
        let (end, lines) = shell("say one; exec sleep 60", patience);
        assert_eq!(end, Ok(End::Silent(patience)));
        assert_eq!(lines, ["one"]);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn patience_begins_anew_with_every_line() {
        let script = "for i in 1 2 3 4 5; do say $i; sleep 0.2; done";
        let (end, lines) = shell(script, Duration::from_millis(900));
        assert!(matches!(end, Ok(End::Exited(status)) if status.success()), "{end:?}");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn what_a_driver_prints_is_no_answer() {
        let script = r"echo 'driver: hello'; say one; printf 'an open line '; say two; printf '\377\n'; say three";
        let (_, lines) = shell(script, Duration::from_secs(60));
        assert_eq!(lines, ["one", "two", "three"]);
        let patience = Duration::from_millis(300);
        let (end, lines) = shell("while :; do echo driver: busy; sleep 0.05; done", patience);
        assert_eq!((end, lines.len()), (Ok(End::Silent(patience)), 0));
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        let error = run(Command::new("/no/such/program"), Duration::MAX, |_| ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/no/such/program") && text.contains("started"), "{text}");
    }
}
