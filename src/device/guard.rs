//! Error scopes around what is made on a device, and checks of buffers.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(not(target_arch = "wasm32"))]
use crate::data::error::Cause;
use crate::data::error::{Error, Result};

/// Takes a lock and ignores poisoning: no holder leaves the data half-changed, so a panic elsewhere
/// does no harm.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that a buffer was made with the usages that it needs.
pub(crate) fn usable(
    argument: &str,
    buffer: &wgpu::Buffer,
    needed: wgpu::BufferUsages,
) -> Result<()> {
    if buffer.usage().contains(needed) {
        return Ok(());
    }
    let names: Vec<&str> = needed.iter_names().map(|(name, _)| name).collect();
    Err(Error::WrongUsage {
        argument: argument.into(),
        needed: names.join(" | ").into(),
        found: format!("{:?}", buffer.usage()).into(),
    })
}

/// Makes something inside error scopes, so that a refusal becomes a typed error and never reaches
/// the caller's handler. The scopes are pushed and popped here, on one thread.
///
/// # Errors
///
/// `OutOfMemory` with `bytes`, or the refusal with the error of wgpu; `what` names the thing
/// that was made.
#[cfg(not(target_arch = "wasm32"))]
pub fn guarded<T>(
    device: &wgpu::Device,
    what: &str,
    bytes: u64,
    make: impl FnOnce() -> T,
) -> Result<T> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    let (validation, internal, memory) = (validation.pop(), internal.pop(), memory.pop());
    // These futures are ready.
    if let Some(error) = pollster::block_on(memory) {
        return Err(Error::OutOfMemory { what: what.into(), bytes, source: Cause::new(error) });
    }
    match pollster::block_on(validation).or(pollster::block_on(internal)) {
        Some(error) => Err(refusal(what, error)),
        None => Ok(made),
    }
}

/// In browsers there are no scopes: a browser answers a scope later, when nobody is there to be told. It reports errors
/// to the caller's own scopes, handler and console.
#[cfg(target_arch = "wasm32")]
pub fn guarded<T>(
    _device: &wgpu::Device,
    _what: &str,
    _bytes: u64,
    make: impl FnOnce() -> T,
) -> Result<T> {
    Ok(make())
}

#[cfg(not(target_arch = "wasm32"))]
fn refusal(what: &str, error: wgpu::Error) -> Error {
    // It holds the messages of all causes.
    let message = error.to_string();
    // A thing made on a lost device is invalid, but making it gives no error. The first use reports
    // that it is invalid.
    let ours_is_invalid = message.contains("'surprisal") && message.contains("label is invalid");
    if message.contains("Parent device is lost") || ours_is_invalid {
        Error::lost(error)
    } else {
        Error::Refused { what: what.into(), source: Cause::new(error) }
    }
}
