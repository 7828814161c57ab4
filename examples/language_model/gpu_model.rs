//! The model on the GPU: its own small kernels around the library's loss, one submission per step.

use std::error::Error;

use surprisal::{
    CrossEntropy, Dtype, Gpu, LinearCrossEntropy, LinearCrossEntropyInputs,
    LinearCrossEntropyOutputs, Prepared, Reduction, Report, Status, Tensor, Watch, wgpu,
};

use crate::{
    data::CLASSES,
    model::{Batch, EPSILON, Parameters, Shape},
};

/// Lanes per workgroup in every kernel here, as in step.wgsl.
const WORKGROUP: u64 = 64;

/// A compiled kernel.
struct Kernel(wgpu::ComputePipeline);

impl Kernel {
    fn new(device: &wgpu::Device, label: &str, body: &str) -> Self {
        let source = include_str!("step.wgsl").to_owned() + body;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        Self(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        }))
    }

    /// This kernel on these buffers, bound in order, with one lane per item.
    fn on(&self, device: &wgpu::Device, buffers: &[&wgpu::Buffer], items: u64) -> Dispatch {
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.0.get_bind_group_layout(0),
            entries: &entries,
        });
        let groups = items.div_ceil(WORKGROUP);
        let width = groups.clamp(1, 65_535);
        let groups = [width as u32, groups.div_ceil(width) as u32];
        Dispatch { pipeline: self.0.clone(), bindings, groups }
    }
}

/// A kernel with its bindings and its grid.
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    groups: [u32; 2],
}

impl Dispatch {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.groups[0], self.groups[1], 1);
    }
}

/// The buffers of a model; their bytes are counted.
struct Buffers<'a> {
    gpu: &'a Gpu,
    bytes: u64,
}

impl Buffers<'_> {
    /// A buffer of zeros for this many words.
    fn words(&mut self, words: usize) -> surprisal::Result<wgpu::Buffer> {
        let buffer = self.gpu.output_buffer(Dtype::F32, &[words as u64])?;
        self.bytes += buffer.size();
        Ok(buffer)
    }

    fn filled(&mut self, values: &[f32]) -> surprisal::Result<wgpu::Buffer> {
        let buffer = self.words(values.len())?;
        self.gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        Ok(buffer)
    }
}

/// The model on the GPU.
pub struct GpuModel {
    gpu: Gpu,
    shape: Shape,
    step: wgpu::Buffer,
    batch: wgpu::Buffer,
    targets: wgpu::Buffer,
    loss: wgpu::Buffer,
    status: wgpu::Buffer,
    forward: Dispatch,
    backward: Vec<Dispatch>,
    training: Prepared,
    evaluation: Prepared,
    bytes: u64,
}

/// A submitted step, whose loss and status are not back yet.
pub struct InFlight {
    watch: Watch,
    submission: wgpu::SubmissionIndex,
}

impl InFlight {
    /// Waits for the step by sleeping instead of polling in a loop: a software adapter needs the cores.
    pub fn wait(self) -> Result<Report, Box<dyn Error>> {
        let [report] = self.watch.wait(self.submission)?;
        report.status.checked()?;
        if report.status.bad_rows > 0 || !report.loss.is_finite() {
            return Err("the training diverged: a loss is not a number".into());
        }
        Ok(report)
    }
}

impl GpuModel {
    /// The model with these parameters, trained with `loss`.
    pub fn new(
        gpu: &Gpu,
        shape: Shape,
        first: &Parameters,
        loss: &LinearCrossEntropy,
    ) -> Result<Self, Box<dyn Error>> {
        let Shape { rows, depth, context } = shape;
        let device = gpu.device();
        let table = shape.table() as u64 * 4;
        let most = gpu.profile().binding_bytes;
        if table > most {
            let deepest = most / 4 / u64::from(CLASSES);
            return Err(format!("--depth {depth}: this adapter's bindings end at {deepest}").into());
        }
        let mut buffers = Buffers { gpu, bytes: 0 };
        let embedding = buffers.filled(&first.embedding)?;
        let embedding_squares = buffers.words(shape.table())?;
        let mixing = buffers.filled(&first.mixing)?;
        let weight = buffers.words(shape.table())?;
        let bias = buffers.filled(&first.bias)?;
        let activation = buffers.words(rows * depth)?;
        let hidden = buffers.words(rows * depth)?;
        let hidden_gradient = buffers.words(rows * depth)?;
        let mixing_gradient = buffers.words(shape.mixing())?;
        let weight_gradient = buffers.words(shape.table())?;
        let bias_gradient = buffers.words(CLASSES as usize)?;
        let batch = buffers.words(4 * rows * context + 1)?;
        let targets = buffers.words(rows)?;
        let value = buffers.words(1)?;
        let status = buffers.words(Status::WORDS as usize)?;
        let step = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("step"),
            size: 32,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });

        let (rows_, depth_, classes) = (rows as u64, depth as u64, u64::from(CLASSES));
        let matrix = |buffer, rows, columns| Tensor::matrix(buffer, Dtype::F32, rows, columns);
        let vector = |buffer, len| Tensor::vector(buffer, Dtype::F32, len);
        let inputs = LinearCrossEntropyInputs::default()
            .hidden(matrix(&hidden, rows_, depth_))
            .weight(matrix(&weight, classes, depth_))
            .bias(vector(&bias, classes))
            .targets(Tensor::vector(&targets, Dtype::I32, rows_));
        let outputs = LinearCrossEntropyOutputs::default()
            .loss(vector(&value, 1))
            .status(Tensor::vector(&status, Dtype::U32, Status::WORDS));
        let gradients = outputs
            .clone()
            .hidden_gradient(matrix(&hidden_gradient, rows_, depth_))
            .weight_gradient(matrix(&weight_gradient, classes, depth_))
            .bias_gradient(vector(&bias_gradient, classes));
        // Rows that fill up the last batch add nothing to a sum.
        let mut sum = loss.clone();
        sum.loss = CrossEntropy::default().reduction(Reduction::Sum);
        let training = gpu.prepare(&loss.request(inputs.clone(), gradients))?;
        let evaluation = gpu.prepare(&sum.request(inputs, outputs))?;

        let forward = Kernel::new(device, "forward", include_str!("forward.wgsl")).on(
            device,
            &[&step, &batch, &embedding, &mixing, &activation, &hidden],
            (rows * depth) as u64,
        );
        let mut backward = vec![
            Kernel::new(device, "mixing_gradient", include_str!("mixing_gradient.wgsl")).on(
                device,
                &[&step, &batch, &embedding, &activation, &hidden_gradient, &mixing_gradient],
                shape.mixing() as u64,
            ),
            Kernel::new(device, "embedding_step", include_str!("embedding_step.wgsl")).on(
                device,
                &[
                    &step,
                    &batch,
                    &mixing,
                    &activation,
                    &hidden_gradient,
                    &embedding,
                    &embedding_squares,
                ],
                (rows * context * depth) as u64,
            ),
        ];
        let adagrad = Kernel::new(device, "adagrad", include_str!("adagrad.wgsl"));
        for (gradient, parameter) in
            [(&mixing_gradient, &mixing), (&weight_gradient, &weight), (&bias_gradient, &bias)]
        {
            let squares = buffers.words(parameter.size() as usize / 4)?;
            let resources = [&step, gradient, parameter, &squares];
            backward.push(adagrad.on(device, &resources, parameter.size() / 16));
        }
        let bytes = buffers.bytes + step.size();
        Ok(Self {
            gpu: gpu.clone(),
            shape,
            step,
            batch,
            targets,
            loss: value,
            status,
            forward,
            backward,
            training,
            evaluation,
            bytes,
        })
    }

    /// The extents of its batches.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The plan of a training step's loss.
    pub fn plan(&self) -> &surprisal::Plan {
        self.training.plan()
    }

    /// The most bytes on the GPU at any time: the model's buffers, scratch, parameters and staging.
    pub fn peak_bytes(&self) -> u64 {
        self.bytes + self.gpu.memory().peak
    }

    /// Records and submits a training step, without waiting for it or reading anything back.
    pub fn train(&self, batch: &Batch, learning_rate: f32) -> surprisal::Result<InFlight> {
        self.submit(batch, learning_rate, &self.training, &self.backward)
    }

    /// The same without learning; the loss is a sum over the rows that count.
    pub fn evaluate(&self, batch: &Batch) -> surprisal::Result<InFlight> {
        self.submit(batch, 0.0, &self.evaluation, &[])
    }

    fn submit(
        &self,
        batch: &Batch,
        learning_rate: f32,
        loss: &Prepared,
        backward: &[Dispatch],
    ) -> surprisal::Result<InFlight> {
        let distinct = self.write(batch);
        let Shape { rows, depth, context } = self.shape;
        let extents = [rows as u32, depth as u32, context as u32, distinct];
        let words = extents.into_iter().chain([learning_rate, EPSILON].map(f32::to_bits));
        let words: Vec<u32> = words.collect();
        self.gpu.queue().write_buffer(&self.step, 0, bytemuck::cast_slice(&words));

        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("step") };
        let mut encoder = self.gpu.device().create_command_encoder(&descriptor);
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.forward.encode(&mut pass);
            loss.encode(&mut pass);
            for dispatch in backward {
                dispatch.encode(&mut pass);
            }
        }
        let value = Tensor::vector(&self.loss, Dtype::F32, 1);
        let status = Tensor::vector(&self.status, Dtype::U32, Status::WORDS);
        let watch = self.gpu.watch(&mut encoder, [(&value, &status)])?;
        let submission = self.gpu.queue().submit([encoder.finish()]);
        Ok(InFlight { watch, submission })
    }

    /// Uploads a batch in the order that step.wgsl describes; returns the number of distinct tokens.
    fn write(&self, batch: &Batch) -> u32 {
        let size = batch.contexts.len();
        let places = batch.places();
        let mut words = batch.contexts.clone();
        words.extend(places.keys());
        words.resize(2 * size, 0);
        let mut start = 0;
        for of_token in places.values() {
            words.push(start);
            start += of_token.len() as u32;
        }
        words.resize(3 * size + 1, start);
        words.extend(places.values().flatten());
        let queue = self.gpu.queue();
        queue.write_buffer(&self.batch, 0, bytemuck::cast_slice(&words));
        queue.write_buffer(&self.targets, 0, bytemuck::cast_slice(&batch.targets));
        places.len() as u32
    }
}
