//! The element skeleton: losses of one score at a time, read once, with their gradients and sums.

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
pub(crate) use elements::plan;

pub use crate::plan::Number;
pub use reference::Point;

/// Elements of a word of a mask of bits, and the least that a window begins at a multiple of.
const BITS: u64 = 32;

/// What all element losses share: which elements count, and how they are reduced.
#[derive(Clone, Copy, Debug, Default)]
pub struct ElementOptions {
    /// How losses become one number.
    pub reduction: Reduction,
    /// What a mean over nothing is.
    pub empty: Empty,
    /// What a masked mean divides by.
    pub denominator: MaskedMean,
    /// A target that stands for an unknown one.
    pub unknown: Option<f64>,
    /// What happens to gradient columns between the columns and the row stride.
    pub padding: Padding,
}

/// A tensor that the functor reads.
#[derive(Clone, Copy, Debug)]
pub struct ElementStream {
    /// Its name in WGSL, where `NAME_take` reaches it, and the input that it is.
    pub name: &'static str,
    /// What an input that is not given reads as.
    pub default: f32,
}

/// A loss of one score at a time: what the element skeleton needs beside [`Operation`].
///
/// The WGSL contract is at the top of `shaders/element.wgsl`; `shaders/loss/mse.wgsl` is a short
/// example. The first input has any rank: its last axis is the columns, all before it are the rows.
/// Every other one has its shape, or what broadcasts to it from the last axis on. The inputs `weight`, `mask`, `upstream` and `denominator`
/// are the skeleton's.
/// [`ElementLoss::at`] is the same loss on the CPU: the checks, the options and the names are shared, the
/// arithmetic is not, so that the two can disagree.
pub trait ElementLoss: Operation {
    /// The functor's WGSL.
    fn sources(&self) -> Vec<Source>;

    /// Which elements count, and how they are reduced.
    fn options(&self) -> ElementOptions;

    /// The functor's tensors; its derivatives are by the first and by the second one.
    fn streams(&self) -> &'static [ElementStream];

    /// Values of its overrides: what shapes the code, the inputs that are there included.
    fn overrides(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// Its parameters: what changes without a new pipeline.
    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The output that is the mean of what the functor monitors, where its options have it monitor.
    fn monitor(&self) -> Option<&'static str> {
        None
    }

    /// Whether its own options are in their domains.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether these inputs, told by their names, go with its options.
    fn agrees(&self, _given: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }

    /// The loss of one element on the CPU, from its inputs in the order of [`ElementLoss::streams`].
    fn at<T: Real>(&self, x: &[T]) -> Point<T>
    where
        Self: Sized;
}

/// Whether a call's inputs and outputs go with a loss's options.
pub(crate) fn check_names<'n>(
    loss: &dyn ElementLoss,
    given: &dyn Fn(&str) -> bool,
    mut wanted: impl Iterator<Item = &'n str>,
) -> Result<()> {
    let known = |name: &str| SCALARS.contains(&name) || name.starts_with("grad.");
    if let Some(name) = wanted.find(|&name| !known(name) && loss.monitor() != Some(name)) {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: name.to_owned(),
            other: "the options".to_owned(),
            reason: "they leave nothing to monitor".to_owned(),
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

/// The stream in which an unknown one is looked for.
const TARGETS: &str = "targets";

/// The outputs of one element that all such losses have.
const SCALARS: [&str; 5] = ["loss", "sum", "denominator", "count", "status"];

/// Checks the options that all element losses share.
pub(crate) fn check_options(loss: &str, options: ElementOptions) -> Result<()> {
    match options.reduction {
        Reduction::Multilabel => Ok(()),
        other => check_reduction(loss, other),
    }
}

/// Over what an input, or the gradient of one, extends. A loss and its upstream are the scores' own.
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
                argument: name.to_owned(),
                found: shape.to_vec(),
                expected: format!("{:?}", extents.shape()),
            })
        }
        _ => extents.broadcast(name, shape),
    }
}

/// Whether an element loss can answer a call. Shapes that follow from the description are checked before.
pub(crate) fn accepts(loss: &dyn ElementLoss, call: &Call) -> Result<()> {
    let first = loss.streams().first().and_then(|stream| call.inputs.get(stream.name));
    let first = first.ok_or_else(|| Error::MissingInput {
        loss: loss.about().name.to_owned(),
        argument: loss.streams().first().map_or("", |stream| stream.name).to_owned(),
        reason: "the elements are its".to_owned(),
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
            loss: loss.about().name.to_owned(),
            argument: "denominator".to_owned(),
            other: "reduction".to_owned(),
            reason: "nothing is divided with reduction `none`".to_owned(),
        });
    }
    Ok(())
}

/// One element a column, as a vector, has no gaps: kernels take its elements side by side.
fn check_vector(operand: &Operand, extents: &Extents) -> Result<()> {
    let Layout { shape, row_stride, .. } = &operand.layout;
    let columns = matches!(extents.broadcast("", shape), Ok(Broadcast::Columns));
    if columns && shape.len() == 1 && operand.layout.len() > 1 && *row_stride != 1 {
        let argument = operand.name.clone();
        return Err(Error::WrongStride { argument, found: *row_stride, least: 1 });
    }
    Ok(())
}

/// Bits lie as the elements do, so those have to lie in one order; broadcasts lie as they like.
fn check_order(loss: &dyn ElementLoss, call: &Call, extents: &Extents) -> Result<()> {
    let planes = |operand: &&Operand| {
        let broadcast = extents.broadcast("", &operand.layout.shape);
        let elements = matches!(broadcast, Ok(Broadcast::Elements));
        elements && operand.layout.has_planes()
    };
    match call.inputs.values().chain(call.outputs.values()).find(planes) {
        Some(operand) if plane(loss, call, extents) == 1 => Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "mask".to_owned(),
            other: operand.name.clone(),
            reason: "bits need all tensors of elements in one order, images without gaps"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// One bit an element, in as many words as that takes.
fn check_bits(mask: &Operand, extents: &Extents) -> Result<()> {
    let words = extents.count().div_ceil(BITS);
    if mask.layout.shape == [words] && !mask.layout.has_gaps() {
        return Ok(());
    }
    Err(Error::WrongShape {
        argument: mask.name.clone(),
        found: mask.layout.shape.clone(),
        expected: format!("[{words}] words of {BITS} elements"),
    })
}
