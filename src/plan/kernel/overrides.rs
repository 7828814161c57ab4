//! Finds the overrides that the code of an entry point depends on.
//!
//! The file of a functor has the code of several kernels, and a call gives every kernel the values of all its
//! overrides. Overrides that the code of a kernel does not read are left out, because they would make two kernels of
//! equal code.

use std::collections::{HashMap, HashSet};

/// The overrides of a module that have a default and that no function under `entry` and no declaration reads.
pub(super) fn unread(module: &str, entry: &str) -> HashSet<String> {
    let (functions, declarations) = split(module);
    let (mut reached, mut waiting) = (HashSet::from([entry]), vec![entry]);
    let mut read: HashSet<&str> = HashSet::new();
    while let Some(function) = waiting.pop() {
        for token in functions.get(function).into_iter().flatten() {
            read.insert(token.name);
            if token.is_called && reached.insert(token.name) {
                waiting.push(token.name);
            }
        }
    }
    let is_override = |pair: &&[Token<'_>]| matches!(pair, [word, _] if word.name == "override");
    let declared = declarations.windows(2).filter(is_override).filter_map(|pair| pair.get(1));
    let times = |name| declarations.iter().filter(|token| token.name == name).count();
    declared
        .filter(|token| token.has_default && times(token.name) == 1 && !read.contains(token.name))
        .map(|token| token.name.to_owned())
        .collect()
}

/// A name, and what follows it.
#[derive(Clone, Copy)]
struct Token<'a> {
    name: &'a str,
    is_called: bool,
    /// Whether its statement goes on to an `=`.
    has_default: bool,
}

/// Sorts a module's names into those of its functions and those outside of any.
fn split(module: &str) -> (HashMap<&str, Vec<Token<'_>>>, Vec<Token<'_>>) {
    let mut functions: HashMap<&str, Vec<Token<'_>>> = HashMap::new();
    let mut declarations = Vec::new();
    let mut function = None;
    let (mut depth, mut begins) = (0_usize, false);
    for line in module.lines().map(|line| line.split("//").next().unwrap_or_default()) {
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
    (functions, declarations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
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
            @compute @workgroup_size(1)
            fn third() { between(); }
        ";

    /// The overrides that an entry point reads of the file behind these declarations.
    fn kept(entry: &str, declarations: &str) -> Vec<&'static str> {
        let unread = unread(&format!("{declarations}{FILE}"), entry);
        let names = ["SIZE", "BARE", "HERE", "THERE", "MENTIONED"];
        names.into_iter().filter(|name| !unread.contains(*name)).collect()
    }

    #[test]
    fn what_an_entry_point_does_not_reach_is_unread() {
        // A variable with a function's name is not a call of the function.
        assert_eq!(kept("first", ""), ["SIZE", "BARE", "HERE"]);
        assert_eq!(kept("second", ""), ["SIZE", "BARE", "THERE"]);
    }

    #[test]
    fn what_is_written_before_the_files_is_read_too() {
        let written = "var<workgroup> more: array<u32, MENTIONED>;\nfn written() { taken(); }\n";
        assert_eq!(kept("first", written), ["SIZE", "BARE", "HERE", "MENTIONED"]);
        let between = "fn between() { taken(); }\n";
        assert_eq!(kept("third", between), ["SIZE", "BARE", "THERE"]);
    }
}
