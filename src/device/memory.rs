//! Counts the bytes of GPU memory that a handle holds.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    data::error::{Error, Result},
    device::{gpu::Gpu, guard::guarded},
};

/// The bytes of the buffers that a [`Gpu`] and its clones made for themselves: scratch, parameters, staging, and the
/// tensors of [`Gpu::run`]. The caller's tensors (also those of [`Gpu::output_buffer`]) are not counted.
///
/// A buffer counts while this crate holds it. A buffer that a recording in flight still needs is freed a little after
/// it is subtracted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Memory {
    /// The bytes held now.
    pub held: u64,
    /// The most bytes held at any time.
    pub peak: u64,
}

/// The count behind [`Memory`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    held: AtomicU64,
    peak: AtomicU64,
}

/// A buffer that is counted until it is dropped.
#[derive(Debug)]
pub struct Counted {
    buffer: wgpu::Buffer,
    tally: Arc<Tally>,
}

impl Counted {
    pub(crate) fn new(buffer: wgpu::Buffer, tally: &Arc<Tally>) -> Self {
        let held = tally.held.fetch_add(buffer.size(), Ordering::AcqRel) + buffer.size();
        tally.peak.fetch_max(held, Ordering::AcqRel);
        Self { buffer, tally: tally.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.held.fetch_sub(self.buffer.size(), Ordering::AcqRel);
    }
}

impl Deref for Counted {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Gpu {
    /// The bytes of GPU memory that this handle and its clones hold.
    pub fn memory(&self) -> Memory {
        let Tally { held, peak } = &*self.0.tally;
        Memory { held: held.load(Ordering::Acquire), peak: peak.load(Ordering::Acquire) }
    }
}

/// The size of buffers made here is a multiple of this.
///
/// Symptom: a device's allocator holds up to 255 bytes more for a call than its plan says. Cause: the allocator puts
/// buffers one behind another and charges the gap before an aligned start to the buffer that begins there. Remedy:
/// every buffer made here, and every part of a plan's scratch, ends at an aligned start.
const BUFFER_UNIT: u64 = 256;

/// A buffer that [`Gpu::memory`] counts, or a typed error if memory runs out.
pub fn buffer(gpu: &Gpu, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Counted> {
    Ok(Counted::new(uncounted(gpu, what, bytes, usage)?, &gpu.0.tally))
}

/// A buffer that [`Gpu::memory`] does not count, or a typed error if memory runs out.
pub fn uncounted(
    gpu: &Gpu,
    what: &str,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    let limit = gpu.0.profile.buffer_bytes;
    if bytes > limit {
        return Err(Error::Limit { what: format!("bytes of {what}").into(), found: bytes, limit });
    }
    let size = bytes.next_multiple_of(BUFFER_UNIT).min(limit - limit % 4).max(bytes);
    guarded(&gpu.0.device, what, bytes, || {
        gpu.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(&format!("surprisal.{what}")),
            size,
            usage,
            mapped_at_creation: false,
        })
    })
}
