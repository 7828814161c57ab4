//! What the tests of the command line share: running it, and files for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The program, which is told of no adapter.
pub fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_surprisal"));
    for variable in ["SURPRISAL_ADAPTER", "XDG_RUNTIME_DIR", "COLUMNS"] {
        command.env_remove(variable);
    }
    command.args(words);
    command
}

pub fn surprisal(words: &[&str]) -> Output {
    program(words).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line on stderr of a refusal.
pub fn refusal(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// What clap says of words that it does not understand.
pub fn misuse(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

/// How many adapters this machine has: none only where none is required.
pub fn adapters() -> usize {
    let adapters = pollster::block_on(surprisal::adapter::adapters()).len();
    let required = std::env::var("SURPRISAL_GPU").as_deref() == Ok("require");
    assert!(adapters > 0 || !required, "SURPRISAL_GPU=require: there is no adapter");
    adapters
}

pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A `.npy` file as numpy writes it.
pub fn npy(path: &Path, descr: &str, fortran: bool, shape: &str, data: &[u8]) {
    fs::write(path, npy_bytes(descr, fortran, shape, data)).unwrap();
}

pub fn npy_bytes(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{dict:<width$}\n", width = length - 1).bytes());
    bytes.extend(data);
    bytes
}
