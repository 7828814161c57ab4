//! Compares the f64 reference with reference cases, finite differences and identities. No GPU.
#![cfg(feature = "cases")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod calls;
#[path = "../common/descent.rs"]
mod descent;
mod draws;
mod edges;
mod elements;
mod files;
mod jacobians;
mod options;
mod quantized;
mod refusals;
mod rows;
mod sampled;
mod targets;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use surprisal::{
    Arithmetic, Array, Arrays, BceWithLogits, CrossEntropy, Denominator, Dtype, LinearCrossEntropy,
    Operation, Reduction, Smoothing, SupCon, WeightLayout,
    cases::{self, Case},
    cpu, operations, testing,
};
use surprisal_cli::conformance;

/// The error that f64 allows, relative to the largest value of the tensor.
const EXACT: f64 = 1e-10;
/// The error that central differences in f64 allow.
const DIFFERENCES: f64 = 1e-6;

const NO_CLASS: i64 = u32::MAX as i64;
const INF: f64 = f64::INFINITY;

fn is_close(actual: &[f64], expected: &[f64], relative: f64) -> bool {
    let finite = expected.iter().filter(|value| value.is_finite());
    let largest = finite.fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let same = |(a, e): (&f64, &f64)| {
        a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= relative * largest
    };
    actual.len() == expected.len() && actual.iter().zip(expected).all(same)
}

#[track_caller]
fn assert_close(actual: &[f64], expected: &[f64], relative: f64, what: &str) {
    let same = is_close(actual, expected, relative);
    assert!(same, "{what}\n  actual {actual:?}\nexpected {expected:?}");
}

fn logits(rows: usize, values: &[f64]) -> Array {
    Array::float(&[rows as u64, (values.len() / rows.max(1)) as u64], values.to_vec())
}

fn vector(values: &[f64]) -> Array {
    Array::float(&[values.len() as u64], values.to_vec())
}

fn indices(values: &[i64]) -> Array {
    Array::int(&[values.len() as u64], values.to_vec())
}

fn named<const N: usize>(arrays: [(&str, Array); N]) -> Arrays {
    arrays.map(|(name, array)| (name.to_owned(), array)).into()
}

#[track_caller]
fn run(loss: &dyn Operation, inputs: &Arrays, name: &str) -> Vec<f64> {
    cpu::run(loss, inputs, &[name]).unwrap()[name].to_f64()
}

#[track_caller]
fn run_int(loss: &dyn Operation, inputs: &Arrays, name: &str) -> Vec<i64> {
    let output = &cpu::run(loss, inputs, &[name]).unwrap()[name];
    assert!(matches!(output.data, surprisal::Data::Int(_)), "{name} holds integers");
    output.to_i64()
}

fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

// --- reference cases ---

/// Runs every case of the folder whose operation, options, inputs and outputs exist here, and names the other cases.
#[test]
fn reference_cases() {
    let mut passed = BTreeMap::<String, usize>::new();
    let mut missing = BTreeMap::<(String, String), usize>::new();
    for case in cases::load(&vectors()).unwrap() {
        if let Some(what) = conformance::missing(&case) {
            *missing.entry((case.loss, what)).or_default() += 1;
        } else {
            assert_case(&case);
            *passed.entry(case.loss).or_default() += 1;
        }
    }
    for ((loss, what), count) in &missing {
        println!("not run: {count} case(s) of {loss}: there is no {what} yet");
    }
    for (name, count) in [
        ("cross_entropy", 243),
        ("linear_cross_entropy", 39),
        ("bce_with_logits", 94),
        ("binary_hinge", 12),
        ("mse", 10),
        ("huber", 8),
        ("gaussian_nll", 20),
        ("poisson_nll", 16),
        ("hurdle_poisson", 4),
        ("dice", 10),
        ("info_nce", 33),
        ("sup_con", 5),
        ("sigmoid_contrastive", 2),
        ("hierarchical_cross_entropy", 4),
        ("sampled_softmax", 8),
        ("linear_sampled_softmax", 8),
        ("nll", 6),
        ("brier", 8),
        ("ce_mse_mix", 6),
        ("generalized_cross_entropy", 6),
        ("kl_div", 6),
        ("entropy", 6),
        ("free_energy", 6),
        ("distillation", 18),
        ("linear_distillation", 8),
        ("multiclass_hinge", 25),
        ("topk_hinge", 8),
        ("gumbel_softmax", 5),
        ("hessian_vector_product", 7),
        ("class_weights", 4),
        ("draw_samples", 4),
        ("similarity", 5),
        ("gan_discriminator", 5),
        ("gan_generator", 10),
        ("mixed_columns", 5),
    ] {
        assert!(passed[name] >= count, "{name}: {}", passed[name]);
    }
    let without = operations::all().find(|entry| !passed.contains_key(entry.about.name));
    assert!(without.is_none(), "no cases: {}", without.unwrap().about.name);
}

/// A case that asks for what the crate does not have is distinguished from a case with a wrong result.
#[test]
fn what_a_case_asks_for_in_vain() {
    let case = |loss: &str, options: serde_json::Value, input: &str, output: &str| Case {
        loss: loss.to_owned(),
        options,
        inputs: named([(input, vector(&[1.0]))]),
        expect: named([(output, vector(&[1.0]))]),
        ..Case::default()
    };
    let none = || serde_json::json!({});
    let missing = |case: Case| conformance::missing(&case);
    assert_eq!(missing(case("mse", none(), "logits", "loss")), None);
    assert_eq!(missing(case("msl", none(), "logits", "loss")).unwrap(), "operation `msl`");
    assert_eq!(missing(case("mse", none(), "logit", "loss")).unwrap(), "input `logit`");
    assert_eq!(missing(case("mse", none(), "logits", "lose")).unwrap(), "output `lose`");
    let options = serde_json::json!({"reduction": "sum", "power": 2});
    assert_eq!(missing(case("mse", options, "logits", "loss")).unwrap(), "option `power`");
}

#[track_caller]
fn assert_case(case: &Case) {
    let loss = (operations::find(&case.loss).unwrap().parse)(&case.options).unwrap();
    let wanted: Vec<&str> = case.expect.keys().map(String::as_str).collect();
    let actual = cpu::run(&*loss, &case.inputs, &wanted).unwrap();
    for (name, expected) in &case.expect {
        let what = format!("{} {name} {:?}", case.id, case.note);
        assert_close(&actual[name].to_f64(), &expected.to_f64(), EXACT, &what);
        assert_eq!(actual[name].shape, expected.shape, "{what}");
    }
}

// --- finite differences ---

/// Σ upstream·loss.
fn scalar(loss: &dyn Operation, inputs: &Arrays) -> f64 {
    let losses = run(loss, inputs, "loss");
    match inputs.get("upstream").map(Array::to_f64) {
        None => losses.iter().sum(),
        Some(upstream) if upstream.len() == 1 => losses.iter().sum::<f64>() * upstream[0],
        Some(upstream) => losses.iter().zip(upstream).map(|(loss, up)| loss * up).sum(),
    }
}

#[track_caller]
fn assert_differences(loss: &dyn Operation, inputs: &Arrays, name: &str) {
    let actual = run(loss, inputs, &format!("grad.{name}"));
    assert_slopes(inputs, name, &actual, |inputs| scalar(loss, inputs));
}

/// Whether these are the derivatives of a function of the inputs.
#[track_caller]
fn assert_slopes(inputs: &Arrays, name: &str, actual: &[f64], of: impl Fn(&Arrays) -> f64) {
    let step = 1e-5;
    let input = &inputs[name];
    let moved = |index: usize, by: f64| {
        let mut values = input.to_f64();
        values[index] += by;
        let mut inputs = inputs.clone();
        inputs.insert(name.to_owned(), Array::float(&input.shape, values));
        of(&inputs)
    };
    let slope = |index| (moved(index, step) - moved(index, -step)) / (2.0 * step);
    let expected: Vec<f64> = (0..input.len()).map(slope).collect();
    assert_close(actual, &expected, DIFFERENCES, &format!("{name} of {inputs:?}"));
}

fn every_option() -> Vec<CrossEntropy> {
    let base = CrossEntropy::default;
    vec![
        base(),
        base().reduction(Reduction::Sum).label_smoothing(0.2),
        base().reduction(Reduction::Over(3.0)).temperature(0.7),
        base().denominator(Denominator::Weights).z_loss(0.1),
        none().softcap(Some(1.5)).z_loss(0.05).temperature(2.0).label_smoothing(0.1),
        none().label_smoothing(0.3).smoothing(Smoothing::Ordinal),
        base().focal_gamma(2.0),
        base().focal_gamma(1.0).label_smoothing(0.2).z_loss(0.1),
        none().focal_gamma(0.5).label_smoothing(0.2).smoothing(Smoothing::Ordinal),
        none().focal_gamma(3.0).softcap(Some(2.0)).temperature(0.5),
    ]
}

fn full_inputs(rows: usize, classes: usize) -> Arrays {
    let positive = |seed, n| -> Vec<f64> {
        testing::gaussian(seed, n).iter().map(|value: &f64| value.abs() + 0.1).collect()
    };
    let mut targets = testing::targets(2, rows, classes as u64);
    targets[rows - 1] = -100;
    named([
        ("logits", logits(rows, &testing::gaussian(1, rows * classes))),
        ("targets", indices(&targets)),
        ("weight", vector(&positive(3, classes))),
        ("logit_bias", vector(&testing::gaussian(4, classes))),
        ("row_weight", vector(&positive(5, rows))),
    ])
}

#[test]
fn gradient_is_the_slope_of_the_loss() {
    for loss in every_option() {
        let mut inputs = full_inputs(4, 5);
        let upstream = if loss.reduction == Reduction::None { 4 } else { 1 };
        inputs.insert("upstream".to_owned(), vector(&testing::gaussian(6, upstream)));
        assert_differences(&loss, &inputs, "logits");
        if loss.focal_gamma == 0.0 && loss.smoothing == Smoothing::Uniform {
            inputs.remove("targets");
            let probs = testing::gaussian(7, 20).iter().map(|q| q.abs() + 0.1).collect();
            inputs.insert("target_probs".to_owned(), Array::float(&[4, 5], probs));
            assert_differences(&loss, &inputs, "logits");
            assert_differences(&loss, &inputs, "target_probs");
        }
    }
}

#[test]
fn temperature_gradient_is_the_slope_of_the_loss() {
    for loss in every_option() {
        let mut inputs = full_inputs(4, 5);
        inputs.insert("temperature".to_owned(), vector(&[1.3]));
        let upstream = if loss.reduction == Reduction::None { 4 } else { 1 };
        inputs.insert("upstream".to_owned(), vector(&testing::gaussian(6, upstream)));
        assert_differences(&loss, &inputs, "temperature");
        if loss.focal_gamma == 0.0 && loss.smoothing == Smoothing::Uniform {
            inputs.remove("targets");
            let probs = testing::gaussian(7, 20).iter().map(|q| q.abs() + 0.1).collect();
            inputs.insert("target_probs".to_owned(), Array::float(&[4, 5], probs));
            assert_differences(&loss, &inputs, "temperature");
        }
        let mut inputs = linear_inputs();
        inputs.insert("temperature".to_owned(), vector(&[0.7]));
        assert_differences(&LinearCrossEntropy::new(loss), &inputs, "temperature");
    }
}

/// Σ upstream·by-product, with the loss where it takes part.
#[test]
fn byproduct_gradients_are_slopes() {
    let names = ["upstream.log_prob", "upstream.entropy", "upstream.lse"];
    let total = |loss: &CrossEntropy, inputs: &Arrays| {
        let of = |name: &&str| {
            let values = run(loss, inputs, name.trim_start_matches("upstream."));
            let products = values.iter().zip(inputs[*name].to_f64()).map(|(v, pull)| v * pull);
            products.sum::<f64>()
        };
        let loss = if inputs.contains_key("upstream") { scalar(loss, inputs) } else { 0.0 };
        loss + names.iter().filter(|name| inputs.contains_key(**name)).map(of).sum::<f64>()
    };
    for (loss, takes_part) in
        every_option().into_iter().flat_map(|l| [(l.clone(), true), (l, false)])
    {
        let mut inputs = full_inputs(4, 5);
        for (seed, name) in (31..).zip(names) {
            inputs.insert(name.to_owned(), vector(&testing::gaussian(seed, 4)));
        }
        let upstream = if loss.reduction == Reduction::None { 4 } else { 1 };
        if takes_part {
            inputs.insert("upstream".to_owned(), vector(&testing::gaussian(6, upstream)));
        }
        assert_slopes(&inputs, "logits", &run(&loss, &inputs, "grad.logits"), |i| total(&loss, i));
        inputs.remove("upstream.entropy");
        inputs.insert("temperature".to_owned(), vector(&[1.3]));
        let gradient = run(&loss, &inputs, "grad.temperature");
        assert_slopes(&inputs, "temperature", &gradient, |inputs| total(&loss, inputs));
    }
}

/// Several targets stand for a distribution, and their by-products have its slopes.
#[test]
fn several_targets_are_a_distribution() {
    let targets = Array::int(&[4, 3], vec![0, 2, 0, 4, -100, 1, -100, -100, -100, 3, 3, 3]);
    let weights = Array::float(&[4, 3], testing::gaussian(8, 12).iter().map(|w| w.abs()).collect());
    let several = named([
        ("logits", logits(4, &testing::gaussian(1, 20))),
        ("targets", targets.clone()),
        ("target_weight", weights.clone()),
    ]);
    let mut q = vec![0.0; 20];
    for (at, (target, weight)) in targets.to_i64().iter().zip(weights.to_f64()).enumerate() {
        if *target >= 0 {
            q[at / 3 * 5 + *target as usize] += weight;
        }
    }
    let dense = named([("logits", several["logits"].clone()), ("target_probs", logits(4, &q))]);
    for name in ["loss", "grad.logits"] {
        let loss = none().temperature(1.7).z_loss(0.0);
        let (actual, expected) = (run(&loss, &several, name), run(&loss, &dense, name));
        assert_close(&actual, &expected, EXACT, name);
    }
    assert_eq!(run_int(&CrossEntropy::default(), &several, "count"), [3]);
    let mut pulled = several.clone();
    pulled.insert("upstream.log_prob".to_owned(), vector(&[0.5, -1.0, 2.0, 0.25]));
    pulled.insert("temperature".to_owned(), vector(&[1.3]));
    let total = |inputs: &Arrays| {
        let values = run(&none(), inputs, "log_prob");
        values.iter().zip(inputs["upstream.log_prob"].to_f64()).map(|(v, pull)| v * pull).sum()
    };
    for name in ["logits", "temperature"] {
        let gradient = run(&none(), &pulled, &format!("grad.{name}"));
        assert_slopes(&pulled, name, &gradient, total);
    }
}

#[test]
fn what_several_targets_do_not_have() {
    let several = named([
        ("logits", logits(2, &[0.5; 10])),
        ("targets", Array::int(&[2, 2], vec![0, 1, 2, 3])),
        ("weight", vector(&[1.0; 5])),
    ]);
    for (loss, wanted, named) in [
        (none().label_smoothing(0.1), "loss", "label_smoothing"),
        (none().focal_gamma(1.0), "loss", "focal_gamma"),
        (none(), "rank", "rank"),
        (none(), "log_prob", "weight"),
    ] {
        let error = cpu::run(&loss, &several, &[wanted]).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    let mut uneven = several.clone();
    uneven.insert("target_weight".to_owned(), vector(&[1.0; 2]));
    let error = cpu::run(&none(), &uneven, &["loss"]).unwrap_err();
    assert!(error.to_string().contains("target_weight"), "{error}");
}

#[test]
fn byproduct_upstreams_that_are_refused() {
    let mut inputs = full_inputs(4, 5);
    inputs.insert("temperature".to_owned(), vector(&[1.3]));
    inputs.insert("upstream.entropy".to_owned(), vector(&[1.0; 4]));
    let conflict = |inputs: &Arrays, wanted: &str, named: &str| {
        let error = cpu::run(&none(), inputs, &[wanted]).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    };
    conflict(&inputs, "grad.temperature", "upstream.entropy");
    inputs.insert("entropy".to_owned(), vector(&[1.0; 4]));
    conflict(&inputs, "grad.logits", "lse");
    inputs.remove("entropy");
    inputs.remove("targets");
    inputs.insert("target_probs".to_owned(), logits(4, &[0.2; 20]));
    inputs.insert("upstream.log_prob".to_owned(), vector(&[1.0; 4]));
    conflict(&inputs, "grad.logits", "upstream.log_prob");
}

/// The input overrides the option, and its gradient needs it.
#[test]
fn the_input_temperature_overrides_the_option() {
    let plain = full_inputs(4, 5);
    let mut learned = plain.clone();
    learned.insert("temperature".to_owned(), vector(&[0.7]));
    let (option, other) = (none().temperature(0.7), none().temperature(3.0));
    for name in ["loss", "grad.logits", "lse"] {
        assert_eq!(run(&other, &learned, name), run(&option, &plain, name), "{name}");
    }
    let error = cpu::run(&none(), &plain, &["grad.temperature"]).unwrap_err();
    assert!(
        matches!(&error, surprisal::Error::MissingInput { argument, .. } if &**argument == "temperature")
    );
    for temperature in [0.0, -1.0, f64::NAN, INF, 1e-39, 1.7e38] {
        learned.insert("temperature".to_owned(), vector(&[temperature]));
        assert!(run(&none(), &learned, "loss")[..3].iter().all(|loss| loss.is_nan()));
        assert!(run(&none(), &learned, "grad.temperature")[0].is_nan(), "{temperature}");
    }
}

/// One temperature for all, one a column, one a row; they override the option.
#[test]
fn temperatures_of_binary_labels() {
    let [rows, columns] = [3, 4];
    let array = |seed, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        Array::float(shape, testing::gaussian(seed, count))
    };
    let positive = |array: Array| {
        Array::float(&array.shape, array.to_f64().iter().map(|value| value.abs() + 0.3).collect())
    };
    let targets = testing::targets(3, 12, 2).iter().map(|&target| target as f64).collect();
    let plain = named([
        ("logits", array(1, &[rows, columns])),
        ("targets", Array::float(&[rows, columns], targets)),
        ("logit_bias", array(4, &[columns])),
        ("upstream", vector(&[-1.7])),
    ]);
    let losses = [
        BceWithLogits::default().label_smoothing(0.1),
        BceWithLogits::default().focal_gamma(2.0).focal_alpha(0.25).reduction(Reduction::Sum),
    ];
    for loss in &losses {
        for shape in [&[1][..], &[columns], &[rows, 1], &[rows, columns]] {
            let mut inputs = plain.clone();
            inputs.insert("temperature".to_owned(), positive(array(2, shape)));
            assert_differences(loss, &inputs, "temperature");
            assert_differences(loss, &inputs, "logits");
        }
        let mut inputs = plain.clone();
        inputs.insert("temperature".to_owned(), vector(&[0.7]));
        let [option, other] = [0.7, 3.0].map(|temperature| loss.clone().temperature(temperature));
        assert_eq!(run(&other, &inputs, "loss"), run(&option, &plain, "loss"));
        for temperature in [0.0, -1.0, f64::NAN, INF, 1e-39, 1.7e38] {
            inputs.insert("temperature".to_owned(), vector(&[temperature]));
            assert!(run(loss, &inputs, "loss")[0].is_nan());
            assert!(run(loss, &inputs, "grad.temperature")[0].is_nan(), "{temperature}");
        }
    }
}

/// The scale of vectors that are compared with each other, and its parts in shards.
#[test]
fn scale_gradient_of_sup_con_is_the_slope_of_the_loss() {
    let features = logits(6, &testing::gaussian(5, 18));
    let inputs = named([
        ("features", features.clone()),
        ("labels", indices(&[3, 1, 3, 1, 3, 9])),
        ("scale", vector(&[2.5])),
    ]);
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let loss = SupCon::default().temperature(0.1).reduction(reduction);
        assert_differences(&loss, &inputs, "scale");
        assert_differences(&loss, &inputs, "features");
    }
}

#[test]
fn gradient_over_the_callers_denominator() {
    let mut inputs = full_inputs(4, 5);
    inputs.insert("denominator".to_owned(), vector(&[2.5]));
    assert_differences(&CrossEntropy::default(), &inputs, "logits");
    let over = CrossEntropy::default().reduction(Reduction::Over(2.5));
    let expected = run(&over, &full_inputs(4, 5), "loss");
    assert_close(&run(&CrossEntropy::default(), &inputs, "loss"), &expected, EXACT, "over");
}

fn linear_inputs() -> Arrays {
    let mut inputs = full_inputs(4, 5);
    inputs.remove("logits");
    let class_weight = inputs.remove("weight").unwrap();
    inputs.extend(named([
        ("class_weight", class_weight),
        ("hidden", logits(4, &testing::gaussian(8, 12))),
        ("weight", logits(5, &testing::gaussian(9, 15))),
        ("bias", vector(&testing::gaussian(10, 5))),
    ]));
    inputs
}

#[test]
fn linear_gradients_are_slopes() {
    for loss in every_option() {
        let loss = LinearCrossEntropy::new(loss);
        for name in ["hidden", "weight", "bias"] {
            assert_differences(&loss, &linear_inputs(), name);
        }
    }
}

// --- identities ---

#[test]
fn offset_changes_nothing() {
    let plain = full_inputs(4, 33);
    for offset in [1e4, 1e6, -1e6] {
        let mut shifted = plain.clone();
        // The numbers are rounded through f32 first, so that both ways give the same digits.
        let rounded = plain["logits"].rounded(Dtype::F16).to_f64();
        shifted.insert("logits".to_owned(), logits(4, &rounded));
        let moved: Vec<f64> = rounded.iter().map(|z| z + offset).collect();
        let mut inputs = shifted.clone();
        inputs.insert("logits".to_owned(), logits(4, &moved));
        for name in ["loss", "grad.logits", "log_prob", "entropy", "max_prob"] {
            let expected = run(&none(), &shifted, name);
            assert_close(&run(&none(), &inputs, name), &expected, 1e-9, name);
        }
    }
}

#[test]
fn offset_does_not_cost_f32_its_digits() {
    let inputs =
        named([("logits", logits(1, &[1e6, 1e6 + 1.0, 1e6 - 2.0])), ("targets", indices(&[2]))]);
    let naive = none().reference(&inputs, &["loss"], Arithmetic::F32).unwrap();
    assert_close(&naive["loss"].to_f64(), &run(&none(), &inputs, "loss"), 1e-6, "f32");
}

#[test]
fn gradient_rows_sum_to_zero() {
    for loss in every_option().into_iter().filter(|loss| loss.z_loss == 0.0) {
        if loss.softcap.is_some() {
            continue;
        }
        let mut inputs = full_inputs(4, 7);
        inputs.remove("weight");
        let gradient = run(&loss, &inputs, "grad.logits");
        let sums: Vec<f64> = gradient.chunks(7).map(|row| 1.0 + row.iter().sum::<f64>()).collect();
        assert_close(&sums, &[1.0; 4], EXACT, &format!("{loss:?}"));
    }
}

#[test]
fn masked_classes_are_a_subset() {
    let kept = [0, 2, 5];
    let values = testing::gaussian(11, 6);
    let mut masked = vec![-INF; 6];
    for class in kept {
        masked[class] = values[class];
    }
    let all = named([("logits", logits(1, &masked)), ("targets", indices(&[2]))]);
    let subset: Vec<f64> = kept.iter().map(|&class| values[class]).collect();
    let few = named([("logits", logits(1, &subset)), ("targets", indices(&[1]))]);
    for name in ["loss", "lse", "entropy", "max_prob", "rank"] {
        assert_close(&run(&none(), &all, name), &run(&none(), &few, name), EXACT, name);
    }
    let gradient = run(&none(), &all, "grad.logits");
    let picked: Vec<f64> = kept.iter().map(|&class| gradient[class]).collect();
    assert_close(&picked, &run(&none(), &few, "grad.logits"), EXACT, "kept classes");
    assert_eq!([gradient[1], gradient[3], gradient[4]], [0.0; 3]);
}

#[test]
fn linear_is_unfused() {
    for loss in every_option() {
        let inputs = linear_inputs();
        let [h, w, b] = ["hidden", "weight", "bias"].map(|name| inputs[name].to_f64());
        let logit =
            |n: usize, c: usize| b[c] + (0..3).map(|d| h[n * 3 + d] * w[c * 3 + d]).sum::<f64>();
        let z: Vec<f64> = (0..20).map(|i| logit(i / 5, i % 5)).collect();
        let mut unfused = inputs.clone();
        unfused.insert("weight".to_owned(), inputs["class_weight"].clone());
        for name in ["hidden", "bias", "class_weight"] {
            unfused.remove(name);
        }
        unfused.insert("logits".to_owned(), logits(4, &z));
        let linear = LinearCrossEntropy::new(loss.clone());
        for name in ["loss", "lse", "rank", "sum", "denominator", "perplexity"] {
            assert_close(&run(&linear, &inputs, name), &run(&loss, &unfused, name), EXACT, name);
        }
        let g = run(&loss, &unfused, "grad.logits");
        let partial = |i: usize| (0..4).map(|n| g[n * 5 + i / 3] * h[n * 3 + i % 3]).sum::<f64>();
        let expected: Vec<f64> = (0..15).map(partial).collect();
        assert_close(&run(&linear, &inputs, "grad.weight"), &expected, EXACT, "∂W");
    }
}

#[test]
fn weight_layouts_agree() {
    let inputs = linear_inputs();
    let transpose = |values: &[f64], rows: usize| -> Vec<f64> {
        let columns = values.len() / rows;
        (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
    };
    let mut other = inputs.clone();
    other.insert("weight".to_owned(), logits(3, &transpose(&inputs["weight"].to_f64(), 5)));
    let loss = LinearCrossEntropy::default();
    let turned = loss.clone().weight_layout(WeightLayout::HiddenClasses);
    for name in ["loss", "grad.hidden", "grad.bias"] {
        assert_eq!(run(&loss, &inputs, name), run(&turned, &other, name), "{name}");
    }
    let expected = transpose(&run(&loss, &inputs, "grad.weight"), 5);
    assert_eq!(run(&turned, &other, "grad.weight"), expected);
}

#[test]
fn upstream_scales_the_gradient_alone() {
    let mut inputs = full_inputs(4, 5);
    let [loss, gradient] = ["loss", "grad.logits"].map(|name| run(&none(), &inputs, name));
    for upstream in [vec![2.5], vec![1.0, -2.0, 0.5, 3.0]] {
        inputs.insert("upstream".to_owned(), vector(&upstream));
        assert_eq!(run(&none(), &inputs, "loss"), loss);
        let scaled = |(i, g): (usize, &f64)| g * upstream[(i / 5).min(upstream.len() - 1)];
        let expected: Vec<f64> = gradient.iter().enumerate().map(scaled).collect();
        assert_close(&run(&none(), &inputs, "grad.logits"), &expected, EXACT, "upstream");
    }
}

#[test]
fn rows_do_not_see_each_other() {
    let inputs = full_inputs(4, 5);
    let order = [2, 0, 3, 1];
    let permute = |array: &Array| {
        let width = array.len() / 4;
        let values = array.to_f64();
        let rows = order.iter().flat_map(|&row| values[row * width..][..width].to_vec());
        Array::float(&array.shape, rows.collect())
    };
    let mut permuted = inputs.clone();
    for name in ["logits", "row_weight"] {
        permuted.insert(name.to_owned(), permute(&inputs[name]));
    }
    let targets: Vec<i64> = order.iter().map(|&row| inputs["targets"].to_i64()[row]).collect();
    permuted.insert("targets".to_owned(), indices(&targets));
    for name in ["loss", "grad.logits", "entropy"] {
        let expected = permute(&cpu::run(&none(), &inputs, &[name]).unwrap()[name]).to_f64();
        assert_eq!(run(&none(), &permuted, name), expected, "{name}");
    }
}

#[test]
fn a_saved_lse_gives_the_same() {
    for loss in every_option() {
        let mut inputs = full_inputs(4, 5);
        let expected = cpu::run(&loss, &inputs, &["lse", "grad.logits"]).unwrap();
        inputs.insert("lse".to_owned(), expected["lse"].clone());
        let gradient = expected["grad.logits"].to_f64();
        assert_close(&run(&loss, &inputs, "grad.logits"), &gradient, EXACT, "grad.logits");
    }
}

#[test]
fn one_hot_probabilities_are_indices() {
    let mut inputs = full_inputs(4, 5);
    inputs.insert("targets".to_owned(), indices(&[0, 3, 4, 1]));
    let mut probs = inputs.clone();
    let targets = probs.remove("targets").unwrap().to_i64();
    let hot = |i: usize| f64::from(u8::from(targets[i / 5] == (i % 5) as i64));
    probs.insert("target_probs".to_owned(), logits(4, &(0..20).map(hot).collect::<Vec<_>>()));
    let loss = none().label_smoothing(0.1).z_loss(0.01);
    for name in ["loss", "grad.logits"] {
        assert_close(&run(&loss, &probs, name), &run(&loss, &inputs, name), EXACT, name);
    }
    assert_eq!(run(&loss, &probs, "denominator"), [4.0]);
}
