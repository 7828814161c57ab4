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

/// A device for a test; none where there is no adapter and none is required (`SURPRISAL_GPU=require`).
#[cfg(test)]
fn opened() -> surprisal::Result<Option<surprisal::Gpu>> {
    match surprisal::Gpu::open_blocking(None) {
        Ok(gpu) => {
            eprintln!("on {}", surprisal::adapter::describe(gpu.info()));
            Ok(Some(gpu))
        }
        Err(error) if std::env::var("SURPRISAL_GPU").as_deref() == Ok("require") => Err(error),
        Err(error) => {
            eprintln!("skipped: {error}");
            Ok(None)
        }
    }
}
