//! Finds an adapter, and opens a device on it.

use crate::{
    data::error::{Cause, Error, Result},
    device::gpu::Gpu,
};

/// The environment variable that chooses an adapter by a part of its name, driver or backend.
pub const ADAPTER_VARIABLE: &str = "SURPRISAL_ADAPTER";

/// What kind of device an adapter is, in the order in which [`adapters`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Kind {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that is a part of the processor.
    Integrated,
    /// A GPU that a virtual machine has on loan.
    Virtual,
    /// A device whose driver does not say what it is.
    Other,
    /// The processor of this machine.
    Software,
}

impl Kind {
    /// The kind of an adapter. Software is recognised even where its driver calls it something else.
    pub fn of(info: &wgpu::AdapterInfo) -> Self {
        let name = info.name.to_lowercase();
        let software = ["llvmpipe", "swiftshader", "softpipe"];
        match info.device_type {
            _ if software.iter().any(|software| name.contains(software)) => Self::Software,
            wgpu::DeviceType::Cpu => Self::Software,
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Other => Self::Other,
        }
    }

    /// Whether the adapter is known to be a GPU.
    pub const fn is_physical(self) -> bool {
        matches!(self, Self::Discrete | Self::Integrated | Self::Virtual)
    }
}

/// The number of a GPU among these adapters if the chosen adapter is software, so that the user can be told.
pub fn overlooked(kinds: &[Kind], chosen: usize) -> Option<usize> {
    let software = kinds.get(chosen) == Some(&Kind::Software);
    software.then(|| kinds.iter().position(|kind| kind.is_physical())).flatten()
}

/// The adapter that is asked for by name or number, if one is: by this argument, or else by `SURPRISAL_ADAPTER` in the
/// environment.
pub fn wanted(argument: Option<&str>) -> Option<String> {
    let variable = || std::env::var(ADAPTER_VARIABLE).ok();
    argument.map(str::to_owned).or_else(variable).filter(|wanted| !wanted.is_empty())
}

/// All adapters of the machine: discrete first, then integrated, virtual, other, and software last.
/// wgpu's variable `WGPU_BACKEND` (`vulkan`, `gl`, …, several separated by commas) leaves out all other backends, so
/// that one whose driver crashes or hangs is not even loaded. wgpu's other variables for an instance are read as well:
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
/// [`Gpu::open`] uses these adapters. Which of them it opens depends only on its argument and on [`ADAPTER_VARIABLE`].
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        // The OpenGL adapter of a device comes after that of its native API.
        (Kind::of(&info), info.backend == wgpu::Backend::Gl)
    });
    adapters
}

/// The description of an adapter: name, backend and driver.
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    let driver = if info.driver.is_empty() { String::new() } else { format!(", {}", info.driver) };
    format!("{} [{:?}{driver}]", info.name, info.backend)
}

/// The index of the wanted adapter: the one with this number, or the first whose name, backend or driver contains
/// `wanted`. Without `wanted`, `SURPRISAL_ADAPTER` in the environment decides, or else the first is taken.
pub fn choose(adapters: &[wgpu::Adapter], wanted: Option<&str>) -> Result<usize> {
    let names: Vec<String> = adapters.iter().map(|a| describe(&a.get_info())).collect();
    choose_named(&names, wanted)
}

/// [`choose`] among adapters of which only the descriptions (see [`describe`]) are known.
pub fn choose_named(names: &[impl AsRef<str>], wanted: Option<&str>) -> Result<usize> {
    let wanted = self::wanted(wanted);
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    chosen(&names, wanted.as_deref()).ok_or_else(|| Error::NoAdapter {
        wanted: wanted.map(|w| format!(" matches `{w}`")).unwrap_or_default().into(),
        found: if names.is_empty() { "none".into() } else { names.join(", ").into() },
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
    /// Opens a device: the first adapter (see [`adapters`]) whose name, backend or driver contains `wanted`. Without
    /// `wanted`, `SURPRISAL_ADAPTER` in the environment decides, or else the first is taken.
    pub async fn open(wanted: Option<&str>) -> Result<Self> {
        let adapters = adapters().await;
        let adapter = &adapters[choose(&adapters, wanted)?];
        Self::open_on(adapter).await
    }

    /// [`Gpu::open`] that blocks until the device is open. Not on wasm32.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(wanted: Option<&str>) -> Result<Self> {
        pollster::block_on(Self::open(wanted))
    }

    /// Opens a device on this adapter, with the features and limits of [`Gpu::recommended_device`].
    pub async fn open_on(adapter: &wgpu::Adapter) -> Result<Self> {
        let (required_features, required_limits) = Self::recommended_device(adapter);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("surprisal"),
            required_features,
            required_limits,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            let adapter = describe(&adapter.get_info()).into();
            Error::NoDevice { adapter, source: Cause::new(error) }
        })?;
        Ok(Self::from_wgpu(&device, &queue))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, chosen, overlooked};

    #[test]
    fn software_overlooks_a_gpu() {
        let kinds = [Kind::Integrated, Kind::Other, Kind::Software];
        assert_eq!(overlooked(&kinds, 2), Some(0));
        assert_eq!(overlooked(&kinds, 0), None);
        assert_eq!(overlooked(&kinds[1..], 1), None);
        assert_eq!(overlooked(&kinds, 9), None);
    }

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
