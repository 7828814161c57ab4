//! The options of R1 to R6 and the by-products.

use serde_json::json;
use surprisal::{Arrays, CrossEntropy, Denominator, Dtype, cpu, testing};

use crate::{
    section0::{GRADIENT, NAN, REDUCED, is_zero, none, some_ignored},
    support::{
        BY_PRODUCTS, Context, INF, check, check_status, gaussian, in_turn, indices, matrix, named,
        outcome, parse, positive, row, sample, sample_probs, set, vector, with,
    },
};

tests![
    row_weights,
    by_products,
    perplexities,
    ties,
    probability_targets,
    smoothing,
    focal,
    soft_cap_and_bias,
    logit_adjustment,
    z_loss,
    learned_temperature,
    options_together,
    backward_from_a_saved_lse,
    sixteen_bit_gradients_round_to_even,
];

fn row_weights(context: &Context) {
    let mut row_weight = positive(25, 20);
    (row_weight[2], row_weight[3]) = (0.0, -1.5);
    let inputs = with(&some_ignored(&sample(26, 20, 33)), [("row_weight", vector(&row_weight))]);
    let losses = [
        none().z_loss(0.1),
        CrossEntropy::default(),
        CrossEntropy::default().denominator(Denominator::Weights).label_smoothing(0.1),
    ];
    for (turn, loss) in losses.into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let (outputs, _) = check(&context.gpu, &loss, &inputs, dtype, &GRADIENT);
            assert!(is_zero(&row(&outputs["grad.logits"], 2)));
        }
    }
}

fn by_products(context: &Context) {
    for classes in [1, 2, 5, 64, 500, 4099] {
        let inputs = some_ignored(&sample(27, 13, classes));
        let loss = CrossEntropy::default().temperature(1.7);
        let all = [&BY_PRODUCTS[..], &["correct_count", "loss"]].concat();
        check(&context.gpu, &loss, &inputs, Dtype::F32, &all);
    }
    let probs = sample_probs(28, 6, 77);
    let wanted = ["lse", "entropy", "max_prob", "argmax", "loss", "perplexity"];
    check(&context.gpu, &CrossEntropy::default(), &probs, Dtype::F32, &wanted);
}

/// The perplexity is exp of a mean of almost any size; outside f32's range it is +inf.
fn perplexities(context: &Context) {
    for size in [0.0, 0.7, 5.0, 18.3, 40.0, 80.0, 88.5, 100.0] {
        let logits = matrix(1, 3, vec![-size, 0.0, -INF]);
        let inputs = named([("logits", logits), ("targets", indices(&[0]))]);
        check(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &["perplexity"]);
    }
}

fn ties(context: &Context) {
    for classes in [6, 70, 3000] {
        let mut values = vec![0.0; 3 * classes];
        values[classes + classes / 2..2 * classes].fill(1.0);
        values[2 * classes + 3] = 2.0;
        values[3 * classes - 1] = 2.0;
        let last = classes as i64 - 1;
        let targets = indices(&[last, last, last]);
        let inputs = named([("logits", matrix(3, classes, values)), ("targets", targets)]);
        let wanted = ["argmax", "rank", "correct", "correct_count"];
        let (outputs, _) = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
        assert_eq!(outputs["argmax"].to_i64(), [0, classes as i64 / 2, 3]);
        assert_eq!(outputs["rank"].to_i64(), [last, last - classes as i64 / 2, 1]);
    }
}

fn probability_targets(context: &Context) {
    let wanted = ["loss", "grad.logits", "grad.target_probs"];
    for classes in [1, 3, 67, 1000] {
        let inputs = with(
            &sample_probs(29, 5, classes),
            [("weight", vector(&positive(30, classes))), ("row_weight", vector(&positive(31, 5)))],
        );
        let options = [
            json!({}),
            json!({"label_smoothing": 0.2, "reduction": "none"}),
            json!({"z_loss": 0.1, "temperature": 0.5, "softcap": 30.0, "reduction": "sum"}),
        ];
        let options = options.iter().take(if classes == 1 { 1 } else { 3 });
        for options in options {
            let loss = parse("cross_entropy", options);
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        }
    }
    // The target distributions are not normalised, and are used as they are.
    let inputs = sample_probs(32, 4, 20);
    let probs = inputs["target_probs"].to_f64().iter().map(|q| q * 3.0).collect();
    let inputs = with(&inputs, [("target_probs", matrix(4, 20, probs))]);
    check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
}

fn smoothing(context: &Context) {
    for classes in [2, 3, 70, 1001] {
        let mut inputs = sample(33, 6, classes);
        let last = classes as i64 - 1;
        inputs.insert("targets".to_owned(), indices(&[0, last, last / 2, -100, 1, 0]));
        for kind in ["uniform", "ordinal"] {
            for epsilon in [0.1, 1.0] {
                for weight in [false, true] {
                    let mut inputs = inputs.clone();
                    if weight {
                        inputs.insert("weight".to_owned(), vector(&positive(34, classes)));
                    }
                    let options =
                        json!({"label_smoothing": epsilon, "smoothing": kind, "reduction": "none"});
                    let loss = parse("cross_entropy", &options);
                    check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
                }
            }
        }
    }
    // A single class has no neighbour.
    let ordinal = json!({"label_smoothing": 0.3, "smoothing": "ordinal"});
    let loss = parse("cross_entropy", &ordinal);
    check(&context.gpu, &*loss, &sample(35, 3, 1), Dtype::F32, &GRADIENT);
}

fn focal(context: &Context) {
    let inputs = with(&sample(36, 7, 40), [("weight", vector(&positive(37, 40)))]);
    for gamma in [0.5, 1.0, 2.0, 5.0] {
        for smoothing in [0.0, 0.1] {
            let loss = none().focal_gamma(gamma).label_smoothing(smoothing).z_loss(0.05);
            check(&context.gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
        }
    }
    // Saturated logits: p_y rounds to 1, and γ in (0, 1) must not give NaN.
    let logits = matrix(3, 3, vec![200.0, 0.0, 0.0, 20.0, 0.0, 0.0, 0.0, 90.0, -INF]);
    let inputs = named([("logits", logits), ("targets", indices(&[0, 0, 1]))]);
    for gamma in [0.3, 0.99, 1.0, 3.0] {
        let (outputs, _) =
            check(&context.gpu, &none().focal_gamma(gamma), &inputs, Dtype::F32, &GRADIENT);
        assert!(outputs["grad.logits"].to_f64().iter().all(|value| value.is_finite()));
    }
}

/// Small logits under a cap: the gradient's factor is 1 − tanh², which must keep its digits in f32.
fn soft_cap_and_bias(context: &Context) {
    for (turn, classes) in [5, 70, 1001].into_iter().enumerate() {
        let mut bias = gaussian(38, 1, classes).to_f64();
        bias[1] = -INF;
        let inputs = named([
            ("logits", gaussian(39, 4, classes)),
            ("targets", indices(&[0, 2, 3, 0])),
            ("logit_bias", vector(&bias)),
        ]);
        for dtype in in_turn(turn) {
            let loss = none().softcap(1.5).temperature(0.8);
            let wanted = [&GRADIENT[..], &BY_PRODUCTS[..]].concat();
            let wanted: Vec<_> =
                wanted.into_iter().filter(|name| !["argmax", "rank"].contains(name)).collect();
            let (outputs, status) = check(&context.gpu, &loss, &inputs, dtype, &wanted);
            assert_eq!(status.bad_rows, 0);
            assert!((0..4).all(|at| row(&outputs["grad.logits"], at)[1] == 0.0));
        }
    }
    // A cap far above the logits hardly changes them.
    let far = CrossEntropy::default().softcap(1e4);
    check(&context.gpu, &far, &sample(41, 4, 70), Dtype::F32, &GRADIENT);
    // z = -inf stays -inf under a cap; z = ±inf and NaN are distinguished; one target has a bias of -inf.
    let logits = matrix(4, 3, vec![-INF, 1.0, 2.0, INF, 1.0, 2.0, NAN, 1.0, 2.0, 9.0, -1e30, 0.0]);
    let inputs = named([("logits", logits), ("targets", indices(&[1, 1, 1, 2]))]);
    let (outputs, status) =
        check(&context.gpu, &none().softcap(5.0), &inputs, Dtype::F32, &GRADIENT);
    assert_eq!(status.bad_rows, 2);
    assert_eq!(row(&outputs["grad.logits"], 0)[0], 0.0);
    let biased = with(&inputs, [("logit_bias", vector(&[0.0, -INF, 0.0]))]);
    let (outputs, _) = check(&context.gpu, &none(), &biased, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64()[0], INF);
    // A bias that is NaN or +inf makes every row NaN, even rows of finite logits.
    for bad in [NAN, INF] {
        let logits = ("logits", gaussian(40, 4, 3));
        let biased = with(&inputs, [logits, ("logit_bias", vector(&[0.0, bad, 0.0]))]);
        let (_, status) = check(&context.gpu, &none(), &biased, Dtype::F32, &GRADIENT);
        assert_eq!(status.bad_rows, 4, "{bad}");
    }
}

/// R6: log π with a class whose π is 0.
fn logit_adjustment(context: &Context) {
    let prior = [0.5, 0.3, 0.2, 0.0];
    for sign in [1.0, -1.0] {
        let bias: Vec<f64> = prior.iter().map(|p: &f64| sign * p.max(1e-9).ln()).collect();
        let inputs = named([
            ("logits", gaussian(40, 5, 4)),
            ("targets", indices(&[0, 1, 2, 0, 1])),
            ("logit_bias", vector(&bias)),
        ]);
        check(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &GRADIENT);
    }
}

fn z_loss(context: &Context) {
    for classes in [4, 70, 2000] {
        let inputs = with(
            &some_ignored(&sample(41, 7, classes)),
            [("weight", vector(&positive(42, classes))), ("row_weight", vector(&positive(43, 7)))],
        );
        for options in [json!({"z_loss": 0.2}), json!({"z_loss": 1e-4, "reduction": "sum"})] {
            let loss = parse("cross_entropy", &options);
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        }
    }
}

fn options_together(context: &Context) {
    let options = json!({
        "reduction": "mean", "ignore_index": [-100, 3], "denominator": "weights", "temperature": 1.5,
        "label_smoothing": 0.15, "softcap": 20.0, "z_loss": 0.01, "focal_gamma": 1.2
    });
    let loss = parse("cross_entropy", &options);
    for (turn, classes) in [9, 129, 4100].into_iter().enumerate() {
        let inputs = with(
            &some_ignored(&sample(44, 11, classes)),
            [
                ("weight", vector(&positive(45, classes))),
                ("logit_bias", gaussian(46, 1, classes)),
                ("row_weight", vector(&positive(47, 11))),
                ("upstream", vector(&[0.7])),
            ],
        );
        let bias = vector(&inputs["logit_bias"].to_f64());
        let inputs = with(&inputs, [("logit_bias", bias)]);
        for dtype in in_turn(turn) {
            check(&context.gpu, &*loss, &inputs, dtype, &REDUCED);
        }
    }
}

/// Logits without outliers: a gradient cannot recover what rounding a large lse to f32 has lost.
fn mild(seed: u64, inputs: &Arrays) -> Arrays {
    let [rows, classes] = inputs["logits"].shape[..] else { unreachable!() };
    with(inputs, [("logits", gaussian(seed, rows as usize, classes as usize))])
}

/// τ as a tensor, with its gradient, in whole rows and in segments.
fn learned_temperature(context: &Context) {
    let wanted = ["loss", "grad.logits", "grad.temperature", "entropy"];
    let mut inputs = with(
        &some_ignored(&sample(60, 13, 70)),
        [
            ("weight", vector(&positive(61, 70))),
            ("logit_bias", vector(&gaussian(62, 1, 70).to_f64())),
            ("row_weight", vector(&[1.0, 0.0, -2.0].repeat(5)[..13])),
            ("temperature", vector(&[0.6])),
        ],
    );
    let losses = [
        CrossEntropy::default().z_loss(0.1).softcap(5.0),
        CrossEntropy::default()
            .label_smoothing(0.2)
            .focal_gamma(1.5)
            .denominator(Denominator::Weights),
    ];
    for loss in &losses {
        check(&context.gpu, loss, &inputs, Dtype::F32, &wanted);
    }
    let probs = with(&sample_probs(63, 5, 20_000), [("temperature", vector(&[2.5]))]);
    check(&context.gpu, &CrossEntropy::default(), &probs, Dtype::F32, &wanted);
    // A saved lse spares no stream of this gradient.
    let mild = mild(64, &inputs);
    let saved = cpu::run(&losses[0], &mild, &["lse"]).unwrap();
    let given = with(&mild, [("lse", saved["lse"].clone())]);
    let gradients = ["grad.logits", "grad.temperature"];
    check(&context.gpu, &losses[0], &given, Dtype::F32, &gradients);
    scores_close_together(context);
    // A target at -inf pulls without bounds, and a temperature that is none makes every row a bad one.
    let logits = set(&inputs["logits"], 0, -INF);
    let mut targets = inputs["targets"].to_i64();
    targets[0] = 0;
    let infinite = with(&inputs, [("logits", logits), ("targets", indices(&targets))]);
    check(&context.gpu, &losses[0], &infinite, Dtype::F32, &wanted);
    for temperature in [0.0, -1.0, f64::NAN, INF, 1e-39, 1.7e38] {
        inputs.insert("temperature".to_owned(), vector(&[temperature]));
        check_status(
            &context.gpu,
            &losses[0],
            &inputs,
            Dtype::F32,
            &[&wanted[..], &["status"]].concat(),
        );
        check(&context.gpu, &losses[0], &inputs, Dtype::F32, &wanted);
    }
}

/// Scores that differ by a thousandth, as those of a fresh model do: ∂τ is small, though lse and entropy are not.
fn scores_close_together(context: &Context) {
    let near: Vec<f64> = testing::gaussian(65, 130).iter().map(|score| 1e-3 * score).collect();
    let near = [("logits", matrix(1, 130, near)), ("temperature", vector(&[2.0]))];
    let inputs = with(&sample(66, 1, 130), near);
    let loss = CrossEntropy::default().z_loss(0.01);
    let smoothed = loss.clone().label_smoothing(0.2).focal_gamma(2.0);
    for loss in [&loss, &smoothed] {
        check(&context.gpu, loss, &inputs, Dtype::F32, &["grad.temperature"]);
    }
    let saved = cpu::run(&loss, &inputs, &["lse"]).unwrap();
    let given = with(&inputs, [("lse", saved["lse"].clone())]);
    check(&context.gpu, &loss, &given, Dtype::F32, &["grad.temperature"]);
}

fn backward_from_a_saved_lse(context: &Context) {
    for classes in [70, 1001] {
        let weights = [
            ("weight", vector(&positive(48, classes))),
            ("row_weight", vector(&positive(49, 9))),
            ("upstream", vector(&[1.5])),
        ];
        let mut inputs = with(&some_ignored(&mild(50, &sample(50, 9, classes))), weights);
        inputs.insert("logits".to_owned(), set(&inputs["logits"], 2 * classes, NAN));
        for options in [
            json!({}),
            json!({"label_smoothing": 0.1, "z_loss": 0.1}),
            json!({"label_smoothing": 0.1, "smoothing": "ordinal", "temperature": 2.0}),
            json!({"softcap": 30.0, "focal_gamma": 2.0}),
        ] {
            let loss = parse("cross_entropy", &options);
            let lse = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["lse"]).0;
            let saved = with(&inputs, [("lse", lse["lse"].clone())]);
            let (outputs, _) = check(&context.gpu, &*loss, &saved, Dtype::F32, &["grad.logits"]);
            assert!(is_zero(&row(&outputs["grad.logits"], 1)));
        }
        let probs = mild(51, &sample_probs(51, 5, classes));
        for loss in [none(), none().label_smoothing(0.1).z_loss(0.1)] {
            let lse = outcome(&context.gpu, &loss, &probs, Dtype::F32, &["lse"]).0;
            let saved = with(&probs, [("lse", lse["lse"].clone())]);
            let wanted = ["grad.logits", "grad.target_probs"];
            let epsilon = loss.label_smoothing > 0.0 && classes == 1;
            if !epsilon {
                check(&context.gpu, &loss, &saved, Dtype::F32, &wanted);
            }
        }
    }
}

/// Two equal logits: the gradient is ±upstream/2, exact in every type if it is representable, and the even neighbour
/// if it lies halfway.
fn sixteen_bit_gradients_round_to_even(context: &Context) {
    // Halfway between two bf16 numbers (8 significant bits), two f16 numbers (11) and two subnormal f16 numbers.
    let subnormal = f64::powi(2.0, -24);
    for (dtype, first, unit) in [
        (Dtype::Bf16, 128.0, 1.0 / 64.0),
        (Dtype::F16, 1024.0, 1.0 / 512.0),
        (Dtype::F16, 0.0, subnormal),
    ] {
        let ties: Vec<f64> = (0..8).map(|i| 2.0 * (first + f64::from(i) + 0.5) * unit).collect();
        let rows = ties.len();
        let inputs = named([
            ("logits", matrix(rows, 2, vec![0.0; 2 * rows])),
            ("targets", indices(&vec![0; rows])),
            ("upstream", vector(&ties)),
        ]);
        let gradient =
            &outcome(&context.gpu, &none(), &inputs, dtype, &["grad.logits"]).0["grad.logits"];
        let expected: Vec<f64> = ties.iter().flat_map(|tie| [-tie / 2.0, tie / 2.0]).collect();
        let expected = matrix(rows, 2, expected).rounded(dtype);
        assert_eq!(gradient.to_f64(), expected.to_f64(), "{dtype}");
    }
}
