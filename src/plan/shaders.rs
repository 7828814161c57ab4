//! A folder with shaders that replace the built-in ones, to edit kernels or to test the tests: see
//! "Editing shaders" and "Mutants" in MAINTAINING.md.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::data::error::{Error, Result};

/// The variable that names the folder. The folder is read once, when the first kernel is assembled.
const VARIABLE: &str = "SURPRISAL_SHADERS";
/// Files of the folder that edit what `Kernel::wgsl` writes before the shaders: a text to find, and its replacement.
const FIND: &str = "generated.find";
const PUT: &str = "generated.put";

static FOLDER: LazyLock<Result<Folder>> = LazyLock::new(|| {
    std::env::var_os(VARIABLE).map_or_else(|| Ok(Folder::default()), |path| Folder::read(&path))
});

/// The contents of the folder: texts by their paths in it.
#[derive(Default)]
struct Folder {
    texts: HashMap<String, String>,
}

impl Folder {
    fn read(path: impl AsRef<Path>) -> Result<Self> {
        let mut folder = Self::default();
        folder.add(path.as_ref(), "")?;
        if folder.texts.contains_key(FIND) != folder.texts.contains_key(PUT) {
            return Err(failed(path.as_ref(), &format!("{FIND} and {PUT} belong together")));
        }
        let mut unknown: Vec<&str> = folder.texts.keys().map(String::as_str).collect();
        unknown.retain(|below| ![FIND, PUT].contains(below) && !is_there(below));
        unknown.sort_unstable();
        if !unknown.is_empty() {
            let reason = format!("no shader is called {}", unknown.join(", "));
            return Err(failed(path.as_ref(), &reason));
        }
        Ok(folder)
    }

    /// Adds the files of a subfolder; `below` is its path in the folder.
    fn add(&mut self, folder: &Path, below: &str) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
            let path: PathBuf = entry.map_err(|error| unreadable(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let below = format!("{below}{name}");
            if path.is_dir() {
                self.add(&path, &format!("{below}/"))?;
            } else if is_taken(&below) {
                let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
                self.texts.insert(below, text);
            }
        }
        Ok(())
    }
}

/// Whether a file is read. An editor may leave other files in the folder.
fn is_taken(below: &str) -> bool {
    Path::new(below).extension().is_some_and(|extension| extension == "wgsl")
        || [FIND, PUT].contains(&below)
}

/// Whether the checkout that this was built from has a shader of this path. Without a checkout there is none to look at,
/// and every path passes.
fn is_there(below: &str) -> bool {
    let shaders = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders"));
    !shaders.is_dir() || shaders.join(below).is_file()
}

fn failed(path: &Path, reason: &str) -> Error {
    Error::file(path, format!("{VARIABLE}: {reason}"))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::file_from(path, format!("{VARIABLE}: it cannot be read"), error)
}

fn text(below: &str) -> Option<&'static str> {
    FOLDER.as_ref().ok()?.texts.get(below).map(String::as_str)
}

/// Refuses a folder that could not be read.
pub(crate) fn check() -> Result<()> {
    FOLDER.as_ref().map(|_| ()).map_err(Clone::clone)
}

/// The text that replaces the built-in shader with this path.
pub(crate) fn replacement(path: &str) -> Option<&'static str> {
    text(path)
}

/// The generated text with the edits of the folder.
pub(crate) fn edited(generated: String) -> String {
    match (text(FIND), text(PUT)) {
        (Some(find), Some(put)) => generated.replace(find, put),
        _ => generated,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{FIND, Folder};
    use std::fs;

    #[test]
    fn a_folder_is_read_or_refused() {
        let folder = std::env::temp_dir().join(format!("surprisal-shaders-{}", std::process::id()));
        fs::create_dir_all(folder.join("loss")).unwrap();
        fs::write(folder.join("loss/mse.wgsl"), "mine").unwrap();
        fs::write(folder.join("loss/mse.wgsl~"), "an editor's").unwrap();
        let read = Folder::read(&folder).unwrap();
        assert_eq!(Vec::from_iter(read.texts), [("loss/mse.wgsl".into(), "mine".into())]);
        let refused =
            |reason: &str| Folder::read(&folder).is_err_and(|error| error.chain().contains(reason));
        fs::write(folder.join("loss/msee.wgsl"), "mine").unwrap();
        fs::write(folder.join("mse.wgsl"), "mine").unwrap();
        assert!(refused("no shader is called loss/msee.wgsl, mse.wgsl"));
        fs::remove_file(folder.join("loss/msee.wgsl")).unwrap();
        fs::remove_file(folder.join("mse.wgsl")).unwrap();
        fs::write(folder.join(FIND), "half of an edit").unwrap();
        assert!(refused("belong together"));
        fs::write(folder.join("loss/dice.wgsl"), [0xff]).unwrap();
        assert!(refused("UTF-8"));
        fs::remove_dir_all(&folder).unwrap();
        assert!(refused("SURPRISAL_SHADERS"));
    }
}
