//! The macros that declare setters and typed tensors.

/// Declares chained setters, one for each field. The setter of an optional field takes the value, or the option.
macro_rules! setters {
    () => {};
    ($field:ident: Option<$value:ty> $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets `", stringify!($field), "`, or unsets it with `None`.")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<Option<$value>>) -> Self {
            self.$field = $field.into();
            self
        }
        $($crate::spec::declare::setters! { $($rest)* })?
    };
    ($field:ident: $type:ty $(, $($rest:tt)*)?) => {
        #[doc = concat!("Sets `", stringify!($field), "`.")]
        #[must_use]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
        $($crate::spec::declare::setters! { $($rest)* })?
    };
}
pub(crate) use setters;

/// Declares the typed inputs or outputs of a loss: named fields, chained setters, and the
/// conversion to the dynamic form (names and tensors) that the rest of the crate uses.
macro_rules! tensors {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $key:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        #[non_exhaustive]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: Option<$crate::data::tensor::Tensor<'a>>,)*
        }

        impl<'a> $name<'a> {
            $($(#[$field_doc])*
            #[must_use]
            pub fn $field(mut self, tensor: $crate::data::tensor::Tensor<'a>) -> Self {
                self.$field = Some(tensor);
                self
            })*
        }

        impl<'a> From<$name<'a>> for $crate::data::tensor::Named<'a> {
            fn from(tensors: $name<'a>) -> Self {
                let mut named = Self::new();
                $(if let Some(tensor) = tensors.$field {
                    named.insert($key.to_owned(), tensor);
                })*
                named
            }
        }
    };
}
pub(crate) use tensors;
