//! Compiled kernels and their bindings, for calls and for recordings that are replayed.

#[cfg(feature = "cases")]
pub mod ledger;

use std::sync::Arc;

use crate::{
    data::error::Result,
    device::{gpu::Gpu, guard::guarded},
    plan::kernel::{Access, Kernel, Text},
};

/// What is compiled: a module with one entry point. The parameters are at binding 0, storage begins at binding 1.
pub struct Module<'a> {
    /// The label on the device.
    pub label: &'a str,
    /// The WGSL of the module.
    pub wgsl: Arc<str>,
    /// The entry point.
    pub entry: &'a str,
    /// The values of the overrides.
    pub constants: Vec<(&'a str, f64)>,
    /// The access of each storage binding.
    pub bindings: Vec<Access>,
}

impl<'a> From<&'a Kernel> for Module<'a> {
    fn from(kernel: &'a Kernel) -> Self {
        let constant = |(name, value): &'a (Text, u32)| (&**name, f64::from(*value));
        Self {
            label: &kernel.label,
            wgsl: kernel.wgsl.clone(),
            entry: &kernel.entry,
            constants: kernel.overrides.iter().map(constant).collect(),
            bindings: kernel.storage.iter().map(|storage| storage.access).collect(),
        }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// More bytes than the parameters of any kernel and the element of any table need.
const FIRST_BYTES: u64 = 256;

/// A range of a buffer: the buffer, the first byte and the size.
pub type Bound<'a> = (&'a wgpu::Buffer, u64, u64);

impl Pipeline {
    /// Compiles a module.
    ///
    /// # Errors
    ///
    /// If the device refuses the module.
    pub fn compile(
        device: &wgpu::Device,
        cache: Option<&wgpu::PipelineCache>,
        module: Module<'_>,
    ) -> Result<Self> {
        let Module { label, wgsl, entry, constants, bindings } = module;
        #[cfg(feature = "cases")]
        crate::plan::shaders::check()?;
        guarded(device, label, wgsl.len() as u64, || {
            let label = Some(label);
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl((&*wgsl).into()),
            });
            let entries = layout_entries(&bindings);
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label,
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Kernels write every word before they read it.
                    zero_initialize_workgroup_memory: false,
                },
                cache,
            });
            Self { pipeline, layout }
        })
    }

    /// Binds ranges in the order of their binding numbers, the parameters first. A refusal goes to the error scopes
    /// around the call.
    pub(crate) fn bind(
        &self,
        device: &wgpu::Device,
        label: &str,
        ranges: &[Bound<'_>],
    ) -> wgpu::BindGroup {
        let entries: Vec<wgpu::BindGroupEntry<'_>> =
            (0..).zip(ranges).map(bind_group_entry).collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &self.layout,
            entries: &entries,
        })
    }

    /// Dispatches no workgroup, with these parameters, and waits for it.
    ///
    /// Mesa's drivers compile at the first dispatch and not before. After a first dispatch with zeros, lavapipe
    /// compiled large kernels once more when a call brought its parameters; with those of a call it does not.
    pub(crate) fn dispatch_nothing(
        &self,
        gpu: &Gpu,
        bindings: usize,
        params: &[u32],
    ) -> Result<()> {
        let device = gpu.device();
        guarded(device, "a first dispatch", 0, || {
            // Each binding gets its own buffer: one buffer cannot be bound for reading and for writing at once.
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: FIRST_BYTES,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let parameters = buffer(wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
            gpu.queue().write_buffer(&parameters, 0, bytemuck::cast_slice(params));
            let tensors: Vec<wgpu::Buffer> =
                (0..bindings).map(|_| buffer(wgpu::BufferUsages::STORAGE)).collect();
            let whole = |buffer| -> Bound<'_> { (buffer, 0, FIRST_BYTES) };
            let ranges: Vec<Bound<'_>> =
                std::iter::once(&parameters).chain(&tensors).map(whole).collect();
            let group = self.bind(device, "a first dispatch", &ranges);
            let descriptor = wgpu::CommandEncoderDescriptor::default();
            let mut encoder = device.create_command_encoder(&descriptor);
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.dispatch(&mut pass, (&group, 0), [0; 3]);
            drop(pass);
            let submission = gpu.queue().submit([encoder.finish()]);
            let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
            // The next use of a lost device reports the loss.
            let _ = device.poll(wait);
        })
    }

    /// Records a dispatch of the kernel, with the parameters that begin at this byte of the bound buffer.
    pub fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        (group, params): (&wgpu::BindGroup, u32),
        [x, y, z]: [u32; 3],
    ) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, group, &[params]);
        pass.dispatch_workgroups(x, y, z);
    }
}

fn bind_group_entry<'a>(
    (binding, &(buffer, offset, size)): (u32, &Bound<'a>),
) -> wgpu::BindGroupEntry<'a> {
    let size = std::num::NonZeroU64::new(size);
    let range = wgpu::BufferBinding { buffer, offset, size };
    wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(range) }
}

/// The layout's entries. The parameters are reached by a dynamic offset: those of all dispatches lie in one buffer.
fn layout_entries(bindings: &[Access]) -> Vec<wgpu::BindGroupLayoutEntry> {
    let storage = bindings.iter().map(|access| {
        let read_only = *access == Access::Read;
        (wgpu::BufferBindingType::Storage { read_only }, false)
    });
    let entry = |(binding, (ty, has_dynamic_offset))| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let all = std::iter::once((wgpu::BufferBindingType::Uniform, true)).chain(storage);
    (0..).zip(all).map(entry).collect()
}
