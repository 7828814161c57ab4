//! Fills buffers with numbers.

use surprisal::{Gpu, wgpu};

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
