//! What a call may look like, and the checks that it does.

pub mod about;
pub(crate) mod arguments;
pub mod broadcast;
pub mod call;
pub(crate) mod check;
pub(crate) mod declare;
pub mod in_place;
pub mod list;
pub mod options;
pub(crate) mod quantized;
pub mod shard;
