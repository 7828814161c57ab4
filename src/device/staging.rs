//! Staging buffers on their way to the host, awaited or waited for without burning a core.

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

/// What a mapping answers.
type Mapping = Result<(), wgpu::BufferAsyncError>;
/// To be called with the mapping's answer.
pub(crate) type Answer = Box<dyn FnOnce(Mapping) + Send>;

/// A staging buffer that the GPU will have written and mapped; resolves to the mapped buffer.
pub(crate) struct Arrival {
    gpu: Gpu,
    buffer: Option<Counted>,
    /// The submission with the copy, if it is known.
    submission: Option<wgpu::SubmissionIndex>,
    mapping: Pin<Box<dyn Future<Output = Option<Mapping>> + Send>>,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

impl Gpu {
    /// A staging buffer that `record` copies to and has mapped, with the callback that it is handed.
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
            // The receiver may be gone: then nobody waits for the word.
            let _ = sender.send(mapping);
        });
        // On a lost device mapping is refused twice over: by a validation error and by its callback.
        let submission = guarded(self.device(), what, bytes, || record(&buffer, answer))?;
        // The receiver closes its channel when it goes.
        let mapping = Box::pin(async move { receiver.receive().await });
        Ok(Arrival { gpu: self.clone(), buffer: Some(buffer), submission, mapping })
    }
}

impl Arrival {
    /// Waits for it, asleep in the driver until its submission is done: as long as that takes and no
    /// longer, also where later submissions are on their way.
    pub fn wait(mut self) -> Result<Counted> {
        let submission_index = self.submission.take();
        // A lost device answers through the mapping, not through the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Wait { submission_index, timeout: None });
        pollster::block_on(self)
    }

    /// [`Arrival::wait`], for whoever submitted the copy.
    pub fn wait_for(self, submission: wgpu::SubmissionIndex) -> Result<Counted> {
        Self { submission: Some(submission), ..self }.wait()
    }
}

impl Future for Arrival {
    type Output = Result<Counted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A lost device answers through the mapping, not through the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Poll);
        let lost = |reason: String| Poll::Ready(Err(Error::DeviceLost(reason)));
        // Who asks once more after the answer is told so.
        let Some(buffer) = self.buffer.take() else {
            return lost("the mapping was taken".to_owned());
        };
        match self.mapping.as_mut().poll(context) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(Ok(buffer)),
            Poll::Ready(Some(Err(error))) => lost(error.to_string()),
            Poll::Ready(None) => lost("the mapping was dropped".to_owned()),
            Poll::Pending => {
                self.buffer = Some(buffer);
                wake_soon(context.waker());
                Poll::Pending
            }
        }
    }
}

/// How long a future that is not ready waits before it polls the device again, if nobody else does.
const NAP: Duration = Duration::from_millis(1);

/// The wakers of futures that nap; `None` where there is no thread to wake them.
static NAPPING: Mutex<Option<Vec<Waker>>> = Mutex::new(None);

/// Wakes a task after a nap, by a thread that lives only as long as there are some. It never touches
/// a device: on GL two threads that do stand in each other's way.
fn wake_soon(waker: &Waker) {
    if cfg!(target_arch = "wasm32") {
        // There the browser calls back, and that wakes the task.
        return;
    }
    let mut napping = NAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(wakers) = napping.as_mut() {
        // A task that was woken by somebody else meanwhile is here already: once is enough, or it would
        // look twice a nap from then on.
        if !wakers.iter().any(|napping| napping.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    } else if thread::Builder::new().name("surprisal.wake".to_owned()).spawn(wake_all).is_ok() {
        *napping = Some(vec![waker.clone()]);
    } else {
        // Without a thread there is no nap.
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
            // A waker that panics takes nobody else's call along.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}
