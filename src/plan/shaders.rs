//! Shaders from a folder in the place of the built-in ones, for whoever edits kernels or tests the tests: see
//! "Editing shaders" and "Mutants" in MAINTAINING.md.

mod built_in;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::data::error::{Error, Result};
use built_in::BUILT_IN;

/// Names the folder. It is read once, when the first kernel is assembled.
const VARIABLE: &str = "SURPRISAL_SHADERS";
/// Files of the folder that edit what `Kernel::wgsl` writes before the shaders: a text, and what stands in its place.
const FIND: &str = "generated.find";
const PUT: &str = "generated.put";

static FOLDER: LazyLock<Result<Folder>> = LazyLock::new(|| {
    std::env::var_os(VARIABLE).map_or_else(|| Ok(Folder::default()), |path| Folder::read(&path))
});

/// What the folder holds: texts by their path below it.
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
        unknown.retain(|below| ![FIND, PUT].contains(below) && !BUILT_IN.contains(below));
        unknown.sort_unstable();
        if !unknown.is_empty() {
            let reason = format!("no shader is called {}", unknown.join(", "));
            return Err(failed(path.as_ref(), &reason));
        }
        Ok(folder)
    }

    /// Adds the files of a folder whose path below the whole one is `below`.
    fn add(&mut self, folder: &Path, below: &str) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
            let path: PathBuf = entry.map_err(|error| failed(folder, &error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let below = format!("{below}{name}");
            if path.is_dir() {
                self.add(&path, &format!("{below}/"))?;
            } else if is_taken(&below) {
                let text = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
                self.texts.insert(below, text);
            }
        }
        Ok(())
    }
}

/// An editor may leave other files there.
fn is_taken(below: &str) -> bool {
    Path::new(below).extension().is_some_and(|extension| extension == "wgsl")
        || [FIND, PUT].contains(&below)
}

fn failed(path: &Path, reason: &impl ToString) -> Error {
    Error::File {
        path: path.display().to_string(),
        reason: format!("{VARIABLE}: {}", reason.to_string()),
    }
}

fn text(below: &str) -> Option<&'static str> {
    FOLDER.as_ref().ok()?.texts.get(below).map(String::as_str)
}

/// Refuses a folder that could not be read.
pub(crate) fn check() -> Result<()> {
    FOLDER.as_ref().map(|_| ()).map_err(Clone::clone)
}

/// The text that stands in the place of the built-in shader with this path.
pub(crate) fn replacement(path: &str) -> Option<&'static str> {
    text(path)
}

/// What was written before the shaders, as the folder edits it.
pub(crate) fn edited(generated: String) -> String {
    match (text(FIND), text(PUT)) {
        (Some(find), Some(put)) => generated.replace(find, put),
        _ => generated,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{BUILT_IN, FIND, Folder};
    use crate::data::error::Error;
    use std::fs;

    #[test]
    fn a_folder_is_read_or_refused() {
        let folder = std::env::temp_dir().join(format!("surprisal-shaders-{}", std::process::id()));
        fs::create_dir_all(folder.join("loss")).unwrap();
        fs::write(folder.join("loss/mse.wgsl"), "mine").unwrap();
        fs::write(folder.join("loss/mse.wgsl~"), "an editor's").unwrap();
        let read = Folder::read(&folder).unwrap();
        assert_eq!(Vec::from_iter(read.texts), [("loss/mse.wgsl".into(), "mine".into())]);
        let refused = |reason: &str| {
            let Err(Error::File { reason: found, .. }) = Folder::read(&folder) else {
                return false;
            };
            found.contains(reason)
        };
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

    #[test]
    fn every_shader_is_listed() {
        let mut all = Folder::default();
        all.add(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders").as_ref(), "").unwrap();
        let mut found: Vec<&str> = all.texts.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, BUILT_IN);
    }
}
