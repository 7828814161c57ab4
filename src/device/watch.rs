//! Brings losses and statuses to the host while later steps run, through a small ring of staging buffers.

use std::{
    array,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use crate::{
    data::{
        error::{Error, Result},
        status::Status,
        tensor::{Dtype, Tensor},
    },
    device::{gpu::Gpu, guard::usable, staging::Arrival},
};

/// The most watches in flight at once.
pub const RING: usize = 8;
/// Bytes of a report: a loss, and behind it a status.
const REPORT_BYTES: u64 = 64;
const STATUS_AT: u64 = 16;

/// The number of slots that are taken.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    taken: Arc<AtomicUsize>,
}

impl Ring {
    fn take(&self) -> Result<Slot> {
        let (done, seen) = (Ordering::AcqRel, Ordering::Acquire);
        let mut count = self.taken.load(seen);
        while count < RING {
            match self.taken.compare_exchange_weak(count, count + 1, done, seen) {
                Ok(_) => return Ok(Slot(self.taken.clone())),
                Err(now) => count = now,
            }
        }
        Err(Error::RingFull { slots: RING })
    }
}

/// A slot of the ring, which is returned when it is dropped.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The value of a watched loss, with its status.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The (reduced) loss.
    pub loss: f32,
    /// The status.
    pub status: Status,
}

/// A future that resolves to the [`Report`]s of a step's `N` losses once its commands have run.
///
/// Awaiting it does not keep a core busy: it polls the device about once a millisecond, and wakes earlier if something
/// else polls the device. [`Watch::wait`] blocks instead. Dropping it returns its slot.
#[derive(Debug)]
pub struct Watch<const N: usize = 1> {
    arrival: Arrival,
    _slot: Slot,
}

impl Gpu {
    /// Records a copy of losses and their statuses into a slot of a staging ring, which is mapped when the encoder's
    /// commands are submitted. Nothing waits: a full ring is an error.
    ///
    /// Each loss is one `f32`, each status [`Status::WORDS`] words. Their buffers need the usage `COPY_SRC`. A step
    /// takes one slot, whatever the number of its losses.
    ///
    /// ```no_run
    /// # fn step(gpu: &surprisal::Gpu, mut encoder: wgpu::CommandEncoder,
    /// #     loss: surprisal::Tensor, status: surprisal::Tensor) -> surprisal::Result<()> {
    /// let watch = gpu.watch(&mut encoder, [(&loss, &status)])?;
    /// let submission = gpu.queue().submit([encoder.finish()]);
    /// // Any number of steps later:
    /// let [report] = watch.wait(submission)?;
    /// println!("{} {:?}", report.loss, report.status);
    /// # Ok(()) }
    /// ```
    pub fn watch<const N: usize>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        losses: [(&Tensor, &Tensor); N],
    ) -> Result<Watch<N>> {
        for (loss, status) in losses {
            copyable("loss", loss, Dtype::F32, 1)?;
            copyable("status", status, Dtype::U32, Status::WORDS)?;
        }
        let slot = self.0.ring.take()?;
        let bytes = REPORT_BYTES * N.max(1) as u64;
        let arrival = self.stage("watch", bytes, |staging, answer| {
            let starts = (0..).step_by(REPORT_BYTES as usize);
            for ((loss, status), start) in losses.into_iter().zip(starts) {
                let at = |tensor: &Tensor| tensor.layout.offset * 4;
                let words = Status::WORDS * 4;
                encoder.copy_buffer_to_buffer(loss.buffer, at(loss), staging, start, 4);
                let place = start + STATUS_AT;
                encoder.copy_buffer_to_buffer(status.buffer, at(status), staging, place, words);
            }
            encoder.map_buffer_on_submit(staging, wgpu::MapMode::Read, .., answer);
            None
        })?;
        Ok(Watch { arrival, _slot: slot })
    }
}

/// Checks that a tensor has this type and this many words and can be copied. Otherwise the copy would invalidate the
/// caller's encoder.
fn copyable(name: &str, tensor: &Tensor, dtype: Dtype, words: u64) -> Result<()> {
    let argument = || name.to_owned();
    usable(name, tensor.buffer, wgpu::BufferUsages::COPY_SRC)?;
    if tensor.layout.dtype != dtype {
        let expected = dtype.name().to_owned();
        return Err(Error::WrongDtype {
            argument: argument(),
            found: tensor.layout.dtype,
            expected,
        });
    }
    if tensor.layout.len() != words {
        return Err(Error::WrongShape {
            argument: argument(),
            found: tensor.layout.shape.clone(),
            expected: format!("[{words}]"),
        });
    }
    let needed = tensor.layout.offset.saturating_add(words).saturating_mul(4);
    if needed > tensor.buffer.size() {
        return Err(Error::BufferTooSmall {
            argument: argument(),
            needed,
            found: tensor.buffer.size(),
        });
    }
    Ok(())
}

impl<const N: usize> Watch<N> {
    /// Blocks until the submission with the watched commands is done. The thread sleeps, and later submissions are not
    /// waited for.
    pub fn wait(self, submission: wgpu::SubmissionIndex) -> Result<[Report; N]> {
        self.arrival.wait_for(submission).and_then(|staging| reports(&staging))
    }
}

impl<const N: usize> Future for Watch<N> {
    type Output = Result<[Report; N]>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let arrived = Pin::new(&mut self.arrival).poll(context);
        arrived.map(|staging| reports(&*staging?))
    }
}

fn reports<const N: usize>(staging: &wgpu::Buffer) -> Result<[Report; N]> {
    let view =
        staging.get_mapped_range(..).map_err(|error| Error::DeviceLost(error.to_string()))?;
    let words: Vec<u32> = view.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let from = |byte: u64| words.get(byte as usize / 4..).unwrap_or_default();
    Ok(array::from_fn(|index| {
        let start = index as u64 * REPORT_BYTES;
        Report {
            loss: f32::from_bits(from(start).first().copied().unwrap_or(0)),
            status: Status::from_words(from(start + STATUS_AT)),
        }
    }))
}
