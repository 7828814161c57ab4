//! What the reference finds wrong with the data of a call.

use crate::data::{array::Array, status::Status};

/// The number of words of a status.
const WORDS: usize = Status::WORDS as usize;
/// The number of the first bad row, if there is none.
const NONE: u32 = u32::MAX;

/// What a computation on the CPU finds wrong with its data: the output `status` of a
/// [`reference`](crate::Operation::reference), in the words of [`Status`].
///
/// ```
/// use surprisal::{Status, cpu::Findings};
/// let mut found = Findings::of_rows();
/// found.bad_target(4, -7);
/// found.bad_target(2, 99);
/// found.bad_row();
/// let status = Status::from_array(&found.words());
/// assert_eq!((status.completed, status.bad_targets, status.bad_rows), (1, 2, 1));
/// assert_eq!(status.first_bad_target, Some((2, 99)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    words: [u32; WORDS],
}

impl Findings {
    /// No findings yet, for a row loss: targets are indices.
    pub fn of_rows() -> Self {
        Self { words: [1, 0, NONE, 0, 0, 0, 0, 0] }
    }

    /// No findings yet, for an element loss: targets are numbers.
    pub fn of_elements() -> Self {
        Self { words: [1, 0, NONE, 0, 0, 0, 0, 1] }
    }

    /// Counts a target that is neither a class nor ignored.
    pub fn bad_target(&mut self, row: usize, target: i64) {
        self.bad(row, target as u64);
    }

    /// Counts a number outside its domain; its element has no loss.
    pub fn bad_value(&mut self, row: usize, value: f64) {
        self.bad(row, (value as f32).to_bits().into());
    }

    fn bad(&mut self, row: usize, value: u64) {
        self.words[1] += 1;
        if (row as u32) < self.words[2] {
            self.words[2..5].copy_from_slice(&[row as u32, value as u32, (value >> 32) as u32]);
        }
    }

    /// Counts a row whose logits have no softmax, or an element whose loss is NaN.
    pub fn bad_row(&mut self) {
        self.words[5] += 1;
    }

    /// Counts a vector of zeros that had to be normalised.
    pub fn zero_vector(&mut self) {
        self.words[6] += 1;
    }

    /// Adds the findings of a part of the call, from the status of the part. If two parts have a first bad target,
    /// that of the earlier part is kept.
    pub(crate) fn add(&mut self, part: &Array) {
        let part: Vec<u32> = part.to_i64().into_iter().map(|word| word as u32).collect();
        let Ok(part) = <[u32; WORDS]>::try_from(part) else { return };
        for count in [1, 5, 6] {
            self.words[count] += part[count];
        }
        self.words[7] |= part[7];
        if part[2] < self.words[2] {
            self.words[2..5].copy_from_slice(&part[2..5]);
        }
    }

    /// The output `status`.
    pub fn words(&self) -> Array {
        Array::int(&[Status::WORDS], self.words.map(i64::from).into())
    }
}
