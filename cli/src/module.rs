//! Kernels as modules of naga, and as SPIR-V.

use std::error::Error;

use naga::{
    Module, ShaderStage, back,
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use surprisal::plan::kernel::Kernel;

/// Parses WGSL and validates it. An error shows the place in the text.
pub fn parsed(wgsl: &str, capabilities: Capabilities) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    Ok((module, info.map_err(|error| error.emit_to_string(wgsl))?))
}

/// The module of a kernel with its overrides resolved.
pub fn specialised(
    kernel: &Kernel,
    (module, info): (&Module, &ModuleInfo),
) -> Result<(Module, ModuleInfo), String> {
    let constants = kernel.overrides.iter();
    let constants = constants.map(|(name, value)| (name.to_string(), f64::from(*value))).collect();
    let entry = Some((ShaderStage::Compute, &*kernel.entry));
    let processed = back::pipeline_constants::process_overrides(module, info, entry, &constants);
    let (module, info) = processed.map_err(|error| chain(&error))?;
    Ok((module.into_owned(), info.into_owned()))
}

/// A module as SPIR-V.
pub fn spirv((module, info): (&Module, &ModuleInfo)) -> Result<Vec<u32>, String> {
    let options = back::spv::Options::default();
    back::spv::write_vec(module, info, &options, None).map_err(|error| chain(&error))
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
