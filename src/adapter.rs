//! Finding an adapter, and opening a device on it.

use crate::{
    error::{Error, Result},
    gpu::Gpu,
};

/// The environment variable that picks an adapter by a part of its name, driver or backend.
pub const ADAPTER_VARIABLE: &str = "SURPRISAL_ADAPTER";

/// All adapters there are: discrete first, then integrated, virtual, other, and software last.
///
/// wgpu's variable `WGPU_BACKEND` (`vulkan`, `gl`, …, several separated by commas) leaves backends out,
/// so that one whose driver crashes or hangs is not even loaded. wgpu's other variables for an instance are
/// obeyed as well:
///
/// - its flags, 0 or 1: `WGPU_VALIDATION`, `WGPU_DEBUG`, `WGPU_DISCARD_HAL_LABELS`,
///   `WGPU_GPU_BASED_VALIDATION`, `WGPU_VALIDATION_INDIRECT_CALL`, `WGPU_STRICT_WEBGPU_COMPLIANCE`,
///   `WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER`
/// - OpenGL: `WGPU_GLES_MINOR_VERSION`, `WGPU_GL_FENCE_BEHAVIOR`, `WGPU_GL_DEBUG_FNS`
/// - DirectX 12: `WGPU_DX12_COMPILER`, `WGPU_DX12_PRESENTATION_SYSTEM`, `WGPU_DX12_AGILITY_SDK_PATH`,
///   `WGPU_DX12_AGILITY_SDK_VERSION`, `WGPU_DX12_AGILITY_SDK_REQUIRE`,
///   `WGPU_DX12_USE_FRAME_LATENCY_WAITABLE_OBJECT`
/// - `WGPU_NOOP_BACKEND`
///
/// [`Gpu::open`] goes by these adapters. Which of them is opened is [`ADAPTER_VARIABLE`]'s matter alone.
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        // The same device through GL comes after its native API.
        (kind, info.backend == wgpu::Backend::Gl)
    });
    adapters
}

/// What an adapter is called here: name, backend and driver.
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{:?}, {}]", info.name, info.backend, info.driver)
}

/// Which of these adapters is meant: the one of this number, or the first whose name, backend or
/// driver contains `wanted`, or the environment's `SURPRISAL_ADAPTER`, or simply the first.
pub fn choose(adapters: &[wgpu::Adapter], wanted: Option<&str>) -> Result<usize> {
    let names: Vec<String> = adapters.iter().map(|a| describe(&a.get_info())).collect();
    choose_named(&names, wanted)
}

/// [`choose`] among adapters of which only what [`describe`] calls them is known.
pub fn choose_named(names: &[impl AsRef<str>], wanted: Option<&str>) -> Result<usize> {
    let variable = std::env::var(ADAPTER_VARIABLE).ok();
    let wanted = wanted.or(variable.as_deref()).filter(|wanted| !wanted.is_empty());
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    chosen(&names, wanted).ok_or_else(|| Error::NoAdapter {
        wanted: wanted.map(|w| format!(" matches `{w}`")).unwrap_or_default(),
        found: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
    })
}

/// [`choose`] by description. A number is one of the default order before it is part of a name
/// ("1" is in "LLVM 15").
fn chosen(names: &[&str], wanted: Option<&str>) -> Option<usize> {
    let Some(wanted) = wanted else {
        return (!names.is_empty()).then_some(0);
    };
    if let Ok(number) = wanted.parse::<usize>()
        && number < names.len()
    {
        return Some(number);
    }
    let wanted = wanted.to_lowercase();
    names.iter().position(|name| name.to_lowercase().contains(&wanted))
}

impl Gpu {
    /// Opens a device: the first adapter (see [`adapters`]) whose name, backend or driver contains
    /// `wanted`, or the environment's `SURPRISAL_ADAPTER`, or simply the first.
    pub async fn open(wanted: Option<&str>) -> Result<Self> {
        let adapters = adapters().await;
        let adapter = &adapters[choose(&adapters, wanted)?];
        Self::open_on(adapter).await
    }

    /// [`Gpu::open`], waiting for it.
    pub fn open_blocking(wanted: Option<&str>) -> Result<Self> {
        pollster::block_on(Self::open(wanted))
    }

    /// Opens a device on this adapter, with the features and limits that [`Gpu::wishes`] names.
    pub async fn open_on(adapter: &wgpu::Adapter) -> Result<Self> {
        let (required_features, required_limits) = Self::wishes(adapter);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("surprisal"),
            required_features,
            required_limits,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| Error::DeviceLost(error.to_string()))?;
        Ok(Self::from_wgpu(&device, &queue))
    }
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn a_number_is_an_adapter_before_it_is_a_part_of_a_name() {
        let names = ["llvmpipe (LLVM 15)", "SwiftShader"];
        assert_eq!(chosen(&names, Some("1")), Some(1));
        assert_eq!(chosen(&names, Some("15")), Some(0));
        assert_eq!(chosen(&names, Some("swift")), Some(1));
        assert_eq!(chosen(&names, Some("radeon")), None);
        assert_eq!(chosen(&names, None), Some(0));
        assert_eq!(chosen(&[], None), None);
    }
}
