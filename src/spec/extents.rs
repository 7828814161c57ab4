//! Over which rows and columns the tensors of an element loss extend.

use super::broadcast::Broadcast;
use crate::data::error::{Error, Result};

/// The rows and columns of the elements: those of the first input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub rows: u64,
    pub columns: u64,
    pub matrix: bool,
}

impl Extents {
    /// Those of a tensor of this shape.
    pub fn of(shape: &[u64]) -> Self {
        match *shape {
            [rows, columns] => Self { rows, columns, matrix: true },
            [rows, ..] => Self { rows, columns: 1, matrix: false },
            [] => Self { rows: 1, columns: 1, matrix: false },
        }
    }

    pub fn count(self) -> u64 {
        self.rows * self.columns
    }

    /// Over what a tensor of this shape extends. A vector of as many elements as there are rows and
    /// columns lies along the last axis, as in PyTorch.
    pub fn span(self, name: &str, shape: &[u64]) -> Result<Broadcast> {
        let Self { rows, columns, matrix } = self;
        match *shape {
            [r, c] if matrix && (r, c) == (rows, columns) => Ok(Broadcast::Elements),
            [n] if !matrix && n == rows => Ok(Broadcast::Elements),
            [n] if matrix && n == columns => Ok(Broadcast::Columns),
            [r, 1] if matrix && r == rows => Ok(Broadcast::Rows),
            [1] => Ok(Broadcast::One),
            _ => Err(Error::WrongShape {
                argument: name.to_owned(),
                found: shape.to_vec(),
                expected: if matrix {
                    format!("[{rows}, {columns}], [{columns}], [{rows}, 1] or [1]")
                } else {
                    format!("[{rows}] or [1]")
                },
            }),
        }
    }
}
