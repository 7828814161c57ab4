//! `surprisal eval` as a user runs it: every kind of file, on the reference and on every adapter.

mod files;
mod inputs;
mod losses;
mod refusals;
mod status;

use crate::command::adapters;

/// Where an evaluation runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Cpu,
    Adapter(usize),
}

impl Place {
    fn words(self) -> [String; 2] {
        match self {
            Self::Cpu => ["--backend".to_owned(), "cpu".to_owned()],
            Self::Adapter(number) => ["--adapter".to_owned(), number.to_string()],
        }
    }
}

/// The reference, and every adapter of this machine.
fn places() -> Vec<Place> {
    std::iter::once(Place::Cpu).chain((0..adapters()).map(Place::Adapter)).collect()
}
