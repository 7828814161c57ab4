//! The status of a call has the same words as that of the reference, for every loss.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Layout, Named, Operation, Request, Status};

use crate::{
    common::own,
    support::{
        Context, FLOATS, INF, Placed, check_status, fill, gaussian, indices, matrix, named,
        outcome, parse, placed_inputs, positive, sample, set, submit, tensors, vector, with,
    },
};

tests![
    rows,
    rows_of_users,
    numbers_beside_the_logits,
    saved_lse,
    parts_of_dice,
    columns_of_several_kinds,
    values,
    the_first_value_of_a_row,
    vectors,
    of_several_calls,
];

const NAN: f64 = f64::NAN;
const GRADIENT: [&str; 2] = ["loss", "grad.logits"];

/// Rows with bad targets, rows without a softmax, and ignored rows, which are neither.
fn bad_rows() -> Arrays {
    let logits = sample(1, 8, 5)["logits"].clone();
    let logits = set(&set(&logits, 6, NAN), 12, INF);
    // A row with a bad target and bad logits counts as a bad target; an ignored row is not read.
    let logits = set(&set(&fill(&logits, 3, -INF), 20, NAN), 28, NAN);
    let targets = indices(&[0, 1, 2, 3, 7, -100, -1, 1 << 32]);
    named([("logits", logits), ("targets", targets)])
}

fn linear(inputs: &Arrays) -> Arrays {
    let mut inputs = inputs.clone();
    let logits = inputs.remove("logits").unwrap();
    let classes = logits.shape[1] as usize;
    // The scores of row i are hidden state i, except for the numbers that are not finite.
    let identity = (0..classes * classes).map(|at| f64::from(u8::from(at % (classes + 1) == 0)));
    with(&inputs, [("hidden", logits), ("weight", matrix(classes, classes, identity.collect()))])
}

fn rows(context: &Context) {
    let gpu = &context.gpu;
    let inputs = bad_rows();
    let expected = Status {
        completed: 1,
        bad_targets: 3,
        first_bad_target: Some((4, 7)),
        bad_rows: 3,
        ..Status::default()
    };
    for options in [json!({}), json!({"reduction": "none"}), json!({"softcap": 8.0, "z_loss": 0.1})]
    {
        for dtype in FLOATS {
            let loss = parse("cross_entropy", &options);
            assert_eq!(check_status(gpu, &*loss, &inputs, dtype, &GRADIENT), expected);
        }
    }
    let loss = parse("linear_cross_entropy", &json!({}));
    let found = check_status(gpu, &*loss, &linear(&inputs), Dtype::F32, &["loss", "grad.weight"]);
    assert_eq!((found.bad_targets, found.bad_rows), (3, 3));
}

fn rows_of_users(context: &Context) {
    let inputs = bad_rows();
    let elements = with(&inputs, [("targets", gaussian(2, 8, 5))]);
    for loss in own::losses() {
        let is_linear = loss.about().inputs.iter().any(|input| input.name == "hidden");
        let has_labels = format!("{loss:?}").contains("Margin");
        let found = match (is_linear, has_labels) {
            (true, _) => {
                check_status(&context.gpu, &*loss, &linear(&inputs), Dtype::F32, &["loss"])
            }
            (_, true) => check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT),
            _ => check_status(&context.gpu, &*loss, &elements, Dtype::F32, &GRADIENT),
        };
        let expected = if has_labels { (3, 3) } else { (0, 9) };
        assert_eq!((found.bad_targets, found.bad_rows), expected, "{loss:?}");
    }
}

/// A NaN beside the logits leaves the rows that it belongs to without a loss, and the status counts them, once each.
fn numbers_beside_the_logits(context: &Context) {
    let gpu = &context.gpu;
    let index = sample(1, 6, 5);
    let probs = matrix(6, 5, positive(2, 30));
    let weight = |at| set(&vector(&[1.0; 5]), at, NAN);
    let row_weight = set(&set(&vector(&[1.0; 6]), 1, NAN), 4, NAN);
    let targets = indices(&[0, 1, 2, 3, -1, 1]);
    let mut distribution = index.clone();
    distribution.remove("targets");
    let with_probs = |probs| with(&distribution, [("target_probs", probs)]);
    let indexed = |more: [(&'static str, Array); 1]| {
        with(&with(&index, [("targets", targets.clone())]), more)
    };
    let bad_logits = set(&set(&index["logits"], 7, NAN), 12, INF);
    // The number of rows without a loss. Row 4 has a bad target where targets are indices.
    let cases = [
        (1, 1, indexed([("row_weight", row_weight.clone())])),
        (2, 1, indexed([("weight", weight(1))])),
        (0, 1, indexed([("weight", weight(4))])),
        (
            2,
            1,
            with(&indexed([("row_weight", row_weight.clone())]), [("logits", bad_logits.clone())]),
        ),
        (2, 0, with_probs(set(&set(&set(&probs, 3, NAN), 4, NAN), 27, NAN))),
        (2, 0, with(&with_probs(probs.clone()), [("row_weight", row_weight.clone())])),
        (6, 0, with(&with_probs(probs.clone()), [("weight", weight(2))])),
        (0, 0, with_probs(probs)),
    ];
    for (bad_rows, bad_targets, inputs) in cases {
        for options in [json!({}), json!({"reduction": "none", "z_loss": 0.1})] {
            let loss = parse("cross_entropy", &options);
            for wanted in [&GRADIENT[..], &GRADIENT[1..]] {
                let found = check_status(gpu, &*loss, &inputs, Dtype::F32, wanted);
                let counts = (found.bad_rows, found.bad_targets);
                assert_eq!(counts, (bad_rows, bad_targets), "{options} {inputs:?}");
            }
        }
    }
    for loss in [
        "brier",
        "ce_mse_mix",
        "generalized_cross_entropy",
        "multiclass_hinge",
        "topk_hinge",
        "distillation",
    ] {
        let inputs = indexed([("row_weight", row_weight.clone())]);
        let inputs = match loss {
            "distillation" => with(&inputs, [("teacher_logits", inputs["logits"].clone())]),
            _ => inputs,
        };
        let options = if loss == "distillation" { json!({"alpha": 0.5}) } else { json!({}) };
        let found = check_status(gpu, &*parse(loss, &options), &inputs, Dtype::F32, &GRADIENT);
        assert_eq!((found.bad_rows, found.bad_targets), (1, 1), "{loss}");
    }
    let weighted =
        with(&with_probs(matrix(6, 5, positive(2, 30))), [("row_weight", row_weight.clone())]);
    let mut plain = weighted.clone();
    plain.remove("target_probs");
    for (loss, inputs) in [("kl_div", &weighted), ("entropy", &plain), ("free_energy", &plain)] {
        let found = check_status(gpu, &*parse(loss, &json!({})), inputs, Dtype::F32, &GRADIENT);
        assert_eq!((found.bad_rows, found.bad_targets), (2, 0), "{loss}");
    }
    let inputs = linear(&indexed([("row_weight", row_weight)]));
    let loss = parse("linear_cross_entropy", &json!({}));
    let found = check_status(gpu, &*loss, &inputs, Dtype::F32, &["loss", "grad.hidden"]);
    assert_eq!((found.bad_rows, found.bad_targets), (1, 1));
}

/// A gradient made from a saved lse finds what the first pass found.
fn saved_lse(context: &Context) {
    let gpu = &context.gpu;
    let again = |loss: &dyn Operation, inputs: &Arrays, saved: &[&str], gradients: &[&str]| {
        let (first, found) = outcome(gpu, loss, inputs, Dtype::F32, saved);
        let mut inputs = inputs.clone();
        inputs.extend(saved.iter().map(|&name| (name.to_owned(), first[name].clone())));
        let status = check_status(gpu, loss, &inputs, Dtype::F32, gradients);
        assert_eq!(status, found, "{loss:?}");
        assert!(status.bad_rows > 0);
    };
    let inputs = bad_rows();
    for options in [json!({}), json!({"focal_gamma": 2.0}), json!({"label_smoothing": 0.1})] {
        again(&*parse("cross_entropy", &options), &inputs, &["lse"], &["grad.logits"]);
    }
    let loss = parse("linear_cross_entropy", &json!({}));
    again(&*loss, &linear(&inputs), &["lse"], &["grad.hidden", "grad.weight"]);
    let queries = set(&gaussian(3, 6, 4), 9, NAN);
    let inputs = named([("queries", queries), ("keys", gaussian(4, 6, 4))]);
    let gradients = ["grad.queries", "grad.keys"];
    again(&*parse("info_nce", &json!({})), &inputs, &["lse"], &gradients);
    let both = parse("info_nce", &json!({"symmetric": true}));
    again(&*both, &inputs, &["lse", "column_lse"], &gradients);
}

/// The status counts a coefficient as one row, whatever elements it covers.
fn parts_of_dice(context: &Context) {
    for (per, expected) in [("row", 2), ("channel", 3), ("batch", 1)] {
        let targets = matrix(4, 6, positive(5, 24).iter().map(|p| p.min(1.0)).collect());
        let logits = set(&set(&gaussian(6, 4, 6), 1, NAN), 4, NAN);
        let inputs = named([("logits", logits), ("targets", set(&targets, 14, NAN))]);
        for reduction in ["mean", "none"] {
            let loss = parse("dice", &json!({"per": per, "reduction": reduction, "bce": 0.5}));
            let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
            assert_eq!((found.bad_rows, found.bad_targets), (expected, 0), "{per}");
        }
    }
}

/// Spans with a softmax count rows, other spans count elements.
fn columns_of_several_kinds(context: &Context) {
    let spans = json!({"spans": [
        {"kind": "bce", "columns": 2}, {"kind": "cce", "columns": 3}, {"kind": "mse"}
    ]});
    let targets = matrix(4, 7, positive(7, 28).iter().map(|p| p.min(1.0)).collect());
    let logits = [0, 1, 9, 10, 20].iter().fold(gaussian(8, 4, 7), |z, &at| set(&z, at, NAN));
    let inputs = named([("logits", logits), ("targets", targets)]);
    let loss = parse("mixed_columns", &spans);
    let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
    assert_eq!(found.bad_rows, 4, "two of binary columns, one row of a softmax, one number");
    let inputs = named([("real", vector(&[0.5, NAN])), ("fake", vector(&[NAN, NAN, 1.0]))]);
    let loss = parse("gan_discriminator", &json!({}));
    let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss", "grad.fake"]);
    assert_eq!(found.bad_rows, 3);
    let loss = parse("gan_generator", &json!({}));
    let inputs = named([("fake", vector(&[NAN, 1.0]))]);
    let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss"]);
    assert_eq!(found.bad_rows, 1);
}

/// Every kind of value that an element must not have.
fn values(context: &Context) {
    let column = |values: &[f64]| matrix(values.len(), 1, values.to_vec());
    let count = |rate: &str, rates: &[f64], targets: &[f64]| {
        named([(rate, column(rates)), ("targets", column(targets))])
    };
    let scores = |targets: &[f64]| count("logits", &vec![0.5; targets.len()], targets);
    let tiny = -f64::from(f32::MIN_POSITIVE) / 4.0;
    let checks = json!({"check_targets": true});
    let cases: [(&str, Value, Arrays, u32); 8] = [
        ("bce_with_logits", checks.clone(), scores(&[0.5, 1.5, -0.5, NAN, INF, -0.0, tiny]), 5),
        ("bce_with_logits", json!({}), scores(&[0.5, 1.5, -0.5, NAN, INF]), 0),
        ("binary_hinge", checks, scores(&[0.5, 1.5, -1.5, NAN, INF, -1.0]), 4),
        ("mse", json!({}), scores(&[0.5, NAN, INF, -INF]), 0),
        (
            "poisson_nll",
            json!({}),
            count("rate", &[0.0; 7], &[1.0, -1.0, -INF, INF, NAN, -0.0, tiny]),
            3,
        ),
        (
            "poisson_nll",
            json!({"log_input": false}),
            count(
                "rate",
                &[1.0, -1.0, -INF, INF, NAN, -0.0, -1.0],
                &[1.0, 1.0, 1.0, 1.0, -2.0, 0.0, NAN],
            ),
            4,
        ),
        (
            "hurdle_poisson",
            json!({}),
            with(
                &count("log_rate", &[0.0; 6], &[1.0, -1.0, -INF, INF, NAN, 1.5]),
                [("logits", column(&[0.0; 6]))],
            ),
            5,
        ),
        (
            "gaussian_nll",
            json!({}),
            with(
                &count("variance", &[1.0, -1.0, -INF, INF, NAN, -0.0], &[0.0; 6]),
                [("mean", column(&[0.0; 6]))],
            ),
            2,
        ),
    ];
    for (name, options, inputs, expected) in cases {
        for reduction in ["mean", "none"] {
            let mut options = options.clone();
            options["reduction"] = json!(reduction);
            let loss = parse(name, &options);
            let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss"]);
            assert_eq!(found.bad_targets, expected, "{name} {options}");
            // What is masked is not looked at.
            let mask = vector(&[0.0]);
            let masked = with(&inputs, [("mask", mask)]);
            let found = check_status(&context.gpu, &*loss, &masked, Dtype::F32, &["loss"]);
            assert_eq!((found.bad_targets, found.bad_rows), (0, 0));
        }
    }
}

/// Of several bad values in one row the status has that of the lowest column, whichever lane finds it: lane 0 has the
/// other columns.
fn the_first_value_of_a_row(context: &Context) {
    let (rows, columns) = (2, 3001);
    let loss = parse("bce_with_logits", &json!({"check_targets": true}));
    for first in [5, 100, 256, 257] {
        let mut targets = matrix(rows, columns, vec![0.5; rows * columns]);
        for column in [first, 512, 1024, 2048] {
            targets = set(&targets, column, column as f64);
        }
        targets = set(&targets, columns, -1.0);
        let inputs = named([("logits", gaussian(9, rows, columns)), ("targets", targets)]);
        let found = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        assert_eq!(found.first_bad_value, Some((0, first as f32)));
        assert_eq!(found.bad_targets, 5);
    }
}

/// Vectors of zeros, and rows of scores that are not finite.
fn vectors(context: &Context) {
    let gpu = &context.gpu;
    let zeros = |vectors: &Array| fill(&fill(vectors, 1, 0.0), 4, -0.0);
    let [queries, keys] = [gaussian(10, 6, 4), gaussian(11, 6, 4)];
    let inputs = named([("queries", zeros(&queries)), ("keys", zeros(&keys))]);
    let spoilt = with(&inputs, [("queries", set(&zeros(&queries), 9, NAN))]);
    for (name, options, wanted, bad) in [
        ("info_nce", json!({}), "grad.keys", 1),
        ("info_nce", json!({"symmetric": true}), "loss", 6),
        ("sigmoid_contrastive", json!({}), "loss", 1),
        ("similarity", json!({}), "scores", 1),
    ] {
        for normalize in [true, false] {
            let mut options = options.clone();
            options["normalize"] = json!(normalize);
            let loss = parse(name, &options);
            for (inputs, bad) in [(&inputs, 0), (&spoilt, bad)] {
                let found = check_status(gpu, &*loss, inputs, Dtype::F32, &[wanted]);
                let zeros = if normalize { 4 } else { 0 };
                assert_eq!((found.zero_vectors, found.bad_rows), (zeros, bad), "{loss:?}");
            }
        }
    }
    let targets = indices(&[0, 6, -3, 2, 1, 0]);
    let targeted = with(&spoilt, [("targets", targets)]);
    for name in ["info_nce", "sigmoid_contrastive"] {
        let loss = parse(name, &json!({"normalize": true}));
        let found = check_status(gpu, &*loss, &targeted, Dtype::F32, &["loss"]);
        assert_eq!(
            (found.first_bad_target, found.bad_targets, found.bad_rows),
            (Some((1, 6)), 2, 0)
        );
    }
    let labels = indices(&[1, 2, 1, 3, 2, 1]);
    let loss = parse("sup_con", &json!({}));
    for (features, bad) in [(zeros(&queries), 0), (set(&zeros(&queries), 9, INF), 5)] {
        let inputs = named([("features", features), ("labels", labels.clone())]);
        let found = check_status(gpu, &*loss, &inputs, Dtype::F32, &["loss"]);
        assert_eq!((found.zero_vectors, found.bad_rows), (2, bad));
    }
}

fn status_alone<'a>(
    loss: &'a dyn Operation,
    inputs: &'a [(String, Placed)],
    status: &'a Placed,
) -> Request<'a> {
    Request::new(loss, tensors(inputs), Named::from([("status".to_owned(), status.tensor())]))
}

/// Several calls add to one status word by word, or each overwrites it, whatever it contained.
fn of_several_calls(context: &Context) {
    let gpu = &context.gpu;
    let spans = json!({"spans": [{"kind": "cce", "columns": 2}, {"kind": "mse", "columns": 3}]});
    let scores = |targets: &[i64]| with(&sample(1, 3, 5), [("targets", indices(targets))]);
    let rates = |targets: &[f64]| {
        named([("rate", matrix(3, 1, vec![0.0; 3])), ("targets", matrix(3, 1, targets.to_vec()))])
    };
    let columns = |z: f64| {
        let values = matrix(3, 5, vec![0.5; 15]);
        named([("logits", set(&values, 4, z)), ("targets", values)])
    };
    let units = |first: f64| {
        let queries = matrix(2, 2, vec![first, 0.0, 1.0, 2.0]);
        named([("queries", queries), ("keys", gaussian(2, 2, 2))])
    };
    let calls: [(&str, Value, [Arrays; 3]); 4] = [
        ("cross_entropy", json!({}), [scores(&[1, 9, -1]), scores(&[0, 1, 2]), scores(&[7, 1, 2])]),
        (
            "poisson_nll",
            json!({}),
            [rates(&[1.0, 2.0, -3.0]), rates(&[NAN, 1.0, 2.0]), rates(&[-7.0, 1.0, 2.0])],
        ),
        ("mixed_columns", spans, [columns(NAN), columns(1.0), columns(NAN)]),
        ("info_nce", json!({"normalize": true}), [units(0.0), units(1.0), units(0.0)]),
    ];
    for (name, options, batches) in calls {
        let loss = parse(name, &options);
        let alone = batches
            .each_ref()
            .map(|inputs| check_status(gpu, &*loss, inputs, Dtype::F32, &["loss"]));
        let words = Layout::vector(Dtype::U32, Status::WORDS);
        let zeros = Placed::input(gpu, &indices(&[0; 8]), words.clone());
        let dirty = Placed::output(gpu, words);
        for (inputs, own) in batches.iter().zip(&alone) {
            let placed = placed_inputs(gpu, &*loss, inputs, Dtype::F32);
            submit(gpu, &status_alone(&*loss, &placed, &dirty));
            assert_eq!(gpu.read_status_blocking(&dirty.tensor()).unwrap(), *own, "{name}");
            submit(gpu, &status_alone(&*loss, &placed, &zeros).accumulate_status());
        }
        let all = gpu.read_status_blocking(&zeros.tensor()).unwrap();
        let sum = |count: fn(&Status) -> u32| alone.iter().map(count).sum::<u32>();
        assert_eq!(all.completed, 3, "{name}");
        assert_eq!(all.bad_targets, sum(|status| status.bad_targets), "{name}");
        assert_eq!(all.bad_rows, sum(|status| status.bad_rows), "{name}");
        assert_eq!(all.zero_vectors, sum(|status| status.zero_vectors), "{name}");
        assert!(all.bad_targets + all.bad_rows + all.zero_vectors > 1, "{name}");
        // The first bad target is that of the first call, even if a later call has one in an earlier row.
        assert_eq!(all.first_bad_target, alone[0].first_bad_target, "{name}");
        assert_eq!(all.first_bad_value, alone[0].first_bad_value, "{name}");
    }
}
