//! The row losses beside cross-entropy: Brier, distillation, top-k hinge.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Operation, testing};

use crate::support::{
    Context, INF, bits, check, check_status, gaussian, indices, matrix, named, outcome, parse,
    positive, row, sample_probs, set, vector, with,
};

tests![
    classes_of_every_number,
    long_rows,
    weights_and_reductions,
    rows_that_do_not_count,
    bad_rows,
    masked_classes,
    common_offsets,
    huge_logits,
    windows,
    sure_rows,
    softmaxes_near_their_targets,
    infinite_divergences,
    students_near_their_teachers,
    ties,
    by_products_of_rows_of_weight_0,
    likelihoods,
    hinges,
    any_k,
];

const NAN: f64 = f64::NAN;
const GRADIENT: [&str; 2] = ["loss", "grad.logits"];

/// A loss and the inputs of its call.
pub type Call = (Box<dyn Operation>, Arrays);

/// Calls of every kind, with these additional options, and inputs with this many rows and classes.
fn calls(options: &Value, seed: u64, rows: usize, classes: usize) -> Vec<Call> {
    let index = crate::support::sample(seed, rows, classes);
    let probs = sample_probs(seed + 2, rows, classes);
    let mut plain = index.clone();
    plain.remove("targets");
    let teacher =
        ("teacher_logits", matrix(rows, classes, testing::gaussian(seed + 4, rows * classes)));
    let both = with(&index, [teacher.clone()]);
    let mut soft = both.clone();
    soft.remove("targets");
    let mut all = vec![
        ("brier", json!({}), index.clone()),
        ("brier", json!({"over_classes": "mean"}), probs.clone()),
        ("kl_div", json!({"temperature": 1.5}), probs.clone()),
        ("kl_div", json!({"direction": "reverse"}), probs),
        ("ce_mse_mix", json!({"alpha": 0.2}), index.clone()),
        ("generalized_cross_entropy", json!({"q": 0.3}), index.clone()),
        ("entropy", json!({"temperature": 1.5}), plain.clone()),
        ("free_energy", json!({"temperature": 0.7}), plain),
        ("distillation", json!({"temperature": 3.0}), soft),
        (
            "distillation",
            json!({"divergence": "reverse_kl", "temperature": 2.0, "alpha": 0.25}),
            both.clone(),
        ),
        (
            "distillation",
            json!({"divergence": "js", "beta": 0.3, "temperature": 1.5, "alpha": 0.4}),
            both,
        ),
    ];
    let weighted = with(&index, [("weight", vector(&positive(seed + 6, classes)))]);
    let margins = with(&index, [("class_margin", vector(&positive(seed + 7, classes)))]);
    all.push(("multiclass_hinge", json!({"margin": 0.6}), weighted));
    all.push(("multiclass_hinge", json!({"variant": "max", "ramp": 2.5}), margins));
    if classes > 1 {
        let k = classes / 2;
        all.push(("topk_hinge", json!({"k": k}), index.clone()));
        all.push(("topk_hinge", json!({"k": k, "variant": "average", "margin": 0.7}), index));
    }
    let merged = |(name, mut own, inputs): (&str, Value, Arrays)| {
        for (option, value) in options.as_object().unwrap() {
            own[option] = value.clone();
        }
        (parse(name, &own), inputs)
    };
    all.into_iter().map(merged).collect()
}

fn none() -> Value {
    json!({"reduction": "none"})
}

/// Short rows, which a lane walks alone, and long ones with tiles. Most tests here use only these two numbers of
/// classes, because each needs its own kernels.
const CLASSES: [usize; 2] = [7, 1100];

fn classes_of_every_number(context: &Context) {
    let classes = [1, 2, 64, CLASSES[0], CLASSES[1]];
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F32];
    for (classes, dtype) in classes.into_iter().zip(dtypes) {
        for (loss, inputs) in calls(&none(), classes as u64, 5, classes) {
            check(&context.gpu, &*loss, &inputs, dtype, &GRADIENT);
        }
    }
}

/// Rows that several workgroups share.
const LONG: usize = 32_769;

/// The second round begins after all workgroups of a row have finished the first one.
fn long_rows(context: &Context) {
    let (rows, classes) = (2, LONG);
    for (loss, inputs) in calls(&json!({}), classes as u64, rows, classes) {
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
    }
}

fn weights_and_reductions(context: &Context) {
    let mut row_weight = positive(3, 9);
    (row_weight[2], row_weight[3]) = (0.0, -1.5);
    let more = [("row_weight", vector(&row_weight)), ("upstream", vector(&[0.7]))];
    let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
    for (reduction, denominator) in
        [(json!("mean"), "weights"), (json!("sum"), "targets"), (json!({"over": -2.0}), "weights")]
    {
        let options = json!({"reduction": reduction, "denominator": denominator});
        for (loss, inputs) in calls(&options, 5, 9, CLASSES[0]) {
            let inputs = with(&inputs, more.clone());
            let (outputs, _) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            assert!(row(&outputs["grad.logits"], 2).iter().all(|&g| g == 0.0), "{loss:?}");
        }
    }
    for (loss, inputs) in calls(&none(), 6, 9, CLASSES[0]) {
        let inputs = with(
            &inputs,
            [("row_weight", vector(&row_weight)), ("upstream", vector(&positive(7, 9)))],
        );
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
    }
}

/// Rows that are ignored, have weight 0 or have a bad target are not read, whatever they contain.
fn rows_that_do_not_count(context: &Context) {
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 8, 6, classes) {
            if !inputs.contains_key("targets") {
                continue;
            }
            let mut values = inputs["logits"].to_f64();
            values[..3 * classes].fill(NAN);
            let inputs = with(
                &inputs,
                [
                    ("logits", matrix(6, classes, values)),
                    ("targets", indices(&[-100, 1, classes as i64, 0, 2, 1])),
                    ("row_weight", vector(&[1.0, 0.0, 1.0, 1.0, 1.0, 1.0])),
                ],
            );
            let wanted = ["loss", "grad.logits", "count", "denominator", "status"];
            let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            assert_eq!((status.bad_rows, status.bad_targets), (0, 1), "{loss:?}");
            assert_eq!(status.first_bad_target, Some((2, classes as i64)), "{loss:?}");
            assert_eq!(outputs["count"].to_i64(), [4], "{loss:?}");
        }
    }
}

fn bad_rows(context: &Context) {
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 9, 6, classes) {
            for name in ["logits", "teacher_logits", "target_probs"] {
                let Some(array) = inputs.get(name) else { continue };
                let mut values = array.to_f64();
                values[classes + classes / 2] = NAN;
                values[3 * classes + classes - 1] = INF;
                values[4 * classes..5 * classes].fill(-INF);
                let spoilt = with(&inputs, [(name, matrix(6, classes, values))]);
                let (outputs, status) = check(&context.gpu, &*loss, &spoilt, Dtype::F32, &GRADIENT);
                assert_eq!(status.bad_rows, 3, "{loss:?} {name}");
                let plain = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
                let same =
                    |at: usize| row(&outputs["grad.logits"], at) == row(&plain["grad.logits"], at);
                assert!([0, 2, 5].into_iter().all(same), "{loss:?} {name}");
                check_status(&context.gpu, &*loss, &spoilt, Dtype::F32, &["loss"]);
            }
        }
    }
}

/// -inf in a quarter of the student's row, of the teacher's row, of both, and in whole tiles at the start.
fn masked_classes(context: &Context) {
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 10, 8, classes) {
            let masked = |seed, offset: usize| {
                let mut values = testing::masked(seed, 8 * classes);
                for (at, row) in values.chunks_mut(classes).enumerate() {
                    row[(at + offset) % classes] = 0.5;
                    row[..classes * (at % 2) * 3 / 4].fill(-INF);
                    row[classes - 1] = 0.25;
                }
                matrix(8, classes, values)
            };
            let once = with(&inputs, [("logits", masked(11, 0))]);
            check(&context.gpu, &*loss, &once, Dtype::F32, &GRADIENT);
            if inputs.contains_key("teacher_logits") {
                let twice = with(&once, [("teacher_logits", masked(12, 1))]);
                check(&context.gpu, &*loss, &twice, Dtype::F32, &GRADIENT);
                check_status(&context.gpu, &*loss, &twice, Dtype::F32, &GRADIENT);
                let same = with(&once, [("teacher_logits", once["logits"].clone())]);
                check(&context.gpu, &*loss, &same, Dtype::F32, &GRADIENT);
            }
        }
    }
}

/// A common offset changes no bit of loss and gradient, even at temperatures that are not powers of two.
fn common_offsets(context: &Context) {
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 13, 4, classes) {
            let coarse = |name: &str| {
                inputs[name].to_f64().iter().map(|z| (z * 16.0).round() / 16.0).collect::<Vec<_>>()
            };
            let moved = |by: f64| {
                let mut moved = inputs.clone();
                for name in ["logits", "teacher_logits"] {
                    if inputs.contains_key(name) {
                        let values = coarse(name).iter().map(|z| z + by).collect();
                        moved.insert(name.to_owned(), matrix(4, classes, values));
                    }
                }
                moved
            };
            // The free energy is the only loss here that moves with the scores.
            let moves = loss.about().name == "free_energy";
            let kept = [if moves { "entropy" } else { "loss" }, "grad.logits"];
            let expected = check(&context.gpu, &*loss, &moved(0.0), Dtype::F32, &kept).0;
            for offset in [1e4, -1e6] {
                let actual = check(&context.gpu, &*loss, &moved(offset), Dtype::F32, &kept).0;
                for name in kept {
                    assert_eq!(
                        bits(&actual[name]),
                        bits(&expected[name]),
                        "{name} at {offset}: {loss:?}"
                    );
                }
            }
        }
    }
}

fn huge_logits(context: &Context) {
    for huge in [1e8, 1e30, 1.6e38] {
        for (loss, inputs) in calls(&none(), 14, 4, 3) {
            let logits =
                vec![huge, 0.0, 1.0, 0.0, -huge, 1.0, huge, -huge, huge, -huge, -huge, -huge];
            let teacher = vec![1.0, huge, 0.0, huge, -huge, huge, 0.5, 1.0, 2.0, 0.0, 1.0, -huge];
            let mut inputs = with(&inputs, [("logits", matrix(4, 3, logits))]);
            if inputs.contains_key("teacher_logits") {
                inputs.insert("teacher_logits".to_owned(), matrix(4, 3, teacher));
            }
            let (_, status) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
            assert_eq!(status.bad_rows, 0, "{loss:?} {huge}");
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        }
    }
}

/// Bindings too small for all rows, dispatches too short for them, rows of several workgroups: the same bits.
fn windows(context: &Context) {
    let narrow = context.with(|profile| profile.binding_bytes = 32 << 10);
    let short = context.with(|profile| profile.dispatch_elements = 2000);
    let split = context.with(|profile| profile.busy_workgroups = u32::MAX);
    let segment = context.gpu.profile().segment as usize;
    for (gpu, rows, classes) in
        [(narrow, 40, CLASSES[1]), (short, 40, CLASSES[1]), (split, 2, 2 * segment + 77)]
    {
        for (loss, inputs) in calls(&none(), 16, rows, classes) {
            let expected = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
            let actual = outcome(&gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
            for name in GRADIENT {
                assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name}: {loss:?}");
            }
        }
    }
}

/// Where the softmax is sure and right, loss and gradient keep their relative accuracy; where it is sure and wrong, the
/// power of a small probability does.
fn sure_rows(context: &Context) {
    for classes in CLASSES {
        for ahead in [0.5, 5.0, 12.0, 20.0, 35.0, -30.0, -60.0, -900.0] {
            let mut values = testing::gaussian(17, 2 * classes);
            (values[0], values[2 * classes - 1]) = (ahead, ahead);
            let inputs = named([
                ("logits", matrix(2, classes, values)),
                ("targets", indices(&[0, classes as i64 - 1])),
            ]);
            check(&context.gpu, &*parse("brier", &none()), &inputs, Dtype::F32, &GRADIENT);
            let mut plain = inputs.clone();
            plain.remove("targets");
            let names = ["loss", "grad.logits", "energy", "entropy"];
            check(&context.gpu, &*parse("entropy", &none()), &plain, Dtype::F32, &names[..2]);
            check(&context.gpu, &*parse("free_energy", &none()), &plain, Dtype::F32, &names);
            for alpha in [0.0, 0.3] {
                let learned = with(&inputs, [("alpha", vector(&[alpha]))]);
                let wanted = ["loss", "grad.logits", "grad.alpha", "saturation"];
                check(&context.gpu, &*parse("ce_mse_mix", &none()), &learned, Dtype::F32, &wanted);
            }
            for q in [0.01, 0.7, 1.0] {
                let options = json!({"reduction": "none", "q": q});
                let loss = parse("generalized_cross_entropy", &options);
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
            }
        }
    }
}

/// A softmax that is nearly, and exactly, its target distribution.
fn softmaxes_near_their_targets(context: &Context) {
    for classes in CLASSES {
        let target = testing::gaussian(24, 3 * classes);
        let mut q = Vec::new();
        for row in target.chunks(classes) {
            let sum: f64 = row.iter().map(|z| z.exp()).sum();
            q.extend(row.iter().map(|z| z.exp() / sum));
        }
        for off in [1.0, 1e-2, 1e-4, 0.0] {
            let noise = testing::gaussian(25, 3 * classes);
            let z = target.iter().zip(&noise).map(|(z, n)| 3.0 * (z + off * n)).collect();
            let inputs = named([
                ("logits", matrix(3, classes, z)),
                ("target_probs", matrix(3, classes, q.clone())),
            ]);
            for direction in ["forward", "reverse"] {
                let options = json!({"direction": direction, "temperature": 3.0});
                check(&context.gpu, &*parse("kl_div", &options), &inputs, Dtype::F32, &GRADIENT);
            }
        }
    }
}

/// Classes that a target distribution leaves out, and classes at -inf: KL(q‖p) of some rows is infinite, KL(p‖q) of
/// others.
fn infinite_divergences(context: &Context) {
    for classes in CLASSES {
        let mut inputs = sample_probs(26, 6, classes);
        let (mut z, mut q) = (inputs["logits"].to_f64(), inputs["target_probs"].to_f64());
        q[2] = 0.0;
        z[classes + 1] = -INF;
        (z[2 * classes], q[2 * classes]) = (-INF, 0.0);
        (q[3 * classes], q[4 * classes + 2]) = (-0.5, f64::NAN);
        q[5 * classes + 1] = 1e-37;
        inputs = with(
            &inputs,
            [("logits", matrix(6, classes, z)), ("target_probs", matrix(6, classes, q))],
        );
        for (direction, bad, infinite) in [("forward", 2, 1), ("reverse", 3, 0)] {
            let options = json!({"direction": direction, "reduction": "none"});
            let loss = parse("kl_div", &options);
            let (outputs, status) = check(
                &context.gpu,
                &*loss,
                &inputs,
                Dtype::F32,
                &["loss", "grad.logits", "status"],
            );
            assert_eq!(status.bad_rows, bad, "{direction}");
            assert_eq!(outputs["loss"].to_f64()[infinite], INF, "{direction}");
        }
    }
}

fn students_near_their_teachers(context: &Context) {
    for classes in CLASSES {
        let teacher = testing::gaussian(18, 3 * classes);
        for off in [1.0, 1e-2, 1e-4, 0.0] {
            let noise = testing::gaussian(19, 3 * classes);
            let student = teacher.iter().zip(&noise).map(|(t, n)| t + off * n).collect();
            let inputs = named([
                ("logits", matrix(3, classes, student)),
                ("teacher_logits", matrix(3, classes, teacher.clone())),
            ]);
            for divergence in ["kl", "reverse_kl", "js"] {
                for temperature in [1.0, 3.0] {
                    let options = json!({"divergence": divergence, "temperature": temperature});
                    let loss = parse("distillation", &options);
                    check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
                }
            }
        }
    }
}

/// Equal scores, and scores exactly as far ahead as the target: the lowest index comes first.
fn ties(context: &Context) {
    for classes in [CLASSES[0], CLASSES[1], LONG] {
        let coarse = testing::gaussian(20, 4 * classes).iter().map(|z| z.round()).collect();
        let targets = testing::targets(21, 4, classes as u64);
        let inputs =
            named([("logits", matrix(4, classes, coarse)), ("targets", indices(&targets))]);
        for k in [1, 2, 3, classes / 3, classes - 1] {
            for variant in ["kth", "average"] {
                let options = json!({"k": k, "variant": variant, "reduction": "none"});
                let loss = parse("topk_hinge", &options);
                let (outputs, _) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
                let places = |array: &Array| -> Vec<bool> {
                    array.to_f64().iter().map(|&g| g != 0.0).collect()
                };
                let truth = surprisal::cpu::run(&*loss, &inputs, &GRADIENT).unwrap();
                assert_eq!(
                    places(&outputs["grad.logits"]),
                    places(&truth["grad.logits"]),
                    "{loss:?}"
                );
            }
        }
    }
}

/// By-products of rows of weight 0 are computed, NaN where the scores are; the status does not count these rows.
fn by_products_of_rows_of_weight_0(context: &Context) {
    for classes in CLASSES {
        let mut z = testing::gaussian(30, 4 * classes);
        (z[classes + 1], z[3 * classes]) = (NAN, NAN);
        let inputs = named([
            ("logits", matrix(4, classes, z)),
            ("row_weight", vector(&[0.0, 0.0, 1.0, 1.0])),
        ]);
        let wanted = ["loss", "grad.logits", "energy", "entropy", "status"];
        let loss = parse("free_energy", &none());
        let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!(status.bad_rows, 1);
        assert_eq!(outputs["loss"].to_f64()[..2], [0.0; 2]);
        let energy = outputs["energy"].to_f64();
        assert!(energy[0] != 0.0 && energy[1].is_nan(), "{energy:?}");
    }
}

/// Log-probabilities, and probabilities with a floor, where only the target's number is read.
fn likelihoods(context: &Context) {
    let wanted = ["loss", "grad.log_probs", "denominator", "count", "status"];
    for (classes, dtype) in [(CLASSES[0], Dtype::Bf16), (CLASSES[1], Dtype::F32)] {
        let rows = 8;
        let targets = [0, 1, 2, 3, -100, classes as i64, 4, classes as i64 - 1];
        let mut weight = positive(31, classes);
        weight[4] = 0.0;
        for probabilities in [false, true] {
            let sign = if probabilities { 0.02 } else { -1.0 };
            let mut x: Vec<f64> =
                positive(32, rows * classes).iter().map(|x| (sign * x).min(1.0)).collect();
            (x[classes + 1], x[2 * classes + 2], x[3 * classes + 3]) = (-INF, NAN, INF);
            // A probability below eps, and a number that is not the target's.
            (x[0], x[classes + 2]) = (0.004, NAN);
            x[8 * classes - 1] = 1.0 - 1e-6;
            let inputs = named([
                ("log_probs", matrix(rows, classes, x)),
                ("targets", indices(&targets)),
                ("weight", vector(&weight)),
                ("row_weight", vector(&positive(33, rows))),
            ]);
            for denominator in ["targets", "weights"] {
                let options = json!({"probabilities": probabilities, "eps": 0.01,
                    "reduction": "none", "denominator": denominator});
                let loss = parse("nll", &options);
                let (_, status) = check(&context.gpu, &*loss, &inputs, dtype, &wanted);
                assert_eq!((status.bad_rows, status.bad_targets), (2, 1), "{loss:?}");
            }
            let good = with(&inputs, [("targets", indices(&[0, 2, 3, 4, -100, 1, 4, 6]))]);
            let good = with(&good, [("log_probs", set(&good["log_probs"], classes + 2, 0.5))]);
            let loss = parse("nll", &json!({"probabilities": probabilities}));
            check(&context.gpu, &*loss, &good, dtype, &wanted);
        }
    }
}

/// Squared and capped hinges; the share of active rows; targets at -inf. (These kernels are those of other tests.)
fn hinges(context: &Context) {
    let wanted = ["loss", "grad.logits", "active", "status"];
    for classes in CLASSES {
        let targets = [0, 1, -100, 3, classes as i64 - 1];
        let mut z = testing::outliers(27, 5 * classes);
        z[classes + 1] = -INF;
        z[3 * classes + 3] += 30.0;
        let mut weight = positive(28, classes);
        weight[classes - 1] = 0.0;
        let plain = named([("logits", matrix(5, classes, z)), ("targets", indices(&targets))]);
        let weighted = with(&plain, [("weight", vector(&weight))]);
        let margins = with(&plain, [("class_margin", vector(&positive(29, classes)))]);
        for (variant, inputs) in [("sum", weighted), ("max", margins)] {
            for (p, ramp, bad) in [(1.0, None, 0), (2.0, None, 1), (2.0, Some(1.25), 0)] {
                let options =
                    json!({"variant": variant, "p": p, "ramp": ramp, "reduction": "none"});
                let loss = parse("multiclass_hinge", &options);
                let (_, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
                assert_eq!(status.bad_rows, bad, "{loss:?}");
            }
        }
    }
}

fn any_k(context: &Context) {
    for (classes, dtype) in [(7, Dtype::F32), (260, Dtype::F16), (1000, Dtype::Bf16)] {
        let inputs = named([
            ("logits", gaussian(22, 3, classes)),
            ("targets", indices(&testing::targets(23, 3, classes as u64))),
        ]);
        for k in (1..classes).step_by(classes / 6) {
            for variant in ["kth", "average"] {
                let options = json!({"k": k, "variant": variant, "reduction": "none"});
                check(&context.gpu, &*parse("topk_hinge", &options), &inputs, dtype, &GRADIENT);
            }
        }
    }
}
