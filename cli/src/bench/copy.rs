//! Copies of the same bytes, whose time is the lower bound that calls are compared with.

use super::{
    fill::{BLOCK, fill},
    timer::Timer,
};
use surprisal::{
    Array, Dtype, Gpu, Result,
    low_level::{grid, guarded},
    testing, wgpu,
};

/// A copy from one buffer to another: the fastest over several workgroup sizes.
#[derive(Debug)]
pub struct CopyKernel {
    bytes: u64,
    source: wgpu::Buffer,
    destination: wgpu::Buffer,
    shapes: Vec<CopyShape>,
    fastest: usize,
}

#[derive(Debug)]
struct CopyShape {
    workgroup: u32,
    quads: u32,
    pipeline: wgpu::ComputePipeline,
    windows: Vec<(wgpu::BindGroup, [u32; 3])>,
    best_ms: f64,
}

/// Workgroup sizes that are tried for the copy.
const COPY_WORKGROUPS: [u32; 6] = [8, 16, 32, 64, 128, 256];
/// Quads per lane that are tried with each workgroup size.
const COPY_QUADS: [u32; 2] = [1, 8];

impl CopyKernel {
    /// A copy of `bytes` bytes (so twice as many are moved), in windows that fit a binding. Tries every shape a few
    /// times, and keeps the one with the fastest run.
    pub fn new(gpu: &Gpu, timer: &Timer, bytes: u64) -> Result<Self> {
        let profile = gpu.profile();
        let step = profile.offset_alignment.max(256);
        let bytes = bytes.next_multiple_of(16).max(16);
        // More bytes than a buffer holds are copied in rounds over the same buffer.
        let held = bytes.min(profile.buffer_bytes - profile.buffer_bytes % step);
        let source = gpu.output_buffer(Dtype::U32, &[held / 4])?;
        let destination = gpu.output_buffer(Dtype::U32, &[held / 4])?;
        let block = Array::float(&[], testing::gaussian(1, BLOCK.min(held / 4) as usize));
        fill(gpu, &source, &block.to_bytes(Dtype::F32), held);
        let window = profile.binding_bytes.min(held);
        let window = if window < held { window - window % step } else { window };
        let mut ranges = Vec::new();
        let mut left = bytes;
        while left > 0 {
            for start in (0..held).step_by(window.max(1) as usize) {
                let size = window.min(held - start).min(left);
                if size > 0 {
                    ranges.push((start, size));
                }
                left -= size;
            }
        }
        let mut shapes = Vec::new();
        for workgroup in COPY_WORKGROUPS.into_iter().filter(|w| *w <= profile.workgroup_size) {
            for quads in COPY_QUADS {
                let shape = (workgroup, quads);
                shapes.push(CopyShape::new(gpu, shape, &source, &destination, &ranges)?);
            }
        }
        let mut copy = Self { bytes, source, destination, shapes, fastest: 0 };
        copy.tune(timer)?;
        Ok(copy)
    }

    /// Times every shape and keeps the fastest. The shapes are timed in rounds, so that a slow moment affects all of
    /// them.
    fn tune(&mut self, timer: &Timer) -> Result<()> {
        for round in 0..4 {
            for shape in &mut self.shapes {
                let sample = timer.time(|pass| shape.record(pass))?;
                if round > 0 {
                    shape.best_ms = shape.best_ms.min(sample.best());
                }
            }
        }
        let times = self.shapes.iter().map(|shape| shape.best_ms).enumerate();
        self.fastest = times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        Ok(())
    }

    /// Records the fastest copy.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(shape) = self.shapes.get(self.fastest) {
            shape.record(pass);
        }
    }

    /// The buffers: the source, then the destination.
    pub fn buffers(&self) -> [&wgpu::Buffer; 2] {
        [&self.source, &self.destination]
    }

    /// Bytes that are read; the same number is written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lanes per workgroup, quads per lane and best milliseconds of every shape that was tried.
    pub fn tried(&self) -> impl ExactSizeIterator<Item = (u32, u32, f64)> {
        self.shapes.iter().map(|shape| (shape.workgroup, shape.quads, shape.best_ms))
    }

    /// Lanes per workgroup and quads per lane of the fastest shape.
    pub fn fastest(&self) -> (u32, u32) {
        let shape = self.shapes.get(self.fastest);
        shape.map_or((0, 0), |shape| (shape.workgroup, shape.quads))
    }
}

impl CopyShape {
    fn new(
        gpu: &Gpu,
        (workgroup, quads): (u32, u32),
        source: &wgpu::Buffer,
        destination: &wgpu::Buffer,
        ranges: &[(u64, u64)],
    ) -> Result<Self> {
        let device = gpu.device();
        let label = Some("surprisal.bench.copy");
        guarded(device, "the copy kernel", 0, || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl(include_str!("copy.wgsl").into()),
            });
            let constants = [("WORKGROUP", f64::from(workgroup)), ("QUADS", f64::from(quads))];
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: None,
                module: &module,
                entry_point: Some("copy"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            let layout = pipeline.get_bind_group_layout(0);
            let window = |&(offset, size): &(u64, u64)| {
                let entry = |binding, buffer| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset,
                        size: std::num::NonZeroU64::new(size),
                    }),
                };
                let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label,
                    layout: &layout,
                    entries: &[entry(0, source), entry(1, destination)],
                });
                let groups = (size / 16).div_ceil(u64::from(workgroup * quads));
                (bindings, grid(gpu.profile(), groups).unwrap_or([1, 1, 1]))
            };
            let windows = ranges.iter().map(window).collect();
            Self { workgroup, quads, pipeline, windows, best_ms: f64::INFINITY }
        })
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        for (bindings, [x, y, z]) in &self.windows {
            pass.set_bind_group(0, bindings, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::opened;
    use surprisal::{Profile, Tensor};

    #[test]
    fn every_copy_copies_everything_through_windows() -> Result<()> {
        let Some(gpu) = opened()? else { return Ok(()) };
        // Three full windows and a partial one, and a grid with more than one row.
        let profile = Profile { binding_bytes: 5000, workgroups: 7, ..gpu.profile().clone() };
        let gpu = gpu.with_profile(profile);
        let timer = Timer::new(&gpu)?;
        let words = 3700;
        let copy = CopyKernel::new(&gpu, &timer, 4 * words)?;
        let read = |buffer| {
            gpu.read_blocking(&Tensor::vector(buffer, Dtype::U32, words))
                .map(|array| array.to_i64())
        };
        let source = read(&copy.source)?;
        assert!(source.iter().filter(|word| **word != 0).count() as u64 > words - 10);
        for shape in &copy.shapes {
            gpu.queue().write_buffer(&copy.destination, 0, &vec![0; 4 * words as usize]);
            timer.time(|pass| shape.record(pass))?;
            let lanes = (shape.workgroup, shape.quads);
            assert!(read(&copy.destination)? == source, "{lanes:?} lanes and quads");
        }
        Ok(())
    }
}
