//! Loss and status to the host while later steps run: a small staging ring.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

use crate::{
    error::{Error, Result},
    gpu::{Gpu, guarded},
    status::Status,
    tensor::Tensor,
};

/// Watches that may be in flight at once.
pub const RING: usize = 8;
/// Bytes of a slot: a loss, and a status behind it.
const SLOT_BYTES: u64 = 64;
const STATUS_AT: u64 = 16;

/// How many slots are taken.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    taken: Arc<AtomicUsize>,
}

/// What a watched step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The (reduced) loss.
    pub loss: f32,
    /// The status.
    pub status: Status,
}

/// A future that resolves to the [`Report`] of a step once its commands have run.
///
/// It makes progress whenever the device is polled; polling the future polls the device. Dropping it
/// gives its slot back.
#[derive(Debug)]
pub struct Watch {
    gpu: Gpu,
    staging: wgpu::Buffer,
    receiver: OneshotReceiver<Result<(), wgpu::BufferAsyncError>>,
    taken: Arc<AtomicUsize>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gpu {
    /// Records a copy of a loss and a status into a slot of a staging ring, mapped when the
    /// encoder's commands are submitted. Nothing waits: a full ring is an error.
    ///
    /// Both buffers need the usage `COPY_SRC`; the loss is one `f32`.
    pub fn watch(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        loss: &Tensor,
        status: &Tensor,
    ) -> Result<Watch> {
        for (name, tensor) in [("loss", loss), ("status", status)] {
            let usage = tensor.buffer.usage();
            if !usage.contains(wgpu::BufferUsages::COPY_SRC) {
                return Err(Error::WrongUsage {
                    argument: name.to_owned(),
                    needed: "COPY_SRC".to_owned(),
                    found: format!("{usage:?}"),
                });
            }
        }
        let taken = self.0.ring.taken.clone();
        let free = |count: usize| (count < RING).then_some(count + 1);
        if taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_err() {
            return Err(Error::RingFull { slots: RING });
        }
        let (sender, receiver) = oneshot_channel();
        let made = guarded(self.device(), "watch", SLOT_BYTES, || {
            let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("surprisal.watch"),
                size: SLOT_BYTES,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            });
            let at = |tensor: &Tensor| tensor.layout.offset * 4;
            encoder.copy_buffer_to_buffer(loss.buffer, at(loss), &staging, 0, 4);
            let words = Status::WORDS * 4;
            encoder.copy_buffer_to_buffer(status.buffer, at(status), &staging, STATUS_AT, words);
            encoder.map_buffer_on_submit(
                &staging,
                wgpu::MapMode::Read,
                0..SLOT_BYTES,
                move |result| {
                    // The watch may be gone: then nobody waits for the word.
                    let _ = sender.send(result);
                },
            );
            staging
        });
        match made {
            Ok(staging) => Ok(Watch { gpu: self.clone(), staging, receiver, taken }),
            Err(error) => {
                taken.fetch_sub(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }
}

impl Watch {
    fn report(&self) -> Result<Report> {
        let view = self
            .staging
            .get_mapped_range(..)
            .map_err(|error| Error::DeviceLost(error.to_string()))?;
        let words: Vec<u32> =
            view.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let status = words.get(STATUS_AT as usize / 4..).unwrap_or_default();
        Ok(Report {
            loss: f32::from_bits(words.first().copied().unwrap_or(0)),
            status: Status::from_words(status),
        })
    }
}

impl Future for Watch {
    type Output = Result<Report>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A lost device answers through the mapping, not through the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Poll);
        match std::pin::pin!(self.receiver.receive()).poll(context) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(self.report()),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Error::DeviceLost(error.to_string()))),
            Poll::Ready(None) => {
                Poll::Ready(Err(Error::DeviceLost("the mapping was dropped".to_owned())))
            }
            Poll::Pending => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
