//! Output of text: to stdout, without a panic when the reader hangs up; to files, with typed errors. Colours reach
//! terminals alone.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use surprisal::{Error, Result};

/// Whether notes, warnings and progress are left out.
static QUIET: AtomicBool = AtomicBool::new(false);

/// How something that failed looks on a terminal.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// How something that went well looks on a terminal.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// How a warning looks on a terminal.
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Leaves out notes, warnings and progress from now on.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether notes, warnings and progress are left out.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether people watch stderr.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Text that has a style on terminals.
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints text. A reader that hangs up (`… | head`) is not an error.
pub fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a line to stderr, for people, unless they asked for quiet.
pub fn note(text: &str) {
    if !is_quiet() {
        say(text);
    }
}

/// Prints a warning to stderr, unless the user asked for quiet.
pub fn warn(text: &str) {
    note(&format!("{} {text}", styled(WARNING, "WARNING:")));
}

fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints an error as one line, with what may help.
pub fn complain(error: &Error) {
    let mut text = error.chain();
    if let Some(hint) = hint(error) {
        text = format!("{text}; {hint}");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    say(&format!("{} {}", styled(BAD, "error:"), words.join(" ")));
}

/// What may help with an error.
fn hint(error: &Error) -> Option<String> {
    match error {
        Error::UnknownName { name, known, .. } => {
            let nearest = nearest(name, known.split(", "))?;
            Some(format!("did you mean `{nearest}`?"))
        }
        Error::HostOnly { .. } => Some("on the command line: `surprisal eval`".to_owned()),
        Error::NoAdapter { .. } => Some(
            "`surprisal adapters` says why; `eval` and `check` need none with `--backend cpu`"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The name that is most like a wrong one, if one is.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.8;
    let alike = known.map(|name| (strsim::jaro_winkler(wrong, name), name));
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(alike, _)| *alike > ALIKE).map(|(_, name)| name)
}

/// Prints JSON, or writes it to a file.
pub fn json(value: &serde_json::Value, path: Option<&Path>) -> Result<()> {
    let text = format!("{value:#}\n");
    if let Some(path) = path {
        return write(path, text.as_bytes());
    }
    print(&text);
    Ok(())
}

/// Writes a file completely or not at all, so that nobody ever reads half a file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || match fs::metadata(path) {
        // A pipe or a device is written to directly. For a link, the file that it points to is replaced, not the link.
        Ok(there) if !there.is_file() => fs::write(path, bytes),
        Ok(_) => replace(&fs::canonicalize(path)?, bytes),
        Err(_) => replace(path, bytes),
    };
    write().map_err(|error| bad_file(path, error))
}

/// Writes a temporary file beside this one, and renames it to this one's name.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        // Ignore the result: the temporary file may not exist, and nobody needs it.
        let _ = fs::remove_file(&beside);
    })
}

/// An error about a file.
pub fn bad_file(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::file(path, reason)
}

/// A Markdown table with this header. It is as wide as the terminal at most, or as the variable `COLUMNS` says.
pub fn table<T: ToString>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    if let Some(columns) = columns {
        table.set_width(columns);
    }
    table.set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
    table
}

/// Bytes in a unit that people read.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
