//! Dice on logits (catalogue E9).

mod reference;
mod softmax;

use super::separable::{SUMS_FACTORS, SUMS_STATE};
use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::{Number, Plan, Planner, kernel::shader, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        request::request,
        row::{self, Broadcast, RowLoss, RowProgram, RowStream},
        sums::Totals,
    },
    spec::{
        about::{About, Argument, Dim, Domain, Kind, OptionAbout, Signature},
        arguments as arg,
        call::{Call, Operand},
        declare::{setters, tensors},
        options::{Empty, IgnoreIndex, Padding, Reduction, check_reduction},
    },
};

/// The function that makes probabilities of the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum DiceActivation {
    /// sigmoid(z): every channel has a mask of its own.
    #[default]
    Sigmoid,
    /// softmax(z) over the classes of a pixel, which has one target.
    Softmax,
}

/// The weights of the classes in one coefficient over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DiceClassWeight {
    /// 1 for every class.
    #[default]
    Uniform,
    /// 1/(Σt)², so that a small class counts as much as a large one. A class that no pixel has gets the largest weight
    /// of the others.
    InverseSquare,
}

/// The elements that one Dice coefficient covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Per {
    /// A row: a sample, or a channel of a sample.
    #[default]
    Row,
    /// A column: a channel of all samples and pixels.
    Channel,
    /// All elements together.
    Batch,
}

/// The Dice loss on logits, optionally with a share of cross-entropy.
///
/// With P = m·sigmoid(z) and t = m·y, where m is the mask (1 without one), the loss of a row (or of the batch) is
/// 1 − (2·ΣP·t + smooth)/(ΣP + Σt + smooth) + bce/Σm·Σ m·BCE(z, y), where bce is the option and Σm the sum of the mask.
///
/// - **Shapes**: logits and targets `[rows, columns]`, with any row stride, class stride and element
///   offset. A row is a sample's pixels, or (of images [N, C, H, W]) a channel's of a sample, as
///   `[N·C, H·W]`. `per = "channel"` has one coefficient a column of `[N·H·W, C]`, over all samples,
///   of channels that lie last or in planes ([`crate::Tensor::nchw`]). `per = "batch"` is one value
///   whatever the reduction. row_weight has one value a coefficient (`[1]` over the batch); upstream is `[1]`, or one
///   value a coefficient with [`Reduction::None`]. The elements of one coefficient must fit one binding. The mask has
///   the shape of the logits; with `per = "channel"` it may be `[rows, 1]`, the same for all channels of a pixel.
/// - **Types**: `f32`, `f16`, `bf16`, computed in f32.
/// - **Gradient**, times row_weight·upstream/denominator: P·(1 − sigmoid(z))·(D − 2·t)/(ΣP + Σt + smooth), where D is the coefficient, plus bce/Σm·m·(sigmoid(z)
///   − y).
/// - **Mean** divides by the number of coefficients, those that are masked altogether included: their loss is 0.
/// - **Mask**: what is masked with 0 counts for nothing, and its gradient is exactly 0, even where its logit or target
///   is NaN. A fraction multiplies both sides, so that it enters ΣP·t squared (as in MONAI's `MaskedDiceLoss`).
/// - **Edges**: two empty masks without smoothing are equal, so the loss is 0. At z = ±inf, P is 0 or 1 (the share of
///   cross-entropy is at most 200). At finite z, P is never 0, however small: an empty mask without smoothing then has
///   the loss 1. A NaN makes the loss and the gradient of its row NaN, which [`crate::Status`] counts.
/// - **Ignored targets**: an element whose target is one of `ignore_index` (255, say) is left out as if it were masked.
/// - **Softmax** (`activation = "softmax"`): segmentation with one class a pixel. A row is a pixel, its targets `[rows]`
///   are class indices (`i32`, `u32`, `i64`), P = m·softmax(z), and t is m for the pixel's class and 0 for the others.
///   Each class has one coefficient over all pixels, whether `per` is "row" or "channel": loss, row_weight (class
///   weights) and upstream have one value a class, `[classes]`, and the mean divides by the number of classes. (That is
///   MONAI's `DiceLoss(softmax=True, to_onehot_y=True, batch=True)` with both its smoothings at `smooth`. A row_weight of
///   0 leaves out a class, such as the background, but not from the mean's denominator.) The logits of all pixels must
///   fit one binding.
///   - With `per = "batch"` all classes have one coefficient: 1 − (2·Σ_c w_c·ΣP·t + smooth)/(Σ_c w_c·(ΣP + Σt) + smooth),
///     `[1]`, with w = 1 or, where `class_weight` is "inverse_square", w_c = 1/(Σt)², the generalised Dice loss. A class
///     that no pixel has gets the largest weight of the others; Σt below 1/1024 counts as 1/1024. The weights follow from
///     targets and mask alone.
///   - `cross_entropy_weight` times the mean cross-entropy of the pixels, divided by Σm, is added to the loss of every
///     class, and so once to their mean.
///   - A class that no pixel has and none is likely to be has the loss ΣP/(ΣP + smooth): near 0 with smoothing, 1
///     without. Where no pixel counts, every coefficient is that of empty masks: the loss is 0.
///   - Ignored and masked pixels have a gradient of exactly 0, even where their logits are NaN. The logits have the edges
///     of [`crate::CrossEntropy`]: `-inf` is P = 0. A NaN or +inf logit, a pixel that is all `-inf`, or a target outside
///     `0..classes` spoils every coefficient: all losses and the gradients of all other pixels are NaN, and
///     [`crate::Status`] counts the pixel. The gradient of a pixel with a bad target is 0.
/// - **Range**: masks are from 0 to 1. Larger numbers are computed as they are, as long as the sum of a mask is below
///   1e23.
/// - **Errors**: an invalid call is refused before any GPU work; [`Error`] names the argument and its value.
///
/// Sources: Milletari et al. 2016 (V-Net); generalised Dice, Sudre et al. 2017.
///
/// ```
/// use surprisal::{Array, Arrays, Dice, cpu};
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[1, 2], vec![0.0, 0.0])),
///     ("targets".to_owned(), Array::float(&[1, 2], vec![1.0, 0.0])),
/// ]);
/// let outputs = cpu::run(&Dice::default().smooth(0.0), &inputs, &["loss"])?;
/// assert_eq!(outputs["loss"].to_f64(), [0.5]);
///
/// // Two pixels of two classes, and one that is ignored.
/// use surprisal::{DiceActivation::Softmax, IgnoreIndex};
/// let inputs = Arrays::from([
///     ("logits".to_owned(), Array::float(&[3, 2], vec![0.0; 6])),
///     ("targets".to_owned(), Array::int(&[3], vec![0, 1, 255])),
/// ]);
/// let loss = Dice::default().activation(Softmax).ignore_index(IgnoreIndex::One(255)).smooth(0.0);
/// assert_eq!(cpu::run(&loss, &inputs, &["loss"])?["loss"].to_f64(), [0.5]);
/// # Ok::<(), surprisal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Dice {
    /// How the losses of rows become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// Added to the numerator and the denominator of the fraction; not below 0.
    pub smooth: f64,
    /// The elements that one coefficient covers.
    pub per: Per,
    /// What makes probabilities of the logits.
    pub activation: DiceActivation,
    /// With a softmax and one coefficient over the batch, the weights of the classes in it.
    pub class_weight: DiceClassWeight,
    /// Targets that count for nothing.
    pub ignore_index: IgnoreIndex,
    /// The weight of the mean binary cross-entropy that is added; not below 0.
    pub bce: f64,
    /// With a softmax, the weight of the mean cross-entropy of the pixels that is added; not below 0.
    pub cross_entropy_weight: f64,
    /// Whether gradient columns past the last column are written.
    pub padding: Padding,
}

impl Default for Dice {
    fn default() -> Self {
        Self {
            reduction: Reduction::Mean,
            empty: Empty::Nan,
            smooth: 1.0,
            per: Per::Row,
            activation: DiceActivation::Sigmoid,
            class_weight: DiceClassWeight::Uniform,
            ignore_index: IgnoreIndex::One(-100),
            bce: 0.0,
            cross_entropy_weight: 0.0,
            padding: Padding::Keep,
        }
    }
}

impl Dice {
    setters! {
        reduction: Reduction, empty: Empty, smooth: f64, per: Per, activation: DiceActivation,
        class_weight: DiceClassWeight,
        ignore_index: IgnoreIndex, bce: f64, cross_entropy_weight: f64, padding: Padding,
    }

    /// The plan of a call that is regrouped to one row a coefficient. The gradient is padded as the caller lays it out.
    fn plan_regrouped(&self, call: &Call, per: Per, profile: &Profile) -> Result<Plan> {
        let mut planner = Planner::new("dice", call, profile);
        planner.append(row::plan(self, &regrouped(call, per)?, profile)?, |role| role);
        if self.padding == Padding::Zero {
            let dtype = call.inputs.get("logits").map_or(Dtype::F32, |l| l.layout.dtype);
            let totals = Totals { skeleton: "row", loss: "dice", dtype };
            totals.pad(&mut planner, call.output("grad.logits"), call.dim(Dim::Classes))?;
        }
        Ok(planner.finish())
    }

    /// Checks that the options go with the activation.
    fn check_activation(&self) -> Result<()> {
        let weighs = self.class_weight != DiceClassWeight::Uniform;
        match self.activation {
            DiceActivation::Sigmoid if self.cross_entropy_weight > 0.0 => disagree(
                "cross_entropy_weight",
                "activation",
                "with a sigmoid, `bce` is the weight",
            ),
            DiceActivation::Sigmoid if weighs => {
                disagree("class_weight", "activation", "the classes are those of a softmax")
            }
            DiceActivation::Softmax if self.bce > 0.0 => disagree(
                "bce",
                "activation",
                "with a softmax, `cross_entropy_weight` is the weight",
            ),
            DiceActivation::Softmax if weighs && self.per != Per::Batch => {
                let reason = "classes with coefficients of their own are weighed by `row_weight`";
                disagree("class_weight", "per", reason)
            }
            _ => Ok(()),
        }
    }

    /// Checks that a mask of one value a row is one of pixels.
    fn check_mask(&self, call: &Call) -> Result<()> {
        let columns = call.inputs.get("mask").map(|mask| mask.layout.columns());
        if self.per == Per::Channel || columns.is_none_or(|own| own == call.dim(Dim::Classes)) {
            return Ok(());
        }
        let reason = "one value a row masks pixels, so a row is a pixel: per = \"channel\"";
        disagree("mask", "per", reason)
    }

    /// How the coefficients become one number; over the batch there is only one.
    pub(crate) fn parts_reduction(&self) -> Reduction {
        match (self.per, self.reduction) {
            (Per::Batch, Reduction::None) => Reduction::Sum,
            (_, reduction) => reduction,
        }
    }
}

tensors! {
    /// The inputs of [`Dice`].
    DiceInputs {
        /// Logits `[rows, columns]`.
        logits = "logits",
        /// Masks `[rows, columns]`, from 0 to 1; over a softmax, class indices `[rows]`.
        targets = "targets",
        /// The mask, 0 or 1 an element (or between them), `[rows, columns]`; or `[rows, 1]` with `per = "channel"` and
        /// over a softmax.
        mask = "mask",
        /// Row weights, one value a coefficient.
        row_weight = "row_weight",
        /// The upstream gradient (a loss scale), `[1]` or `[rows]`.
        upstream = "upstream",
        /// The caller's denominator `[1]` on the GPU; replaces the denominator of the reduction.
        denominator = "denominator",
    }
}

tensors! {
    /// The outputs of [`Dice`]. Only those that are given are computed.
    DiceOutputs {
        /// The loss, `[1]`, or `[rows]` with [`Reduction::None`].
        loss = "loss",
        /// The gradient of the logits.
        gradient = "grad.logits",
        /// The sum of the row losses.
        sum = "sum",
        /// What a mean divides by.
        denominator = "denominator",
        /// The number of coefficients.
        count = "count",
        /// The status words.
        status = "status",
    }
}

request!(Dice: DiceInputs, DiceOutputs);

const MATRIX: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes]];

/// The description, from the dimensions of a vector with one value a coefficient.
macro_rules! about {
    ($parts:expr, $targets:expr, $mask:expr) => { About {
    name: "dice",
    summary: "One minus the Dice coefficient of a mask's logits, a row or over the batch, or of the classes of pixels.",
    formula: "P = mask·sigmoid(z), t = mask·y; loss = 1 − (2·Σ P·t + smooth)/(Σ P + Σ t + smooth) + bce·mean BCE",
    pytorch: "none",
    inputs: &[
        Argument::required("logits", Kind::Float, MATRIX, "logits of the mask"),
        $targets,
        Argument::optional(
            "mask",
            Kind::Float,
            $mask,
            "multiplies probabilities and targets; 0 takes an element or a pixel out",
        )
        .within(Domain::Mask),
        Argument::optional(
            "row_weight",
            Kind::Float,
            &[$parts],
            "multiplies a coefficient's loss and gradient",
        )
        .within(Domain::Positive),
        Argument::optional(
            "upstream",
            Kind::F32,
            &[&[Dim::One], $parts],
            "the gradient from above (a loss scale); one value a coefficient with reduction `none`",
        ),
        arg::DENOMINATOR_IN,
    ],
    outputs: &[
        Argument::optional(
            "loss",
            Kind::F32,
            &[&[Dim::One], $parts],
            "the loss; one value a coefficient with reduction `none`",
        ),
        arg::LOGITS_GRADIENT,
        arg::SUM,
        arg::DENOMINATOR,
        arg::COUNT,
        arg::STATUS,
    ],
    options: &[
        OptionAbout {
            name: "reduction",
            default: "\"mean\"", samples: &["\"none\"", "\"sum\"", "{\"over\": 2.5}"],
            about: "\"none\", \"sum\", \"mean\" or {\"over\": D}",
        },
        arg::EMPTY,
        OptionAbout {
            name: "smooth",
            default: "1.0", samples: &["0.5"],
            about: "added above and below the fraction, not below 0",
        },
        OptionAbout {
            name: "per",
            default: "\"row\"", samples: &["\"channel\"", "\"batch\""],
            about: "one coefficient a row (\"row\"), a column (\"channel\") or over all elements (\"batch\")",
        },
        OptionAbout {
            name: "activation",
            default: "\"sigmoid\"", samples: &["\"softmax\""],
            about: "\"sigmoid\", or \"softmax\" over the classes of a pixel: targets are class indices [rows]",
        },
        OptionAbout {
            name: "class_weight",
            default: "\"uniform\"", samples: &["\"inverse_square\""],
            about: "the weights of classes in one coefficient (softmax, per = \"batch\"): \"uniform\" or \
                    \"inverse_square\" (1/(Σt)²: generalised Dice)",
        },
        OptionAbout {
            name: "ignore_index",
            default: "-100", samples: &["1", "[0, 2]"],
            about: "a target, or a list of up to 4, whose elements or pixels count for nothing",
        },
        OptionAbout {
            name: "bce",
            default: "0.0", samples: &["0.5"],
            about: "the weight of the mean binary cross-entropy beside it (sigmoid)",
        },
        OptionAbout {
            name: "cross_entropy_weight",
            default: "0.0", samples: &["0.5"],
            about: "the weight of the mean cross-entropy beside it (softmax)",
        },
        arg::PADDING,
    ],
} };
}

/// Targets of every element.
const MASKS: Argument =
    Argument::required("targets", Kind::Float, MATRIX, "the mask").within(Domain::Probability);

const ELEMENTS: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes], &[Dim::Rows, Dim::One]];
const PIXELS: &[&[Dim]] = &[&[Dim::Rows, Dim::One]];

pub(super) static ABOUT: About = about!(&[Dim::Rows], MASKS, ELEMENTS);
static ABOUT_CHANNELS: About = about!(&[Dim::Classes], MASKS, ELEMENTS);
static ABOUT_BATCH: About = about!(&[Dim::One], MASKS, ELEMENTS);
static ABOUT_JOINT: About = about!(&[Dim::One], arg::LABELS, PIXELS);
static ABOUT_SOFTMAX: About = about!(&[Dim::Classes], arg::LABELS, PIXELS);

impl Signature for Dice {
    fn about(&self) -> &'static About {
        match (self.activation, self.per) {
            (DiceActivation::Softmax, Per::Batch) => &ABOUT_JOINT,
            (DiceActivation::Softmax, _) => &ABOUT_SOFTMAX,
            (_, Per::Row) => &ABOUT,
            (_, Per::Channel) => &ABOUT_CHANNELS,
            (_, Per::Batch) => &ABOUT_BATCH,
        }
    }

    fn is_per_row(&self) -> bool {
        self.parts_reduction() == Reduction::None
    }

    fn takes_planes(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        check_reduction("dice", self.reduction)?;
        self.ignore_index.validate("dice")?;
        let numbers = [
            ("smooth", self.smooth),
            ("bce", self.bce),
            ("cross_entropy_weight", self.cross_entropy_weight),
        ];
        for (name, value) in numbers {
            if !((value as f32).is_finite() && value >= 0.0) {
                return Err(Error::option("dice", name, value, "is within f32 and not below 0"));
            }
        }
        Ok(())
    }

    fn accepts(&self, call: &Call) -> Result<()> {
        self.check_activation()?;
        if self.activation == DiceActivation::Softmax {
            return softmax::accepts(self, call);
        }
        self.check_mask(call)?;
        match self.per {
            Per::Row => row::accepts(self, call),
            per => row::accepts(self, &regrouped(call, per)?),
        }
    }
}

impl Operation for Dice {
    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        part(self);
        true
    }

    fn plan(&self, call: &Call, profile: &Profile) -> Result<Plan> {
        if self.activation == DiceActivation::Softmax {
            return softmax::plan(self, call, profile);
        }
        match self.per {
            Per::Row => row::plan(self, call, profile),
            per => self.plan_regrouped(call, per, profile),
        }
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> Result<Arrays> {
        reference::run(self, inputs, wanted, arithmetic)
    }
}

/// The error for two arguments or options that do not go together.
fn disagree(argument: &str, other: &str, reason: &str) -> Result<()> {
    Err(Error::Conflict {
        operation: "dice".into(),
        argument: argument.into(),
        other: other.into(),
        reason: reason.into(),
    })
}

/// The same call with one row a coefficient.
fn regrouped(call: &Call, per: Per) -> Result<Call> {
    let mut regrouped = call.clone();
    let (rows, columns) = (call.dim(Dim::Rows), call.dim(Dim::Classes));
    let mut order = None;
    for operand in regrouped.inputs.values_mut().chain(regrouped.outputs.values_mut()) {
        let layout = &mut operand.layout;
        if layout.shape.len() != 2 {
            continue;
        }
        if per == Per::Channel {
            if layout.columns() == 1 && columns != 1 {
                for_every_channel(layout);
            } else {
                transpose(layout);
            }
            continue;
        }
        // Elements are taken in their memory order, which must be the same in all tensors.
        let (first, plane) = order.get_or_insert((operand.name.clone(), layout.class_stride));
        if *plane != layout.class_stride {
            return Err(Error::Conflict {
                operation: "dice".into(),
                argument: operand.name.clone().into(),
                other: first.clone().into(),
                reason: "over a batch both have the same class stride".into(),
            });
        }
        flatten(operand)?;
    }
    let (rows, columns) = match per {
        Per::Row => (rows, columns),
        Per::Channel => (if rows == 0 { 0 } else { columns }, rows.max(1)),
        // A batch without rows has no coefficient, not one of an empty mask.
        Per::Batch => (rows.min(1), (rows * columns).max(1)),
    };
    regrouped.dims.extend([(Dim::Rows, rows), (Dim::Classes, columns)]);
    Ok(regrouped)
}

/// All elements as one row. There may be gaps between the former rows or images.
fn flatten(operand: &mut Operand) -> Result<()> {
    let layout = &mut operand.layout;
    let (rows, count, plane) = (layout.rows(), layout.len(), layout.class_stride);
    let together = layout.columns() * plane;
    if rows > 0 && rows < plane {
        // Less than one image: a part of every plane.
        layout.strips = Some((rows, plane));
    } else if !rows.is_multiple_of(plane) {
        return Err(Error::WrongShape {
            argument: operand.name.clone().into(),
            found: layout.shape.clone().into(),
            expected: format!("whole images of {plane} rows, or fewer, over a batch").into(),
        });
    } else if rows > plane && layout.row_stride != together {
        layout.strips = Some((together, layout.row_stride));
    }
    layout.shape = vec![rows.min(1), count.max(1)];
    (layout.row_stride, layout.class_stride) = (count, 1);
    Ok(())
}

/// Columns become rows.
fn transpose(layout: &mut Layout) {
    let (rows, columns) = (layout.rows(), layout.columns());
    if layout.has_planes() {
        layout.strips = Some((layout.class_stride, layout.row_stride));
        (layout.row_stride, layout.class_stride) = (layout.class_stride, 1);
    } else {
        // The new rows lie side by side; their columns are one former row apart.
        let apart = layout.row_stride.max(columns);
        (layout.row_stride, layout.class_stride) = (apart * rows, apart);
    }
    layout.shape = vec![if rows == 0 { 0 } else { columns }, rows.max(1)];
}

/// One value a row becomes one value a column, the same for all rows.
fn for_every_channel(layout: &mut Layout) {
    let rows = layout.rows();
    if layout.has_planes() {
        layout.strips = Some((layout.class_stride, layout.row_stride));
    } else if layout.row_stride > 1 {
        layout.strips = Some((1, layout.row_stride));
    }
    layout.shape = vec![1, rows.max(1)];
    (layout.row_stride, layout.class_stride) = (0, 1);
}

/// From this smoothing on, the sums are used as they are; below it they are multiplied by 2^48. Then products P·y down
/// to 2^-174 differ from 0, and neither twice a sum nor its inverse leaves f32 before the sum of a mask reaches 2^76.
const RAISED_BELOW: f64 = 4_294_967_296.0;

impl Dice {
    /// The uniforms: what changes without a new pipeline.
    fn uniforms(&self) -> Vec<(&'static str, Number)> {
        // With a large smoothing no sum needs to be raised, and a raised sum would overflow.
        let (raised, least_logit) =
            if self.smooth < RAISED_BELOW { (48u32, -120.5) } else { (0, -87.0) };
        let raise = f64::from(raised).exp2();
        // Without smoothing, a sum must be 0 only if every P is 0. With smoothing, so small a P changes nothing.
        let nothing_below = if self.smooth == 0.0 { f64::from(f32::MIN) } else { least_logit };
        vec![
            ("raised", Number::U32(raised)),
            ("nothing_below", nothing_below.into()),
            ("raise", raise.into()),
            ("raised_smooth", (raise * self.smooth).into()),
            ("least_logit", least_logit.into()),
            ("bce", self.bce.into()),
        ]
    }

    /// The uniforms that say which targets of a sigmoid are ignored. The unused ones of the four repeat the first.
    fn ignored(&self) -> [(&'static str, Number); 5] {
        let ignored = self.ignore_index.as_slice();
        let bits = |nth: usize| {
            let index = ignored.get(nth).or(ignored.first()).copied().unwrap_or_default();
            Number::U32((index as f32).to_bits())
        };
        [
            ("ignored", Number::from(ignored.len() as u64)),
            ("ignored_0", bits(0)),
            ("ignored_1", bits(1)),
            ("ignored_2", bits(2)),
            ("ignored_3", bits(3)),
        ]
    }
}

impl RowLoss for Dice {
    fn program(&self, call: &Call) -> RowProgram {
        // A mask of pixels, which lies along the columns here.
        let shared = |mask: &Operand| mask.layout.rows() == 1 && call.dim(Dim::Rows) != 1;
        let masked = match call.inputs.get("mask") {
            Some(mask) if shared(mask) => Broadcast::Columns,
            _ => Broadcast::Elements,
        };
        RowProgram {
            reduction: self.parts_reduction(),
            empty: self.empty,
            // Otherwise the rows of the plan are not those of the tensor.
            padding: if self.per == Per::Row { self.padding } else { Padding::Keep },
            sources: vec![
                shader!("loss/dice_quotient.wgsl"),
                shader!("loss/dice.wgsl"),
                shader!("row/open.wgsl"),
                shader!("loss/sums.wgsl"),
            ],
            streams: vec![
                RowStream::read("targets", Broadcast::Elements),
                RowStream::read("mask", masked).or(1.0),
            ],
            state: SUMS_STATE,
            factors: SUMS_FACTORS,
            overrides: vec![
                ("HAS_BCE", (self.bce > 0.0).into()),
                ("IGNORES_SEVERAL", (self.ignore_index.as_slice().len() > 1).into()),
            ],
            uniforms: self.uniforms().into_iter().chain(self.ignored()).collect(),
            ..RowProgram::default()
        }
    }
}
