//! Dice over the classes of a softmax. Row losses follow one another, and leave what they find in scratch:
//!
//! 1. over the pixels: the normaliser of each pixel's softmax, and the mean cross-entropy;
//! 2. over the classes, whose columns are the pixels: a coefficient each, and its slopes;
//! 3. over the pixels again, if the call wants it: the gradient.
//!
//! Where all classes have one coefficient, a loss of one row, whose columns are the classes, follows the second one and
//! finds loss and slopes from its sums.
//!
//! Probabilities are never stored.

use std::collections::{BTreeMap, BTreeSet};

use super::{Dice, DiceClassWeight, Per, regrouped};
use crate::{
    data::{
        array::{Arithmetic, Arrays},
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    losses::separable::{SUMS_FACTORS, SUMS_STATE},
    plan::{Number, Plan, Planner, Role, kernel::shader, profile::Profile},
    skeleton::{
        operation::Operation,
        row::{
            self, Broadcast, Counted, Field, LabelScore, OPEN, Reduced, Rounds, RowLoss, RowOutput,
            RowProgram, RowStream, StateLayout, StreamElement, Target,
        },
    },
    spec::{
        about::{About, Dim, Signature},
        call::{Call, Operand},
        options::{Empty, Padding, Reduction},
    },
};

/// The name that operands in scratch give their bindings.
const NOTE: &str = "note";

/// What the pixels leave for the classes: one number a pixel.
static OF_PIXELS: &[RowOutput] =
    &[RowOutput::number("pixel_top"), RowOutput::number("pixel_scale")];
/// What the classes leave for the gradient: one number a class.
static OF_CLASSES: &[RowOutput] = &[
    RowOutput::number("slope"),
    RowOutput::number("met"),
    RowOutput::number("share"),
    RowOutput::number("flows").reduced(Reduced::Sum("flowing")),
    RowOutput::number("both"),
    RowOutput::number("whole"),
    RowOutput::number("hits"),
];
/// Those of them that the gradient reads for each class.
const SLOPES: [&str; 3] = ["slope", "met", "share"];
/// Those of them that one coefficient over all classes reads: the names there, and here.
const SUMS: [(&str, &str); 3] = [("both", "both"), ("logits", "whole"), ("hits", "hits")];
/// The inputs that say how coefficients are weighed and reduced, and what is added to them.
const REDUCED: [&str; 4] = ["row_weight", "upstream", "denominator", "cross_entropy"];

/// The scratch of a plan, by the names under which the three losses know its parts.
struct Notes {
    operands: Vec<(&'static str, Operand)>,
}

impl Notes {
    fn new(planner: &mut Planner<'_>, call: &Call) -> Self {
        let (rows, classes) = (call.dim(Dim::Rows), call.dim(Dim::Classes));
        let parts = OF_PIXELS.iter().map(|output| (output.name, rows));
        let of_classes = SLOPES.into_iter().chain(SUMS.map(|(_, name)| name));
        let parts = parts.chain(of_classes.map(|name| (name, classes)));
        let parts = parts.chain([("cross_entropy", 1), ("kept", 1), ("flowing", 1)]).enumerate();
        let place = |(nth, (name, len)): (usize, (&'static str, u64))| {
            let layout = planner.scratch(Layout::vector(Dtype::F32, len)).layout;
            // Numbers that no buffer of the caller has.
            let allocation = usize::MAX - nth;
            let allocation_bytes = u64::MAX;
            (name, Operand { name: NOTE.to_owned(), layout, allocation, allocation_bytes })
        };
        Self { operands: parts.map(place).collect() }
    }

    /// Notes as tensors of a call: each is called `own` there.
    fn lend<'n>(
        &self,
        names: impl IntoIterator<Item = (&'n str, &'n str)>,
    ) -> Vec<(String, Operand)> {
        let of = |name: &str| self.operands.iter().find(|(note, _)| *note == name);
        let lent = |(own, name): (&str, &str)| Some((own.to_owned(), of(name)?.1.clone()));
        names.into_iter().filter_map(lent).collect()
    }

    /// Adds the plan of one of the three losses. A dispatch binds all scratch for writing, so the notes are siblings.
    fn append(
        &self,
        planner: &mut Planner<'_>,
        loss: &dyn RowLoss,
        mut part: Call,
        profile: &Profile,
    ) -> Result<()> {
        part.siblings.extend(self.operands.iter().map(|(_, operand)| operand.allocation));
        planner.append(row::plan(loss, &part, profile)?, |role| match role {
            Role::Input(name) | Role::Output(name) if *name == *NOTE => Role::Scratch,
            role => role,
        });
        Ok(())
    }
}

/// Checks what the three losses require of a call.
pub(super) fn accepts(dice: &Dice, call: &Call) -> Result<()> {
    let mut classes = regrouped(call, Per::Channel)?;
    classes.outputs.remove("grad.logits");
    row::accepts(&Classes { dice: dice.clone() }, &classes)
}

/// The plan of a checked call.
pub(super) fn plan(dice: &Dice, call: &Call, profile: &Profile) -> Result<Plan> {
    let mut planner = Planner::new("dice", call, profile);
    let notes = Notes::new(&mut planner, call);
    let of_pixels = || OF_PIXELS.iter().map(|output| (output.name, output.name));
    let slopes = || SLOPES.into_iter().map(|name| (name, name));

    let mut first = pixels(call);
    first.outputs.extend(call.outputs.get("status").map(|s| ("status".to_owned(), s.clone())));
    let found = [("loss", "cross_entropy"), ("denominator", "kept")];
    first.outputs.extend(notes.lend(of_pixels().chain(found)));
    first.accumulates_status = call.accumulates_status;
    notes.append(&mut planner, &Pixels { dice: dice.clone(), last: false }, first, profile)?;

    let mut second = regrouped(call, Per::Channel)?;
    second.in_place.clear();
    second.outputs.retain(|name, _| !["grad.logits", "status"].contains(&name.as_str()));
    second.inputs.extend(notes.lend(of_pixels().chain([("cross_entropy", "cross_entropy")])));
    second.outputs.extend(notes.lend(slopes().chain([("flowing", "flowing")])));
    if dice.per == Per::Batch {
        let third = joint(&second, call, &notes);
        second.inputs.retain(|name, _| name == "cross_entropy" || !is_reduced(name));
        second.outputs = notes.lend(SUMS.map(|(_, name)| (name, name))).into_iter().collect();
        notes.append(&mut planner, &Classes { dice: dice.clone() }, second, profile)?;
        notes.append(&mut planner, &Joint { dice: dice.clone() }, third, profile)?;
    } else {
        notes.append(&mut planner, &Classes { dice: dice.clone() }, second, profile)?;
    }

    if let Some(gradient) = call.outputs.get("grad.logits") {
        let mut last = pixels(call);
        last.outputs.insert("grad.logits".to_owned(), gradient.clone());
        last.in_place.clone_from(&call.in_place);
        // The slopes have every factor already. What flows is multiplied and divided by, so that all is 0 where nothing
        // flows, bad pixels too.
        let flowing = [("kept", "kept"), ("upstream", "flowing"), ("denominator", "flowing")];
        last.inputs.extend(notes.lend(slopes().chain(flowing)));
        notes.append(&mut planner, &Pixels { dice: dice.clone(), last: true }, last, profile)?;
    }
    Ok(planner.finish())
}

fn is_reduced(name: &str) -> bool {
    REDUCED.contains(&name)
}

/// The call of one coefficient over all classes, which takes the place of the call over the classes: what that one
/// finds, it finds as a matrix of one row, from the sums.
fn joint(classes: &Call, whole: &Call, notes: &Notes) -> Call {
    let mut call = classes.clone();
    call.inputs.retain(|name, _| is_reduced(name));
    call.inputs.extend(notes.lend(SUMS));
    let of_classes = SLOPES.into_iter().chain(SUMS.map(|(name, _)| name));
    for name in of_classes {
        let tensors = call.inputs.get_mut(name).into_iter().chain(call.outputs.get_mut(name));
        for Operand { layout, .. } in tensors {
            *layout = Layout::matrix(layout.dtype, 1, layout.len()).offset(layout.offset);
        }
    }
    let rows = whole.dim(Dim::Rows).min(1);
    call.dims.extend([(Dim::Rows, rows), (Dim::Classes, whole.dim(Dim::Classes))]);
    call
}

/// A call over the pixels, without outputs.
fn pixels(call: &Call) -> Call {
    let mut inputs = call.inputs.clone();
    inputs.retain(|name, _| ["logits", "targets"].contains(&name.as_str()));
    inputs.extend(call.inputs.get("mask").map(|mask| ("row_weight".to_owned(), mask.clone())));
    Call {
        inputs,
        outputs: BTreeMap::new(),
        in_place: BTreeSet::new(),
        accumulates_status: false,
        ..call.clone()
    }
}

/// The loss over the pixels: their cross-entropy, and the gradient of everything.
#[derive(Clone, Debug)]
struct Pixels {
    dice: Dice,
    /// The last of the three losses: the gradient.
    last: bool,
}

/// One coefficient over all classes.
#[derive(Clone, Debug)]
struct Joint {
    dice: Dice,
}

/// The loss over the classes.
#[derive(Clone, Debug)]
struct Classes {
    dice: Dice,
}

impl RowLoss for Pixels {
    fn program(&self, _: &Call) -> RowProgram {
        let of_classes = |name: &'static str| RowStream::read(name, Broadcast::Columns);
        let program = RowProgram::softmax(shader!("loss/dice_pixels.wgsl"), Rounds::One);
        RowProgram {
            // The slopes that the classes leave have been divided already.
            reduction: if self.last { Reduction::Sum } else { Reduction::Mean },
            empty: Empty::Zero,
            padding: if self.last { self.dice.padding } else { Padding::Keep },
            target: Target::Index { ignored: self.dice.ignore_index.as_slice().to_vec() },
            counted: Counted { row_weights: true, class_weights: None },
            streams: SLOPES.map(of_classes).into(),
            scalar: Some("kept"),
            outputs: OF_PIXELS,
            factors: PIXEL_FACTORS,
            label_score: LabelScore::Closing,
            uniforms: vec![("cross_entropy_weight", self.dice.cross_entropy_weight.into())],
            ..program
        }
        .tempered(1.0)
    }
}

static PIXEL_FACTORS: &[Field] = &[
    Field::f32("top"),
    Field::f32("scale"),
    Field::f32("base"),
    Field::f32("label_gradient"),
    Field::u32("label"),
];

impl RowLoss for Classes {
    fn program(&self, _: &Call) -> RowProgram {
        let of_pixels = |output: &RowOutput| RowStream::read(output.name, Broadcast::Columns);
        let mut streams: Vec<RowStream> = OF_PIXELS.iter().map(of_pixels).collect();
        streams.extend([
            RowStream::read("mask", Broadcast::Columns).or(1.0),
            RowStream::read("targets", Broadcast::One).of(StreamElement::Integer),
        ]);
        RowProgram {
            reduction: self.dice.parts_reduction(),
            empty: self.dice.empty,
            sources: vec![
                shader!("loss/dice_quotient.wgsl"),
                shader!("loss/dice_coefficient.wgsl"),
                shader!("loss/dice_classes.wgsl"),
                OPEN,
                shader!("loss/sums.wgsl"),
            ],
            streams,
            scalar: Some("cross_entropy"),
            state: SUMS_STATE,
            outputs: OF_CLASSES,
            factors: SUMS_FACTORS,
            uniforms: uniforms(&self.dice),
            ..RowProgram::default()
        }
    }
}

impl RowLoss for Joint {
    fn program(&self, _: &Call) -> RowProgram {
        let read = |name: &'static str| RowStream::read(name, Broadcast::Elements);
        let write = |name: &'static str| RowStream::write(name, name, Broadcast::Elements);
        let inverse_square = self.dice.class_weight == DiceClassWeight::InverseSquare;
        let mut uniforms = uniforms(&self.dice);
        uniforms.push(("inverse_square", Number::U32(inverse_square.into())));
        RowProgram {
            reduction: self.dice.parts_reduction(),
            empty: self.dice.empty,
            sources: vec![
                shader!("loss/dice_quotient.wgsl"),
                shader!("loss/dice_coefficient.wgsl"),
                shader!("loss/dice_joint.wgsl"),
                OPEN,
            ],
            streams: ["both", "hits"].map(read).into_iter().chain(SLOPES.map(write)).collect(),
            scalar: Some("cross_entropy"),
            state: StateLayout::words(4),
            outputs: OF_ALL,
            factors: JOINT_FACTORS,
            uniforms,
            ..RowProgram::default()
        }
    }
}

/// What one coefficient over all classes leaves for the gradient, beside the slopes.
static OF_ALL: &[RowOutput] = &[RowOutput::number("flows").reduced(Reduced::Sum("flowing"))];
static JOINT_FACTORS: &[Field] = &[
    Field::u32("slope_unit"),
    Field::u32("met_unit"),
    Field::u32("share_unit"),
    Field::f32("absent"),
];

/// The uniforms of a coefficient.
fn uniforms(dice: &Dice) -> Vec<(&'static str, Number)> {
    let mut uniforms = dice.uniforms();
    uniforms.push(("cross_entropy_weight", dice.cross_entropy_weight.into()));
    uniforms
}

/// What the parts of a plan have as operations: the description of the whole, and no reference of their own.
macro_rules! part {
    ($name:ident) => {
        impl Signature for $name {
            fn about(&self) -> &'static About {
                self.dice.about()
            }

            fn validate(&self) -> Result<()> {
                Ok(())
            }

            fn is_per_row(&self) -> bool {
                false
            }
        }

        impl Operation for $name {
            fn reference(&self, _: &Arrays, _: &[&str], _: Arithmetic) -> Result<Arrays> {
                Err(Error::NoOutput { operation: "dice".into(), known: "".into() })
            }
        }
    };
}

part!(Pixels);
part!(Classes);
part!(Joint);
