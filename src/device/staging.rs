//! Staging buffers that are read back, asynchronously or by waiting without keeping a core busy.

use std::{
    future::Future,
    mem,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use futures_intrusive::channel::shared::oneshot_channel;

use crate::{
    data::error::{Error, Result},
    device::{
        gpu::Gpu,
        guard::guarded,
        memory::{self, Counted},
    },
};

/// The result of a mapping.
type Mapping = Result<(), wgpu::BufferAsyncError>;
/// The callback that gets the result of a mapping.
pub(crate) type Answer = Box<dyn FnOnce(Mapping) + Send>;

/// A staging buffer that the GPU is about to write. The future resolves to the mapped buffer.
pub(crate) struct Arrival {
    gpu: Gpu,
    buffer: Option<Counted>,
    /// The submission with the copy, if it is known.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "nothing waits there"))]
    submission: Option<wgpu::SubmissionIndex>,
    mapping: Pin<Box<dyn Future<Output = Option<Mapping>> + Send>>,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Makes a staging buffer. `record` records the copy, and asks for the mapping with the callback that it gets.
    pub(crate) fn stage(
        &self,
        what: &str,
        bytes: u64,
        record: impl FnOnce(&wgpu::Buffer, Answer) -> Option<wgpu::SubmissionIndex>,
    ) -> Result<Arrival> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let buffer = memory::buffer(self, "staging", bytes, usage)?;
        let (sender, receiver) = oneshot_channel();
        let answer: Answer = Box::new(move |mapping| {
            // Sending fails if the receiver was dropped; then nobody waits for the result.
            let _ = sender.send(mapping);
        });
        // On a lost device, mapping fails twice: with a validation error and through its callback.
        let submission = guarded(self.device(), what, bytes, || record(&buffer, answer))?;
        // The receiver closes its channel when it is dropped.
        let mapping = Box::pin(async move { receiver.receive().await });
        Ok(Arrival { gpu: self.clone(), buffer: Some(buffer), submission, mapping })
    }
}

impl Arrival {
    /// Waits until the submission is done. A browser's thread must not wait, so this is not there on wasm32. The thread sleeps in the driver, and later submissions are not waited for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(mut self) -> Result<Counted> {
        let submission_index = self.submission.take();
        // A lost device is reported by the mapping, not by the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Wait { submission_index, timeout: None });
        pollster::block_on(self)
    }

    /// [`Arrival::wait`] for the caller who submitted the copy.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait_for(self, submission: wgpu::SubmissionIndex) -> Result<Counted> {
        Self { submission: Some(submission), ..self }.wait()
    }
}

impl Future for Arrival {
    type Output = Result<Counted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A lost device is reported by the mapping, not by the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Poll);
        // A future that has already resolved is polled again: report this instead of waiting for ever.
        let Some(buffer) = self.buffer.take() else {
            return Poll::Ready(Err(Error::lost("the mapping was taken")));
        };
        match self.mapping.as_mut().poll(context) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(Ok(buffer)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Error::lost(error))),
            Poll::Ready(None) => Poll::Ready(Err(Error::lost("the mapping was dropped"))),
            Poll::Pending => {
                self.buffer = Some(buffer);
                wake_soon(context.waker());
                Poll::Pending
            }
        }
    }
}

/// How long a future that is not ready waits before it polls the device again, if nothing else does.
const NAP: Duration = Duration::from_millis(1);

/// The wakers of the futures that wait; `None` while there is no thread to wake them.
static NAPPING: Mutex<Option<Vec<Waker>>> = Mutex::new(None);

/// Wakes a task after [`NAP`], by a thread that exists only while futures wait. The thread never touches the device,
/// because on GL two threads that use a device block each other.
fn wake_soon(waker: &Waker) {
    if cfg!(target_arch = "wasm32") {
        // In browsers the callback of the mapping wakes the task.
        return;
    }
    let mut napping = NAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(wakers) = napping.as_mut() {
        // A task that something else woke before may be in the list already. A second entry would make it poll twice
        // each time from then on.
        if !wakers.iter().any(|napping| napping.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    } else if thread::Builder::new().name("surprisal.wake".to_owned()).spawn(wake_all).is_ok() {
        *napping = Some(vec![waker.clone()]);
    } else {
        // Without a thread, the task polls again at once.
        waker.wake_by_ref();
    }
}

fn wake_all() {
    loop {
        thread::sleep(NAP);
        let mut napping = NAPPING.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers = napping.as_mut().map(mem::take).unwrap_or_default();
        if wakers.is_empty() {
            *napping = None;
            return;
        }
        drop(napping);
        for waker in wakers {
            // A waker that panics must not stop the wakers behind it.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}
