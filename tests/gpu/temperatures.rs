//! A temperature that is an input, with its gradient, in the losses on the shared softmax.

use serde_json::{Value, json};
use surprisal::{Arrays, Dtype, testing};

use crate::support::{
    Context, INF, bits, check, check_status, matrix, outcome, parse, sample, sample_probs, set,
    vector, with,
};

tests![learned, no_temperature, masked_classes, near_distributions, uniform_rows, one_option];

const NAN: f64 = f64::NAN;
const WANTED: [&str; 3] = ["loss", "grad.logits", "grad.temperature"];
/// Rows that a lane walks alone, and rows with tiles.
const CLASSES: [usize; 2] = [7, 1100];
const ROWS: usize = 5;

/// The losses, and the inputs that each of them takes.
fn calls(seed: u64, classes: usize) -> Vec<(&'static str, Value, Arrays)> {
    let index = sample(seed, ROWS, classes);
    let probs = sample_probs(seed + 1, ROWS, classes);
    let mut plain = index.clone();
    plain.remove("targets");
    let teacher = matrix(ROWS, classes, testing::gaussian(seed + 2, ROWS * classes));
    let soft = with(&plain, [("teacher_logits", teacher.clone())]);
    let hard = with(&index, [("teacher_logits", teacher)]);
    let reverse_kl = json!({"divergence": "reverse_kl", "alpha": 0.25});
    vec![
        ("entropy", json!({}), plain.clone()),
        ("free_energy", json!({}), plain),
        ("kl_div", json!({}), probs.clone()),
        ("kl_div", json!({"direction": "reverse"}), probs),
        ("distillation", json!({}), soft),
        ("distillation", reverse_kl, hard.clone()),
        ("distillation", json!({"divergence": "js", "beta": 0.3, "alpha": 0.4}), hard),
    ]
}

/// The types in turn, with weights and upstream gradients of rows. A row of weight 0 has no part even with an upstream
/// gradient of NaN.
fn learned(context: &Context) {
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    for (turn, classes) in CLASSES.into_iter().enumerate() {
        for (index, (name, mut options, inputs)) in calls(70, classes).into_iter().enumerate() {
            options["reduction"] = "none".into();
            let loss = parse(name, &options);
            let more = |temperature: f64, upstream: f64| {
                let given = [
                    ("temperature", vector(&[temperature])),
                    ("row_weight", vector(&[1.0, 0.0, -2.0, 0.5, 1.0])),
                    ("upstream", vector(&[0.5, NAN, 1.0, upstream, 2.0])),
                ];
                with(&inputs, given)
            };
            for temperature in [0.5, 2.5] {
                let dtype = dtypes[(index + turn) % dtypes.len()];
                check(&context.gpu, &*loss, &more(temperature, 0.0), dtype, &WANTED);
                check(&context.gpu, &*loss, &more(temperature, -0.5), Dtype::F32, &WANTED);
            }
        }
    }
}

/// A number that is no temperature makes every row a bad one.
fn no_temperature(context: &Context) {
    for (name, options, inputs) in calls(73, CLASSES[0]) {
        let loss = parse(name, &options);
        for temperature in [0.0, -1.0, NAN, INF, 1e-39, 1.7e38] {
            let inputs = with(&inputs, [("temperature", vector(&[temperature]))]);
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &WANTED);
            let wanted = [&WANTED[..], &["status"]].concat();
            check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        }
        // One whose square is no normal number has no distillation.
        if name == "distillation" {
            for temperature in [1e-20, 2e19] {
                let inputs = with(&inputs, [("temperature", vector(&[temperature]))]);
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &WANTED);
            }
        }
    }
}

/// Classes at -inf in one of two distributions or in both.
fn masked_classes(context: &Context) {
    for (name, mut options, inputs) in calls(75, CLASSES[0]) {
        options["reduction"] = "none".into();
        let loss = parse(name, &options);
        let inputs = with(&inputs, [("temperature", vector(&[1.5]))]);
        let at = |row: usize, class: usize| row * CLASSES[0] + class;
        let logits = set(&set(&inputs["logits"], at(0, 2), -INF), at(1, 3), -INF);
        let bad = set(&logits, at(4, 0), NAN);
        // A row that is NaN makes the gradient of the temperature NaN, and hides the other rows.
        for logits in [logits, bad] {
            let once = with(&inputs, [("logits", logits)]);
            check(&context.gpu, &*loss, &once, Dtype::F32, &WANTED);
            for beside in ["teacher_logits", "target_probs"] {
                let Some(other) = inputs.get(beside) else { continue };
                let none = if beside == "target_probs" { 0.0 } else { -INF };
                let other = set(&set(other, at(0, 2), none), at(2, 5), none);
                let twice = with(&once, [(beside, other)]);
                check(&context.gpu, &*loss, &twice, Dtype::F32, &WANTED);
            }
        }
    }
}

/// Where two distributions are nearly the same, the gradient is small, but its terms are not.
fn near_distributions(context: &Context) {
    for classes in CLASSES {
        let teacher = testing::gaussian(18, classes);
        for off in [1e-2, 1e-4, 0.0] {
            let noise = testing::gaussian(19, classes);
            let student = teacher.iter().zip(&noise).map(|(t, n)| t + off * n).collect();
            let inputs = [
                ("logits", matrix(1, classes, student)),
                ("teacher_logits", matrix(1, classes, teacher.clone())),
                ("temperature", vector(&[3.0])),
            ];
            for divergence in ["kl", "reverse_kl", "js"] {
                let loss = parse("distillation", &json!({"divergence": divergence}));
                let inputs = with(&Arrays::new(), inputs.clone());
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &WANTED);
            }
        }
    }
}

/// Scores that are all nearly the same, far below one of them: their variance is small.
fn uniform_rows(context: &Context) {
    let mut logits = vec![-6.0; CLASSES[1]];
    logits[3] = 0.0;
    logits[700] = -6.01;
    let inputs = [("logits", matrix(1, CLASSES[1], logits)), ("temperature", vector(&[1.0]))];
    let inputs = with(&Arrays::new(), inputs);
    for name in ["entropy", "free_energy"] {
        check(&context.gpu, &*parse(name, &json!({})), &inputs, Dtype::F32, &WANTED);
    }
}

/// A power of two gives the same bits as an option and as an input.
fn one_option(context: &Context) {
    for (name, options, inputs) in calls(77, CLASSES[0]) {
        let mut fixed = options.clone();
        fixed["temperature"] = 2.0.into();
        let given = with(&inputs, [("temperature", vector(&[2.0]))]);
        let wanted = &WANTED[..2];
        let expected = outcome(&context.gpu, &*parse(name, &fixed), &inputs, Dtype::F32, wanted).0;
        let actual = outcome(&context.gpu, &*parse(name, &options), &given, Dtype::F32, wanted).0;
        for output in wanted {
            assert_eq!(bits(&actual[*output]), bits(&expected[*output]), "{name} {output}");
        }
    }
}
