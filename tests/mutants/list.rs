//! The list of mutants, `list.toml`: deliberate faults in the kernels, which the tests must notice.

use std::path::Path;

/// The `file` of mutants of the text that `Kernel::wgsl` writes before the shaders.
pub const GENERATED: &str = "generated";

/// A mutant: one fault.
#[derive(Default)]
pub struct Mutant {
    pub name: String,
    /// The path of the shader below `shaders/`, or `GENERATED`.
    pub file: String,
    /// The text that is replaced.
    pub find: String,
    /// The number of the occurrence that is replaced, from 1, if the file has several.
    pub occurrence: Option<usize>,
    pub put: String,
    /// What is wrong with the mutant, in a sentence.
    pub breaks: String,
    /// Parts of the names of the tests that should notice; they are run before all others.
    pub tests: Vec<String>,
    /// The adapter that shows the fault, if the usual one cannot.
    pub adapter: Option<String>,
}

impl Mutant {
    /// The text of the file with the mutant.
    pub fn mutated(&self, text: &str) -> Result<String, String> {
        let places: Vec<usize> = text.match_indices(&self.find).map(|(at, _)| at).collect();
        let at = match (places.as_slice(), self.occurrence) {
            (&[at], None) => at,
            (_, None) => return Err(format!("`{}` occurs {} times", self.find, places.len())),
            (several, Some(wanted)) => match several.get(wanted - 1) {
                Some(&at) if several.len() > 1 => at,
                _ => return Err(format!("`{}` occurs {} times", self.find, places.len())),
            },
        };
        let (before, rest) = text.split_at(at);
        Ok(format!("{before}{}{}", self.put, &rest[self.find.len()..]))
    }

    /// The present text of the shader with the mutant.
    pub fn mutated_shader(&self) -> Result<String, String> {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders")).join(&self.file);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        self.mutated(&text)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let value = value.to_owned();
        match key {
            "file" => self.file = value,
            "find" => self.find = value,
            "put" => self.put = value,
            "breaks" => self.breaks = value,
            "adapter" => self.adapter = Some(value),
            "tests" => self.tests = value.split_whitespace().map(str::to_owned).collect(),
            "occurrence" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                self.occurrence = Some(number.ok_or("`occurrence` is a number from 1 on")?);
            }
            _ => return Err(format!("there is no key `{key}`")),
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let needed = [&self.file, &self.find, &self.breaks];
        needed.iter().all(|value| !value.is_empty()) && self.find != self.put
    }
}

/// All mutants, from the subset of TOML that the list uses: `[name]` and `key = 'value'`.
pub fn mutants() -> Vec<Mutant> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (line, number) in include_str!("list.toml").lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            assert!(mutants.iter().all(|mutant| mutant.name != name), "{name} is there twice");
            mutants.push(Mutant { name: name.to_owned(), ..Mutant::default() });
            continue;
        }
        let (key, value) = line.split_once(" = '").unwrap_or_default();
        let value = value.strip_suffix('\'').filter(|value| !value.contains('\''));
        let mutant = mutants.last_mut().zip(value).map(|(mutant, value)| mutant.set(key, value));
        match mutant {
            Some(Ok(())) => {}
            Some(Err(error)) => panic!("list.toml, line {number}: {error}"),
            None => panic!("list.toml, line {number}: neither `[name]` nor `key = 'value'`"),
        }
    }
    for mutant in &mutants {
        assert!(mutant.is_complete(), "{} lacks `file`, `find`, `put` or `breaks`", mutant.name);
    }
    mutants
}
