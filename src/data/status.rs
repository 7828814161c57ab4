//! What a call found wrong with its data. The caller reads it whenever they want to.

use crate::data::{
    array::Array,
    error::{Error, Result},
};

/// The decoded status words of a call, or of several calls that [add to them](crate::Request::accumulate_status).
///
/// A call overwrites the words unless it is asked to add to them. The words then need no zeroing, and do not describe
/// earlier calls. A call that adds to the words counts itself in word 0 when it is complete, after all other words. If a
/// driver ended the call early, that count has not moved.
///
/// Word 0 counts completed calls (it is written last), word 1 the bad targets. Word 2 is the first row that has one
/// (`u32::MAX`: none), words 3 and 4 are its target (low and high word). Word 5 counts the rows without a loss,
/// word 6 the vectors of zeros. Word 7 is 1 for element losses: then word 3 holds the bits of a float, and words 1 and
/// 5 count elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Status {
    /// The number of calls on these words that ran to their end.
    pub completed: u32,
    /// The number of rows whose target is outside `0..classes` and not ignored, or of elements whose target is outside
    /// its domain.
    pub bad_targets: u32,
    /// The first such row and its target.
    pub first_bad_target: Option<(u32, i64)>,
    /// For element losses: the row of the first element whose target (or variance, or rate) is outside its domain, and
    /// this number.
    pub first_bad_value: Option<(u32, f32)>,
    /// The number of rows with a NaN or +inf logit, without a finite logit, or whose loss is NaN although their target is
    /// good, because of a NaN in `target_probs`, `weight` or `row_weight`; all rows, if a learned temperature is outside
    /// its domain. For element losses: of elements whose loss is NaN although their target is good.
    pub bad_rows: u32,
    /// The number of vectors of zeros that had to be normalised.
    pub zero_vectors: u32,
}

impl Status {
    /// Words of a status tensor.
    pub const WORDS: u64 = 8;

    /// Decodes status words; words that are missing read as 0.
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

    /// The status, or an error with the first bad target if there is one.
    pub fn checked(self) -> Result<Self> {
        let count = self.bad_targets.into();
        match (self.first_bad_target, self.first_bad_value) {
            (Some((row, value)), _) => Err(Error::BadTargets { count, row: row.into(), value }),
            (None, Some((row, value))) => Err(Error::BadValues { count, row: row.into(), value }),
            (None, None) => Ok(self),
        }
    }
}
