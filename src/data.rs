//! The lowest floor: the types that all others use.

pub mod array;
pub mod error;
pub mod status;
pub mod tensor;
pub mod tolerance;
