//! The only floor that runs anything: devices, buffers, pipelines, encoding, and reading back.

pub mod adapter;
pub(crate) mod bind;
pub(crate) mod encode;
pub(crate) mod gpu;
pub(crate) mod guard;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod parameters;
pub(crate) mod pipeline;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod probe;
pub(crate) mod recall;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod staging;
pub(crate) mod warm_up;
pub(crate) mod watch;
