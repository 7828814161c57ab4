//! The library behind the command line `surprisal`, for your own tools: benchmarks, reference cases, self-contained
//! recordings, and surveys of a machine's adapters.
//!
//! - [`mod@bench`]: times a call beside a copy of the same bytes.
//! - [`conformance`]: reference cases on the CPU or a GPU, with a verdict for each expected tensor.
//! - [`draft`]: a call made from extents alone, with its plan.
//! - [`module`]: kernels as modules of naga, and as SPIR-V.
//! - [`repro`]: one call as a folder that runs without the code of its loss.
//! - [`survey`]: the adapters that a machine should have, each tried in a child process.

pub mod bench;
pub mod conformance;
pub mod draft;
pub mod module;
pub mod repro;
pub mod survey;
