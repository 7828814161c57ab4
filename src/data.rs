//! The lowest floor: the types that all others use.

pub mod array;
pub mod error;
pub mod status;
pub mod tensor;
// On wasm32 no probe compares anything.
#[cfg(any(feature = "cases", not(target_arch = "wasm32")))]
pub mod tolerance;
