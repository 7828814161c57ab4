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

/// A future that resolves to the reports of a step's losses once its commands have run: to an array of [`Report`]s for
/// [`Gpu::watch`], to a `Vec` of them for [`Gpu::watch_all`].
///
/// Awaiting it does not keep a core busy: it polls the device about once a millisecond, and wakes earlier if something
/// else polls the device. [`Watch::wait`] blocks instead. Dropping it returns its slot.
#[derive(Debug)]
pub struct Watch<R = [Report; 1]> {
    arrival: Arrival,
    losses: usize,
    gather: Gather<R>,
    _slot: Slot,
}

/// Gathers so many reports, each of which is read by its number.
type Gather<R> = fn(usize, &dyn Fn(usize) -> Report) -> R;

impl Gpu {
    /// Records a copy of a step's losses and their statuses into a slot of a staging ring, which is mapped when the
    /// encoder's commands are submitted. Nothing waits: a full ring is an error.
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
    ) -> Result<Watch<[Report; N]>> {
        self.watched(encoder, &losses, |_, report| array::from_fn(report))
    }

    /// [`Gpu::watch`] for a number of losses that is known only at run time. The reports have the order of the losses.
    pub fn watch_all(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        losses: &[(&Tensor, &Tensor)],
    ) -> Result<Watch<Vec<Report>>> {
        self.watched(encoder, losses, |losses, report| (0..losses).map(report).collect())
    }

    fn watched<R>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        losses: &[(&Tensor, &Tensor)],
        gather: Gather<R>,
    ) -> Result<Watch<R>> {
        for (loss, status) in losses {
            copyable("loss", loss, Dtype::F32, 1)?;
            copyable("status", status, Dtype::U32, Status::WORDS)?;
        }
        let slot = self.0.ring.take()?;
        let bytes = REPORT_BYTES * losses.len().max(1) as u64;
        let arrival = self.stage("watch", bytes, |staging, answer| {
            let starts = (0..).step_by(REPORT_BYTES as usize);
            for ((loss, status), start) in losses.iter().zip(starts) {
                let at = |tensor: &Tensor| tensor.layout.offset * 4;
                let words = Status::WORDS * 4;
                encoder.copy_buffer_to_buffer(loss.buffer, at(loss), staging, start, 4);
                let place = start + STATUS_AT;
                encoder.copy_buffer_to_buffer(status.buffer, at(status), staging, place, words);
            }
            encoder.map_buffer_on_submit(staging, wgpu::MapMode::Read, .., answer);
            None
        })?;
        Ok(Watch { arrival, losses: losses.len(), gather, _slot: slot })
    }
}

/// Checks that a tensor has this type and this many words and can be copied. Otherwise the copy would invalidate the
/// caller's encoder.
fn copyable(name: &str, tensor: &Tensor, dtype: Dtype, words: u64) -> Result<()> {
    let argument = || name.into();
    usable(name, tensor.buffer, wgpu::BufferUsages::COPY_SRC)?;
    if tensor.layout.dtype != dtype {
        let expected = dtype.name().into();
        return Err(Error::WrongDtype {
            argument: argument(),
            found: tensor.layout.dtype,
            expected,
        });
    }
    if tensor.layout.len() != words {
        return Err(Error::WrongShape {
            argument: argument(),
            found: tensor.layout.shape.clone().into(),
            expected: format!("[{words}]").into(),
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

impl<R> Watch<R> {
    /// Blocks until the submission with the watched commands is done. The thread sleeps, and later submissions are not
    /// waited for. Not on wasm32, where a watch is awaited.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self, submission: wgpu::SubmissionIndex) -> Result<R> {
        let Self { arrival, losses, gather, .. } = self;
        reports(&*arrival.wait_for(submission)?, losses, gather)
    }
}

impl<R> Future for Watch<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let arrived = Pin::new(&mut self.arrival).poll(context);
        arrived.map(|staging| reports(&*staging?, self.losses, self.gather))
    }
}

fn reports<R>(staging: &wgpu::Buffer, losses: usize, gather: Gather<R>) -> Result<R> {
    let view = staging.get_mapped_range(..).map_err(Error::lost)?;
    let words: Vec<u32> = view.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let from = |byte: u64| words.get(byte as usize / 4..).unwrap_or_default();
    let report = |number: usize| {
        let start = number as u64 * REPORT_BYTES;
        Report {
            loss: f32::from_bits(from(start).first().copied().unwrap_or(0)),
            status: Status::from_words(from(start + STATUS_AT)),
        }
    };
    Ok(gather(losses, &report))
}
