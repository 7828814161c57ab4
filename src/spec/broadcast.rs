//! Over what a tensor beside a matrix extends.

/// Over what a tensor beside a matrix of rows and columns extends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// One element a row and column.
    Elements,
    /// One element a column (class), the same for every row.
    Columns,
    /// One element a row, or one for all rows.
    Rows,
    /// The same elements whatever the row and the column are.
    One,
}
