//! The floors of `src/`: a file imports only from its own floor and from those below it. Only the device floor (and
//! the tensor, which borrows a buffer) names wgpu. And every file that a comment names exists.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The floors, from the lowest to the highest. The modules of one line must not import each other, except on the
/// highest floor.
const FLOORS: [&[&str]; 7] = [
    &["data"],
    &["spec"],
    &["plan", "reference"],
    &["skeleton"],
    &["losses", "targets"],
    &["device"],
    // The public face of the library, and what compares the CPU with the GPU.
    &["cases", "cpu", "lib", "operations", "testing"],
];
/// The families of the skeleton floor; each may import those before it.
const SKELETONS: [&str; 9] =
    ["operation", "request", "sums", "element", "row", "vectors", "linear", "pairs", "composed"];
/// The one file below the device floor that may name wgpu: a tensor is a view of a buffer.
const NAMES_A_BUFFER: &str = "data/tensor.rs";

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The files below a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its comments and without its unit tests, which are at the end of a file.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The identifier at the beginning of a text.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The names that a file imports from the crate's root: `crate::NAME`, and each NAME of `crate::{NAME::…, NAME, …}`.
fn names_of_the_root(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(identifier(rest).to_owned());
            continue;
        };
        let mut depth = 1;
        let mut begins = true;
        for (place, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                c if begins && depth == 1 && (c.is_alphanumeric() || c == '_') => {
                    names.insert(identifier(&group[place..]).to_owned());
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// The number of the family of the skeleton floor to which a file belongs.
fn skeleton(path: &str) -> Option<usize> {
    let family = identifier(path.strip_prefix("skeleton/")?);
    SKELETONS.iter().position(|known| *known == family)
}

/// The faults of a file, one line each.
fn faults(source: &Path, file: &Path) -> Vec<String> {
    let path = file.strip_prefix(source).unwrap().to_str().unwrap().replace('\\', "/");
    let module = identifier(&path);
    let Some(own) = floor(module) else {
        return vec![format!("{path}: on no floor")];
    };
    let code = code(file);
    let mut faults = Vec::new();
    for name in names_of_the_root(&code) {
        // A name in the root itself belongs to the highest floor.
        let other = floor(&name).unwrap_or(FLOORS.len() - 1);
        if other > own || (other == own && name != module && own + 1 < FLOORS.len()) {
            faults.push(format!("{path}: names crate::{name}, which is not below it"));
        }
    }
    if let Some(own) = skeleton(&path) {
        for (at, _) in code.match_indices("skeleton::") {
            let named = identifier(&code[at + "skeleton::".len()..]);
            if SKELETONS.iter().position(|family| *family == named) > Some(own) {
                faults.push(format!("{path}: names skeleton::{named}, which comes after it"));
            }
        }
    }
    let device = floor("device");
    if code.contains("wgpu::") && Some(own) < device && path != NAMES_A_BUFFER {
        faults.push(format!("{path}: names wgpu"));
    }
    faults
}

#[test]
fn files_import_from_their_own_floor_and_below() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&source, "rs");
    assert!(files.len() > 60, "only {} files in {}", files.len(), source.display());
    let faults: Vec<String> = files.iter().flat_map(|file| faults(&source, file)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What the comments of a file call a file or a folder of this repository.
fn paths_in_comments(text: &str) -> BTreeSet<String> {
    const EXTENSIONS: [&str; 4] = [".rs", ".wgsl", ".md", ".toml"];
    const FOLDERS: [&str; 6] = ["src/", "shaders/", "tests/", "scripts/", "docs/", "cli/"];
    let comments = text.lines().filter_map(|line| line.split_once("//"));
    let is_part = |c: char| c.is_alphanumeric() || "_-./*".contains(c);
    let words = comments.flat_map(|(_, comment)| comment.split(move |c| !is_part(c)));
    let words = words.map(|word| word.trim_start_matches('/').trim_end_matches(['.', '-']));
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            || EXTENSIONS.iter().any(|end| word.len() > end.len() && word.ends_with(end))
    };
    words.filter(is_path).map(str::to_owned).collect()
}

/// A path may begin at the root, in `src/`, in `shaders/`, or where the file with the comment is.
#[test]
fn files_that_comments_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shaders = files(&root.join("shaders"), "wgsl");
    let sources = ["src", "cli/src"].map(|folder| files(&root.join(folder), "rs")).concat();
    let (mut paths, mut missing) = (0, Vec::new());
    for file in shaders.iter().chain(&sources) {
        for path in paths_in_comments(&fs::read_to_string(file).unwrap()) {
            let named = path.split('*').next().unwrap_or_default();
            let bases = [root, &root.join("src"), &root.join("shaders"), file.parent().unwrap()];
            paths += 1;
            if !bases.iter().any(|base| base.join(named).exists()) {
                missing.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert!(paths > 50, "only {paths} paths");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn paths_are_found_in_comments_alone() {
    let text = "let a = \"no/file.rs\"; // See `tests/gpu.rs` and row/*.wgsl.\n/// x.rs, scripts/test; a/b";
    let paths: Vec<String> = paths_in_comments(text).into_iter().collect();
    assert_eq!(paths, ["row/*.wgsl", "scripts/test", "tests/gpu.rs", "x.rs"]);
}

#[test]
fn names_are_found_in_every_form() {
    let code = "use crate::{data::{a, b}, Plan, device::gpu::Gpu};\nfn f() { $crate::Loss::g(crate::cpu::run) }";
    let names: Vec<String> = names_of_the_root(code).into_iter().collect();
    assert_eq!(names, ["Loss", "Plan", "cpu", "data", "device"]);
}
