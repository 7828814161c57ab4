//! Fills buffers with numbers.

use std::collections::BTreeMap;

use surprisal::{
    Array, Dtype, Gpu, Layout,
    loss::{Dim, Domain},
    testing, wgpu,
};

/// How many numbers are drawn for an input; a longer input repeats them. The count is even, so that two 16-bit numbers
/// make a word, and not a multiple of a large power of two, so that rows differ.
pub(super) const BLOCK: u64 = 1_000_002;

/// Fills `bytes` bytes of a buffer with a block over and over.
pub(super) fn fill(gpu: &Gpu, buffer: &wgpu::Buffer, block: &[u8], bytes: u64) {
    let padded: Vec<u8>;
    let block = if block.len().is_multiple_of(4) {
        block
    } else {
        padded = [block, &[0, 0]].concat();
        &padded
    };
    let mut start = 0;
    while start < bytes && !block.is_empty() {
        let take = (bytes - start).next_multiple_of(4).min(block.len() as u64);
        gpu.queue().write_buffer(buffer, start, &block[..take as usize]);
        start += take;
        // Submit, because otherwise everything is staged twice before the first byte moves.
        gpu.queue().submit([]);
    }
}

/// Rows whose target is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ignored {
    /// Their share of all rows, from 0 to 1.
    pub share: f64,
    /// Their target.
    pub index: i64,
}

impl Ignored {
    /// Makes the share of these targets ignored, evenly spread.
    fn set(self, targets: &mut [i64]) {
        let before = |row: usize| (row as f64 * self.share).floor();
        for (row, target) in targets.iter_mut().enumerate() {
            if before(row + 1) > before(row) {
                *target = self.index;
            }
        }
    }
}

/// What the numbers of a call's inputs depend on.
pub(super) struct Numbers<'a> {
    /// The extents of the call.
    pub extents: &'a BTreeMap<Dim, u64>,
    /// The rows whose target is ignored, if some are.
    pub ignored: Option<Ignored>,
}

impl Numbers<'_> {
    /// The numbers of an input, as a training step would give them; the random numbers are seeded.
    pub(super) fn fill(
        &self,
        gpu: &Gpu,
        (argument, domain): (&str, Domain),
        layout: &Layout,
        buffer: &wgpu::Buffer,
    ) {
        let extent = |dim| self.extents.get(&dim).copied();
        let rows = extent(Dim::Rows).unwrap_or(1);
        let classes = extent(Dim::Classes).unwrap_or(rows);
        let count = layout.len().min(BLOCK) as usize;
        // Use a different seed for every input.
        let seed = argument.bytes().fold(1, |seed, byte| seed * 31 % 65_537 + u64::from(byte));
        let block = if layout.dtype.is_float() {
            let numbers = match argument {
                _ if domain != Domain::Any => testing::numbers(domain, seed, count),
                "upstream" => vec![1.0; count],
                "denominator" => vec![rows as f64; count],
                name if name.contains("prob") => vec![1.0 / classes as f64; count],
                name if name.contains("weight") && layout.shape.len() == 1 => {
                    testing::gaussian(seed, count).into_iter().map(|v| v.abs() + 0.5).collect()
                }
                // Divided by √depth, because a score adds up depth products: scores are then about as large as logits.
                "weight" => {
                    let scale = (extent(Dim::Hidden).unwrap_or(1).max(1) as f64).sqrt();
                    testing::gaussian(seed, count).into_iter().map(|v| v / scale).collect()
                }
                _ => testing::gaussian(seed, count),
            };
            Array::float(&[], numbers).to_bytes(layout.dtype)
        } else if layout.dtype == Dtype::I8 {
            let numbers = testing::targets(seed, count, 256).into_iter().map(|value| value - 128);
            Array::int(&[], numbers.collect()).to_bytes(layout.dtype)
        } else {
            let mut targets = testing::indices(domain, seed, count, classes);
            if let Some(ignored) = self.ignored.filter(|_| argument == "targets") {
                ignored.set(&mut targets);
            }
            Array::int(&[], targets).to_bytes(layout.dtype)
        };
        fill(gpu, buffer, &block, layout.len() * layout.dtype.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_ignored_targets_is_kept() {
        for (share, count) in [(0.0, 0), (0.25, 250), (0.3, 300), (1.0, 1000)] {
            let mut targets = vec![1; 1000];
            Ignored { share, index: -100 }.set(&mut targets);
            assert_eq!(targets.iter().filter(|target| **target == -100).count(), count, "{share}");
        }
    }
}
