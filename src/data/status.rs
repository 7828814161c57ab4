//! What a call found wrong with its data, readable when the caller wants.

use crate::data::{
    array::Array,
    error::{Error, Result},
};

/// The status words of a call, decoded; or of several calls, where each of them was asked to
/// [add to the words](crate::Request::accumulate_status).
///
/// A call that is not asked to add overwrites the words: they need no zeroing before it, and say nothing of calls before
/// it. A call that adds counts itself in word 0 when it is complete, after all other words: where a driver ended a call
/// early, the count has not moved.
///
/// Word 0 counts completed calls (it moves last), 1 the bad targets, 2 the first row that has one
/// (`u32::MAX`: none), 3 and 4 that target (low and high word), 5 the rows whose logits gave NaN, 6 the
/// vectors of zeros.
/// Word 7 is 1 for losses of elements: then 3 holds the bits of a float, and 1 and 5 count elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Status {
    /// How many calls on these words ran to their end.
    pub completed: u32,
    /// Rows whose target is outside `0..classes` and not ignored, or elements whose target is outside
    /// its domain.
    pub bad_targets: u32,
    /// The first of them and its target.
    pub first_bad_target: Option<(u32, i64)>,
    /// The row of the first element whose target (or variance, or rate) is outside its domain, and that
    /// number: losses of elements.
    pub first_bad_value: Option<(u32, f32)>,
    /// Rows with a NaN or +inf logit, or without a finite one; for losses of elements, elements whose
    /// loss is NaN although their target is good.
    pub bad_rows: u32,
    /// Vectors that were to be normalised and are zero.
    pub zero_vectors: u32,
}

impl Status {
    /// Words of a status tensor.
    pub const WORDS: u64 = 8;

    /// Decodes status words; missing ones read as 0.
    pub fn from_words(words: &[u32]) -> Self {
        let word = |index: usize| words.get(index).copied().unwrap_or(0);
        let value = (u64::from(word(4)) << 32 | u64::from(word(3))) as i64;
        let floats = word(7) == 1;
        Self {
            completed: word(0),
            bad_targets: word(1),
            first_bad_target: (word(1) > 0 && !floats).then_some((word(2), value)),
            first_bad_value: (word(1) > 0 && floats).then_some((word(2), f32::from_bits(word(3)))),
            bad_rows: word(5),
            zero_vectors: word(6),
        }
    }

    /// Decodes the output `status` of a call on host arrays.
    pub fn from_array(array: &Array) -> Self {
        let words: Vec<u32> = array.to_i64().into_iter().map(|word| word as u32).collect();
        Self::from_words(&words)
    }

    /// An error for the first bad target, if there is one.
    pub fn checked(self) -> Result<Self> {
        let count = self.bad_targets.into();
        match (self.first_bad_target, self.first_bad_value) {
            (Some((row, value)), _) => Err(Error::BadTargets { count, row: row.into(), value }),
            (None, Some((row, value))) => Err(Error::BadValues { count, row: row.into(), value }),
            (None, None) => Ok(self),
        }
    }
}
