//! The element skeleton: losses of one score at a time, read once, with their gradients and sums.

mod declare;
mod elements;
pub(crate) mod reference;
#[cfg(feature = "serde")]
pub(crate) mod unknown;

use crate::{
    data::{
        error::{Error, Result},
        tensor::Dtype,
    },
    plan::kernel::Source,
    skeleton::operation::Loss,
    spec::{
        broadcast::Broadcast,
        call::{Call, Operand},
        extents::Extents,
        options::{Empty, MaskedMean, Padding, Reduction, check_reduction},
    },
};
use elements::plane;

pub(crate) use declare::element_loss;
pub(crate) use elements::plan;

pub use crate::plan::Number;

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

/// A loss of one score at a time: what the element skeleton needs beside [`Loss`].
///
/// The WGSL contract is at the top of `shaders/element.wgsl`; `shaders/loss/mse.wgsl` is a short
/// example. The first input is a matrix or a vector, and every other one has its shape, that of its
/// last axis, `[rows, 1]`, or one element. The inputs `weight`, `mask`, `upstream` and `denominator`
/// are the skeleton's.
pub trait ElementLoss: Loss {
    /// The functor's WGSL.
    fn sources(&self) -> Vec<Source>;

    /// Which elements count, and how they are reduced.
    fn options(&self) -> ElementOptions;

    /// The functor's tensors; its derivatives are by the first and by the second one.
    fn streams(&self) -> &'static [ElementStream];

    /// Values of its overrides: what shapes the code, the inputs that are there included.
    fn shapes(&self, _given: &dyn Fn(&str) -> bool) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// Its parameters: what changes without a new pipeline.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The output that is the mean of what the functor watches, where its options have it watch.
    fn watched(&self) -> Option<&'static str> {
        None
    }

    /// Whether these inputs, told by their names, go with its options.
    fn agrees(&self, _given: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
}

/// Whether a call's inputs and outputs go with a loss's options.
pub(crate) fn check_names<'n>(
    loss: &dyn ElementLoss,
    given: &dyn Fn(&str) -> bool,
    mut wanted: impl Iterator<Item = &'n str>,
) -> Result<()> {
    let known = |name: &str| SCALARS.contains(&name) || name.starts_with("grad.");
    if let Some(name) = wanted.find(|&name| !known(name) && loss.watched() != Some(name)) {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: name.to_owned(),
            other: "the options".to_owned(),
            reason: "they leave nothing to watch".to_owned(),
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

/// What every element loss refuses.
fn check(loss: &dyn ElementLoss, call: &Call, extents: Extents) -> Result<()> {
    let spanned = loss.streams().iter().map(|stream| stream.name).chain(["weight", "mask"]);
    for name in spanned {
        match call.inputs.get(name) {
            Some(mask) if name == "mask" && mask.layout.dtype == Dtype::U32 => {
                check_bits(mask, extents)?;
                check_order(loss, call, extents)?;
            }
            Some(operand) => {
                extents.span(name, &operand.layout.shape)?;
            }
            None => {}
        }
        let gradient = format!("grad.{name}");
        if let Some(operand) = call.outputs.get(&gradient)
            && extents.span(&gradient, &operand.layout.shape)? != Broadcast::Elements
        {
            return Err(wrong(&gradient, operand, extents));
        }
    }
    let per_element = loss.options().reduction == Reduction::None;
    let spans = [("loss", call.outputs.get("loss")), ("upstream", call.inputs.get("upstream"))];
    for (name, operand) in spans {
        let Some(operand) = operand else { continue };
        let span = extents.span(name, &operand.layout.shape)?;
        let one = span == Broadcast::One || operand.layout.len() == 1;
        let fits = match (per_element, name) {
            (true, "loss") => span == Broadcast::Elements,
            (true, _) => one || span == Broadcast::Elements,
            (false, _) => operand.layout.shape == [1],
        };
        if !fits {
            return Err(wrong(name, operand, extents));
        }
    }
    if per_element && call.has("denominator") {
        return Err(Error::Conflict {
            loss: loss.about().name.to_owned(),
            argument: "denominator".to_owned(),
            other: "reduction".to_owned(),
            reason: "nothing is divided with reduction `none`".to_owned(),
        });
    }
    Ok(())
}

/// Bits lie as the elements do, so those have to lie in one order; broadcasts lie as they like.
fn check_order(loss: &dyn ElementLoss, call: &Call, extents: Extents) -> Result<()> {
    let planes = |operand: &&Operand| {
        let elements = matches!(extents.span("", &operand.layout.shape), Ok(Broadcast::Elements));
        elements && operand.layout.has_planes()
    };
    match call.inputs.values().chain(call.outputs.values()).find(planes) {
        Some(operand) if plane(call, extents) == 1 => Err(Error::Conflict {
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
fn check_bits(mask: &Operand, extents: Extents) -> Result<()> {
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

fn wrong(name: &str, operand: &Operand, extents: Extents) -> Error {
    let Extents { rows, columns, matrix } = extents;
    let elements = if matrix { format!("[{rows}, {columns}]") } else { format!("[{rows}]") };
    Error::WrongShape {
        argument: name.to_owned(),
        found: operand.layout.shape.clone(),
        expected: format!("{elements}, or [1] where the loss is reduced"),
    }
}
