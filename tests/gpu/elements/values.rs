//! Extreme, infinite and bad values: what is exact, what is counted, and that NaN stays NaN.

use serde_json::json;
use surprisal::{
    Array, Arrays, BceWithLogits, BinaryHinge, Dtype, Error, GaussianNll, HurdlePoisson, Operation,
    PoissonNll, Reduction, cpu, testing,
};

use super::{GRADIENT, NAN, each, none, positive, sample};
use crate::support::{
    Context, INF, bits, check, gaussian, in_turn, matrix, named, outcome, parse, set, vector, with,
};

tests![
    focal_at_saturation,
    infinite_logits,
    small_losses,
    hurdles_from_tiny_to_huge_rates,
    bad_values,
    learned_temperatures,
    nan_is_not_laundered,
    infinite_scores_of_the_others,
];

/// The largest |actual − truth|/|truth| of all elements.
fn relative(actual: &Array, truth: &Array) -> f64 {
    let pairs = actual.to_f64().into_iter().zip(truth.to_f64());
    pairs.map(|(a, t)| if a == t { 0.0 } else { (a - t).abs() / t.abs() }).fold(0.0, f64::max)
}

fn focal_at_saturation(context: &Context) {
    let inputs =
        each(&[200.0, 200.0, -200.0, -200.0, 60.0, -60.0], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    for gamma in [0.1, 0.5, 1.0, 2.0] {
        let loss = none().focal_gamma(gamma).focal_alpha(0.25);
        let (outputs, status) = check(&context.gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
        assert!(outputs["grad.logits"].to_f64().iter().all(|g| g.is_finite()));
        assert_eq!(status.bad_rows, 0);
    }
    let soft = sample(9, 4, 33);
    check(&context.gpu, &none().focal_gamma(0.7), &soft, Dtype::F32, &GRADIENT);
}

fn infinite_logits(context: &Context) {
    let inputs = each(&[INF, INF, -INF, -INF, INF, -INF], &[1.0, 0.0, 1.0, 0.0, 0.5, 0.25]);
    let (outputs, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [0.0, INF, INF, 0.0, INF, INF]);
    assert_eq!(outputs["grad.logits"].to_f64(), [0.0, 1.0, -1.0, 0.0, 0.5, -0.25]);
    assert_eq!(status.bad_rows, 0);
    // The infinity is in the sum, and the gradient stays finite; a weight of 0 removes both.
    let sum = BceWithLogits::default().reduction(Reduction::Sum);
    let (outputs, _) = check(&context.gpu, &sum, &inputs, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [INF]);
    let weightless = with(&inputs, [("weight", vector(&[0.0; 6]))]);
    let (outputs, _) = check(&context.gpu, &sum, &weightless, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [0.0]);
    let rewarded = with(&inputs, [("weight", vector(&[-1.0; 6]))]);
    let (outputs, _) = check(&context.gpu, &sum, &rewarded, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [-INF]);
    // The sum of infinities of both signs is NaN; a negative denominator changes the sign of an infinity.
    let both = with(&inputs, [("weight", vector(&[1.0, 1.0, -1.0, 1.0, 1.0, 1.0]))]);
    let (outputs, _) = check(&context.gpu, &sum, &both, Dtype::F32, &GRADIENT);
    assert!(outputs["loss"].to_f64()[0].is_nan());
    let divided = with(&inputs, [("denominator", vector(&[-2.0]))]);
    let (outputs, _) = check(&context.gpu, &sum, &divided, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [-INF]);
}

fn small_losses(context: &Context) {
    // Losses down to 1e-30, and their gradients.
    let logits: Vec<f64> = (0..70).map(f64::from).collect();
    for target in [0.0, 1.0] {
        let sign = if target == 1.0 { 1.0 } else { -1.0 };
        let logits: Vec<f64> = logits.iter().map(|z| z * sign).collect();
        let inputs = each(&logits, &vec![target; logits.len()]);
        let (outputs, _) = check(&context.gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
        let truth = cpu::run(&none(), &inputs, &GRADIENT).unwrap();
        for name in GRADIENT {
            let error = relative(&outputs[name], &truth[name]);
            assert!(error < 1e-6, "{name}: {error:e}");
        }
        assert!(outputs["loss"].to_f64()[69] < 1.1e-30);
    }
}

fn hurdles_from_tiny_to_huge_rates(context: &Context) {
    let rates = [1e-6, 1e-4, 1e-2, 0.3, 0.99, 1.01, 3.0, 20.0, 90.0, 1e3, 1e4];
    let counts = [0.0, 1.0, 2.0, 3.0, 12.0, 13.0, 40.0, 9_999.0];
    let pairs: Vec<(f64, f64)> = rates
        .iter()
        .flat_map(|&rate: &f64| counts.iter().map(move |&k| (f64::from(rate.ln() as f32), k)))
        .collect();
    let column = |of: fn(&(f64, f64)) -> f64| vector(&pairs.iter().map(of).collect::<Vec<_>>());
    let inputs = named([
        ("logits", vector(&vec![200.0; pairs.len()])),
        ("log_rate", column(|pair| pair.0)),
        ("targets", column(|pair| pair.1)),
    ]);
    let loss = HurdlePoisson::default().reduction(Reduction::None);
    let wanted = ["loss", "grad.logits", "grad.log_rate"];
    let (outputs, status) = check(&context.gpu, &loss, &inputs, Dtype::F32, &wanted);
    assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
    // One count at a small rate: the loss is λ/2, all that is left after cancellation.
    let truth = cpu::run(&loss, &inputs, &wanted).unwrap();
    let at = pairs.iter().position(|&(_, k)| k == 1.0).unwrap();
    for name in ["loss", "grad.log_rate"] {
        let (actual, truth) = (outputs[name].to_f64()[at], truth[name].to_f64()[at]);
        assert!((truth - 5e-7).abs() < 1e-9, "{truth}");
        assert!((actual - truth).abs() < 1e-6 * truth, "{name}: {actual} for {truth}");
    }
}

fn bad_values(context: &Context) {
    let gpu = &context.gpu;
    let bad = |loss: &dyn Operation, inputs: &Arrays, gradient: &str, row: u32, value: f32| {
        let wanted = ["loss", gradient];
        let (outputs, status) = check(gpu, loss, inputs, Dtype::F32, &wanted);
        assert_eq!((status.bad_targets, status.bad_rows), (1, 0), "{loss:?}");
        assert_eq!(status.first_bad_value, Some((row, value)));
        assert!(outputs["loss"].to_f64()[0].is_nan());
        let finite = outputs[gradient].to_f64().iter().all(|g| g.is_finite());
        assert!(finite, "{loss:?}: a bad element's gradient is 0");
        let error = gpu.run_arrays(loss, inputs, Dtype::F32, &wanted).unwrap().read_blocking();
        let expected = Error::BadValues { count: 1, row: row.into(), value };
        assert_eq!(error.unwrap_err(), expected);
    };
    let targets = |value: f64| {
        let inputs = sample(2, 4, 6);
        let targets = set(&inputs["targets"], 15, value);
        with(&inputs, [("targets", targets)])
    };
    bad(&BceWithLogits::default().check_targets(true), &targets(1.5), "grad.logits", 2, 1.5);
    bad(&BinaryHinge::default().check_targets(true), &targets(-2.0), "grad.logits", 2, -2.0);
    // If the option is not set, such targets have the loss that PyTorch computes.
    let (_, status) = check(gpu, &BceWithLogits::default(), &targets(1.5), Dtype::F32, &GRADIENT);
    assert_eq!(status.bad_targets, 0);
    let counts = |at: usize, value: f64, rate: &str| {
        let counts = testing::numbers(surprisal::loss::Domain::Count, 3, 24);
        let counts = set(&matrix(4, 6, counts), at, value);
        named([(rate, positive(4, &[4, 6])), ("targets", counts)])
    };
    bad(&PoissonNll::default(), &counts(7, -1.0, "rate"), "grad.rate", 1, -1.0);
    let rates = counts(0, 1.0, "rate");
    let rates = with(&rates, [("rate", set(&rates["rate"], 23, -0.5))]);
    bad(&PoissonNll::default().log_input(false), &rates, "grad.rate", 3, -0.5);
    for count in [-3.0, 1.5] {
        let hurdle = with(&counts(6, count, "log_rate"), [("logits", gaussian(5, 4, 6))]);
        bad(&HurdlePoisson::default(), &hurdle, "grad.log_rate", 1, count as f32);
    }
    let normal = named([
        ("mean", vector(&[0.0, 1.0])),
        ("variance", vector(&[1.0, -0.25])),
        ("targets", vector(&[0.0, 0.0])),
    ]);
    bad(&GaussianNll::default(), &normal, "grad.variance", 1, -0.25);
}

/// A temperature for all elements, one a column, one a row; logits at ±inf; temperatures that are none.
fn learned_temperatures(context: &Context) {
    let gpu = &context.gpu;
    let wanted = ["loss", "grad.logits", "grad.temperature"];
    let mut inputs = sample(8, 30, 5);
    for (turn, shape) in [&[1][..], &[5], &[30, 1]].into_iter().enumerate() {
        inputs = with(&inputs, [("temperature", positive(9, shape))]);
        for dtype in in_turn(turn) {
            let loss = BceWithLogits::default().label_smoothing(0.1).focal_gamma(0.5);
            check(gpu, &loss, &inputs, dtype, &wanted);
        }
        check(gpu, &BceWithLogits::default(), &inputs, Dtype::F32, &wanted);
    }
    let none = BceWithLogits::default().reduction(Reduction::None);
    for limit in [INF, -INF] {
        let inputs = with(&inputs, [("logits", set(&inputs["logits"], 7, limit))]);
        check(gpu, &none, &inputs, Dtype::F32, &wanted);
    }
    for temperature in [0.0, -1.0, NAN, INF, 1e-39, 1.7e38] {
        let temperature = set(&inputs["temperature"], 4, temperature);
        let inputs = with(&inputs, [("temperature", temperature)]);
        let (_, status) = check(gpu, &none, &inputs, Dtype::F32, &wanted);
        assert_eq!(status.bad_rows, 5, "the elements of a row");
    }
}

fn nan_is_not_laundered(context: &Context) {
    for at in [0, 5, 10] {
        for name in ["logits", "targets"] {
            let inputs = sample(6, 1, 11);
            let poisoned = set(&inputs[name], at, NAN);
            let inputs = with(&inputs, [(name, poisoned)]);
            for loss in ["bce_with_logits", "binary_hinge", "mse", "huber"] {
                let loss = parse(loss, &json!({"reduction": "none"}));
                let (outputs, status) =
                    check(&context.gpu, loss.as_ref(), &inputs, Dtype::F32, &GRADIENT);
                assert_eq!(status.bad_rows, 1);
                for name in GRADIENT {
                    let nans = outputs[name].to_f64().iter().filter(|v| v.is_nan()).count();
                    assert_eq!(nans, 1, "{loss:?}");
                }
            }
        }
    }
}

fn infinite_scores_of_the_others(context: &Context) {
    let gpu = &context.gpu;
    let scores = each(&[INF, -INF, INF, -INF, INF], &[1.0, 1.0, -1.0, -1.0, 0.0]);
    for (loss, options) in [
        ("binary_hinge", json!({"reduction": "none"})),
        ("binary_hinge", json!({"reduction": "none", "p": 2})),
        ("binary_hinge", json!({"reduction": "none", "ramp": 1.5})),
        ("mse", json!({"reduction": "none"})),
        ("mse", json!({"reduction": "none", "activation": "sigmoid"})),
        ("huber", json!({"reduction": "none", "delta": 0.3})),
    ] {
        let loss = parse(loss, &options);
        let (_, status) = check(gpu, loss.as_ref(), &scores, Dtype::F32, &GRADIENT);
        assert_eq!(status.bad_rows, 0, "{loss:?}");
    }
    let rates = named([
        ("rate", vector(&[INF, -INF, -INF, 200.0])),
        ("targets", vector(&[2.0, 0.0, 3.0, 1.0])),
    ]);
    let poisson = PoissonNll::default().reduction(Reduction::None);
    let (outputs, _) = outcome(gpu, &poisson, &rates, Dtype::F32, &["loss", "grad.rate"]);
    assert_eq!(outputs["loss"].to_f64(), [INF, 0.0, INF, INF]);
    assert_eq!(outputs["grad.rate"].to_f64(), [INF, 0.0, -3.0, INF]);
    let hurdle = named([
        ("logits", vector(&[INF, -INF, INF, -INF, 0.0])),
        ("log_rate", vector(&[-INF, -INF, -INF, INF, INF])),
        ("targets", vector(&[1.0, 0.0, 2.0, 1.0, 0.0])),
    ]);
    let wanted = ["loss", "grad.logits", "grad.log_rate"];
    let loss = HurdlePoisson::default().reduction(Reduction::None);
    let (outputs, status) = check(gpu, &loss, &hurdle, Dtype::F32, &wanted);
    assert_eq!(outputs["loss"].to_f64()[..4], [0.0, 0.0, INF, INF]);
    assert_eq!(status.bad_rows, 0);
    assert_eq!(bits(&outputs["grad.log_rate"])[1], 0);
}
