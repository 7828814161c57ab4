//! Fused losses and their gradients as WGSL compute shaders, inside your own wgpu training loop.
//!
//! surprisal records a loss, its gradient and its by-products on *your* command encoder, over *your* buffers, on any
//! GPU that wgpu supports. It copies no logits, never stores a matrix that it can stream, and submits or reads back
//! nothing unless you ask for it. Every result is compared with an f64 reference on the CPU, within one published
//! tolerance, on every adapter.
//!
//! # From the top
//!
//! A **loss** ([`CrossEntropy`], [`LinearCrossEntropy`], …) is plain data: its options and nothing else. It has named
//! input and output **tensors** ([`Tensor`]: a borrowed view of a buffer). Only the outputs that you ask for are
//! computed.
//!
//! ```no_run
//! use surprisal::{CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Gpu, Tensor};
//! # fn step(device: &wgpu::Device, queue: &wgpu::Queue, encoder: &mut wgpu::CommandEncoder,
//! #     logits: &wgpu::Buffer, targets: &wgpu::Buffer, gradient: &wgpu::Buffer, loss: &wgpu::Buffer)
//! #     -> surprisal::Result<()> {
//! let gpu = Gpu::from_wgpu(device, queue); // once; it is cheap to clone
//! let (rows, classes) = (1024, 50_257);
//! let inputs = CrossEntropyInputs::default()
//!     .logits(Tensor::matrix(logits, Dtype::F32, rows, classes))
//!     .targets(Tensor::vector(targets, Dtype::U32, rows));
//! let outputs = CrossEntropyOutputs::default()
//!     .loss(Tensor::vector(loss, Dtype::F32, 1))
//!     .gradient(Tensor::matrix(gradient, Dtype::F32, rows, classes));
//! let loss = CrossEntropy::default().label_smoothing(0.1);
//! gpu.encode(encoder, &loss.request(inputs, outputs))?;
//! # Ok(()) }
//! ```
//!
//! For a call that is encoded at every step, [`Gpu::prepare`] checks, compiles and binds it once. [`Gpu::run_arrays`]
//! is the one-line form for scripts, and [`cpu::run`] is the reference. [`Gpu::watch`] brings the loss and the
//! [`Status`] to the host while later steps run.
//!
//! # What lies underneath
//!
//! - [`Plan`]: the recording of a call as plain data, made from shapes and device limits. It includes windows
//!   where tensors exceed the binding limits. It can be printed and replayed; encoding only walks through it.
//! - [`plan::kernel::Kernel`]: the identity of one specialisation, and the WGSL that it is compiled from.
//! - [`operations`]: every operation by name: the losses, and what makes their [`targets`] and weights on the host.
//! - [`row`], [`Linear`] and [`element`]: the skeletons. A loss is a functor in a skeleton; [`Separable`] and
//!   [`Elementwise`] make a loss from a few short WGSL functions of your own. A contrastive loss ([`InfoNce`],
//!   [`SupCon`], [`SigmoidContrastive`]) is a loss on a linear layer whose weight is the other batch. A composed loss
//!   ([`GanDiscriminator`], [`MixedColumns`]) is a list of losses in one recording, each on its slice of the tensors.
//! - [`Shard`]: a part of a vocabulary, or of a set of keys, that is split into several parts. Each shard writes
//!   [`row::STATE_WORDS`] words a row. From the words of all shards follows the loss of the whole, with the same bits
//!   on every shard.
//! - [`Cooperative`]: matrix units, if you ask for them ([`Gpu::with_cooperative_matrices`]) and a probe finds them
//!   correct and faster.
//! - [`low_level`]: what tools around the library need and callers do not.
//! - [`Profile`]: what the planner knows of a device; [`Gpu::report`] says what was chosen and why.
//!
//! # In the browser
//!
//! On wasm32 nothing blocks, because a browser's thread must not wait: [`Gpu::open`], [`Run::read`], [`Gpu::read`],
//! [`Gpu::read_status`] and a [`Watch`] are awaited, and their blocking forms (`…_blocking`, `Watch::wait`) are not
//! there. The probe of cooperative matrices waits too, and is not there either.
//!
//! # Features
//!
//! `serde`: options and plans as JSON. `cases`: reference cases (`cases`), and the means to check a loss of your own
//! (`testing`). The command line `surprisal` is a separate crate, `surprisal-cli`.

#![cfg_attr(
    target_arch = "wasm32",
    expect(
        clippy::arc_with_non_send_sync,
        reason = "in browsers wgpu's handles stay on their thread"
    )
)]

#[cfg(feature = "cases")]
pub mod cases;
pub mod cpu;
mod data;
mod device;
mod losses;
pub mod operations;
pub mod plan;
mod reference;
mod skeleton;
mod spec;
pub mod targets;
#[cfg(feature = "cases")]
pub mod testing;

/// Cooperative matrices: score tiles that the matrix units of a GPU multiply, and what a probe finds about them.
///
/// WebGPU has no cooperative matrices; wgpu offers them as an experimental feature on Vulkan and Metal. They are used
/// only if a caller asks for them ([`crate::Gpu::with_cooperative_matrices`]) and a probe on this device finds them
/// correct and faster, because what a driver says of them is not always true.
///
/// Products of two tensors stored in f16 use f16 matrices with f32 sums: a product of two f16 numbers is exact in f32.
/// Other products would lose digits in f16 (gradients of scores are f32, bf16 has a larger range). They use f32
/// matrices, in which every storage type is exact, where the device has some (Apple's), and otherwise the plain tile.
///
/// The hardware specifies neither the order of its sums nor how it rounds in between. Results are within the
/// tolerance, but do not have the bits of the plain tile, and their last bits depend on where chunks, blocks or
/// windows cut a sum. The kernel is chosen by types, classes and depth, not by the number of rows.
///
/// So far the f16 kernels have run only on the matrices of a software driver (lavapipe of Mesa 26.2), the f32 kernels
/// on none: naga validates them, and tests replace the matrices by plain WGSL.
///
/// The probe is not there on wasm32.
pub mod cooperative {
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::device::probe::{Finding, Found, Missing};
    pub use crate::plan::cooperative::Side;
}

/// What tools around the library are built with, above all the command line. Unlike the rest, this part is not stable.
pub mod low_level {
    pub use crate::{
        data::array::round,
        device::{
            guard::guarded,
            memory::{Counted, buffer, uncounted},
        },
        plan::limits::grid,
        spec::in_place,
    };
}

/// What losses are described with, and the registry of the losses.
pub mod loss {
    pub use crate::{
        losses::registry::REGISTRY,
        spec::{
            about::{About, Argument, Dim, Domain, Kind, OptionAbout, Spread},
            list,
        },
    };
}

pub use data::{
    array::{Arithmetic, Array, Arrays, Data},
    error::{Cause, Error, Result},
    status::Status,
    tensor::{Dtype, Layout, Named, Tensor},
};
#[cfg(feature = "cases")]
#[doc(hidden)]
pub use device::pipeline::ledger;
pub use device::{
    adapter,
    encode::{Prepared, Record},
    gpu::{Gpu, GpuOptions},
    memory::Memory,
    replay::PlanBuffers,
    run::{Run, stored_dtype},
    watch::{RING, Report, Watch},
};
pub use losses::*;
pub use plan::{
    cooperative::Cooperative,
    profile::Profile,
    recording::Plan,
    tile::{Tile, TileLoads},
};
pub use skeleton::{element, linear::Linear, operation::Operation, request::Request, row};
pub use spec::{
    about::Signature,
    options::{Accumulate, Empty, IgnoreIndex, MaskedMean, Padding, Reduction, WeightLayout},
    shard::Shard,
};
pub use wgpu;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
