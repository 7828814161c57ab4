//! How families of losses are planned, each with its family's generic reference.

pub(crate) mod composed;
pub mod element;
pub mod linear;
pub mod operation;
pub(crate) mod pairs;
pub(crate) mod request;
pub mod row;
pub(crate) mod sums;
pub(crate) mod vectors;
