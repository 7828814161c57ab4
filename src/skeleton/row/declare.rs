//! The macro that declares a row loss.

/// Declares a row loss: its options, inputs and outputs (with those that all row losses have), its description, and
/// its implementations of the traits. The loss itself adds its
/// [`RowFormula`](crate::skeleton::row::reference::RowFormula) and its [`RowLoss`](crate::skeleton::row::RowLoss).
///
/// A loss `without targets` has no option `ignore_index`. Scores that are no logits are named after `of`, with their
/// argument, that of their gradient, and after `scaled by` what makes numbers of integers.
macro_rules! row_loss {
    ($(#[$doc:meta])* $name:ident = $key:literal; $($rest:tt)*) => {
        $crate::skeleton::row::row_loss! {
            $(#[$doc])*
            $name = $key, of logits, ignoring ignore_index;
            $($rest)*
        }
    };
    ($(#[$doc:meta])* $name:ident = $key:literal, without targets; $($rest:tt)*) => {
        $crate::skeleton::row::row_loss! {
            $(#[$doc])*
            $name = $key, of logits, ignoring;
            $($rest)*
        }
    };
    (
        $(#[$doc:meta])*
        $name:ident = $key:literal, of logits, ignoring $($ignore_index:ident)?; $($rest:tt)*
    ) => {
        $crate::skeleton::row::row_loss! {
            $(#[$doc])*
            $name = $key, of logits = "logits", "grad.logits", LOGITS, LOGITS_GRADIENT,
            scaled by {
                /// The scale of i8 logits, `[1]` or `[rows]`: see [quantised logits](crate::row#quantised-logits).
                logits_scale = "logits_scale": LOGITS_SCALE;
                /// The zero point of i8 logits, an `i8` in the shape of the scale; 0 if it is not given.
                logits_zero_point = "logits_zero_point": LOGITS_ZERO_POINT;
            },
            ignoring $($ignore_index)?;
            $($rest)*
        }
    };
    (
        $(#[$doc:meta])*
        $name:ident = $key:literal,
        of $scores:ident = $scores_key:literal, $gradient_key:literal, $scores_argument:ident, $gradient_argument:ident,
        scaled by { $($(#[$scale_doc:meta])* $scale:ident = $scale_key:literal: $scale_argument:ident;)* },
        ignoring $($ignore_index:ident)?;
        summary: $summary:literal, formula: $formula:literal, pytorch: $pytorch:literal;
        inputs $inputs:ident { $($input:ident = $input_key:literal: $argument:expr;)* }
        outputs $outputs:ident $({
            $($output:ident = $output_key:literal: $output_argument:expr;)*
        })?;
        options { $($option:ident: $type:ident $(<$value:ident>)? = $default:expr, $json:literal, $samples:expr, $about:literal;)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        #[non_exhaustive]
        pub struct $name {
            /// How row losses become one number.
            pub reduction: $crate::spec::options::Reduction,
            /// The mean over nothing: NaN or 0.
            pub empty: $crate::spec::options::Empty,
            $(/// Target indices whose rows count for nothing.
            pub $ignore_index: $crate::spec::options::IgnoreIndex,)?
            /// What a mean divides by: the number of rows kept, or their weights.
            pub denominator: $crate::spec::options::Denominator,
            /// Whether gradient columns past the classes are written.
            pub padding: $crate::spec::options::Padding,
            $(#[doc = $about] pub $option: $type $(<$value>)?,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    reduction: $crate::spec::options::Reduction::Mean,
                    empty: $crate::spec::options::Empty::Nan,
                    $($ignore_index: $crate::spec::options::IgnoreIndex::One(-100),)?
                    denominator: $crate::spec::options::Denominator::Targets,
                    padding: $crate::spec::options::Padding::Keep,
                    $($option: $default,)*
                }
            }
        }

        impl $name {
            $crate::spec::declare::setters! {
                reduction: $crate::spec::options::Reduction,
                empty: $crate::spec::options::Empty,
                $($ignore_index: $crate::spec::options::IgnoreIndex,)?
                denominator: $crate::spec::options::Denominator,
                padding: $crate::spec::options::Padding,
                $($option: $type $(<$value>)?,)*
            }

            /// The same program with the options that say how rows are kept, weighed and reduced.
            fn ruled(&self, program: $crate::skeleton::row::RowProgram) -> $crate::skeleton::row::RowProgram {
                let row_weights = self.denominator == $crate::spec::options::Denominator::Weights;
                let counted = $crate::skeleton::row::Counted { row_weights, ..program.counted };
                $crate::skeleton::row::RowProgram {
                    reduction: self.reduction,
                    empty: self.empty,
                    padding: self.padding,
                    $(target: $crate::skeleton::row::Target::Index {
                        ignored: self.$ignore_index.as_slice().to_vec(),
                    },)?
                    counted,
                    scores: Some($scores_key),
                    ..program
                }
            }
        }

        $crate::spec::declare::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] takes; see there for the shapes.")]
            $inputs {
                #[doc = concat!("The scores `", $scores_key, "`, `[rows, classes]`.")]
                $scores = $scores_key,
                $($(#[$scale_doc])* $scale = $scale_key,)*
                $(#[doc = concat!("The input `", $input_key, "`.")] $input = $input_key,)*
                /// Row weights `[rows]`.
                row_weight = "row_weight",
                /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
                upstream = "upstream",
                /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
                denominator = "denominator",
            }
        }

        $crate::spec::declare::tensors! {
            #[doc = concat!("What [`", stringify!($name), "`] can hand back; which of them are given decides what is computed.")]
            $outputs {
                /// The loss, `[1]`, or `[rows]` with [`Reduction::None`](crate::Reduction::None).
                loss = "loss",
                /// The gradient of the scores, written in place if
                /// [`Request::gradient_in_place`](crate::Request::gradient_in_place) asks for that.
                gradient = $gradient_key,
                $($(#[doc = concat!("The output `", $output_key, "`.")] $output = $output_key,)*)?
                /// The sum of the row losses.
                sum = "sum",
                /// What a mean divides by.
                denominator = "denominator",
                /// The number of rows kept.
                count = "count",
                /// The status words.
                status = "status",
            }
        }

        $crate::skeleton::request::request!($name: $inputs, $outputs);

        pub(crate) static ABOUT: $crate::spec::about::About = {
            use $crate::spec::arguments as arg;
            $crate::spec::about::About {
                name: $key,
                summary: $summary,
                formula: $formula,
                pytorch: $pytorch,
                inputs: &[
                    arg::$scores_argument,
                    $(arg::$scale_argument,)*
                    $($argument,)*
                    arg::ROW_WEIGHT,
                    arg::UPSTREAM,
                    arg::DENOMINATOR_IN,
                ],
                outputs: &[
                    arg::LOSS,
                    arg::$gradient_argument,
                    $($($output_argument,)*)?
                    arg::SUM,
                    arg::DENOMINATOR,
                    arg::COUNT,
                    arg::STATUS,
                ],
                options: &[
                    arg::REDUCTION,
                    arg::EMPTY,
                    $($crate::spec::about::OptionAbout {
                        name: stringify!($ignore_index),
                        ..arg::IGNORE_INDEX
                    },)?
                    arg::ROWS_MEAN,
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

        impl $crate::skeleton::row::reference::Ruled for $name {
            fn rules(&self) -> $crate::skeleton::row::reference::Rules {
                let ignored: &[&[i64]] = &[$(self.$ignore_index.as_slice())?];
                $crate::skeleton::row::reference::Rules {
                    reduction: self.reduction,
                    empty: self.empty,
                    ignored: ignored.concat(),
                    weighted_rows: self.denominator == $crate::spec::options::Denominator::Weights,
                }
            }
        }

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
                $crate::spec::options::check_reduction($key, self.reduction)?;
                $(self.$ignore_index.validate($key)?;)?
                $crate::skeleton::row::reference::RowFormula::check(self)
            }

            fn accepts(&self, call: &$crate::spec::call::Call) -> $crate::data::error::Result<()> {
                $crate::skeleton::row::accepts(self, call)
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
                $crate::skeleton::row::plan(self, call, profile)
            }

            fn reference(
                &self,
                inputs: &$crate::data::array::Arrays,
                wanted: &[&str],
                arithmetic: $crate::data::array::Arithmetic,
            ) -> $crate::data::error::Result<$crate::data::array::Arrays> {
                $crate::skeleton::row::reference::run(self, inputs, wanted, arithmetic)
            }
        }
    };
}
pub(crate) use row_loss;
