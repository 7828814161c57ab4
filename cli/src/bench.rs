//! Times a call beside a copy of the same bytes, or a matrix product: what `surprisal bench` and `cargo bench` share.
//!
//! A [`Workload`] is made from a [`Draft`](crate::draft::Draft), so it works for every loss of the registry. A [`Timer`] runs
//! one recording and waits for it. A [`CopyKernel`] shows the fastest time that the memory allows, a [`BestProduct`]
//! the best rate at which the adapter multiplies matrices.

mod copy;
mod fill;
mod product;
mod timer;
mod workload;

pub use copy::CopyKernel;
pub use fill::Ignored;
pub use product::BestProduct;
pub use timer::{Sample, Spread, Timer, interleave, wait};
pub use workload::{Workload, allocated_bytes, streamed_bytes};
