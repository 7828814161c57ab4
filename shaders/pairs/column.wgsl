// What is known of a column's own softmax: the planes of the column table.

// While the rows are walked, the planes hold the maximum, the sum, the moment, its reference and flags. Afterwards they
// hold the maximum, 1/sum and the factor of the column's gradient (NaN where the column is bad).
const COLUMN_TOP: u32 = 0u;
const COLUMN_SUM: u32 = 1u;
const COLUMN_FACTOR: u32 = 2u;
const COLUMN_MOMENT: u32 = 2u;
const COLUMN_REFERENCE: u32 = 3u;
const COLUMN_FLAGS: u32 = 4u;
// The x of the column's positive pair before any margin, all the time; where keys are filtered by it.
const COLUMN_POSITIVE: u32 = 5u;
