//! What the command line `surprisal` is made of, for tools of one's own: benchmarks, reference cases, recordings that
//! stand alone, and surveys of a machine's adapters.
//!
//! - [`mod@bench`]: a call timed beside a copy of the same bytes.
//! - [`conformance`]: reference cases on the CPU or a GPU, with a verdict for each expected tensor.
//! - [`repro`]: one call as a folder that runs without the code of its loss.
//! - [`survey`]: the adapters that a machine should have, each tried in a child process.

pub mod bench;
pub mod conformance;
pub mod repro;
pub mod survey;
