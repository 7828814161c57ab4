//! How a loss of elements is declared.

/// Declares a loss of elements: its options and tensors with those that all such losses have, its
/// description, and how it hangs together. What it computes is its [`Formula`](crate::cpu::element::Formula)
/// and its WGSL.
macro_rules! element_loss {
    (
        $(#[$doc:meta])*
        $name:ident = $key:literal, $source:literal;
        summary: $summary:literal, formula: $formula:literal, pytorch: $pytorch:literal;
        inputs $inputs:ident { $($input:ident = $input_key:literal, $reads:literal: $argument:expr;)* }
        outputs $outputs:ident { $($gradient:ident = $gradient_key:literal: $gradient_about:literal;)* }
        $(watches $watched:ident = $watched_key:literal: $watched_about:literal;)?
        options { $($option:ident: $type:ty = $default:expr, $json:literal, $about:literal;)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        #[non_exhaustive]
        pub struct $name {
            /// How losses become one number.
            pub reduction: $crate::Reduction,
            /// What a mean over nothing is.
            pub empty: $crate::Empty,
            /// What a mean divides by where elements are masked or their targets unknown.
            pub denominator: $crate::element::MaskedMean,
            /// A target that stands for an unknown one: its element counts for nothing.
            pub unknown_target: Option<f64>,
            /// What happens to gradient columns between the last one and the row stride.
            pub padding: $crate::Padding,
            $(#[doc = $about] pub $option: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    reduction: $crate::Reduction::Mean,
                    empty: $crate::Empty::Nan,
                    denominator: $crate::element::MaskedMean::Mask,
                    unknown_target: None,
                    padding: $crate::Padding::Keep,
                    $($option: $default,)*
                }
            }
        }

        impl $name {
            $crate::loss::setters! {
                reduction: $crate::Reduction,
                empty: $crate::Empty,
                denominator: $crate::element::MaskedMean,
                unknown_target: Option<f64>,
                padding: $crate::Padding,
                $($option: $type,)*
            }
        }

        $crate::loss::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] takes; see there for the shapes.")]
            $inputs {
                $(#[doc = concat!("The input `", $input_key, "`.")] $input = $input_key,)*
                /// Multiplies losses and gradients.
                weight = "weight",
                /// Multiplies losses, gradients and what a mean divides by; 0 takes an element out.
                mask = "mask",
                /// The gradient from above (a loss scale), `[1]`, or one value an element with reduction `none`.
                upstream = "upstream",
                /// The caller's denominator `[1]` on the GPU; overrides the reduction's.
                denominator = "denominator",
            }
        }

        $crate::loss::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] can hand back; which of them are given decides what is computed.")]
            $outputs {
                /// The loss, `[1]`, or one value an element with reduction `none`.
                loss = "loss",
                $(#[doc = concat!("The ", $gradient_about, ".")] $gradient = $gradient_key,)*
                $(#[doc = concat!("The ", $watched_about, ", `[1]`.")] $watched = $watched_key,)?
                /// Σ of the losses.
                sum = "sum",
                /// What a mean divides by.
                denominator = "denominator",
                /// The number of elements kept.
                count = "count",
                /// The status words.
                status = "status",
            }
        }

        static ABOUT: $crate::loss::About = {
            use $crate::loss::arguments as arg;
            $crate::loss::About {
                name: $key,
                summary: $summary,
                formula: $formula,
                pytorch: $pytorch,
                inputs: &[
                    $($argument,)*
                    arg::ELEMENT_WEIGHT,
                    arg::MASK,
                    arg::ELEMENT_UPSTREAM,
                    arg::DENOMINATOR_IN,
                ],
                outputs: &[
                    arg::ELEMENT_LOSS,
                    $(arg::optional_elements($gradient_key, $gradient_about),)*
                    $(arg::watched($watched_key, $watched_about),)?
                    arg::SUM,
                    arg::DENOMINATOR,
                    arg::COUNT,
                    arg::STATUS,
                ],
                options: &[
                    arg::ELEMENT_REDUCTION,
                    arg::EMPTY,
                    arg::MASKED_MEAN,
                    arg::UNKNOWN_TARGET,
                    arg::PADDING,
                    $($crate::loss::OptionAbout { name: stringify!($option), default: $json, about: $about },)*
                ],
            }
        };

        pub(super) const ENTRY: $crate::loss::Entry = $crate::loss::Entry {
            about: &ABOUT,
            #[cfg(feature = "serde")]
            parse: |options| $crate::loss::parse::<$name>($key, options),
            default: || Box::new($name::default()),
        };

        impl $crate::Loss for $name {
            fn about(&self) -> &'static $crate::loss::About {
                &ABOUT
            }

            fn validate(&self) -> $crate::Result<()> {
                use $crate::{cpu::element::Formula, element::ElementLoss};
                $crate::element::check_options($key, self.options())?;
                self.check()
            }

            fn is_per_row(&self) -> bool {
                self.reduction == $crate::Reduction::None
            }

            fn takes_planes(&self) -> bool {
                true
            }

            fn plan(
                &self,
                call: &$crate::plan::Call,
                profile: &$crate::Profile,
            ) -> $crate::Result<$crate::Plan> {
                $crate::element::plan(self, call, profile)
            }

            fn reference(
                &self,
                inputs: &$crate::Arrays,
                wanted: &[&str],
                arithmetic: $crate::Arithmetic,
            ) -> $crate::Result<$crate::Arrays> {
                $crate::cpu::element::run(self, inputs, wanted, arithmetic)
            }
        }

        impl $crate::element::ElementLoss for $name {
            fn sources(&self) -> Vec<$crate::kernel::Source> {
                vec![$crate::kernel::shader!($source)]
            }

            fn options(&self) -> $crate::element::ElementOptions {
                $crate::element::ElementOptions {
                    reduction: self.reduction,
                    empty: self.empty,
                    denominator: self.denominator,
                    unknown: self.unknown_target,
                    padding: self.padding,
                }
            }

            fn streams(&self) -> &'static [$crate::element::ElementStream] {
                &[$($crate::element::ElementStream { name: $input_key, default: $reads },)*]
            }

            fn shapes(&self, given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
                $crate::cpu::element::Formula::code(self, given)
            }

            fn numbers(&self) -> Vec<(&'static str, f64)> {
                $crate::cpu::element::Formula::constants(self)
            }

            fn watched(&self) -> Option<&'static str> {
                let names: &[&'static str] = &[$($watched_key,)?];
                names.first().copied().filter(|_| $crate::cpu::element::Formula::watches(self))
            }

            fn agrees(&self, given: &dyn Fn(&str) -> bool) -> $crate::Result<()> {
                $crate::cpu::element::Formula::agrees(self, given)
            }
        }
    };
}
pub(crate) use element_loss;
