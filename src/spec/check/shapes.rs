//! The shapes that the tensors of a call may have, and the extents that they agree on.
//!
//! Several axes may count the rows, if they are the same in every tensor. The skeletons know only rows and columns, so
//! they get tensors of rows with these axes folded into one.

use std::collections::BTreeMap;

use crate::{
    data::{
        array::Arrays,
        error::{Error, Result},
        tensor::{Dtype, Layout},
    },
    spec::{
        about::{Argument, Dim, Kind, Signature, Spread},
        broadcast::Extents,
    },
};

/// The shapes of a call. A tensor of a list agrees with the tensors of other lists that have its number, and with no
/// others.
pub(crate) struct CallShapes {
    /// The shapes of all arguments that are not lists.
    pub common: Shapes,
    /// The shapes of lists, by the suffix of their tensors.
    lists: BTreeMap<String, Shapes>,
    /// Shapes without any tensor.
    empty: Shapes,
}

impl CallShapes {
    /// Shapes without any tensor yet; `first` is the layout of the first input, if that is known.
    pub fn new(loss: &dyn Signature, first: Option<&Layout>) -> Self {
        let (common, empty) = (Shapes::new(loss, first), Shapes::new(loss, None));
        Self { common, lists: BTreeMap::new(), empty }
    }

    /// Checks and remembers the shape of an argument's tensor: see [`Shapes::take`].
    pub fn take(
        &mut self,
        argument: &Argument,
        name: &str,
        dtype: Dtype,
        found: &[u64],
    ) -> Result<Vec<u64>> {
        let shapes = match argument.suffix(name).filter(|_| argument.list) {
            Some(suffix) => {
                self.lists.entry(suffix.to_owned()).or_insert_with(|| self.empty.clone())
            }
            None => &mut self.common,
        };
        shapes.take(argument, name, dtype, found)
    }

    /// Those of all arguments, and of each number of the lists.
    pub fn all(&self) -> impl Iterator<Item = &Shapes> {
        self.lists.values().chain([&self.common])
    }

    /// The shapes that a tensor of an argument has to agree with.
    pub fn of(&self, argument: &Argument, name: &str) -> &Shapes {
        let suffix = argument.suffix(name).filter(|_| argument.list);
        suffix.and_then(|suffix| self.lists.get(suffix)).unwrap_or(&self.common)
    }
}

/// Shapes that agree with each other, found argument by argument in the order of the description.
#[derive(Clone)]
pub(crate) struct Shapes {
    /// The extents.
    pub dims: BTreeMap<Dim, u64>,
    /// The axes that count each extent of rows.
    pub axes: BTreeMap<Dim, Vec<u64>>,
    /// The shape of the first input, in an element loss.
    scores: Option<Extents>,
    /// The shapes found so far, by name.
    taken: BTreeMap<&'static str, Vec<u64>>,
    /// The number of images, where the rows of the first input are pixels in planes.
    images: Option<u64>,
    /// Whether the losses are reduced to one number.
    is_reduced: bool,
}

/// The number of elements of a tensor of this shape.
pub(crate) fn count(shape: &[u64]) -> u64 {
    shape.iter().copied().fold(1, u64::saturating_mul)
}

/// Whether several axes may count this extent.
fn counts_rows(dim: Dim) -> bool {
    matches!(dim, Dim::Rows | Dim::Fakes)
}

impl Shapes {
    /// Shapes without any tensor yet; `first` is the layout of the first input, if that is known.
    pub fn new(loss: &dyn Signature, first: Option<&Layout>) -> Self {
        let images = |layout: &&Layout| layout.has_planes() && layout.shape.len() == 2;
        let first = first.filter(images);
        Self {
            dims: super::known_dims(loss),
            axes: BTreeMap::new(),
            scores: None,
            taken: BTreeMap::new(),
            images: first.map(|layout| layout.rows() / layout.class_stride.max(1)),
            is_reduced: !loss.is_per_row(),
        }
    }

    /// Checks and remembers the shape of an argument. Returns the shape with the rows folded into one axis; in an
    /// element loss, tensors keep their axes.
    fn take(
        &mut self,
        argument: &Argument,
        name: &str,
        dtype: Dtype,
        found: &[u64],
    ) -> Result<Vec<u64>> {
        let folded = match (argument.spread, self.scores.clone()) {
            (Spread::Named, _) => self.named(argument, name, found)?,
            (_, Some(scores)) => self.element(argument, name, dtype, found, &scores)?,
            (_, None) => self.begin(found),
        };
        // After the comparison: an output may have the name of the input whose shape it has to have.
        self.taken.entry(argument.name).or_insert_with(|| found.to_vec());
        Ok(folded)
    }

    /// The first tensor of an element loss: the others have its shape, or broadcast to it.
    fn begin(&mut self, found: &[u64]) -> Vec<u64> {
        let scores = Extents::of(found);
        self.dims.insert(Dim::Rows, scores.rows);
        if found.len() > 1 {
            self.dims.insert(Dim::Classes, scores.columns);
        }
        self.axes.insert(Dim::Rows, scores.leading().to_vec());
        self.scores = Some(scores);
        found.to_vec()
    }

    /// Checks a tensor of an element loss, after the first one.
    fn element(
        &self,
        argument: &Argument,
        name: &str,
        dtype: Dtype,
        found: &[u64],
        scores: &Extents,
    ) -> Result<Vec<u64>> {
        match argument.spread {
            // A bit mask has a shape of its own, which the skeleton checks.
            Spread::Broadcast if argument.kind == Kind::Mask && dtype == Dtype::U32 => {}
            Spread::Broadcast => {
                scores.broadcast(name, found)?;
            }
            Spread::BroadcastOrRows => {
                scores.broadcast_or_rows(name, found)?;
            }
            Spread::Named | Spread::Elements => {
                return self.like_scores(argument, name, found, scores);
            }
        }
        Ok(found.to_vec())
    }

    /// Checks a tensor that must have the shape of the scores, or of the input whose gradient it is. If losses are
    /// reduced, the loss and the upstream gradient must be one number.
    fn like_scores(
        &self,
        argument: &Argument,
        name: &str,
        found: &[u64],
        scores: &Extents,
    ) -> Result<Vec<u64>> {
        let of_losses = argument.shapes.contains(&[Dim::One].as_slice());
        let input = argument.like().and_then(|input| self.taken.get(input));
        let expected = input.map_or(scores.shape(), Vec::as_slice);
        let fits = match (of_losses, self.is_reduced) {
            (true, true) => return one(name, found),
            (true, false) if argument.name == "upstream" && found == [1] => Some(found.to_vec()),
            _ => self.written_so(found).into_iter().find(|shape| shape == expected),
        };
        fits.ok_or_else(|| wrong(name, found, format!("{expected:?}")))
    }

    /// The ways to read a shape. Where the rows of the first input are pixels of images in planes, another tensor may
    /// have the axes of the images instead of one axis of rows.
    fn written_so(&self, found: &[u64]) -> Vec<Vec<u64>> {
        let mut shapes = vec![found.to_vec()];
        if let Some((last, [first, rest @ ..])) = found.split_last()
            && self.images == Some(*first)
        {
            shapes.push(vec![first.saturating_mul(count(rest)), *last]);
            shapes.push(vec![count(found)]);
        }
        shapes
    }

    /// Takes the first of an argument's shapes that agrees with what is known so far.
    fn named(&mut self, argument: &Argument, name: &str, found: &[u64]) -> Result<Vec<u64>> {
        let of_losses = ["loss", "upstream"].contains(&argument.name)
            && argument.shapes.contains(&&[Dim::One][..]);
        let per_row = argument.shapes.iter().any(|shape| *shape != [Dim::One]);
        let allowed: Vec<&[Dim]> = argument
            .shapes
            .iter()
            .copied()
            .filter(|shape| match (of_losses && per_row, *shape == [Dim::One]) {
                (true, false) => !self.is_reduced,
                (true, true) => self.is_reduced || argument.name == "upstream",
                (false, _) => true,
            })
            // Without shards, no shape has the classes of all shards.
            .filter(|s| !s.contains(&Dim::AllClasses) || self.dims.contains_key(&Dim::AllClasses))
            .collect();
        for shape in self.written_so(found) {
            let of_rank = allowed.iter().filter(|dims| dims.len() == shape.len());
            let longer = allowed.iter().filter(|dims| dims.len() < shape.len());
            if let Some(dims) = of_rank.chain(longer).find(|dims| self.agrees(dims, &shape)) {
                return Ok(self.bind(dims, &shape));
            }
        }
        let words: Vec<String> = allowed.iter().map(|dims| self.words(dims)).collect();
        let why = match (of_losses && per_row, self.is_reduced) {
            (true, true) => ", since the losses are reduced",
            (true, false) if argument.name == "loss" => ", since the losses are not reduced",
            _ => "",
        };
        Err(wrong(name, found, words.join(" or ") + why))
    }

    fn agrees(&self, dims: &[Dim], found: &[u64]) -> bool {
        let (leading, rest) = split(dims, found);
        let known = |dim: &Dim, extent: u64| self.dims.get(dim).is_none_or(|&d| d == extent);
        let rows = match (leading, dims.first()) {
            (Some(leading), Some(dim)) => match self.axes.get(dim) {
                Some(axes) => axes == leading,
                None => !leading.is_empty() && known(dim, count(leading)),
            },
            _ => true,
        };
        let dims = dims.get(usize::from(leading.is_some())..).unwrap_or_default();
        rows && dims.len() == rest.len() && dims.iter().zip(rest).all(|(dim, &e)| known(dim, e))
    }

    /// Remembers the extents of a shape, and folds its rows.
    fn bind(&mut self, dims: &[Dim], found: &[u64]) -> Vec<u64> {
        let (leading, rest) = split(dims, found);
        let mut folded = Vec::new();
        if let (Some(leading), Some(&dim)) = (leading, dims.first()) {
            folded.push(count(leading));
            self.axes.insert(dim, leading.to_vec());
        }
        folded.extend(rest);
        self.dims.extend(dims.iter().copied().zip(folded.iter().copied()));
        folded
    }

    /// A shape as a text, with numbers where they are known.
    fn words(&self, dims: &[Dim]) -> String {
        let axes = |dim: &Dim| match (self.axes.get(dim), self.dims.get(dim)) {
            (Some(axes), _) => axes.iter().map(u64::to_string).collect(),
            (None, Some(extent)) => vec![extent.to_string()],
            (None, None) => vec![dim.name().to_owned()],
        };
        let extents: Vec<String> = dims.iter().flat_map(axes).collect();
        format!("[{}]", extents.join(", "))
    }
}

/// Splits a shape into the axes that count the rows, if it begins with such axes, and the other axes.
fn split<'s>(dims: &[Dim], found: &'s [u64]) -> (Option<&'s [u64]>, &'s [u64]) {
    if !dims.first().is_some_and(|dim| counts_rows(*dim)) {
        return (None, found);
    }
    match (found.len() + 1).checked_sub(dims.len()).and_then(|at| found.split_at_checked(at)) {
        Some((leading, rest)) => (Some(leading), rest),
        None => (Some(&[]), found),
    }
}

/// Checks the shape of a loss that is one number.
fn one(name: &str, found: &[u64]) -> Result<Vec<u64>> {
    if found == [1] {
        return Ok(found.to_vec());
    }
    Err(wrong(name, found, "[1], since the losses are reduced".to_owned()))
}

fn wrong(argument: &str, found: &[u64], expected: String) -> Error {
    Error::WrongShape {
        argument: argument.into(),
        found: found.to_vec().into(),
        expected: expected.into(),
    }
}

/// A layout with the folded shape that [`Shapes::take`] returned for it.
pub(super) fn folded(name: &str, layout: Layout, shape: &[u64]) -> Result<Layout> {
    if layout.shape == shape {
        return Ok(layout);
    }
    let (found, least) = (layout.row_stride, layout.columns());
    let folded = if shape.len() == 1 { layout.flattened() } else { Some(layout.folded()) };
    folded.ok_or_else(|| Error::WrongStride { argument: name.into(), found, least })
}

/// Host arrays with the rows folded into one axis, as the references expect them.
pub(crate) struct Folded {
    /// The arrays.
    pub inputs: Arrays,
    shapes: CallShapes,
}

impl Folded {
    /// Folds the arrays of a call, and checks their shapes.
    pub fn new(loss: &dyn Signature, inputs: &Arrays) -> Result<Self> {
        let (shapes, folded) = super::shapes_of(loss, inputs)?;
        let mut inputs = inputs.clone();
        for (name, shape) in folded {
            if let Some(array) = inputs.get_mut(&name) {
                array.shape = shape;
            }
        }
        Ok(Self { inputs, shapes })
    }

    /// Gives the outputs the axes of the call.
    pub fn unfold(&self, loss: &dyn Signature, outputs: &mut Arrays) {
        for (name, array) in outputs.iter_mut() {
            let Some(argument) = loss.about().output(name) else { continue };
            let shapes = self.shapes.of(argument, name);
            let shape = match argument.like().and_then(|input| shapes.taken.get(input)) {
                Some(own) => own.clone(),
                None if argument.spread == Spread::Named => shapes.of_output(loss, argument),
                None => continue,
            };
            if count(&shape) == array.len() as u64 {
                array.shape = shape;
            }
        }
    }
}

impl Shapes {
    /// The shape of an output that is not a gradient, with the axes of the rows.
    fn of_output(&self, loss: &dyn Signature, output: &Argument) -> Vec<u64> {
        with_axes(output.shape_in(loss, 2), &self.dims, &self.axes)
    }
}

/// The extents of a shape; an extent of rows is replaced by the axes that count the rows.
pub(crate) fn with_axes(
    shape: &[Dim],
    dims: &BTreeMap<Dim, u64>,
    axes: &BTreeMap<Dim, Vec<u64>>,
) -> Vec<u64> {
    let extents = |dim: &Dim| match axes.get(dim) {
        Some(axes) => axes.clone(),
        None => vec![dims.get(dim).copied().unwrap_or(0)],
    };
    shape.iter().flat_map(extents).collect()
}
