//! Fused losses and their gradients as WGSL compute shaders, inside your own wgpu training loop.
//!
//! surprisal records a loss, its gradient and its by-products on *your* command encoder, over *your*
//! buffers, on any GPU that wgpu reaches. It copies no logits, never stores a matrix that it can
//! stream, and submits or reads back nothing unless asked to. Every result is held to an f64
//! reference on the CPU by one published tolerance, on every adapter.
//!
//! # From the top
//!
//! A **loss** ([`CrossEntropy`], [`LinearCrossEntropy`], …) is plain data: options and nothing else.
//! It takes named **tensors** ([`Tensor`]: a borrowed view of a buffer) and hands back named tensors;
//! which outputs are asked for decides what is computed.
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
//! gpu.encode(encoder, &CrossEntropy::default().label_smoothing(0.1), inputs, outputs)?;
//! # Ok(()) }
//! ```
//!
//! [`Gpu::prepare`] does the checking, compiling and binding once for a call that is encoded at every
//! step; [`Gpu::run_arrays`] is the one-line form for scripts; [`cpu::run`] is the reference;
//! [`Gpu::watch`] hands loss and [`Status`] to the host while later steps run.
//!
//! # What lies underneath
//!
//! - [`plan::Plan`]: shapes and device limits become a recording as plain data, windows past binding
//!   limits included. It can be printed and replayed; encoding only walks through it.
//! - [`kernel::Kernel`]: the identity of one specialisation, and the WGSL it stands for.
//! - [`operations`]: every operation by name, losses and what makes their [`targets`] and weights on the host.
//! - [`row`], [`linear`] and [`element`]: the skeletons. A loss is a functor in them; [`Separable`]
//!   and [`Elementwise`] make one of a few short WGSL functions of your own. A contrastive loss
//!   ([`InfoNce`], [`SupCon`], [`SigmoidContrastive`]) is one on a linear layer whose weight is the
//!   other batch.
//!   A composed loss ([`GanDiscriminator`], [`MixedColumns`]) is a list of them, each on its share of
//!   the tensors, in one recording.
//! - [`Shard`]: a vocabulary, or a set of keys, that lies in several pieces. Each makes [`row::STATE_WORDS`] words
//!   a row of its own, and from everybody's comes the loss of the whole, with the same bits everywhere.
//! - [`Cooperative`]: matrix units, where they are asked for ([`Gpu::with_cooperative_matrices`]) and a probe
//!   finds them right and faster.
//! - [`low_level`]: what tools around the library need, and callers do not.
//! - [`Profile`]: what the planner goes by on a device; [`Gpu::report`] says what was chosen and why.
//!
//! # Features
//!
//! `serde`: options and plans as JSON. `cases`: reference cases ([`cases`]) and what a loss of one's own is checked with
//! ([`testing`]). The command line `surprisal` is a crate of its own, `surprisal-cli`.

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

/// Score tiles on the matrix units of a GPU, and what a probe finds of them.
pub mod cooperative {
    pub use crate::{
        device::probe::{Finding, Found, Missing},
        plan::cooperative::{Cooperative, Side},
    };
}

/// What tools around the library are built with, the command line first: no part of the surface that stays as it is.
pub mod low_level {
    pub use crate::{
        data::array::round,
        device::{
            guard::guarded,
            memory::{Counted, buffer, uncounted},
            pipeline::{Bound, Module, Pipeline},
        },
        plan::limits::grid,
    };
}

/// What losses are described, given and made of.
pub mod loss {
    pub use crate::{
        losses::*,
        spec::{
            about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature, Spread},
            options::{Empty, IgnoreIndex, Padding, Reduction, WeightLayout},
            shard::Shard,
        },
    };
}

pub use data::{
    array::{self, Arithmetic, Array, Arrays, Data},
    error::{self, Error, Result},
    status::Status,
    tensor::{self, Dtype, Layout, Named, Tensor},
};
#[cfg(feature = "cases")]
#[doc(hidden)]
pub use device::pipeline::ledger;
pub use device::{
    adapter,
    encode::{Prepared, Record},
    gpu::{Gpu, Request},
    memory::Memory,
    run::{Run, stored_dtype, tensor_blocking},
    watch::{RING, Report, Watch},
};
pub use losses::*;
pub use plan::{
    Plan,
    cooperative::Cooperative,
    kernel,
    profile::{self, Profile},
    tile::{Tile, TileLoads},
};
pub use skeleton::{
    element::{self, ElementLoss},
    linear::{self, Linear},
    operation::Operation,
    row,
};
pub use spec::{
    about::Signature,
    options::{Empty, IgnoreIndex, MaskedMean, Padding, Reduction, WeightLayout},
    shard::Shard,
};
pub use wgpu;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
