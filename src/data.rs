//! The ground floor: what everything else speaks of.

pub mod array;
pub mod error;
pub mod status;
pub mod tensor;
pub mod tolerance;
