//! Operations on the Jacobian of a softmax: samples with Gumbel noise, and the product of a Hessian and a vector.

use serde_json::json;
use surprisal::{Array, Arrays, Dtype};

use crate::support::{
    Context, FLOATS, INF, bits, check, check_status, gaussian, matrix, outcome, parse, sample, set,
    vector, with,
};

tests![samples, samples_in_windows, products, rows_without_numbers, saturated_rows];

const NAN: f64 = f64::NAN;
const ROWS: usize = 5;
/// Rows that a lane walks alone, rows with tiles, and rows that several workgroups share.
const CLASSES: [usize; 3] = [7, 1100, 40_002];

fn logits(seed: u64, classes: usize) -> Arrays {
    let mut inputs = sample(seed, ROWS, classes);
    inputs.remove("targets");
    inputs
}

fn samples(context: &Context) {
    let calls = CLASSES.into_iter().zip(FLOATS).zip([json!({"seed": 5}), json!({}), json!({})]);
    for ((classes, dtype), mut options) in calls {
        let inputs = logits(50, classes);
        let backward = with(&inputs, [("upstream", gaussian(51, ROWS, classes))]);
        for (hard, temperature) in [(false, 0.7), (true, 2.0)] {
            options["hard"] = hard.into();
            options["temperature"] = temperature.into();
            options["offset"] = u64::MAX.into();
            let loss = parse("gumbel_softmax", &options);
            check(&context.gpu, &*loss, &inputs, dtype, &["output"]);
            check(&context.gpu, &*loss, &backward, dtype, &["grad.logits"]);
        }
    }
}

/// The noise of a row is that of its number in the call, not in its window.
fn samples_in_windows(context: &Context) {
    let rows = 700;
    let inputs = with(&Arrays::new(), [("logits", gaussian(52, rows, 33))]);
    let loss = parse("gumbel_softmax", &json!({"seed": 1}));
    let whole = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["output"]).0;
    let small = context.with(|profile| profile.binding_bytes = 64 << 10);
    let parts = outcome(&small, &*loss, &inputs, Dtype::F32, &["output"]).0;
    assert_eq!(bits(&whole["output"]), bits(&parts["output"]));
}

fn products(context: &Context) {
    let weights = [("row_weight", vector(&[1.0, 0.0, -2.0, 0.5, 1.0]))];
    for (classes, dtype) in CLASSES.into_iter().zip(FLOATS.into_iter().rev()) {
        let inputs = with(&logits(53, classes), [("vector", gaussian(54, ROWS, classes))]);
        let inputs = with(&inputs, weights.clone());
        let options = json!({"temperature": 1.7, "denominator": "weights"});
        let loss = parse("hessian_vector_product", &options);
        check(&context.gpu, &*loss, &inputs, dtype, &["product"]);
        let options = json!({"of": "bce_with_logits", "temperature": 0.5});
        let loss = parse("hessian_vector_product", &options);
        let inputs = with(&inputs, [("weight", gaussian(55, ROWS, classes))]);
        check(&context.gpu, &*loss, &inputs, dtype, &["product"]);
    }
}

/// Numbers without a softmax, in the scores and in the other matrix.
fn rows_without_numbers(context: &Context) {
    let classes = CLASSES[0];
    let at = |row: usize, class: usize| row * classes + class;
    let scores = set(&logits(56, classes)["logits"], at(0, 2), -INF);
    let mut scores = set(&scores, at(1, 3), NAN);
    for class in 0..classes {
        scores = set(&scores, at(2, class), -INF);
    }
    let beside = set(&gaussian(57, ROWS, classes), at(3, 1), INF);
    let given =
        |name: &str| with(&Arrays::new(), [("logits", scores.clone()), (name, beside.clone())]);
    let gumbel = parse("gumbel_softmax", &json!({}));
    check(&context.gpu, &*gumbel, &given("upstream"), Dtype::F32, &["grad.logits"]);
    let hessian = parse("hessian_vector_product", &json!({"reduction": "sum"}));
    check(&context.gpu, &*hessian, &given("vector"), Dtype::F32, &["product"]);
    let binary = json!({"of": "bce_with_logits", "reduction": "sum"});
    let binary = parse("hessian_vector_product", &binary);
    check(&context.gpu, &*binary, &given("vector"), Dtype::F32, &["product"]);
    let found = [(&gumbel, "upstream", "grad.logits", 3), (&hessian, "vector", "product", 3)];
    for (operation, name, output, bad_rows) in found {
        let wanted = [output, "status"];
        let status = check_status(&context.gpu, &**operation, &given(name), Dtype::F32, &wanted);
        assert_eq!(status.bad_rows, bad_rows);
    }
}

/// Where one class takes nearly all, the product keeps its digits: it is small beside the numbers that it is made of.
fn saturated_rows(context: &Context) {
    let classes = CLASSES[0];
    for top in [8.0, 20.0, 60.0] {
        let mut scores = vec![0.0; classes];
        scores[3] = top;
        let vector: Vec<f64> = (0..classes).map(|class| (1.0 + class as f64).sqrt()).collect();
        let inputs = with(
            &Arrays::new(),
            [("logits", matrix(1, classes, scores)), ("vector", matrix(1, classes, vector))],
        );
        let loss = parse("hessian_vector_product", &json!({}));
        let found = check(&context.gpu, &*loss, &inputs, Dtype::F32, &["product"]).0;
        let truth: Array =
            surprisal::cpu::run(&*loss, &inputs, &["product"]).unwrap()["product"].clone();
        for (found, truth) in found["product"].to_f64().into_iter().zip(truth.to_f64()) {
            assert!((found - truth).abs() <= 1e-5 * truth.abs(), "top {top}: {found} {truth}");
        }
    }
}
