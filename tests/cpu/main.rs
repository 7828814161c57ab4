//! The f64 reference against reference cases, finite differences and identities; the edges of the
//! catalogue; reference-case files; the tolerance. No GPU.
#![cfg(feature = "cases")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use surprisal::{
    Arithmetic, Array, Arrays, CrossEntropy, Dtype, Empty, Error, LinearCrossEntropy, Loss,
    Reduction, WeightLayout,
    cases::{self, Case},
    cpu, loss,
    loss::cross_entropy::{Denominator, IgnoreIndex, Smoothing},
    testing,
};

/// What f64 justifies, relative to the tensor's largest value.
const EXACT: f64 = 1e-10;
/// What central differences in f64 justify.
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
fn run(loss: &dyn Loss, inputs: &Arrays, name: &str) -> Vec<f64> {
    cpu::run(loss, inputs, &[name]).unwrap()[name].to_f64()
}

#[track_caller]
fn run_int(loss: &dyn Loss, inputs: &Arrays, name: &str) -> Vec<i64> {
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

#[test]
fn reference_cases() {
    for (name, count) in [
        ("cross_entropy", 193),
        ("linear_cross_entropy", 25),
        ("info_nce", 24),
        ("sup_con", 3),
        ("sigmoid_contrastive", 2),
    ] {
        let cases = cases::load(&vectors().join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(cases.len(), count);
        for case in cases {
            assert_case(&case);
        }
    }
}

#[track_caller]
fn assert_case(case: &Case) {
    let loss = (loss::find(&case.loss).unwrap().parse)(&case.options).unwrap();
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
fn scalar(loss: &dyn Loss, inputs: &Arrays) -> f64 {
    let losses = run(loss, inputs, "loss");
    match inputs.get("upstream").map(Array::to_f64) {
        None => losses.iter().sum(),
        Some(upstream) if upstream.len() == 1 => losses.iter().sum::<f64>() * upstream[0],
        Some(upstream) => losses.iter().zip(upstream).map(|(loss, up)| loss * up).sum(),
    }
}

#[track_caller]
fn assert_differences(loss: &dyn Loss, inputs: &Arrays, name: &str) {
    let step = 1e-5;
    let input = &inputs[name];
    let moved = |index: usize, by: f64| {
        let mut values = input.to_f64();
        values[index] += by;
        let mut inputs = inputs.clone();
        inputs.insert(name.to_owned(), Array::float(&input.shape, values));
        scalar(loss, &inputs)
    };
    let slope = |index| (moved(index, step) - moved(index, -step)) / (2.0 * step);
    let expected: Vec<f64> = (0..input.len()).map(slope).collect();
    let actual = run(loss, inputs, &format!("grad.{name}"));
    assert_close(&actual, &expected, DIFFERENCES, &format!("{name} of {loss:?}"));
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
        // Through f32 first, so that both have the same digits.
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
        let names = ["loss", "grad.logits", "lse", "log_prob", "entropy", "max_prob"];
        let expected = cpu::run(&loss, &inputs, &names).unwrap();
        inputs.insert("lse".to_owned(), expected["lse"].clone());
        for name in names {
            assert_close(&run(&loss, &inputs, name), &expected[name].to_f64(), EXACT, name);
        }
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

// --- edges ---

#[test]
fn ignored_rows_are_not_there() {
    let inputs = named([
        ("logits", logits(3, &[1.0, 2.0, f64::NAN, INF, 3.0, 1.0])),
        ("targets", indices(&[0, 7, 1])),
    ]);
    let loss = CrossEntropy::default().ignore_index(IgnoreIndex::List(vec![7, -1]));
    let kept = named([("logits", logits(2, &[1.0, 2.0, 3.0, 1.0])), ("targets", indices(&[0, 1]))]);
    for name in ["loss", "sum", "denominator", "count", "perplexity"] {
        assert_eq!(run(&loss, &inputs, name), run(&loss, &kept, name), "{name}");
    }
    let gradient = run(&loss, &inputs, "grad.logits");
    assert_eq!(gradient[2..4], [0.0; 2]);
    assert!(gradient.iter().all(|g| g.is_finite()));
    for name in ["lse", "log_prob", "entropy", "max_prob", "correct"] {
        assert_eq!(run(&loss, &inputs, name)[1], 0.0, "{name}");
    }
    assert_eq!(run_int(&loss, &inputs, "argmax")[1], NO_CLASS);
    assert_eq!(run_int(&loss, &inputs, "rank")[1], NO_CLASS);
}

#[test]
fn bad_targets_are_reported_not_read() {
    for target in [-1, 2, i64::MAX, i64::MIN] {
        let inputs = named([
            ("logits", logits(2, &[1.0, 2.0, 3.0, 1.0])),
            ("targets", indices(&[target, 1])),
        ]);
        let losses = run(&none(), &inputs, "loss");
        assert!(losses[0].is_nan() && losses[1].is_finite());
        assert_eq!(run(&none(), &inputs, "grad.logits")[..2], [0.0; 2]);
        assert!(run(&none(), &inputs, "sum")[0].is_nan());
        assert_eq!(run_int(&none(), &inputs, "count"), [1]);
        assert_eq!(run(&none(), &inputs, "denominator"), [1.0]);
        assert_eq!(run_int(&none(), &inputs, "argmax"), [NO_CLASS, 0]);
        assert_eq!(run_int(&none(), &inputs, "correct_count"), [0]);
    }
}

#[test]
fn rows_without_a_softmax_are_nan() {
    for bad in [[f64::NAN, 1.0], [INF, 1.0], [-INF, -INF], [1.0, INF]] {
        for softcap in [None, Some(5.0)] {
            let mut values = bad.to_vec();
            values.extend([0.0, 1.0]);
            let inputs = named([("logits", logits(2, &values)), ("targets", indices(&[1, 0]))]);
            let loss = none().softcap(softcap);
            let losses = run(&loss, &inputs, "loss");
            assert!(losses[0].is_nan() && losses[1].is_finite(), "{bad:?}");
            let gradient = run(&loss, &inputs, "grad.logits");
            assert!(gradient[..2].iter().all(|g| g.is_nan()), "{bad:?}");
            assert!(gradient[2..].iter().all(|g| g.is_finite()), "{bad:?}");
            assert_eq!(run_int(&loss, &inputs, "count"), [2], "known before the logits are read");
            assert!(run(&CrossEntropy::default(), &inputs, "loss")[0].is_nan());
        }
    }
}

#[test]
fn bad_rows_without_a_gradient_stay_without() {
    let mut inputs = named([
        ("logits", logits(1, &[f64::NAN, 1.0])),
        ("targets", indices(&[1])),
        ("row_weight", vector(&[0.0])),
    ]);
    assert!(run(&none(), &inputs, "loss")[0].is_nan(), "NaN is not laundered");
    assert_eq!(run(&none(), &inputs, "grad.logits"), [0.0; 2]);
    inputs.remove("row_weight");
    let mean = CrossEntropy::default();
    assert!(run(&mean, &inputs, "grad.logits").iter().all(|g| g.is_nan()));
}

#[test]
fn a_target_at_minus_infinity() {
    let inputs = named([("logits", logits(1, &[-INF, 0.0, 0.0])), ("targets", indices(&[0]))]);
    for gamma in [0.0, 0.5, 2.0] {
        let loss = none().focal_gamma(gamma);
        assert_eq!(run(&loss, &inputs, "loss"), [INF]);
        assert_close(&run(&loss, &inputs, "grad.logits"), &[-1.0, 0.5, 0.5], EXACT, "limit");
        assert_eq!(run(&loss, &inputs, "log_prob"), [-INF]);
    }
    let mut weighted = inputs.clone();
    weighted.insert("weight".to_owned(), vector(&[0.0, 1.0, 1.0]));
    assert_eq!(run(&none(), &weighted, "loss"), [0.0]);
    assert_eq!(run(&none(), &weighted, "grad.logits"), [0.0; 3]);
    weighted = inputs.clone();
    weighted.insert("row_weight".to_owned(), vector(&[0.0]));
    assert_eq!(run(&none(), &weighted, "loss"), [0.0]);
    assert_eq!(run(&none(), &weighted, "grad.logits"), [0.0; 3]);
}

#[test]
fn smoothing_reaches_masked_classes() {
    let inputs = named([("logits", logits(1, &[0.0, -INF])), ("targets", indices(&[0]))]);
    let loss = none().label_smoothing(0.2);
    assert_eq!(run(&loss, &inputs, "loss"), [INF]);
    assert_close(&run(&loss, &inputs, "grad.logits"), &[0.1, -0.1], EXACT, "finite");
    let ordinal = loss.smoothing(Smoothing::Ordinal).focal_gamma(2.0);
    let wide = named([("logits", logits(1, &[0.0, -INF, 0.0])), ("targets", indices(&[0]))]);
    assert_eq!(run(&ordinal, &wide, "loss"), [INF]);
    assert!(run(&ordinal, &wide, "grad.logits").iter().all(|g| g.is_finite()));
}

#[test]
fn ordinal_smoothing_goes_to_neighbours() {
    let loss = none().label_smoothing(0.2).smoothing(Smoothing::Ordinal);
    for (target, q) in [(0, [0.8, 0.2, 0.0]), (1, [0.1, 0.8, 0.1]), (2, [0.0, 0.2, 0.8])] {
        let z = logits(1, &[0.3, -0.2, 1.0]);
        let index = named([("logits", z.clone()), ("targets", indices(&[target]))]);
        let probs = named([("logits", z), ("target_probs", logits(1, &q))]);
        assert_close(&run(&loss, &index, "loss"), &run(&none(), &probs, "loss"), EXACT, "q");
    }
    let single = named([("logits", logits(1, &[3.0])), ("targets", indices(&[0]))]);
    assert_eq!(run(&loss, &single, "loss"), [0.0]);
}

#[test]
fn focal_is_finite_when_saturated() {
    for z in [[1e4, 0.0], [0.0, 1e4], [40.0, 0.0], [0.0, 0.0]] {
        for gamma in [0.1, 0.5, 1.0, 2.0] {
            for smoothing in [0.0, 0.1] {
                let inputs = named([("logits", logits(1, &z)), ("targets", indices(&[0]))]);
                let loss = none().focal_gamma(gamma).label_smoothing(smoothing);
                for name in ["loss", "grad.logits"] {
                    let output = run(&loss, &inputs, name);
                    assert!(output.iter().all(|v| v.is_finite()), "{name} {z:?} {loss:?}");
                }
            }
        }
    }
}

#[test]
fn empty_means() {
    let ignored = named([("logits", logits(1, &[f64::NAN, 0.0])), ("targets", indices(&[-100]))]);
    let nothing =
        named([("logits", Array::float(&[0, 2], vec![])), ("targets", Array::int(&[0], vec![]))]);
    let mut weightless = named([("logits", logits(1, &[1.0, 0.0])), ("targets", indices(&[1]))]);
    weightless.insert("weight".to_owned(), vector(&[1.0, 0.0]));
    let mut given = full_inputs(4, 2);
    given.insert("denominator".to_owned(), vector(&[0.0]));
    for inputs in [ignored, nothing, weightless, given] {
        let nan = CrossEntropy::default();
        let zero = CrossEntropy::default().empty(Empty::Zero);
        assert!(run(&nan, &inputs, "loss")[0].is_nan());
        assert_eq!(run(&zero, &inputs, "loss"), [0.0]);
        for loss in [nan, zero] {
            assert!(run(&loss, &inputs, "grad.logits").iter().all(|&g| g == 0.0));
        }
    }
    let bad = named([("logits", logits(1, &[1.0, 0.0])), ("targets", indices(&[9]))]);
    let zero = CrossEntropy::default().empty(Empty::Zero);
    assert!(run(&zero, &bad, "loss")[0].is_nan(), "NaN is not laundered");
    assert_eq!(run(&CrossEntropy::default().reduction(Reduction::Sum), &bad, "count"), [0.0]);
}

#[test]
fn denominators_follow_the_option() {
    let inputs = full_inputs(4, 5);
    let [targets, weight, row_weight] =
        ["targets", "weight", "row_weight"].map(|name| inputs[name].to_f64());
    let plain: f64 = targets[..3].iter().map(|&y| weight[y as usize]).sum();
    let weighted: f64 = (0..3).map(|n| row_weight[n] * weight[targets[n] as usize]).sum();
    let loss = CrossEntropy::default();
    assert_close(&run(&loss, &inputs, "denominator"), &[plain], EXACT, "targets");
    let loss = loss.denominator(Denominator::Weights);
    assert_close(&run(&loss, &inputs, "denominator"), &[weighted], EXACT, "weights");
    let mut probs = inputs;
    probs.remove("targets");
    probs.insert("target_probs".to_owned(), logits(4, &[0.2; 20]));
    assert_close(&run(&loss, &probs, "denominator"), &[row_weight.iter().sum()], EXACT, "Σ");
    assert_eq!(run(&CrossEntropy::default(), &probs, "denominator"), [4.0]);
}

#[test]
fn by_products() {
    let inputs = named([
        ("logits", logits(3, &[0.0, 0.0, -INF, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0])),
        ("targets", indices(&[1, 2, 0])),
    ]);
    let ln = f64::ln;
    assert_eq!(run_int(&none(), &inputs, "argmax"), [0, 1, 0]);
    assert_eq!(run_int(&none(), &inputs, "rank"), [1, 1, 0]);
    assert_eq!(run_int(&none(), &inputs, "correct"), [0, 0, 1]);
    assert_eq!(run_int(&none(), &inputs, "correct_count"), [1]);
    assert_eq!(run_int(&none(), &inputs, "count"), [3]);
    let entropy = run(&none(), &inputs, "entropy");
    assert_close(&[entropy[0], entropy[2]], &[ln(2.0), ln(3.0)], EXACT, "entropy");
    let lse = run(&none(), &inputs, "lse");
    assert_close(&[lse[0], lse[2]], &[ln(2.0), 5.0 + ln(3.0)], EXACT, "lse");
    let sum = run(&none(), &inputs, "sum")[0];
    let perplexity = run(&CrossEntropy::default(), &inputs, "perplexity");
    assert_close(&perplexity, &[(sum / 3.0).exp()], EXACT, "perplexity");
}

#[test]
fn target_gradient_at_zero_probability() {
    let inputs =
        named([("logits", logits(1, &[0.0, -INF])), ("target_probs", logits(1, &[1.0, 0.0]))]);
    assert_eq!(run(&none(), &inputs, "loss"), [0.0]);
    assert_eq!(run(&none(), &inputs, "grad.target_probs"), [0.0, INF]);
    let mut still = inputs.clone();
    still.insert("upstream".to_owned(), vector(&[0.0]));
    assert_eq!(run(&none(), &still, "grad.target_probs"), [0.0, 0.0]);
    let mut weighted = inputs;
    weighted.insert("weight".to_owned(), vector(&[1.0, 0.0]));
    assert_eq!(run(&none(), &weighted, "grad.target_probs"), [0.0, 0.0]);
}

#[test]
fn dead_rows_do_not_reach_the_weight() {
    for (target, row_weight) in [(-100, 1.0), (9, 1.0), (0, 0.0)] {
        let inputs = named([
            ("hidden", logits(2, &[1.0, 2.0, f64::NAN, INF])),
            ("weight", logits(3, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])),
            ("targets", indices(&[1, target])),
            ("row_weight", vector(&[1.0, row_weight])),
        ]);
        let alone = named([
            ("hidden", logits(1, &[1.0, 2.0])),
            ("weight", inputs["weight"].clone()),
            ("targets", indices(&[1])),
        ]);
        let loss = LinearCrossEntropy::new(CrossEntropy::default().reduction(Reduction::Sum));
        for name in ["grad.weight", "grad.bias"] {
            assert_eq!(run(&loss, &inputs, name), run(&loss, &alone, name), "{name} {target}");
        }
        assert_eq!(run(&loss, &inputs, "grad.hidden")[2..], [0.0; 2]);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let probs =
        named([("logits", logits(1, &[0.0, 1.0])), ("target_probs", logits(1, &[1.0, 0.0]))]);
    let refused = |loss: CrossEntropy, inputs: &Arrays, name: &str| {
        let error = loss.reference(inputs, &[name], Arithmetic::F64).unwrap_err();
        assert!(!matches!(error, Error::File { .. }), "{error}");
    };
    refused(none().focal_gamma(1.0), &probs, "loss");
    refused(none().label_smoothing(0.1).smoothing(Smoothing::Ordinal), &probs, "loss");
    refused(none(), &probs, "rank");
    refused(none(), &probs, "nonsense");
    let mut both = probs.clone();
    both.insert("targets".to_owned(), indices(&[0]));
    refused(none(), &both, "loss");
    let mut neither = both.clone();
    neither.retain(|name, _| name == "logits");
    refused(none(), &neither, "loss");
    let mut over = full_inputs(4, 5);
    over.insert("denominator".to_owned(), vector(&[2.0]));
    refused(none(), &over, "loss");
    over.insert("upstream".to_owned(), vector(&[1.0; 4]));
    refused(CrossEntropy::default(), &over, "loss");
    let mut short = both;
    short.remove("target_probs");
    refused(none(), &short, "grad.target_probs");
    short.insert("weight".to_owned(), vector(&[1.0]));
    refused(none(), &short, "loss");
    short.insert("weight".to_owned(), Array::float(&[2], vec![1.0]));
    refused(none(), &short, "loss");
    refused(none(), &named([("logits", vector(&[1.0])), ("targets", indices(&[0]))]), "loss");
}

// --- case files ---

fn temporary(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("surprisal-cpu-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}

#[test]
fn cases_survive_a_file() {
    let path = temporary("round-trip.safetensors");
    let mut cases = cases::load(&vectors()).unwrap();
    cases.truncate(60);
    cases.push(Case {
        id: "odd".to_owned(),
        loss: "cross_entropy".to_owned(),
        options: serde_json::json!({}),
        inputs: named([("logits", logits(1, &[0.1, -INF])), ("upstream", vector(&[2.0]))]),
        expect: named([("argmax", indices(&[0]))]),
        note: Some("0.1 is no f32".to_owned()),
        source: None,
    });
    cases::save(&path, &cases).unwrap();
    assert_eq!(cases::load(&path).unwrap(), cases);
    std::fs::remove_file(path).unwrap();
}

/// A safetensors file with this header and this many bytes behind it.
fn raw_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A file with one tensor `t` and these cases.
fn file_of(dtype: &str, size: usize, format: &str, list: &str) -> Vec<u8> {
    let header = serde_json::json!({
        "__metadata__": { "format": format, "cases": list },
        "t": { "dtype": dtype, "shape": [2], "data_offsets": [0, size] },
    });
    raw_file(&header.to_string(), size)
}

#[test]
fn malformed_files_are_errors() {
    let case = r#"[{"id": "a", "loss": "b", "inputs": {"x": "t"}, "expect": {}}]"#;
    let path = temporary("malformed.safetensors");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        cases::load(&path)
    };
    for (dtype, size) in [("F64", 16), ("F32", 8), ("F16", 4), ("BF16", 4), ("I64", 16)] {
        assert_eq!(load(&file_of(dtype, size, "1", case)).unwrap()[0].inputs["x"].len(), 2);
    }
    for (dtype, size) in [("I32", 8), ("U32", 8), ("U8", 2), ("BOOL", 2)] {
        assert_eq!(load(&file_of(dtype, size, "1", case)).unwrap()[0].inputs["x"].len(), 2);
    }
    let good = file_of("F32", 8, "1", case);
    let offsets = |range: &str| {
        let tensor =
            format!(r#"{{"t": {{"dtype": "F32", "shape": [2], "data_offsets": {range}}}}}"#);
        raw_file(&tensor, 8)
    };
    let malformed = [
        vec![],
        vec![1, 2, 3],
        u64::MAX.to_le_bytes().to_vec(),
        raw_file("{", 0),
        raw_file("{}", 0),
        good[..good.len() - 1].to_vec(),
        offsets("[0, 99]"),
        offsets("[8, 0]"),
        file_of("I16", 4, "1", case),
        file_of("C64", 16, "1", case),
        file_of("F32", 8, "2", case),
        file_of("F32", 8, "1", "nonsense"),
        file_of("F32", 8, "1", "{}"),
        file_of("F32", 8, "1", r#"[{"id": "a"}]"#),
        file_of("F32", 8, "1", &case.replace("\"t\"", "\"missing\"")),
        file_of("F32", 8, "1", &case.replace("\"expect\"", "\"options\": 3, \"expect\"")),
    ];
    for (index, bytes) in malformed.iter().enumerate() {
        let error = load(bytes).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{index}: {error}");
        assert!(error.to_string().contains("malformed.safetensors"), "{index}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(cases::load(&path), Err(Error::File { .. })));
    let empty = temporary("empty");
    std::fs::create_dir_all(&empty).unwrap();
    assert!(matches!(cases::load(&empty), Err(Error::File { .. })));
    assert!(matches!(cases::save(&empty, &[]), Err(Error::File { .. })));
    std::fs::remove_dir(empty).unwrap();
}

// --- the tolerance ---

#[test]
fn tolerance_is_that_of_the_design() {
    let truth = vector(&[1.0, -4.0]);
    let naive = vector(&[1.0, -4.0 - 1.0 / 1024.0]);
    let compare = |output: &str, off: f64, dtype| {
        let actual = vector(&[1.0 + off, -4.0]);
        testing::compare(output, &actual, &truth, &naive, dtype, 16)
    };
    let floor = 12.0 / f64::from(1 << 24);
    let loss = compare("loss", 1e-3, Dtype::F32);
    assert_eq!(loss.tolerance, 2.0 / 1024.0 + floor * 4.0);
    assert_close(&[loss.max_abs_error, loss.max_rel_error], &[1e-3, 2.5e-4], 1e-9, "errors");
    assert!(loss.passed && loss.worst == 0);
    assert!(!compare("loss", 2.1e-3, Dtype::F32).passed);
    assert!(compare("grad.x", 2.1e-3, Dtype::F32).passed);
    let half = compare("loss", 0.0, Dtype::Bf16);
    assert_eq!(half.tolerance, (floor + 1.0 / 256.0) * 4.0, "naive is rounded");
}

#[test]
fn non_finite_values_match_by_class() {
    let compare = |actual: &[f64], truth: &[f64]| {
        let naive = vector(truth);
        testing::compare("loss", &vector(actual), &vector(truth), &naive, Dtype::F16, 4)
    };
    assert!(compare(&[f64::NAN, INF, 1.0], &[f64::NAN, INF, 1.0]).passed);
    assert!(compare(&[INF], &[70_000.0]).passed, "f16 ends at 65504");
    for (actual, truth) in [(INF, -INF), (INF, f64::NAN), (f64::NAN, 1.0), (0.0, f64::NAN)] {
        let comparison = compare(&[1.0, actual], &[1.0, truth]);
        assert!(!comparison.passed && comparison.worst == 1);
    }
    assert!(!compare(&[1.0], &[1.0, 1.0]).passed);
    let int = |a: i64, b: i64| {
        testing::compare("rank", &indices(&[a]), &indices(&[b]), &indices(&[b]), Dtype::U32, 4)
    };
    assert!(int(3, 3).passed && !int(3, 4).passed);
    let mixed =
        testing::compare("rank", &vector(&[3.0]), &indices(&[3]), &indices(&[3]), Dtype::U32, 4);
    assert!(!mixed.passed);
}

#[test]
fn naive_f32_passes_its_own_tolerance() {
    let inputs =
        [testing::outliers(1, 600), testing::ascending(2, 600), testing::offset(3, 600, 1e4)];
    for values in inputs {
        let inputs = named([
            ("logits", logits(3, &values).rounded(Dtype::F32)),
            ("targets", indices(&testing::targets(4, 3, 200))),
        ]);
        for name in ["loss", "grad.logits", "lse", "entropy"] {
            let truth = &cpu::run(&none(), &inputs, &[name]).unwrap()[name];
            let naive = &none().reference(&inputs, &[name], Arithmetic::F32).unwrap()[name];
            let comparison = testing::compare(name, naive, truth, naive, Dtype::F32, 200);
            assert!(comparison.passed && comparison.max_abs_error > 0.0, "{name} {comparison:?}");
        }
    }
}

#[test]
fn generators_are_seeded() {
    assert_eq!(testing::gaussian(1, 50), testing::gaussian(1, 50));
    assert_ne!(testing::gaussian(1, 50), testing::gaussian(2, 50));
    assert!(testing::ascending(1, 50).is_sorted());
    let masked = testing::masked(1, 1000).iter().filter(|z| z.is_infinite()).count();
    assert!((150..350).contains(&masked));
    assert!(testing::outliers(1, 1000).iter().any(|z| z.abs() > 10.0));
    assert!(testing::targets(1, 100, 3).iter().all(|y| (0..3).contains(y)));
}
