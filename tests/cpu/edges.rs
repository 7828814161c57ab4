//! The edges of the catalogue.

use serde_json::json;
use surprisal::{
    Arithmetic, Array, Arrays, CrossEntropy, Denominator, Empty, Error, IgnoreIndex,
    LinearCrossEntropy, Operation, Reduction, Shard, Smoothing, Status, cpu, operations,
};

use crate::{
    EXACT, INF, NO_CLASS, assert_close, full_inputs, indices, logits, named, none, run, run_int,
    vector,
};

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
    assert_eq!(run(&none(), &inputs, "loss"), [0.0], "a row of weight 0 has the loss 0");
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

/// The class weights are those of all shards, the target distributions a shard's own.
#[test]
fn a_shard_weighs_its_target_gradient_by_its_own_classes() {
    let (z, q) = ([0.3, -1.0, 2.0, 0.5], [0.1, 0.2, 0.3, 0.4]);
    let weight = ("weight", vector(&[1.0, 2.0, 3.0, 4.0]));
    let inputs = |from: usize, to: usize| {
        let probs = ("target_probs", logits(1, &q[from..to]));
        named([("logits", logits(1, &z[from..to])), probs, weight.clone()])
    };
    let shard = |first: u64| none().shard(Some(Shard { first, classes: 4 }));
    let statistics = |from, to| run(&shard(from as u64), &inputs(from, to), "statistics");
    let gathered = [statistics(0, 1), statistics(1, 4)].concat();
    let whole = run(&none(), &inputs(0, 4), "grad.target_probs");
    for (from, to) in [(0, 1), (1, 4)] {
        let mut part = inputs(from, to);
        part.insert("statistics".to_owned(), logits(2, &gathered));
        let gradient = run(&shard(from as u64), &part, "grad.target_probs");
        assert_close(&gradient, &whole[from..to], EXACT, "grad.target_probs");
    }
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

/// The output `status` counts what is wrong with the data, and has the first bad target.
#[test]
fn what_is_wrong_is_told() {
    const NAN: f64 = f64::NAN;
    let none = Status { completed: 1, ..Status::default() };
    let of = |bad_rows, zero_vectors| Status { bad_rows, zero_vectors, ..none };
    let target = |count, row, value| Status {
        bad_targets: count,
        first_bad_target: Some((row, value)),
        ..none
    };
    let value = |count, row, value| Status {
        bad_targets: count,
        first_bad_value: Some((row, value)),
        ..none
    };
    let two = |values: &[f64]| logits(2, values);
    let scores = |values: &[f64], targets: &[i64]| {
        named([("logits", two(values)), ("targets", indices(targets))])
    };
    let elements = |name: &str, values: &[f64], targets: &[f64]| {
        named([(name, two(values)), ("targets", two(targets))])
    };
    let saved = |values: &[f64]| {
        let mut inputs = scores(&[0.0; 4], &[0, 1]);
        inputs.insert("lse".to_owned(), vector(values));
        inputs
    };
    let towers =
        |queries: &[f64]| named([("queries", two(queries)), ("keys", two(&[0.0, 0.0, 1.0, 2.0]))]);
    let linear = named([
        ("hidden", two(&[NAN, 0.0])),
        ("weight", two(&[1.0, 2.0])),
        ("targets", indices(&[0, 2])),
    ]);
    let both = Status { bad_rows: 1, ..target(1, 1, 2) };
    let half = [0.5; 4];
    for (name, options, inputs, expected) in [
        ("cross_entropy", json!({}), scores(&[0.0, 1.0, 2.0, 3.0], &[0, -100]), none),
        ("cross_entropy", json!({}), scores(&[NAN, 1.0, NAN, 3.0], &[0, -100]), of(1, 0)),
        (
            "cross_entropy",
            json!({}),
            scores(&[0.0, 1.0, NAN, 3.0], &[2, i64::MIN]),
            target(2, 0, 2),
        ),
        ("cross_entropy", json!({}), saved(&[NAN, 1.0]), of(1, 0)),
        ("linear_cross_entropy", json!({}), linear, both),
        ("dice", json!({"per": "batch"}), elements("logits", &[NAN; 4], &half), of(1, 0)),
        ("dice", json!({"per": "row"}), elements("logits", &[NAN; 4], &half), of(2, 0)),
        ("bce_with_logits", json!({}), elements("logits", &half, &[2.0, 0.0, NAN, 1.0]), of(1, 0)),
        (
            "bce_with_logits",
            json!({"check_targets": true}),
            elements("logits", &[NAN, 0.0, 0.0, 0.0], &[1.0, 1.0, -2.0, 3.0]),
            Status { bad_rows: 1, ..value(2, 1, -2.0) },
        ),
        (
            "poisson_nll",
            json!({}),
            elements("rate", &half, &[1.0, -3.0, -1.0, 1.0]),
            value(2, 0, -3.0),
        ),
        ("info_nce", json!({}), towers(&[NAN, 1.0, 0.0, 1.0]), of(1, 0)),
        ("info_nce", json!({"symmetric": true}), towers(&[NAN, 1.0, 0.0, 1.0]), of(2, 0)),
        ("info_nce", json!({"normalize": true}), towers(&[0.0, 0.0, 0.0, 1.0]), of(0, 2)),
        ("info_nce", json!({}), towers(&[0.0, 0.0, 0.0, 1.0]), none),
        (
            "mixed_columns",
            json!({"spans": [{"kind": "cce", "columns": 1}, {"kind": "mse"}]}),
            elements("logits", &[NAN; 4], &half),
            of(4, 0),
        ),
    ] {
        let loss = (operations::find(name).unwrap().parse)(&options).unwrap();
        let outputs = cpu::run(&*loss, &inputs, &["status"]).unwrap();
        assert_eq!(Status::from_array(&outputs["status"]), expected, "{name} {options}");
        let naive = loss.reference(&inputs, &["status"], Arithmetic::F32).unwrap();
        assert_eq!(naive, outputs, "{name} {options} in f32");
    }
}
