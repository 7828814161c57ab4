//! The element skeleton: losses whose elements are independent of each other. Each element is read once; its gradients
//! and its part of the sums come from that read.

mod declare;
mod elements;
pub(crate) mod reference;
mod summed;
#[cfg(feature = "serde")]
pub(crate) mod unknown;

use crate::{
    data::{
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    plan::kernel::Source,
    reference::Real,
    skeleton::operation::Operation,
    spec::{
        about::Spread,
        broadcast::{Broadcast, Extents},
        call::{Call, Operand},
        options::{Empty, MaskedMean, Padding, Reduction, check_reduction},
    },
};
use elements::plane;

pub(crate) use declare::{declared, element_loss};

pub use elements::plan;
pub use reference::{Point, compute};

/// Elements in one word of a bit mask. Windows begin at a multiple of this many elements.
const BITS: u64 = 32;

/// The options that all element losses share: which elements count, and how they are reduced.
#[derive(Clone, Copy, Debug, Default)]
pub struct ElementOptions {
    /// How losses become one number.
    pub reduction: Reduction,
    /// The mean over nothing: NaN or 0.
    pub empty: Empty,
    /// What a masked mean divides by.
    pub denominator: MaskedMean,
    /// A target with this value is unknown.
    pub unknown: Option<f64>,
    /// Whether gradient columns between the columns and the row stride are written.
    pub padding: Padding,
}

/// A tensor that the functor reads.
#[derive(Clone, Copy, Debug)]
pub struct ElementStream {
    /// The name of the input. In WGSL the functor reads the tensor with `NAME_take`.
    pub name: &'static str,
    /// The value of every element of an input that is not given.
    pub default: f32,
}

/// A loss whose elements are independent of each other: what the element skeleton needs beside [`Operation`].
///
/// The WGSL contract is at the top of `shaders/element.wgsl`; `shaders/loss/mse.wgsl` is a short example. The first
/// input has any rank: its last axis is the columns, all axes before it are the rows. Every other input has the same
/// shape, or a shape that broadcasts to it from the last axis on. The skeleton handles the inputs `weight`, `mask`,
/// `upstream` and `denominator`. [`ElementLoss::at`] is the same loss on the CPU. Both share the checks, the options
/// and the names, but not the arithmetic, so that a test can find a difference between them.
pub trait ElementLoss: Operation {
    /// The functor's WGSL.
    fn sources(&self) -> Vec<Source>;

    /// Which elements count, and how they are reduced.
    fn options(&self) -> ElementOptions;

    /// The tensors that the functor reads. The derivatives are with respect to the first and the second one.
    fn streams(&self) -> &'static [ElementStream];

    /// Values of the functor's overrides: what changes the code, such as which inputs are given.
    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// The functor's uniforms: what changes without a new pipeline.
    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The same loss with the default of every option that a given input overrides (`_given` answers by name); `None`
    /// where there is no such input.
    fn overridden(&self, _given: &dyn Fn(&str) -> bool) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// The name of the output that is the mean of what the functor monitors, where the options ask for monitoring.
    fn monitor(&self) -> Option<&'static str> {
        None
    }

    /// Checks the domains of the loss's own options.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Checks that the given inputs (`_given` answers by name) go with the options.
    fn agrees(&self, _given: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }

    /// The loss of one element on the CPU, from its inputs in the order of [`ElementLoss::streams`].
    fn at<T: Real>(&self, x: &[T]) -> Point<T>
    where
        Self: Sized;
}

/// Checks that the inputs and outputs of a call go with the options of the loss.
pub(crate) fn check_names<'n>(
    loss: &dyn ElementLoss,
    given: &dyn Fn(&str) -> bool,
    mut wanted: impl Iterator<Item = &'n str> + Clone,
) -> Result<()> {
    let missing = |name: &&str| name.strip_prefix("grad.").is_some_and(|input| !given(input));
    if let Some(name) = wanted.clone().find(missing) {
        return Err(Error::MissingInput {
            operation: loss.about().name.into(),
            argument: name.trim_start_matches("grad.").into(),
            reason: format!("output `{name}` needs it").into(),
        });
    }
    let known = |name: &str| SCALARS.contains(&name) || name.starts_with("grad.");
    if let Some(name) = wanted.find(|&name| !known(name) && loss.monitor() != Some(name)) {
        return Err(Error::Conflict {
            operation: loss.about().name.into(),
            argument: name.into(),
            other: "the options".into(),
            reason: "they leave nothing to monitor".into(),
        });
    }
    let has_targets = loss.streams().iter().any(|stream| stream.name == TARGETS);
    match loss.options().unknown {
        Some(unknown) if !has_targets => {
            let reason = "this loss has no targets";
            Err(Error::option(loss.about().name, "unknown_target", unknown, reason))
        }
        _ => loss.agrees(given),
    }
}

/// The stream in which an unknown target is looked for.
const TARGETS: &str = "targets";

/// The outputs beside gradients that all element losses have.
const SCALARS: [&str; 5] = ["loss", "sum", "denominator", "count", "status"];

/// Checks the options that all element losses share.
pub(crate) fn check_options(loss: &str, options: ElementOptions) -> Result<()> {
    match options.reduction {
        Reduction::Multilabel => Ok(()),
        other => check_reduction(loss, other),
    }
}

/// The axes over which an input, or the gradient of an input, extends. A loss and its upstream gradient have the shape
/// of the scores.
pub(crate) fn broadcast_of(
    loss: &dyn ElementLoss,
    extents: &Extents,
    name: &str,
    shape: &[u64],
) -> Result<Broadcast> {
    let input = name.strip_prefix("grad.").unwrap_or(name);
    let argument = loss.about().input(input);
    match argument.map_or(Spread::Elements, |argument| argument.spread) {
        Spread::BroadcastOrRows => extents.broadcast_or_rows(name, shape),
        Spread::Elements if shape != extents.shape() && (name, shape) != ("upstream", &[1]) => {
            Err(Error::WrongShape {
                argument: name.into(),
                found: shape.to_vec().into(),
                expected: format!("{:?}", extents.shape()).into(),
            })
        }
        _ => extents.broadcast(name, shape),
    }
}

/// Checks that an element loss can answer a call. Shapes that follow from the description were checked before.
pub fn accepts(loss: &dyn ElementLoss, call: &Call) -> Result<()> {
    let first = loss.streams().first().and_then(|stream| call.inputs.get(stream.name));
    let first = first.ok_or_else(|| Error::MissingInput {
        operation: loss.about().name.into(),
        argument: loss.streams().first().map_or("", |stream| stream.name).into(),
        reason: "the elements are its".into(),
    })?;
    check_names(loss, &|name| call.has(name), call.outputs.keys().map(String::as_str))?;
    let extents = &Extents::of(&first.layout.shape);
    for operand in call.inputs.values() {
        let is_mask = operand.name == "mask";
        if is_mask && operand.layout.dtype == Dtype::U32 {
            check_bits(operand, extents)?;
            check_order(loss, call, extents)?;
        } else {
            check_vector(operand, extents)?;
        }
    }
    if loss.options().reduction == Reduction::None && call.has("denominator") {
        return Err(Error::Conflict {
            operation: loss.about().name.into(),
            argument: "denominator".into(),
            other: "reduction".into(),
            reason: "nothing is divided with reduction `none`".into(),
        });
    }
    Ok(())
}

/// A tensor that is a vector of one element a column must not have gaps: kernels load its elements side by side.
fn check_vector(operand: &Operand, extents: &Extents) -> Result<()> {
    let Layout { shape, row_stride, .. } = &operand.layout;
    let columns = matches!(extents.broadcast("", shape), Ok(Broadcast::Columns));
    if columns && shape.len() == 1 && operand.layout.len() > 1 && *row_stride != 1 {
        let argument = operand.name.as_str().into();
        return Err(Error::WrongStride { argument, found: *row_stride, least: 1 });
    }
    Ok(())
}

/// Checks the layouts of a call with a bit mask. The bits are in the memory order of the elements, so all tensors with
/// one value an element must have the same order. Tensors that broadcast may have any layout.
fn check_order(loss: &dyn ElementLoss, call: &Call, extents: &Extents) -> Result<()> {
    let planes = |operand: &&Operand| {
        let broadcast = extents.broadcast("", &operand.layout.shape);
        let elements = matches!(broadcast, Ok(Broadcast::Elements));
        elements && operand.layout.has_planes()
    };
    match call.inputs.values().chain(call.outputs.values()).find(planes) {
        Some(operand) if plane(loss, call, extents) == 1 => Err(Error::Conflict {
            operation: loss.about().name.into(),
            argument: "mask".into(),
            other: operand.name.clone().into(),
            reason: "bits need all tensors of elements in one order, images without gaps".into(),
        }),
        _ => Ok(()),
    }
}

/// Checks that a bit mask has one bit an element, in as many words as these bits take.
fn check_bits(mask: &Operand, extents: &Extents) -> Result<()> {
    let words = extents.count().div_ceil(BITS);
    if mask.layout.shape == [words] && !mask.layout.has_gaps() {
        return Ok(());
    }
    Err(Error::WrongShape {
        argument: mask.name.clone().into(),
        found: mask.layout.shape.clone().into(),
        expected: format!("[{words}] words of {BITS} elements").into(),
    })
}
