//! The limits and features of a device, as the planner sees them.

use super::{adapter::Kind, gpu::Gpu};
use crate::plan::{limits::previous_power_of_two, profile::Profile};

impl Gpu {
    /// The features and limits that are worth asking an adapter for. None of them is necessary, and the adapter has
    /// all of them.
    pub fn recommended_device(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
        let has = adapter.limits();
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
            max_buffer_size: has.max_buffer_size,
            max_storage_buffers_per_shader_stage: has.max_storage_buffers_per_shader_stage,
            max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: has.max_compute_workgroup_size_x,
            max_compute_workgroup_storage_size: has.max_compute_workgroup_storage_size,
            min_storage_buffer_offset_alignment: has.min_storage_buffer_offset_alignment,
            ..wgpu::Limits::default().or_worse_values_from(&has)
        };
        let features = wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_INT64;
        (adapter.features() & features, limits)
    }
}

/// The most dispatches of one submission.
///
/// On OpenGL, a submission holds the process's only context until it is done (llvmpipe computes during the
/// submission). A thread that waits for the context longer than wgpu allows panics: after one second on Windows, after
/// six elsewhere. Dispatches are planned to take at most a tenth of a second.
fn submission_dispatches(backend: wgpu::Backend) -> u32 {
    if backend == wgpu::Backend::Gl { 8 } else { u32::MAX }
}

/// The profile of a device: its limits, and the kernel shapes that are known to suit its kind.
pub fn profile(
    info: &wgpu::AdapterInfo,
    limits: &wgpu::Limits,
    features: wgpu::Features,
) -> Profile {
    let profile = Profile {
        binding_bytes: limits.max_storage_buffer_binding_size.min(i32::MAX as u64),
        buffer_bytes: limits.max_buffer_size,
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(16),
        workgroup_size: limits
            .max_compute_invocations_per_workgroup
            .min(limits.max_compute_workgroup_size_x),
        workgroups: limits.max_compute_workgroups_per_dimension,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        submission_dispatches: submission_dispatches(info.backend),
        ..Profile::default()
    };
    if Kind::of(info) == Kind::Software {
        // SwiftShader's subgroups are 4 wide, but it runs all lanes of a workgroup in one loop.
        let swiftshader = info.name.contains("SwiftShader");
        let lanes = if swiftshader { 32 } else { info.subgroup_max_size.clamp(8, 16) };
        // DirectX's software adapter gets none of these features, because nobody has tried it.
        let has = |feature| features.contains(feature) && info.backend == wgpu::Backend::Vulkan;
        let shared = has(wgpu::Features::SUBGROUP);
        let mut profile = profile.software(previous_power_of_two(lanes)).sharing(if shared {
            info.subgroup_min_size
        } else {
            1
        });
        profile.tile.wide = has(wgpu::Features::SHADER_INT64);
        profile
    } else {
        profile
    }
}
