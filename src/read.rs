//! Reading back: the one-line form, and tensors to the host.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

use crate::{
    array::{Array, Arrays},
    check,
    encode::Prepared,
    error::{Error, Result},
    gpu::{Gpu, Request},
    loss::{Kind, Loss},
    plan::Call,
    status::Status,
    tensor::{Dtype, Layout, Named, Tensor},
};

/// A call that was submitted with outputs of its own.
#[derive(Debug)]
pub struct Run {
    gpu: Gpu,
    outputs: Vec<(String, wgpu::Buffer, Layout)>,
    prepared: Prepared,
}

impl Run {
    pub(crate) fn start(
        gpu: &Gpu,
        loss: &dyn Loss,
        inputs: Named<'_>,
        wanted: &[&str],
    ) -> Result<Self> {
        let shapes = gpu.shapes(loss, &inputs)?;
        let mut outputs = Vec::new();
        let status = (!wanted.contains(&"status")).then_some("status");
        for name in wanted.iter().copied().chain(status) {
            let layout = output_layout(loss, &shapes, &inputs, name)?;
            let buffer = gpu.output_buffer(layout.dtype, &layout.shape)?;
            outputs.push((name.to_owned(), buffer, layout));
        }
        let tensors: Named = outputs
            .iter()
            .map(|(name, buffer, layout)| (name.clone(), Tensor::new(buffer, layout.clone())))
            .collect();
        let prepared = gpu.prepare(loss, &Request::new(inputs, tensors))?;
        crate::gpu::guarded(gpu.device(), &prepared.plan().loss, 0, || {
            let mut encoder =
                gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            prepared.encode(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
        })?;
        Ok(Self { gpu: gpu.clone(), outputs, prepared })
    }

    /// The prepared call, for its plan.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The outputs' names and layouts.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.outputs.iter().map(|(name, _, layout)| (name.as_str(), layout))
    }

    /// The outputs and the status, whatever the status says.
    pub async fn outcome(self) -> Result<(Arrays, Status)> {
        let mut arrays = Arrays::new();
        for (name, buffer, layout) in &self.outputs {
            let mapped = Mapped::start(&self.gpu, name, &Tensor::new(buffer, layout.clone()))?;
            arrays.insert(name.clone(), mapped.await?);
        }
        let words = arrays.get("status").map(Array::to_i64).unwrap_or_default();
        let words: Vec<u32> = words.into_iter().map(|word| word as u32).collect();
        let status = Status::from_words(&words);
        if status.completed == 0 {
            return Err(Error::Incomplete(self.prepared.plan().loss.clone()));
        }
        Ok((arrays, status))
    }

    /// The outputs; a bad target is an error that names the first row and its value.
    pub async fn read(self) -> Result<Arrays> {
        let (arrays, status) = self.outcome().await?;
        status.checked()?;
        Ok(arrays)
    }

    /// [`Run::read`], waiting for it.
    pub fn read_blocking(self) -> Result<Arrays> {
        pollster::block_on(self.read())
    }

    /// [`Run::outcome`], waiting for it.
    pub fn outcome_blocking(self) -> Result<(Arrays, Status)> {
        pollster::block_on(self.outcome())
    }
}

impl Gpu {
    /// The extents of a call, from its inputs.
    fn shapes(&self, loss: &dyn Loss, inputs: &Named<'_>) -> Result<Call> {
        loss.validate()?;
        self.checked_inputs(loss, inputs)
    }

    /// Uploads host arrays and runs a loss on them, floats stored as `dtype`, a mask of integers as
    /// bytes, or as words of bits where that is what its shape says.
    ///
    /// ```no_run
    /// use surprisal::{Array, Arrays, CrossEntropy, Dtype, Gpu};
    /// let gpu = Gpu::open_blocking(None)?;
    /// let inputs = Arrays::from([
    ///     ("logits".to_owned(), Array::float(&[1, 3], vec![1.0, 2.0, 3.0])),
    ///     ("targets".to_owned(), Array::int(&[1], vec![2])),
    /// ]);
    /// let outputs = gpu
    ///     .run_arrays(&CrossEntropy::default(), &inputs, Dtype::F32, &["loss", "grad.logits"])?
    ///     .read_blocking()?;
    /// println!("{:?}", outputs["loss"]);
    /// # Ok::<(), surprisal::Error>(())
    /// ```
    pub fn run_arrays(
        &self,
        loss: &dyn Loss,
        inputs: &Arrays,
        dtype: Dtype,
        wanted: &[&str],
    ) -> Result<Run> {
        check::arrays(loss, inputs, wanted)?;
        let mut buffers = Vec::new();
        for (name, array) in inputs {
            let dtype = check::integer_mask(loss, inputs, name)
                .unwrap_or_else(|| stored_dtype(loss, name, dtype));
            let buffer = self.upload(name, &array.to_bytes(dtype))?;
            buffers.push((name.clone(), buffer, Layout::dense(dtype, &array.shape)));
        }
        let tensors: Named = buffers
            .iter()
            .map(|(name, buffer, layout)| (name.clone(), Tensor::new(buffer, layout.clone())))
            .collect();
        self.run(loss, tensors, wanted)
    }
}

/// The type that a host array is uploaded as.
pub fn stored_dtype(loss: &dyn Loss, input: &str, dtype: Dtype) -> Dtype {
    let argument = loss.about().inputs.iter().find(|argument| argument.name == input);
    match argument.map(|argument| argument.kind) {
        Some(Kind::Index | Kind::Label | Kind::I64) => Dtype::I64,
        Some(Kind::U32) => Dtype::U32,
        Some(Kind::F32) => Dtype::F32,
        _ => dtype,
    }
}

/// The dense layout of an output, from the extents of the inputs; a gradient has its input's.
fn output_layout(loss: &dyn Loss, call: &Call, inputs: &Named<'_>, name: &str) -> Result<Layout> {
    let about = loss.about();
    if let Some(input) = name.strip_prefix("grad.").and_then(|input| inputs.get(input)) {
        let Layout { dtype, shape, class_stride, .. } = &input.layout;
        let dense = Layout::dense(*dtype, shape);
        return Ok(if *class_stride > 1 { dense.class_stride(*class_stride) } else { dense });
    }
    let Some(argument) = about.outputs.iter().find(|argument| argument.name == name) else {
        return Err(Error::UnknownName {
            loss: about.name.to_owned(),
            kind: "output",
            name: name.to_owned(),
            known: about.outputs.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
        });
    };
    let dtype = match argument.kind {
        Kind::Float | Kind::F32 | Kind::Mask => Dtype::F32,
        Kind::U32 => Dtype::U32,
        Kind::I64 | Kind::Index | Kind::Label => Dtype::I64,
    };
    let first = about.inputs.first().and_then(|first| inputs.get(first.name));
    let rank = first.map_or(1, |tensor| tensor.layout.shape.len());
    let dims = argument.shape_in(loss, rank);
    let shape: Vec<u64> = dims.iter().map(|&dim| call.dim(dim)).collect();
    Ok(Layout::dense(dtype, &shape))
}

/// Reads a tensor, after everything submitted so far. Its buffer needs the usage `COPY_SRC`.
pub fn tensor_blocking(gpu: &Gpu, name: &str, tensor: &Tensor) -> Result<Array> {
    pollster::block_on(Mapped::start(gpu, name, tensor)?)
}

/// A tensor on its way to the host. Polling it polls the device, so it makes progress anywhere.
struct Mapped {
    gpu: Gpu,
    staging: wgpu::Buffer,
    layout: Layout,
    first_byte: usize,
    receiver: OneshotReceiver<Result<(), wgpu::BufferAsyncError>>,
}

impl Mapped {
    fn start(gpu: &Gpu, name: &str, tensor: &Tensor) -> Result<Self> {
        let usage = tensor.buffer.usage();
        if !usage.contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(Error::WrongUsage {
                argument: name.to_owned(),
                needed: "COPY_SRC".to_owned(),
                found: format!("{usage:?}"),
            });
        }
        let bytes = tensor.layout.byte_range().unwrap_or(0..0);
        let start = bytes.start - bytes.start % 4;
        let size = (bytes.end.next_multiple_of(4) - start).max(4);
        let staging = gpu.buffer(
            "staging",
            size,
            wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        )?;
        let mut encoder =
            gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let copied = size.min(tensor.buffer.size().saturating_sub(start));
        crate::gpu::guarded(gpu.device(), name, size, || {
            encoder.copy_buffer_to_buffer(tensor.buffer, start, &staging, 0, copied);
            gpu.queue().submit([encoder.finish()]);
        })?;
        let (sender, receiver) = oneshot_channel();
        // On a lost device mapping is refused twice over: by a validation error and by its callback.
        crate::gpu::guarded(gpu.device(), name, size, || {
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                // The receiver may be gone: then nobody waits for the word.
                let _ = sender.send(result);
            });
        })?;
        let first_byte = (bytes.start - start) as usize;
        Ok(Self { gpu: gpu.clone(), staging, layout: tensor.layout.clone(), first_byte, receiver })
    }

    fn array(&self) -> Result<Array> {
        let view = self
            .staging
            .get_mapped_range(..)
            .map_err(|error| Error::DeviceLost(error.to_string()))?;
        let size = self.layout.dtype.bytes();
        let row = (self.layout.row_stride * size) as usize;
        let width = (self.layout.columns() * size) as usize;
        let mut dense = Vec::with_capacity((self.layout.len() * size) as usize);
        if self.layout.has_planes() {
            let Layout { offset, .. } = self.layout;
            let (rows, columns) = (self.layout.rows(), self.layout.columns());
            let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            for (row, column) in places {
                let place = self.layout.place(row, column).unwrap_or(offset) - offset;
                let start = self.first_byte + (place * size) as usize;
                dense.extend_from_slice(view.get(start..start + size as usize).unwrap_or_default());
            }
            return Ok(Array::from_bytes(self.layout.dtype, &self.layout.shape, &dense));
        }
        for index in 0..self.layout.rows() as usize {
            let start = self.first_byte + index * row;
            dense.extend_from_slice(view.get(start..start + width).unwrap_or_default());
        }
        Ok(Array::from_bytes(self.layout.dtype, &self.layout.shape, &dense))
    }
}

impl Future for Mapped {
    type Output = Result<Array>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A lost device answers through the mapping, not through the poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Poll);
        let received = std::pin::pin!(self.receiver.receive()).poll(context);
        match received {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(self.array()),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Error::DeviceLost(error.to_string()))),
            Poll::Ready(None) => {
                Poll::Ready(Err(Error::DeviceLost("the mapping was dropped".to_owned())))
            }
            Poll::Pending => {
                if !cfg!(target_arch = "wasm32") {
                    std::thread::yield_now();
                }
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
