//! The macros that declare an element loss.

/// Declares an element loss: its options, inputs and outputs (with those that all element losses have), its
/// description, and its implementations of the traits. The loss itself adds its WGSL file and its
/// [`ElementLoss`](crate::element::ElementLoss), which begins with [`declared`].
macro_rules! element_loss {
    (
        $(#[$doc:meta])*
        $name:ident = $key:literal, $source:literal;
        summary: $summary:literal, formula: $formula:literal, pytorch: $pytorch:literal;
        inputs $inputs:ident { $($input:ident = $input_key:literal, $reads:literal: $argument:expr;)* }
        outputs $outputs:ident { $($gradient:ident = $gradient_key:literal: $gradient_about:literal;)* }
        $(monitors $monitored:ident = $monitored_key:literal: $monitored_about:literal;)?
        options { $($option:ident: $type:ident $(<$value:ident>)? = $default:expr, $json:literal, $samples:expr, $about:literal;)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        #[non_exhaustive]
        pub struct $name {
            /// How the losses become one number.
            pub reduction: $crate::spec::options::Reduction,
            /// The mean over nothing: NaN or 0.
            pub empty: $crate::spec::options::Empty,
            /// What a mean divides by where elements are masked or their targets are unknown.
            pub denominator: $crate::spec::options::MaskedMean,
            /// The value that marks an unknown target; an element with this target counts for nothing. In JSON it is a
            /// number or `"nan"`.
            #[cfg_attr(feature = "serde", serde(with = "crate::skeleton::element::unknown"))]
            pub unknown_target: Option<f64>,
            /// Whether the gradient's columns between the last column and the row stride are written.
            pub padding: $crate::spec::options::Padding,
            $(#[doc = $about] pub $option: $type $(<$value>)?,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    reduction: $crate::spec::options::Reduction::Mean,
                    empty: $crate::spec::options::Empty::Nan,
                    denominator: $crate::spec::options::MaskedMean::Mask,
                    unknown_target: None,
                    padding: $crate::spec::options::Padding::Keep,
                    $($option: $default,)*
                }
            }
        }

        impl $name {
            $crate::spec::declare::setters! {
                reduction: $crate::spec::options::Reduction,
                empty: $crate::spec::options::Empty,
                denominator: $crate::spec::options::MaskedMean,
                unknown_target: Option<f64>,
                padding: $crate::spec::options::Padding,
                $($option: $type $(<$value>)?,)*
            }
        }

        $crate::spec::declare::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] takes; see there for the shapes.")]
            $inputs {
                $(#[doc = concat!("The input `", $input_key, "`.")] $input = $input_key,)*
                /// Multiplies losses and gradients.
                weight = "weight",
                /// Multiplies losses, gradients and the terms of a mean's denominator; 0 removes an element.
                mask = "mask",
                /// The upstream gradient (a loss scale), `[1]`, or one value an element with reduction `none`.
                upstream = "upstream",
                /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
                denominator = "denominator",
            }
        }

        $crate::spec::declare::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] can hand back; which of them are given decides what is computed.")]
            $outputs {
                /// The loss, `[1]`, or one value an element with reduction `none`.
                loss = "loss",
                $(#[doc = concat!("The ", $gradient_about, ".")] $gradient = $gradient_key,)*
                $(#[doc = concat!("The ", $monitored_about, ", `[1]`.")] $monitored = $monitored_key,)?
                /// The sum of the losses.
                sum = "sum",
                /// What a mean divides by.
                denominator = "denominator",
                /// The number of elements kept.
                count = "count",
                /// The status words.
                status = "status",
            }
        }

        $crate::skeleton::request::request!($name: $inputs, $outputs);

        pub(super) static ABOUT: $crate::spec::about::About = {
            use $crate::spec::arguments as arg;
            $crate::spec::about::About {
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
                    $(arg::elements_gradient($gradient_key, $gradient_about),)*
                    $(arg::monitored($monitored_key, $monitored_about),)?
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
                    $($crate::spec::about::OptionAbout {
                        name: stringify!($option),
                        default: $json,
                        samples: $samples,
                        about: $about,
                    },)*
                ],
            }
        };

        impl $crate::spec::about::Signature for $name {
            fn about(&self) -> &'static $crate::spec::about::About {
                &ABOUT
            }

            fn is_per_row(&self) -> bool {
                self.reduction == $crate::spec::options::Reduction::None
            }

            fn takes_planes(&self) -> bool {
                true
            }

            fn validate(&self) -> $crate::data::error::Result<()> {
                use $crate::skeleton::element::ElementLoss;
                $crate::skeleton::element::check_options($key, self.options())?;
                self.check()
            }

            fn accepts(&self, call: &$crate::spec::call::Call) -> $crate::data::error::Result<()> {
                $crate::skeleton::element::accepts(self, call)
            }
        }

        impl $crate::skeleton::operation::Operation for $name {
            fn compared_by(
                &self,
                part: &mut dyn FnMut(&dyn $crate::skeleton::operation::Options),
            ) -> bool {
                part(self);
                true
            }

            fn plan(
                &self,
                call: &$crate::spec::call::Call,
                profile: &$crate::plan::profile::Profile,
            ) -> $crate::data::error::Result<$crate::plan::Plan> {
                $crate::skeleton::element::plan(self, call, profile)
            }

            fn reference(
                &self,
                inputs: &$crate::data::array::Arrays,
                wanted: &[&str],
                arithmetic: $crate::data::array::Arithmetic,
            ) -> $crate::data::error::Result<$crate::data::array::Arrays> {
                $crate::skeleton::element::compute(self, inputs, wanted, arithmetic)
            }
        }

        impl $name {
            const SOURCE: $crate::plan::kernel::Source = $crate::plan::kernel::shader!($source);

            const STREAMS: &'static [$crate::skeleton::element::ElementStream] =
                &[$($crate::skeleton::element::ElementStream { name: $input_key, default: $reads },)*];

            fn shared_options(&self) -> $crate::skeleton::element::ElementOptions {
                $crate::skeleton::element::ElementOptions {
                    reduction: self.reduction,
                    empty: self.empty,
                    denominator: self.denominator,
                    unknown: self.unknown_target,
                    padding: self.padding,
                }
            }
        }
    };
}
pub(crate) use element_loss;

/// The methods of [`ElementLoss`](crate::element::ElementLoss) that [`element_loss`] has already declared.
macro_rules! declared {
    () => {
        fn sources(&self) -> Vec<$crate::plan::kernel::Source> {
            vec![Self::SOURCE]
        }

        fn options(&self) -> $crate::skeleton::element::ElementOptions {
            self.shared_options()
        }

        fn streams(&self) -> &'static [$crate::skeleton::element::ElementStream] {
            Self::STREAMS
        }
    };
}
pub(crate) use declared;
