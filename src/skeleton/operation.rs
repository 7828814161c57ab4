//! What an operation is: its options, its description, and the two ways to compute it.
//!
//! A loss value is plain data (options only). The GPU path asks it for a [`Plan`], the CPU path for
//! its [`reference`](Loss::reference); both share one [`validate`](Signature::validate) and one
//! [`About`].

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::Result,
    },
    plan::{Plan, profile::Profile},
    spec::{
        about::{About, Signature},
        call::Call,
    },
};

/// A loss: options, and everything that can be done with them.
pub trait Loss: Signature {
    /// The recording for one call, as plain data.
    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan>;

    /// The textbook computation of every output in `wanted`, on the CPU.
    fn reference(&self, inputs: &Arrays, wanted: &[&str], arithmetic: Arithmetic)
    -> Result<Arrays>;
}

/// One line of the registry ([`crate::loss::REGISTRY`]).
pub struct Entry {
    /// What it is.
    pub about: &'static About,
    /// The loss from its options as JSON.
    #[cfg(feature = "serde")]
    pub parse: fn(&serde_json::Value) -> Result<Box<dyn Loss>>,
    /// The loss with its default options.
    pub default: fn() -> Box<dyn Loss>,
}

/// Parses options from JSON: unknown names and values out of their domain are errors.
#[cfg(feature = "serde")]
pub(crate) fn parse<L: Loss + serde::de::DeserializeOwned + 'static>(
    name: &'static str,
    options: &serde_json::Value,
) -> Result<Box<dyn Loss>> {
    // A sequence would be taken for the fields in their order.
    if !options.is_object() {
        return Err(crate::data::error::Error::option(
            name,
            "options",
            options,
            "options are an object",
        ));
    }
    let loss: L = serde_json::from_value(options.clone()).map_err(|error| {
        crate::data::error::Error::option(name, "options", options, error.to_string())
    })?;
    loss.validate()?;
    Ok(Box::new(loss))
}
