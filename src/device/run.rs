//! Runs a call in one line, and reads tensors back to the host.

use std::future::Future;

use crate::{
    data::{
        array::{Array, Arrays},
        error::{Error, Result},
        status::Status,
        tensor::{Dtype, Layout, Named, Tensor},
    },
    device::{
        encode::Prepared,
        gpu::{Gpu, on_device},
        guard::usable,
        memory::Counted,
        staging::Arrival,
    },
    skeleton::{operation::Operation, request::Request},
    spec::check,
};

/// A submitted call with outputs that were allocated for it.
#[derive(Debug)]
pub struct Run {
    gpu: Gpu,
    inputs: Vec<(String, Layout)>,
    outputs: Vec<(String, Counted, Layout)>,
    prepared: Prepared,
}

impl Run {
    pub(crate) fn start(gpu: &Gpu, request: &Request<'_>, wanted: &[&str]) -> Result<Self> {
        let operation = request.operation;
        on_device(operation)?;
        let inputs = &request.inputs;
        let shapes = gpu.checked_inputs(operation, inputs, &request.host)?;
        let layout_of = |name: &str| inputs.get(name).map(|tensor| &tensor.layout);
        let mut outputs = Vec::new();
        check::some_output(operation.about(), wanted.len() + request.all_outputs()?.0.len())?;
        let asks = |name: &str| wanted.contains(&name) || request.outputs.contains_key(name);
        let has_status = operation.about().output("status").is_some();
        let status = (has_status && !asks("status")).then_some("status");
        for name in wanted.iter().copied().chain(status) {
            let layout =
                check::output_layout(operation, (&shapes.dims, &shapes.axes), &layout_of, name)?;
            let buffer = gpu.own_output(&layout)?;
            outputs.push((name.to_owned(), buffer, layout));
        }
        let mut request = request.clone();
        for (name, buffer, layout) in &outputs {
            request.outputs.insert(name.clone(), Tensor::new(buffer, layout.clone()));
        }
        let prepared = gpu.prepare(&request)?;
        gpu.submit(&prepared)?;
        let inputs = inputs.iter().map(|(name, tensor)| (name.clone(), tensor.layout.clone()));
        Ok(Self { gpu: gpu.clone(), inputs: inputs.collect(), outputs, prepared })
    }

    /// The prepared call, which has the plan.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The names and layouts of the inputs, without those on the host.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.inputs.iter().map(|(name, layout)| (name.as_str(), layout))
    }

    /// The names and layouts of the outputs.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.outputs.iter().map(|(name, _, layout)| (name.as_str(), layout))
    }

    /// The outputs and the status. Bad targets are no error here.
    pub async fn outcome(self) -> Result<(Arrays, Status)> {
        let mut arrays = Arrays::new();
        for (name, buffer, layout) in &self.outputs {
            let tensor = Tensor::new(buffer, layout.clone());
            let array = Reading::start(&self.gpu, name, &tensor)?.arrive().await?;
            arrays.insert(name.clone(), array);
        }
        self.completed(arrays)
    }

    /// [`Run::outcome`] that blocks until the results are there. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn outcome_blocking(self) -> Result<(Arrays, Status)> {
        let mut arrays = Arrays::new();
        for (name, buffer, layout) in &self.outputs {
            let tensor = Tensor::new(buffer, layout.clone());
            arrays.insert(name.clone(), Reading::start(&self.gpu, name, &tensor)?.wait()?);
        }
        self.completed(arrays)
    }

    fn completed(&self, arrays: Arrays) -> Result<(Arrays, Status)> {
        // An operation of one's own may have no status.
        let Some(status) = arrays.get("status").map(Status::from_array) else {
            return Ok((arrays, Status::default()));
        };
        if status.completed == 0 {
            return Err(Error::Incomplete { operation: self.prepared.plan().loss.clone().into() });
        }
        Ok((arrays, status))
    }

    /// The outputs. A bad target is an error with the first such row and its value.
    pub async fn read(self) -> Result<Arrays> {
        let (arrays, status) = self.outcome().await?;
        status.checked()?;
        Ok(arrays)
    }

    /// The loss, for a call that asked for it and reduces it to one number. For further outputs use [`Run::read`], and
    /// [`Arrays::scalar`] on what it returns.
    ///
    /// ```no_run
    /// # async fn run(gpu: &surprisal::Gpu, inputs: surprisal::CrossEntropyInputs<'_>) -> surprisal::Result<()> {
    /// use surprisal::{CrossEntropy, CrossEntropyOutputs};
    /// let loss = CrossEntropy::default();
    /// let request = loss.request(inputs, CrossEntropyOutputs::default());
    /// println!("{}", gpu.run(&request, &["loss"])?.loss().await?);
    /// # Ok(()) }
    /// ```
    pub async fn loss(self) -> Result<f64> {
        self.read().await?.scalar("loss")
    }

    /// [`Run::loss`] that blocks until the loss is there. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn loss_blocking(self) -> Result<f64> {
        self.read_blocking()?.scalar("loss")
    }

    /// [`Run::read`] that blocks until the results are there. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(self) -> Result<Arrays> {
        let (arrays, status) = self.outcome_blocking()?;
        status.checked()?;
        Ok(arrays)
    }
}

impl Gpu {
    /// Uploads host arrays and runs a loss on them. Floats are stored as `dtype`. A mask of
    /// integers is stored as bytes, or as words of bits if its shape is that of bits.
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
        loss: &dyn Operation,
        inputs: &Arrays,
        dtype: Dtype,
        wanted: &[&str],
    ) -> Result<Run> {
        on_device(loss)?;
        check::arrays(loss, inputs, wanted)?;
        let is_host = |(name, _): &(String, Array)| loss.about().is_host_input(name);
        let (host, inputs): (Arrays, Arrays) = inputs.clone().into_iter().partition(is_host);
        let mut buffers = Vec::new();
        for (name, array) in &inputs {
            let dtype = check::integers_dtype(loss, &inputs, name)?
                .unwrap_or_else(|| stored_dtype(loss, name, dtype));
            let buffer = self.upload(name, &array.to_bytes(dtype))?;
            buffers.push((name.clone(), buffer, Layout::dense(dtype, &array.shape)));
        }
        let tensors: Named = buffers
            .iter()
            .map(|(name, buffer, layout)| (name.clone(), Tensor::new(buffer, layout.clone())))
            .collect();
        let mut request = Request::new(loss, tensors, Named::new());
        request.host = host;
        Run::start(self, &request, wanted)
    }
}

/// The type as which a host array is uploaded.
pub fn stored_dtype(loss: &dyn Operation, input: &str, dtype: Dtype) -> Dtype {
    loss.about().input(input).map_or(dtype, |argument| argument.stored(dtype))
}

impl Gpu {
    /// Reads a tensor to the host: its numbers after everything that has been submitted before this call. Its buffer
    /// needs the usage `COPY_SRC`.
    ///
    /// ```no_run
    /// # async fn norm(gpu: &surprisal::Gpu, gradient: &surprisal::Tensor<'_>) -> surprisal::Result<f64> {
    /// let gradient = gpu.read(gradient).await?;
    /// Ok(gradient.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt())
    /// # }
    /// ```
    pub fn read(&self, tensor: &Tensor) -> impl Future<Output = Result<Array>> + use<> {
        let reading = Reading::start(self, TENSOR, tensor);
        async move { reading?.arrive().await }
    }

    /// [`Gpu::read`] that blocks until the numbers are there. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, tensor: &Tensor) -> Result<Array> {
        Reading::start(self, TENSOR, tensor)?.wait()
    }

    /// Reads a status tensor to the host, as [`Gpu::read`] reads any tensor.
    pub fn read_status(&self, tensor: &Tensor) -> impl Future<Output = Result<Status>> + use<> {
        let reading = Reading::start(self, STATUS, tensor);
        async move { Ok(Status::from_array(&reading?.arrive().await?)) }
    }

    /// [`Gpu::read_status`] that blocks until the status is there. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_status_blocking(&self, tensor: &Tensor) -> Result<Status> {
        Ok(Status::from_array(&Reading::start(self, STATUS, tensor)?.wait()?))
    }
}

/// The names of tensors that are read by themselves, in errors.
const TENSOR: &str = "tensor";
const STATUS: &str = "status";

/// A tensor that is being read back.
struct Reading {
    arrival: Arrival,
    layout: Layout,
    first_byte: usize,
}

impl Reading {
    fn start(gpu: &Gpu, name: &str, tensor: &Tensor) -> Result<Self> {
        usable(name, tensor.buffer, wgpu::BufferUsages::COPY_SRC)?;
        let found = tensor.buffer.size();
        let bytes = tensor.layout.byte_range().filter(|bytes| bytes.end <= found);
        let bytes = bytes.ok_or_else(|| Error::BufferTooSmall {
            argument: name.into(),
            needed: tensor.layout.byte_range().map_or(u64::MAX, |bytes| bytes.end),
            found,
        })?;
        let start = bytes.start - bytes.start % 4;
        let size = (bytes.end.next_multiple_of(4) - start).max(4);
        let arrival = gpu.stage(name, size, |staging, answer| {
            let mut encoder =
                gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let copied = size.min(tensor.buffer.size().saturating_sub(start));
            encoder.copy_buffer_to_buffer(tensor.buffer, start, staging, 0, copied);
            let submission = gpu.queue().submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., answer);
            Some(submission)
        })?;
        let first_byte = (bytes.start - start) as usize;
        Ok(Self { arrival, layout: tensor.layout.clone(), first_byte })
    }

    async fn arrive(self) -> Result<Array> {
        let staging = self.arrival.await?;
        dense(&staging, &self.layout, self.first_byte)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn wait(self) -> Result<Array> {
        let staging = self.arrival.wait()?;
        dense(&staging, &self.layout, self.first_byte)
    }
}

/// The elements of a mapped tensor, without the gaps between rows.
fn dense(staging: &wgpu::Buffer, layout: &Layout, first_byte: usize) -> Result<Array> {
    let view = staging.get_mapped_range(..).map_err(Error::lost)?;
    let size = layout.dtype.bytes();
    let row = (layout.row_stride * size) as usize;
    let width = (layout.columns() * size) as usize;
    let mut dense = Vec::with_capacity((layout.len() * size) as usize);
    if layout.has_planes() {
        let (rows, columns) = (layout.rows(), layout.columns());
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        for (row, column) in places {
            let place = layout.place(row, column).unwrap_or(layout.offset) - layout.offset;
            let start = first_byte + (place * size) as usize;
            dense.extend_from_slice(view.get(start..start + size as usize).unwrap_or_default());
        }
        return Ok(Array::from_bytes(layout.dtype, &layout.shape, &dense));
    }
    for index in 0..layout.rows() as usize {
        let start = first_byte + index * row;
        dense.extend_from_slice(view.get(start..start + width).unwrap_or_default());
    }
    Ok(Array::from_bytes(layout.dtype, &layout.shape, &dense))
}
