//! Fused losses and their gradients as WGSL compute shaders, inside your own wgpu training loop.

pub mod array;
pub mod cpu;
pub mod error;
pub mod loss;
pub mod plan;
pub mod profile;
pub mod tensor;

pub use array::{Arithmetic, Array, Arrays, Data};
pub use error::{Error, Result};
pub use loss::{
    CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Empty, LinearCrossEntropy,
    LinearCrossEntropyInputs, LinearCrossEntropyOutputs, Loss, Padding, Reduction, WeightLayout,
};
pub use tensor::{Dtype, Layout, Named, Tensor};
pub use wgpu;
