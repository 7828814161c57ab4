//! Finds the overrides that the code of an entry point depends on.
//!
//! The file of a functor has the code of several kernels, and a call gives every kernel the values of all its
//! overrides. Overrides that the code of a kernel does not read are left out, because they would make two kernels of
//! equal code.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use super::{Kernel, Source};

/// Results by the addresses of the sources' texts, and by the entry point.
type Known = HashMap<(Vec<(usize, usize)>, &'static str), Arc<HashSet<&'static str>>>;

/// Each combination of sources is parsed only once: the sources are static and few, but a training loop plans at every
/// step.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// Removes the values of overrides that no code of the entry point reads.
pub(crate) fn keep_read(kernel: &mut Kernel) {
    let places =
        kernel.sources.iter().map(|s| (s.current().as_ptr() as usize, s.current().len())).collect();
    let key = (places, kernel.entry);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let unread = known.unwrap_or_else(|| {
        let unread = Arc::new(unread(&kernel.sources, kernel.entry));
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, unread.clone());
        unread
    });
    kernel.overrides.retain(|(name, _)| !unread.contains(name));
}

/// The overrides with a default that neither a function below `entry` nor a declaration reads.
fn unread(sources: &[Source], entry: &'static str) -> HashSet<&'static str> {
    let mut functions: HashMap<&'static str, Vec<Token>> = HashMap::new();
    let mut declarations: Vec<Token> = Vec::new();
    for source in sources {
        split(source.current(), &mut functions, &mut declarations);
    }
    let (mut reached, mut waiting) = (HashSet::from([entry]), vec![entry]);
    let mut read: HashSet<&'static str> = HashSet::new();
    while let Some(function) = waiting.pop() {
        for token in functions.get(function).into_iter().flatten() {
            read.insert(token.name);
            if token.is_called && reached.insert(token.name) {
                waiting.push(token.name);
            }
        }
    }
    let is_override = |pair: &&[Token]| matches!(pair, [word, _] if word.name == "override");
    let declared = declarations.windows(2).filter(is_override).filter_map(|pair| pair.get(1));
    let times = |name| declarations.iter().filter(|token| token.name == name).count();
    declared
        .filter(|token| token.has_default && times(token.name) == 1 && !read.contains(token.name))
        .map(|token| token.name)
        .collect()
}

/// A name, and what follows it.
#[derive(Clone, Copy)]
struct Token {
    name: &'static str,
    is_called: bool,
    /// Whether its statement goes on to an `=`.
    has_default: bool,
}

/// Splits the names of a file into those in functions and those outside of functions.
fn split(
    text: &'static str,
    functions: &mut HashMap<&'static str, Vec<Token>>,
    declarations: &mut Vec<Token>,
) {
    let mut function: Option<&'static str> = None;
    let (mut depth, mut begins) = (0_usize, false);
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end == 0 {
                match first {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if first == '}' && depth == 0 {
                    function = None;
                }
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                continue;
            }
            let (name, behind) = rest.split_at(end);
            let statement = behind.split(';').next().unwrap_or_default();
            let token = Token {
                name,
                is_called: behind.trim_start().starts_with('('),
                has_default: statement.contains('='),
            };
            if std::mem::take(&mut begins) {
                function = Some(name);
            } else if name == "fn" {
                begins = true;
            } else if let Some(function) = function {
                functions.entry(function).or_default().push(token);
            } else {
                declarations.push(token);
            }
            rest = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Source = Source {
        path: "file.wgsl",
        text: "
            override SIZE: u32 = 4u; // Not MENTIONED.
            override BARE: bool;
            override HERE: bool = false;
            override THERE: bool = false;
            override MENTIONED: bool = false;
            var<workgroup> lanes: array<u32, SIZE>;
            fn helper(x: u32) -> u32 { if (HERE) { return x; } return 0u; }
            fn taken() { if (THERE) { return; } }
            @compute @workgroup_size(1)
            fn first() { let taken = helper(1u); lanes[taken] = taken; }
            @compute @workgroup_size(1)
            fn second() { taken(); }
        ",
    };

    #[test]
    fn what_an_entry_point_does_not_reach_is_unread() {
        // A variable with the name of a function is not a call of the function.
        assert_eq!(unread(&[FILE], "first"), HashSet::from(["THERE", "MENTIONED"]));
        assert_eq!(unread(&[FILE], "second"), HashSet::from(["HERE", "MENTIONED"]));
    }
}
