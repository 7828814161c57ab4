//! Fused losses and their gradients as WGSL compute shaders, inside your own wgpu training loop.

pub mod adapter;
pub mod array;
#[cfg(feature = "cases")]
pub mod cases;
mod check;
#[cfg(feature = "cases")]
pub mod conformance;
pub mod cpu;
mod encode;
pub mod error;
mod gpu;
pub mod kernel;
mod linear;
pub mod loss;
pub mod plan;
pub mod profile;
mod read;
#[cfg(feature = "cases")]
pub mod repro;
pub mod row;
mod status;
pub mod tensor;
#[cfg(feature = "cases")]
pub mod testing;
mod watch;

pub use array::{Arithmetic, Array, Arrays, Data};
pub use encode::{Prepared, Record};
pub use error::{Error, Result};
pub use gpu::{Gpu, Request, profile as device_profile};
pub use loss::{
    CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Empty, LinearCrossEntropy,
    LinearCrossEntropyInputs, LinearCrossEntropyOutputs, Loss, Padding, Reduction, WeightLayout,
};
pub use plan::Plan;
pub use profile::Profile;
pub use read::{Run, stored_dtype, tensor_blocking};
pub use status::Status;
pub use tensor::{Dtype, Layout, Named, Tensor};
pub use watch::{RING, Report, Watch};
pub use wgpu;
