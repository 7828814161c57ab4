//! What an operation is: its options, its description, and the two ways to compute it.
//!
//! An operation is a loss, or something beside losses that makes targets or weights. Its value is plain data (options
//! only). The GPU path asks it for a [`Plan`], the CPU path for its [`reference`](Operation::reference); both share
//! one [`validate`](Signature::validate) and one [`About`]. An operation of the host ([`Signature::is_host`]) has only
//! the reference.
//!
//! A call may pass it more than tensors of its own. Each argument declares what it takes: a list of tensors
//! ([`list`](crate::loss::list)), numbers of the host ([`Request::host`](crate::Request::host)), an output over an
//! input ([`Request::in_place`](crate::Request::in_place)).

use std::{any::Any, fmt::Debug};

use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
    },
    plan::{Plan, profile::Profile},
    spec::{
        about::{About, Signature},
        call::Call,
    },
};

/// An operation: options, and everything that can be done with them.
pub trait Operation: Signature {
    /// The recording for one call, as plain data. Operations of the host have none.
    ///
    /// # Errors
    ///
    /// [`Error::HostOnly`] for an operation of the host; otherwise whatever the device cannot do.
    fn plan(&self, _call: &Call, _profile: &Profile) -> Result<Plan> {
        Err(Error::HostOnly { operation: self.about().name.into() })
    }

    /// Hands out the options, in parts that can be kept and compared, and returns whether these are all options. Two
    /// calls with equal parts, shapes and places have the same plan, so a [`Gpu`](crate::Gpu) plans only the first. An
    /// operation that returns `false` is planned at every call.
    fn compared_by(&self, _part: &mut dyn FnMut(&dyn Options)) -> bool {
        false
    }

    /// The textbook computation of every output in `wanted`, on the CPU.
    fn reference(&self, inputs: &Arrays, wanted: &[&str], arithmetic: Arithmetic)
    -> Result<Arrays>;
}

/// Options that can be kept and compared. Every plain type has this.
pub trait Options: Any + Debug + Send + Sync {
    /// A copy.
    fn to_boxed(&self) -> Box<dyn Options>;

    /// Whether the other options are of the same type and equal.
    fn equals(&self, other: &dyn Options) -> bool;
}

impl<T: Any + Clone + PartialEq + Debug + Send + Sync> Options for T {
    fn to_boxed(&self) -> Box<dyn Options> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Options) -> bool {
        let other: &dyn Any = other;
        other.downcast_ref::<T>() == Some(self)
    }
}

/// An entry of a registry.
pub struct Entry {
    /// The description of the operation.
    pub about: &'static About,
    /// Makes the operation from its options as JSON.
    #[cfg(feature = "serde")]
    pub parse: fn(&serde_json::Value) -> Result<Box<dyn Operation>>,
    /// Makes the operation with its default options.
    pub default: fn() -> Box<dyn Operation>,
}

/// Parses options from JSON: unknown names and values out of their domain are errors.
#[cfg(feature = "serde")]
pub(crate) fn parse<L: Operation + serde::de::DeserializeOwned + 'static>(
    about: &About,
    options: &serde_json::Value,
) -> Result<Box<dyn Operation>> {
    // serde would accept an array as the fields in their order.
    let Some(given) = options.as_object() else {
        return Err(Error::option(about.name, "options", options, "options are an object"));
    };
    let parsed = serde_json::from_value(options.clone());
    let loss: L = parsed.map_err(|error| refused::<L>(about, given, &error))?;
    loss.validate()?;
    Ok(Box::new(loss))
}

/// The error about options that could not be parsed: it names the first option that cannot be parsed alone.
#[cfg(feature = "serde")]
fn refused<L: serde::de::DeserializeOwned>(
    about: &About,
    given: &serde_json::Map<String, serde_json::Value>,
    error: &serde_json::Error,
) -> Error {
    for (name, value) in given {
        let Some(option) = about.options.iter().find(|option| option.name == name) else {
            return Error::UnknownName {
                operation: about.name.into(),
                kind: "option",
                name: name.clone().into(),
                known: about.options.iter().map(|o| o.name).collect::<Vec<_>>().join(", ").into(),
            };
        };
        let alone = serde_json::Map::from_iter([(name.clone(), value.clone())]);
        if let Err(error) = serde_json::from_value::<L>(alone.into()) {
            return Error::option(about.name, option.name, value, error.to_string());
        }
    }
    Error::option(about.name, "options", serde_json::json!(given), error.to_string())
}

/// One line for each operation: its module, its exports, and its entry in the registry.
///
/// `cargo fmt` does not find modules inside macros: `rustfmt src/losses/*.rs src/targets/*.rs` formats these files.
macro_rules! operations {
    ($(#[$about:meta])* $($module:ident::$operation:ident),* $(,)?) => {
        $(pub(crate) mod $module;
        pub use $module::*;)*

        pub(crate) mod registry {
            use super::*;

            $(#[$about])*
            pub static REGISTRY: &[$crate::skeleton::operation::Entry] =
                &[$($crate::skeleton::operation::Entry {
                    about: &$module::ABOUT,
                    #[cfg(feature = "serde")]
                    parse: |options| {
                        $crate::skeleton::operation::parse::<$operation>(&$module::ABOUT, options)
                    },
                    default: || Box::new($operation::default()),
                },)*];
        }
    };
}
pub(crate) use operations;
