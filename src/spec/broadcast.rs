//! How the elements of a tensor belong to the rows and columns of another one.

use crate::data::error::{Error, Result};

/// The most groups of axes in a tensor that has only some of the axes.
const MOST_GROUPS: usize = 4;

/// The axes over which a tensor extends: they say which element belongs to a row and a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// One element a row and column.
    Elements,
    /// One element a column (class), the same for every row.
    Columns,
    /// One element a row, or one for all rows.
    Rows,
    /// The same elements for every row and column.
    One,
    /// One element along some of the axes that count the rows. Along the other axes the elements repeat.
    Axes(Axes),
}

/// How a row of a call is mapped to a row of a tensor that has only some of the axes that count the rows. Neighbouring
/// axes of the tensor form a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    groups: [Group; MOST_GROUPS],
    count: usize,
    /// Whether the tensor has one element a column; otherwise it has one for all columns.
    has_columns: bool,
}

/// Neighbouring axes as one: the index along them is row / `below` % `extent`, and `step` is the distance between the
/// tensor's rows along them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub below: u64,
    pub extent: u64,
    pub step: u64,
}

impl Axes {
    /// The groups, the innermost one first.
    pub(crate) fn groups(&self) -> &[Group] {
        self.groups.get(..self.count).unwrap_or_default()
    }

    pub(crate) fn has_columns(&self) -> bool {
        self.has_columns
    }

    fn row(&self, row: u64) -> u64 {
        self.groups().iter().map(|group| row / group.below % group.extent * group.step).sum()
    }
}

/// An axis of the elements in the order of a walk; `kept` says whether a tensor has this axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub extent: u64,
    pub kept: bool,
}

/// The rows and columns of the elements, from the shape of the first input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    pub rows: u64,
    pub columns: u64,
    shape: Vec<u64>,
}

/// The axes that count the rows, the outermost one first, each with whether a tensor with this broadcast has it.
pub(crate) fn row_axes(broadcast: Broadcast, rows: u64) -> Vec<Axis> {
    let whole = |kept| vec![Axis { extent: rows, kept }];
    let Broadcast::Axes(axes) = broadcast else {
        return whole(matches!(broadcast, Broadcast::Elements | Broadcast::Rows));
    };
    let (mut found, mut below) = (Vec::new(), 1);
    for group in axes.groups() {
        found.push(Axis { extent: group.below / below.max(1), kept: false });
        found.push(Axis { extent: group.extent, kept: true });
        below = group.below * group.extent;
    }
    found.push(Axis { extent: rows / below.max(1), kept: false });
    found.reverse();
    found
}

impl Extents {
    /// The extents of a tensor of this shape.
    pub fn of(shape: &[u64]) -> Self {
        let (rows, columns) = match shape {
            [leading @ .., columns] if !leading.is_empty() => {
                (leading.iter().copied().fold(1, u64::saturating_mul), *columns)
            }
            _ => (shape.first().copied().unwrap_or(1), 1),
        };
        Self { rows, columns, shape: shape.to_vec() }
    }

    pub fn count(&self) -> u64 {
        self.rows.saturating_mul(self.columns)
    }

    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The axes that count the rows.
    pub fn leading(&self) -> &[u64] {
        match self.shape.as_slice() {
            [leading @ .., _] if !leading.is_empty() => leading,
            whole => whole,
        }
    }

    fn has_columns(&self) -> bool {
        self.shape.len() > 1
    }

    /// How a tensor of this shape broadcasts, by PyTorch's rule: from the last axis on, each axis has the extent of
    /// the elements' axis, or 1.
    pub fn broadcast(&self, name: &str, shape: &[u64]) -> Result<Broadcast> {
        self.broadcast_of(shape).ok_or_else(|| self.misfit(name, shape))
    }

    /// As `broadcast`; one element a row may also have the shape of the rows or `[rows]`.
    pub fn broadcast_or_rows(&self, name: &str, shape: &[u64]) -> Result<Broadcast> {
        let by_rows = self.has_columns() && (shape == self.leading() || shape == [self.rows]);
        match self.broadcast_of(shape) {
            None if by_rows => Ok(Broadcast::Rows),
            Some(Broadcast::One) => Ok(Broadcast::One),
            Some(_) if by_rows && shape != self.shape => Err(Error::WrongShape {
                argument: name.into(),
                found: shape.to_vec().into(),
                expected: self.either(shape).into(),
            }),
            Some(broadcast) => Ok(broadcast),
            None => Err(self.misfit(name, shape)),
        }
    }

    /// For a shape that could mean one element a row or one a column: how to write either.
    fn either(&self, shape: &[u64]) -> String {
        let rows = [self.leading(), &[1]].concat();
        let columns = [&[1], shape].concat();
        format!("{rows:?} for one a row or {columns:?} for one a column: it could be either")
    }

    fn misfit(&self, name: &str, shape: &[u64]) -> Error {
        let smaller = match self.shape.as_slice() {
            [rows, columns] => format!(": [{columns}], [{rows}, 1] or [1]"),
            [_] => ": [1]".to_owned(),
            _ => String::new(),
        };
        Error::WrongShape {
            argument: name.into(),
            found: shape.to_vec().into(),
            expected: format!(
                "{:?}, or what broadcasts to it from the last axis on{smaller}",
                self.shape
            )
            .into(),
        }
    }

    fn broadcast_of(&self, shape: &[u64]) -> Option<Broadcast> {
        let missing = self.shape.len().checked_sub(shape.len())?;
        let own = |axis: usize| axis.checked_sub(missing).and_then(|axis| shape.get(axis)).copied();
        let fits = |(axis, &extent): (usize, &u64)| own(axis).is_none_or(|e| e == extent || e == 1);
        if shape.is_empty() || !self.shape.iter().enumerate().all(fits) {
            return None;
        }
        if *shape == self.shape {
            return Some(Broadcast::Elements);
        }
        // An axis of extent 1 counts as an axis that the tensor lacks.
        let has = |axis: usize| own(axis).is_some_and(|extent| extent != 1);
        let has_columns = self.has_columns() && has(self.shape.len() - 1);
        let leading = self.leading();
        let all = leading.iter().enumerate().all(|(axis, &extent)| has(axis) || extent == 1);
        let none = !(0..leading.len()).any(has);
        Some(match (all, none, has_columns) {
            (_, true, true) => Broadcast::Columns,
            (_, true, false) => Broadcast::One,
            (true, _, false) => Broadcast::Rows,
            _ => Broadcast::Axes(self.axes(&has, has_columns)?),
        })
    }

    /// The groups of the axes that the tensor has.
    fn axes(&self, has: &dyn Fn(usize) -> bool, has_columns: bool) -> Option<Axes> {
        let mut axes = Axes { has_columns, ..Axes::default() };
        let (mut below, mut step, mut grows) = (1, 1, false);
        for (axis, &extent) in self.leading().iter().enumerate().rev().filter(|(_, e)| **e != 1) {
            if has(axis) {
                if !grows {
                    *axes.groups.get_mut(axes.count)? = Group { below, extent: 1, step };
                    axes.count += 1;
                }
                axes.groups.get_mut(axes.count - 1)?.extent *= extent;
                step *= extent;
            }
            grows = has(axis);
            below *= extent;
        }
        Some(axes)
    }

    /// The index of the tensor's element that belongs to element `at`; both are counted row by row.
    pub fn index(&self, broadcast: Broadcast, at: u64) -> u64 {
        let columns = self.columns.max(1);
        let (row, column) = (at / columns, at % columns);
        match broadcast {
            Broadcast::Elements => at,
            Broadcast::Columns => column,
            Broadcast::Rows => row,
            Broadcast::One => 0,
            Broadcast::Axes(axes) if axes.has_columns => axes.row(row) * columns + column,
            Broadcast::Axes(axes) => axes.row(row),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]
mod tests {
    use super::*;

    /// The result of PyTorch's rule: the index along each axis, which is 0 along axes of extent 1.
    fn expected(scores: &[u64], shape: &[u64], at: u64) -> u64 {
        let mut rest = at;
        let mut index = Vec::new();
        for &extent in scores.iter().rev() {
            index.push(rest % extent);
            rest /= extent;
        }
        let axes = shape.iter().rev().zip(index);
        let place = |(place, below): (u64, u64), (&extent, index): (&u64, u64)| {
            (place + below * if extent == 1 { 0 } else { index }, below * extent)
        };
        axes.fold((0, 1), place).0
    }

    #[test]
    fn every_shape_that_broadcasts_is_found_where_pytorch_finds_it() {
        for scores in
            [&[2, 3, 4, 5][..], &[3, 1, 4], &[4, 5], &[6], &[1, 1, 3], &[2, 3, 2, 3, 2, 3]]
        {
            let extents = Extents::of(scores);
            for mask in 0..1 << scores.len() {
                for missing in 0..scores.len() {
                    let keep = |(axis, &extent)| if mask >> axis & 1 == 1 { extent } else { 1 };
                    let shape: Vec<u64> =
                        scores.iter().enumerate().map(keep).skip(missing).collect();
                    let broadcast = extents.broadcast("weight", &shape).unwrap();
                    for at in 0..extents.count() {
                        let found = extents.index(broadcast, at);
                        assert_eq!(
                            found,
                            expected(scores, &shape, at),
                            "{scores:?} {shape:?} {at}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_shape_that_could_be_rows_or_columns_is_refused_with_both_ways_to_write_it() {
        let square = Extents::of(&[3, 3]);
        let error = square.broadcast_or_rows("variance", &[3]).unwrap_err().to_string();
        assert!(error.contains("[3, 1] for one a row or [1, 3] for one a column"), "{error}");
        for (shape, expected) in [
            (&[3, 1][..], Broadcast::Rows),
            (&[1, 3], Broadcast::Columns),
            (&[1], Broadcast::One),
            (&[3, 3], Broadcast::Elements),
        ] {
            assert_eq!(square.broadcast_or_rows("variance", shape).unwrap(), expected);
        }
        let long = Extents::of(&[2, 3, 5]);
        for shape in [&[6][..], &[2, 3], &[2, 3, 1]] {
            assert_eq!(long.broadcast_or_rows("variance", shape).unwrap(), Broadcast::Rows);
        }
        assert!(Extents::of(&[3, 3, 3]).broadcast_or_rows("variance", &[3, 3]).is_err());
        assert!(long.broadcast("weight", &[6]).is_err());
    }
}
