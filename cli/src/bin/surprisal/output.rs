//! Output of text: to stdout, without a panic when the reader hangs up; to files, with typed errors.

use std::{fs, io::Write as _, path::Path};

use comfy_table::{Table, presets};
use surprisal::{Error, Result};

/// Prints text. A reader that hangs up (`… | head`) is not an error.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a line.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints a line to stderr, for people.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints an error as one line.
pub fn complain(error: &Error) {
    let words: Vec<String> = error.to_string().split_whitespace().map(str::to_owned).collect();
    note(&format!("error: {}", words.join(" ")));
}

/// Prints JSON, or writes it to a file; `-` is stdout.
pub fn json(value: &serde_json::Value, path: Option<&Path>) -> Result<()> {
    let text = format!("{value:#}\n");
    match path {
        Some(path) if path != Path::new("-") => write(path, text.as_bytes()),
        _ => {
            print(&text);
            Ok(())
        }
    }
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
    Error::File { path: path.display().to_string(), reason: reason.to_string() }
}

/// A Markdown table with this header.
pub fn table<T: ToString>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
    table
}

/// Bytes, with the same size in a unit that people read.
pub fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = None;
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{bytes} B ({value:.1} {unit})"))
}
