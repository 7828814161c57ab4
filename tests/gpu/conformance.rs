//! The reference cases of tests/vectors, in f32; in 16 bits half of the rows' in each type, a third of the elements'.

use std::path::Path;

use surprisal::{
    Dtype, cases,
    conformance::{self, Backend, Verdict},
};

use crate::support::Context;

tests![
    cross_entropy_f32,
    cross_entropy_f16,
    cross_entropy_bf16,
    linear_cross_entropy_f32,
    linear_cross_entropy_f16,
    linear_cross_entropy_bf16,
    rows_f32,
    rows_f16,
    rows_bf16,
    elements_f32,
    elements_f16,
    elements_bf16,
];

fn cross_entropy_f32(context: &Context) {
    every(context, "cross_entropy", Dtype::F32, 1, 0);
}

fn cross_entropy_f16(context: &Context) {
    every(context, "cross_entropy", Dtype::F16, 2, 0);
}

fn cross_entropy_bf16(context: &Context) {
    every(context, "cross_entropy", Dtype::Bf16, 2, 1);
}

fn linear_cross_entropy_f32(context: &Context) {
    every(context, "linear_cross_entropy", Dtype::F32, 1, 0);
}

fn linear_cross_entropy_f16(context: &Context) {
    every(context, "linear_cross_entropy", Dtype::F16, 1, 0);
}

fn linear_cross_entropy_bf16(context: &Context) {
    every(context, "linear_cross_entropy", Dtype::Bf16, 1, 0);
}

/// The other losses of a row of logits.
const ROWS: [&str; 3] = ["brier", "distillation", "topk_hinge"];

fn rows_f32(context: &Context) {
    for loss in ROWS {
        every(context, loss, Dtype::F32, 1, 0);
    }
}

fn rows_f16(context: &Context) {
    for loss in ROWS {
        every(context, loss, Dtype::F16, 2, 0);
    }
}

fn rows_bf16(context: &Context) {
    for loss in ROWS {
        every(context, loss, Dtype::Bf16, 2, 1);
    }
}

/// The losses of one score at a time, and Dice. One skeleton loads and stores for them all, and most cases
/// have a kernel of their own, which takes Mesa's OpenGL half a minute a type: a third shows the 16-bit ones.
const ELEMENTS: [&str; 9] = [
    "bce_with_logits",
    "binary_hinge",
    "mse",
    "gaussian_nll",
    "gaussian_broadcast",
    "missing_targets",
    "poisson_nll",
    "hurdle_poisson",
    "dice",
];

fn elements_f32(context: &Context) {
    for loss in ELEMENTS {
        every(context, loss, Dtype::F32, 1, 0);
    }
}

fn elements_f16(context: &Context) {
    for loss in ELEMENTS {
        every(context, loss, Dtype::F16, 3, 0);
    }
}

fn elements_bf16(context: &Context) {
    for loss in ELEMENTS {
        every(context, loss, Dtype::Bf16, 3, 1);
    }
}

/// Cases `first`, `first + step`, … of a loss's file.
pub fn every(context: &Context, loss: &str, dtype: Dtype, step: usize, first: usize) {
    let file = format!("tests/vectors/{loss}.safetensors");
    let cases = cases::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let backend = Backend::Gpu(context.gpu.clone());
    let outcomes: Vec<_> = cases
        .iter()
        .skip(first)
        .step_by(step)
        .flat_map(|case| conformance::run(case, &backend, dtype))
        .collect();
    let failed: Vec<_> =
        outcomes.iter().filter(|outcome| outcome.status != Verdict::Passed).collect();
    assert!(!outcomes.is_empty());
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), outcomes.len());
}
