//! The f64 reference of scores as results, and of the largest scores of each row.

use std::cmp::Ordering;

use super::Similarity;
use crate::{
    data::{
        array::{Arithmetic, Array, Arrays},
        error::Result,
    },
    reference::{Real, array, no_output},
    skeleton::pairs::reference::Pairs,
    spec::about::Signature as _,
};

/// Computes the outputs of a similarity.
pub(super) fn run(
    loss: &Similarity,
    inputs: &Arrays,
    wanted: &[&str],
    arithmetic: Arithmetic,
) -> Result<Arrays> {
    match arithmetic {
        Arithmetic::F64 => scores::<f64>(loss, inputs, wanted),
        Arithmetic::F32 => scores::<f32>(loss, inputs, wanted),
    }
}

fn scores<T: Real>(loss: &Similarity, inputs: &Arrays, wanted: &[&str]) -> Result<Arrays> {
    let pairs = Pairs::<T>::read(loss, inputs, wanted)?;
    let [rows, keys, k] = [pairs.queries.count, pairs.keys.count, loss.k as usize];
    loss.check_keys(keys as u64)?;
    let finite = |&s: &T| if s.is_finite() { s } else { T::nan() };
    let scores: Vec<T> = pairs.scores.iter().map(finite).collect();
    let top: Vec<Vec<usize>> = scores.chunks(keys).map(|row| ranked(row, k)).collect();
    let output = |name: &str| {
        let best = || top.iter().enumerate().flat_map(|(i, top)| top.iter().map(move |j| (i, *j)));
        Ok(match name {
            "scores" => array(&[rows, keys], scores.iter().copied()),
            "top_scores" => array(&[rows, k], best().map(|(i, j)| scores[i * keys + j])),
            "top_indices" => {
                Array::int(&[rows as u64, k as u64], best().map(|(_, j)| j as i64).collect())
            }
            "status" => pairs.found().words(),
            _ => return Err(no_output(loss.about(), name)),
        })
    };
    wanted.iter().map(|&name| Ok((name.to_owned(), output(name)?))).collect()
}

/// The k largest scores: NaN first, then from high to low, the lower index first where they are
/// equal.
fn ranked<T: Real>(row: &[T], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| {
        let nan = row[b].is_nan().cmp(&row[a].is_nan());
        nan.then(row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal))
    });
    order.truncate(k);
    order
}
