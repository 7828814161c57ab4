//! The reference cases of tests/vectors, in f32. A 16-bit type changes how an element is loaded and stored, which the
//! catalogue tries.

use std::{collections::BTreeMap, path::Path};

use surprisal::{
    Array, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Layout, cases,
    targets,
};
use surprisal_cli::conformance::{self, Backend, Verdict};

use crate::support::{Context, Placed, indices};

tests![cross_entropy_f32, rows_f32, left_out, bytes_with_a_sign,];

/// On score tiles.
pub mod linear {
    use super::linear_cross_entropy_f32;

    tests![linear_cross_entropy_f32];
}

/// Element losses.
pub mod elements {
    use super::elements_f32;

    tests![elements_f32];
}

fn cross_entropy_f32(context: &Context) {
    every(context, "cross_entropy", Dtype::F32, 1, 0);
}

fn linear_cross_entropy_f32(context: &Context) {
    every(context, "linear_cross_entropy", Dtype::F32, 1, 0);
}

/// The other losses of a row of logits, and what is drawn for them.
const ROWS: [&str; 17] = [
    "hierarchical_cross_entropy",
    "sampled_softmax",
    "linear_sampled_softmax",
    "nll",
    "brier",
    "ce_mse_mix",
    "generalized_cross_entropy",
    "kl_div",
    "entropy",
    "free_energy",
    "distillation",
    "linear_distillation",
    "multiclass_hinge",
    "topk_hinge",
    "gumbel_softmax",
    "hessian_vector_product",
    "draw_samples",
];

fn rows_f32(context: &Context) {
    for loss in ROWS {
        every(context, loss, Dtype::F32, 1, 0);
    }
}

/// The losses of one score at a time, Dice, and what is composed of such losses.
const ELEMENTS: [&str; 11] = [
    "bce_with_logits",
    "binary_hinge",
    "mse",
    "huber",
    "gaussian_nll",
    "poisson_nll",
    "hurdle_poisson",
    "dice",
    "gan_discriminator",
    "gan_generator",
    "mixed_columns",
];

fn elements_f32(context: &Context) {
    for loss in ELEMENTS {
        every(context, loss, Dtype::F32, 1, 0);
    }
}

/// Cases `first`, `first + step`, … of a loss, from all files, without those that ask for what is not here yet.
pub fn every(context: &Context, loss: &str, dtype: Dtype, step: usize, first: usize) {
    let cases = cases::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")).unwrap();
    let backend = Backend::Gpu(context.gpu.clone());
    let outcomes: Vec<_> = cases
        .iter()
        .filter(|case| case.loss == loss && conformance::missing(case).is_none())
        .skip(first)
        .step_by(step)
        .flat_map(|case| conformance::run(case, &backend, dtype))
        .collect();
    let failed: Vec<_> =
        outcomes.iter().filter(|outcome| outcome.status != Verdict::Passed).collect();
    assert!(!outcomes.is_empty());
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), outcomes.len());
}

/// The losses whose cases run here and in the tests of pairs.
const RUN: [&str; 4] = ["info_nce", "sup_con", "sigmoid_contrastive", "similarity"];

/// Every case of the folder belongs to a loss whose cases run, or is named as left out.
fn left_out(_: &Context) {
    let cases = cases::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")).unwrap();
    let mut missing = BTreeMap::<(String, String), usize>::new();
    for case in cases {
        if let Some(what) = conformance::missing(&case) {
            *missing.entry((case.loss, what)).or_default() += 1;
            continue;
        }
        let rows = ["cross_entropy", "linear_cross_entropy"];
        // The cases of operations of the host run in tests/cpu.
        let host = targets::REGISTRY.iter().any(|entry| entry.about.name == case.loss);
        let run = host || [&rows[..], &ROWS, &ELEMENTS, &RUN].concat().contains(&&*case.loss);
        assert!(run, "no test runs {}", case.id);
    }
    for ((loss, what), count) in missing {
        println!("not run: {count} case(s) of {loss}: there is no {what} yet");
    }
}

/// Logits of 8 bits come back from a GPU unchanged; the error of a loss says that they need a scale.
fn bytes_with_a_sign(context: &Context) {
    let gpu = &context.gpu;
    let array = Array::int(&[3, 5], (0..15).map(|at| at * 17 - 128).collect());
    let logits =
        Placed::input(gpu, &array, Layout::matrix(Dtype::I8, 3, 5).row_stride(7).offset(3));
    assert_eq!(logits.array(gpu), array);
    let targets = Placed::input(gpu, &indices(&[0; 3]), Layout::vector(Dtype::I64, 3));
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
    let inputs = CrossEntropyInputs::default().logits(logits.tensor()).targets(targets.tensor());
    let outputs = CrossEntropyOutputs::default().loss(loss.tensor());
    let refused = gpu.prepare(&CrossEntropy::default().request(inputs, outputs)).unwrap_err();
    let missing = |argument: &str| argument == "logits_scale";
    assert!(matches!(&refused, Error::MissingInput { argument, .. } if missing(argument)));
}
