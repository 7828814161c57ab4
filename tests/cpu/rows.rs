//! Row losses: their cases, their gradients, their edges.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Brier, CeMseMix, CrossEntropy, Denominator, Direction, Distillation, Divergence,
    Empty, Entropy, Error, FreeEnergy, GeneralizedCrossEntropy, HierarchicalCrossEntropy,
    HingeVariant, IgnoreIndex, KlDiv, MulticlassHinge, Nll, Operation, Reduction, Status,
    TopkHinge, TopkVariant, Tree, cases, cpu, operations, testing,
};

use crate::{
    EXACT, INF, assert_case, assert_close, assert_differences, indices, logits, named, run,
    run_int, vector, vectors,
};

const NAN: f64 = f64::NAN;

#[test]
fn reference_cases() {
    for (name, count) in [
        ("hierarchical_cross_entropy", 4),
        ("sampled_softmax", 16),
        ("nll", 6),
        ("brier", 8),
        ("ce_mse_mix", 6),
        ("generalized_cross_entropy", 6),
        ("kl_div", 6),
        ("entropy", 6),
        ("free_energy", 6),
        ("distillation", 18),
        ("multiclass_hinge", 21),
        ("topk_hinge", 8),
    ] {
        let cases = cases::load(&vectors().join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(cases.len(), count);
        cases.iter().for_each(assert_case);
    }
}

fn parse(name: &str, options: &Value) -> Box<dyn Operation> {
    (operations::find(name).unwrap().parse)(options).unwrap()
}

/// Four rows, of which the last is ignored, with every kind of weight.
fn weighted(seed: u64, classes: usize) -> Arrays {
    let mut targets = testing::targets(seed, 4, classes as u64);
    targets[3] = -100;
    named([
        ("logits", logits(4, &testing::gaussian(seed, 4 * classes))),
        ("targets", indices(&targets)),
        ("row_weight", vector(&[0.5, 2.0, 1.0, 3.0])),
        ("upstream", vector(&[1.5])),
    ])
}

fn and(inputs: &Arrays, name: &str, array: Array) -> Arrays {
    let mut inputs = inputs.clone();
    inputs.insert(name.to_owned(), array);
    inputs
}

fn without(inputs: &Arrays, name: &str) -> Arrays {
    let mut inputs = inputs.clone();
    inputs.remove(name);
    inputs
}

const REDUCTIONS: [&str; 4] = ["\"none\"", "\"sum\"", "\"mean\"", "{\"over\": 2.5}"];

/// Finite differences, with every reduction and with denominators that count weights.
fn assert_gradients(name: &str, options: &Value, inputs: &Arrays) {
    for reduction in REDUCTIONS {
        for denominator in ["targets", "weights"] {
            let mut options = options.clone();
            options["reduction"] = serde_json::from_str(reduction).unwrap();
            options["denominator"] = denominator.into();
            assert_differences(&*parse(name, &options), inputs, "logits");
        }
    }
}

/// Finite differences of the temperature as an input.
fn temperature_gradients(probs: &Arrays, plain: &Arrays, [hard, soft]: [&Arrays; 2]) {
    let mut calls = vec![("entropy", json!({}), plain), ("free_energy", json!({}), plain)];
    for direction in ["forward", "reverse"] {
        calls.push(("kl_div", json!({"direction": direction}), probs));
    }
    for divergence in ["kl", "reverse_kl", "js"] {
        let options = json!({"divergence": divergence, "alpha": 0.3, "beta": 0.2});
        calls.push(("distillation", options.clone(), hard));
        calls.push(("distillation", options, soft));
    }
    for (name, options, inputs) in calls {
        for (reduction, temperature) in [("none", 1.0), ("sum", 0.4), ("mean", 3.0)] {
            let mut options = options.clone();
            options["reduction"] = reduction.into();
            let learned = and(inputs, "temperature", vector(&[temperature]));
            let loss = parse(name, &options);
            assert_differences(&*loss, &learned, "temperature");
            assert_differences(&*loss, &learned, "logits");
            // The input replaces the option.
            options["temperature"] = temperature.into();
            let fixed = parse(name, &options);
            for output in ["loss", "grad.logits"] {
                assert_eq!(run(&*fixed, inputs, output), run(&*loss, &learned, output), "{name}");
            }
        }
    }
}

/// The gradients of a student's head beside a teacher's of another depth, and refusals that name the teacher's tensors.
#[test]
fn distillation_between_two_heads() {
    let matrix = |seed, rows: u64, columns: u64| {
        Array::float(&[rows, columns], testing::gaussian(seed, (rows * columns) as usize))
    };
    let mut targets = testing::targets(5, 4, 5);
    targets[1] = -100;
    let inputs = named([
        ("hidden", matrix(1, 4, 3)),
        ("weight", matrix(2, 5, 3)),
        ("bias", vector(&testing::gaussian(3, 5))),
        ("teacher_hidden", matrix(4, 4, 2)),
        ("teacher_weight", matrix(5, 5, 2)),
        ("teacher_bias", vector(&testing::gaussian(6, 5))),
        ("targets", indices(&targets)),
        ("row_weight", vector(&[0.5, 2.0, -1.0, 3.0])),
        ("temperature", vector(&[1.5])),
    ]);
    for divergence in ["kl", "reverse_kl", "js"] {
        let options = json!({"divergence": divergence, "alpha": 0.3, "beta": 0.2});
        let loss = parse("linear_distillation", &options);
        for name in ["hidden", "weight", "bias", "temperature"] {
            assert_differences(&*loss, &inputs, name);
        }
    }
    let loss = parse("linear_distillation", &json!({}));
    let refused = |name: &str, array: Array| {
        let error = cpu::run(&*loss, &and(&inputs, name, array), &["loss"]).unwrap_err();
        let named = format!("`{name}`");
        assert!(error.to_string().contains(&named), "{error}");
    };
    refused("teacher_weight", matrix(7, 5, 4));
    refused("teacher_weight", matrix(7, 6, 2));
    refused("teacher_hidden", matrix(7, 3, 2));
    refused("teacher_bias", vector(&[0.0; 4]));
    let without = cpu::run(&*loss, &without(&inputs, "teacher_hidden"), &["loss"]).unwrap_err();
    assert!(without.to_string().contains("teacher_hidden"), "{without}");
}

/// A temperature that is none makes every row a bad one, and its gradient needs it as an input.
#[test]
fn temperatures_that_are_none() {
    let inputs = weighted(12, 5);
    let probs = and(&without(&inputs, "targets"), "target_probs", logits(4, &[0.2; 20]));
    let plain = without(&inputs, "targets");
    let teacher = and(&plain, "teacher_logits", logits(4, &testing::gaussian(13, 20)));
    let calls = [
        ("entropy", &plain),
        ("free_energy", &plain),
        ("kl_div", &probs),
        ("distillation", &teacher),
    ];
    for (name, inputs) in calls {
        let loss = parse(name, &json!({}));
        let refused = cpu::run(&*loss, inputs, &["grad.temperature"]).unwrap_err();
        assert!(matches!(refused, Error::MissingInput { .. }), "{refused}");
        for temperature in [0.0, -1.0, NAN, INF, 1e-39, 1.7e38] {
            let inputs = and(inputs, "temperature", vector(&[temperature]));
            let outputs =
                cpu::run(&*loss, &inputs, &["loss", "grad.temperature", "status"]).unwrap();
            let number = |name: &str| outputs[name].to_f64()[0];
            assert!(number("loss").is_nan() && number("grad.temperature").is_nan(), "{name}");
            assert!(Status::from_array(&outputs["status"]).bad_rows >= 3, "{name}");
        }
    }
}

#[test]
fn gradients() {
    for classes in [2, 7] {
        let inputs = weighted(1, classes);
        let q: Vec<f64> = testing::gaussian(2, 4 * classes).iter().map(|x| x * x).collect();
        let probs = and(&without(&inputs, "targets"), "target_probs", logits(4, &q));
        for over_classes in ["sum", "mean"] {
            let options = json!({"over_classes": over_classes});
            assert_gradients("brier", &options, &inputs);
            assert_gradients("brier", &options, &probs);
        }
        for alpha in [0.0, 0.3, 1.0] {
            assert_gradients("ce_mse_mix", &json!({"alpha": alpha}), &inputs);
        }
        let learned = and(&inputs, "alpha", vector(&[0.3]));
        for reduction in ["none", "sum", "mean"] {
            let loss = parse("ce_mse_mix", &json!({"reduction": reduction}));
            assert_differences(&*loss, &learned, "alpha");
        }
        for q in [0.05, 0.7, 1.0] {
            assert_gradients("generalized_cross_entropy", &json!({"q": q}), &inputs);
        }
        for direction in ["forward", "reverse"] {
            for temperature in [1.0, 0.4, 3.0] {
                let options = json!({"direction": direction, "temperature": temperature});
                assert_gradients("kl_div", &options, &probs);
            }
        }
        let plain = without(&inputs, "targets");
        for temperature in [1.0, 0.4, 3.0] {
            assert_gradients("entropy", &json!({"temperature": temperature}), &plain);
            assert_gradients("free_energy", &json!({"temperature": temperature}), &plain);
        }
        let teacher = logits(4, &testing::gaussian(3, 4 * classes));
        let hard = and(&inputs, "teacher_logits", teacher);
        let soft = without(&hard, "targets");
        for divergence in ["kl", "reverse_kl", "js"] {
            for (temperature, alpha) in [(1.0, 0.0), (2.5, 0.3), (0.5, 1.0)] {
                let options = json!({"divergence": divergence, "temperature": temperature,
                    "alpha": alpha, "beta": 0.2});
                assert_gradients("distillation", &options, &hard);
                assert_gradients("distillation", &options, &soft);
            }
        }
        temperature_gradients(&probs, &plain, [&hard, &soft]);
        let numbers = |seed| -> Vec<f64> {
            testing::gaussian(seed, classes).iter().map(|x| x.abs() + 0.2).collect()
        };
        let of_classes =
            and(&and(&inputs, "weight", vector(&numbers(4))), "class_margin", vector(&numbers(5)));
        for variant in ["sum", "max"] {
            for (p, ramp) in [(1, None), (2, None), (1, Some(0.7)), (2, Some(0.9))] {
                let options = json!({"variant": variant, "p": p, "ramp": ramp, "margin": 0.6});
                assert_gradients("multiclass_hinge", &options, &inputs);
                assert_gradients("multiclass_hinge", &options, &of_classes);
            }
        }
        for variant in ["kth", "average"] {
            for k in 1..classes.min(5) {
                let options = json!({"variant": variant, "k": k, "margin": 0.3});
                assert_gradients("topk_hinge", &options, &inputs);
            }
        }
    }
}

/// Each loss without index targets, with the inputs that it needs, and these logits.
fn unlabelled(logits: &Array) -> Vec<(Box<dyn Operation>, Arrays)> {
    let squares: Vec<f64> =
        testing::gaussian(10, logits.len()).iter().map(|x| x * x + 0.1).collect();
    let probs = Array::float(&logits.shape, squares);
    let distribution = named([("logits", logits.clone()), ("target_probs", probs)]);
    let divergences = ["forward", "reverse"].map(|direction| {
        let options = json!({"reduction": "none", "direction": direction});
        (parse("kl_div", &options), distribution.clone())
    });
    let plain = named([("logits", logits.clone())]);
    let of_scores = ["entropy", "free_energy"]
        .map(|name| (parse(name, &json!({"reduction": "none"})), plain.clone()));
    divergences.into_iter().chain(of_scores).collect()
}

/// Each loss with the inputs that it needs, with these logits and targets.
fn every(logits: &Array, targets: &[i64]) -> Vec<(Box<dyn Operation>, Arrays)> {
    let none = json!({"reduction": "none"});
    let index = named([("logits", logits.clone()), ("targets", indices(targets))]);
    let mut calls = vec![
        (parse("brier", &none), index.clone()),
        (parse("ce_mse_mix", &none), index.clone()),
        (parse("generalized_cross_entropy", &none), index.clone()),
        (parse("multiclass_hinge", &none), index.clone()),
        (parse("multiclass_hinge", &json!({"reduction": "none", "variant": "max"})), index.clone()),
        (parse("topk_hinge", &none), index.clone()),
        (parse("topk_hinge", &json!({"reduction": "none", "variant": "average"})), index.clone()),
    ];
    let gaussian = testing::gaussian(9, logits.len());
    let teacher = and(&index, "teacher_logits", Array::float(&logits.shape, gaussian));
    for divergence in ["kl", "reverse_kl", "js"] {
        let options = json!({"reduction": "none", "divergence": divergence, "alpha": 0.5});
        calls.push((parse("distillation", &options), teacher.clone()));
    }
    calls
}

#[test]
fn rows_that_do_not_count() {
    let z = logits(4, &[1.0, NAN, 3.0, 1.0, 2.0, 0.5, NAN, INF, 0.0, 1.0, 0.0, 2.0]);
    for (loss, inputs) in every(&z, &[-100, 1, 7, 0]) {
        let what = format!("{loss:?}");
        let losses = run(&*loss, &inputs, "loss");
        let gradient = run(&*loss, &inputs, "grad.logits");
        assert_eq!(losses[0], 0.0, "ignored: {what}");
        assert!(losses[2].is_nan(), "a bad target: {what}");
        assert!(losses[1].is_finite() && losses[3].is_finite(), "{what}");
        assert!([0, 1, 2, 6, 7, 8].iter().all(|&at| gradient[at] == 0.0), "{what}");
        assert_eq!(run_int(&*loss, &inputs, "count"), [2], "{what}");
        assert_eq!(run(&*loss, &inputs, "denominator"), [2.0], "{what}");
        let status = &cpu::run(&*loss, &inputs, &["status"]).unwrap()["status"];
        let status = Status::from_array(status);
        assert_eq!((status.bad_targets, status.first_bad_target), (1, Some((2, 7))), "{what}");
        assert_eq!(status.bad_rows, 0, "{what}");
    }
}

#[test]
fn rows_that_weigh_nothing() {
    let z = logits(2, &[1.0, NAN, 3.0, 1.0, 2.0, 0.5]);
    for (loss, inputs) in every(&z, &[0, 1]).into_iter().chain(unlabelled(&z)) {
        let inputs = and(&inputs, "row_weight", vector(&[0.0, 2.0]));
        let losses = run(&*loss, &inputs, "loss");
        assert!(losses[0] == 0.0 && losses[1].is_finite(), "{loss:?}: {losses:?}");
        assert_eq!(run(&*loss, &inputs, "grad.logits")[..3], [0.0; 3], "{loss:?}");
        assert_eq!(run_int(&*loss, &inputs, "count"), [2], "{loss:?}");
    }
}

/// A row whose loss is NaN because of a weight or its target distribution has no loss; the status counts it once.
#[test]
fn a_nan_beside_the_logits_is_counted() {
    let found = |loss: &dyn Operation, inputs: &Arrays| {
        Status::from_array(&cpu::run(loss, inputs, &["status"]).unwrap()["status"])
    };
    let rows = [("logits", logits(3, &[1.0, 2.0, 3.0, 1.0, 0.5, NAN]))];
    let with = |more: &[(&str, Array)]| {
        let all = rows.iter().chain(more);
        all.map(|(name, array)| ((*name).to_owned(), array.clone())).collect::<Arrays>()
    };
    let targets = ("targets", indices(&[0, 1, 1]));
    let weights = ("row_weight", vector(&[NAN, 1.0, NAN]));
    let losses: [&dyn Operation; 3] =
        [&CrossEntropy::default(), &Brier::default(), &TopkHinge::default()];
    for loss in losses {
        let status = found(loss, &with(&[targets.clone(), weights.clone()]));
        assert_eq!((status.bad_rows, status.bad_targets), (2, 0), "{loss:?}");
    }
    let loss = CrossEntropy::default();
    let probs = logits(3, &[0.5, 0.5, NAN, 0.5, 1.0, 0.0]);
    assert_eq!(found(&loss, &with(&[("target_probs", probs)])).bad_rows, 2);
    let of_class = ("weight", vector(&[NAN, 1.0]));
    assert_eq!(found(&loss, &with(&[targets, of_class.clone()])).bad_rows, 2);
    let bad = found(&loss, &with(&[("targets", indices(&[0, 7, -1])), of_class]));
    assert_eq!((bad.bad_rows, bad.bad_targets), (1, 2));
}

#[test]
fn bad_rows() {
    for bad in [[NAN, 0.0, 1.0], [INF, 0.0, 1.0], [0.0, INF, 1.0], [-INF; 3]] {
        let z = logits(2, &[&bad[..], &[0.5, 1.0, 2.0]].concat());
        let mut calls = every(&z, &[0, 1]);
        calls.extend(unlabelled(&z));
        // A bad row of the teacher is a bad row too.
        for divergence in [Divergence::Kl, Divergence::ReverseKl, Divergence::Js] {
            let loss = Distillation::default().reduction(Reduction::None).divergence(divergence);
            let student = logits(2, &[0.0, 1.0, 2.0, 2.0, 1.0, 0.0]);
            let inputs = named([("logits", student), ("teacher_logits", z.clone())]);
            calls.push((Box::new(loss), inputs));
        }
        for (loss, inputs) in calls {
            let losses = run(&*loss, &inputs, "loss");
            assert!(losses[0].is_nan() && losses[1].is_finite(), "{loss:?} {bad:?}: {losses:?}");
            let gradient = run(&*loss, &inputs, "grad.logits");
            assert!(gradient[..3].iter().all(|g| g.is_nan()), "{loss:?} {bad:?}");
            assert!(gradient[3..].iter().all(|g| g.is_finite()), "{loss:?} {bad:?}");
            let status = &cpu::run(&*loss, &inputs, &["status"]).unwrap()["status"];
            assert_eq!(Status::from_array(status).bad_rows, 1, "{loss:?} {bad:?}");
        }
    }
    let q = named([("logits", logits(1, &[0.0, 1.0])), ("target_probs", logits(1, &[NAN, 0.5]))]);
    assert!(run(&Brier::default(), &q, "loss")[0].is_nan());
    let status = &cpu::run(&Brier::default(), &q, &["status"]).unwrap()["status"];
    assert_eq!(Status::from_array(status).bad_rows, 1);
}

#[test]
fn empty_means() {
    let z = Array::float(&[0, 3], vec![]);
    let ignored = logits(1, &[0.0, NAN, 1.0]);
    for (z, targets) in [(z, &[][..]), (ignored, &[-100])] {
        for (name, more) in [
            ("brier", false),
            ("ce_mse_mix", false),
            ("generalized_cross_entropy", false),
            ("multiclass_hinge", false),
            ("topk_hinge", false),
            ("distillation", true),
        ] {
            let mut inputs = named([("logits", z.clone()), ("targets", indices(targets))]);
            if more {
                inputs.insert("teacher_logits".to_owned(), z.clone());
            }
            assert!(run(&*parse(name, &json!({})), &inputs, "loss")[0].is_nan(), "{name}");
            let zero = parse(name, &json!({"empty": "zero"}));
            assert_eq!(run(&*zero, &inputs, "loss"), [0.0], "{name}");
            assert!(run(&*zero, &inputs, "grad.logits").iter().all(|&g| g == 0.0), "{name}");
        }
    }
    let loss = Brier::default().empty(Empty::Zero);
    let bad = named([("logits", logits(1, &[0.0, 1.0])), ("targets", indices(&[2]))]);
    assert!(run(&loss, &bad, "loss")[0].is_nan(), "NaN is not laundered");
}

#[test]
fn common_offsets_do_not_matter() {
    let z: Vec<f64> = testing::gaussian(5, 12).iter().map(|z| (z * 64.0).round() / 64.0).collect();
    let moved: Vec<f64> = z.iter().map(|z| z + 1_048_576.0).collect();
    let all = |z: &[f64]| {
        let mut calls = every(&logits(3, z), &[0, 3, 1]);
        calls.extend(unlabelled(&logits(3, z)));
        calls
    };
    let pairs = all(&z).into_iter().zip(all(&moved));
    for ((loss, here), (_, there)) in pairs {
        // The free energy is the only loss here that moves with the scores.
        let moves = loss.about().name == "free_energy";
        for name in [if moves { "entropy" } else { "loss" }, "grad.logits"] {
            assert_eq!(run(&*loss, &here, name), run(&*loss, &there, name), "{loss:?}");
        }
    }
}

// --- a tree of softmaxes ---

/// Nodes 1 and 5 below the root, 2 to 4 below 1, one child 6 of 5, and 7 and 8 below that; the nodes in any order.
const PARENT: [i64; 8] = [0, 1, 1, 1, 0, 5, 6, 6];

fn tree_of(logits: Array, targets: &[i64]) -> Arrays {
    named([("logits", logits), ("parent", indices(&PARENT)), ("targets", indices(targets))])
}

#[test]
fn gradients_along_a_path() {
    let mut inputs = weighted(13, PARENT.len());
    inputs.insert("parent".to_owned(), indices(&PARENT));
    inputs.insert("targets".to_owned(), indices(&[2, 8, 4, -100]));
    assert_gradients("hierarchical_cross_entropy", &json!({}), &inputs);
}

#[test]
fn a_leaf_has_the_product_of_the_probabilities_on_its_path() {
    let z = testing::gaussian(14, 8);
    let tree = Tree::new(&PARENT).unwrap();
    let probs = tree.leaf_probs(&z).unwrap();
    assert_close(&[probs.iter().sum()], &[1.0], EXACT, "sum");
    let leaves: Vec<i64> = tree.leaves().map(i64::from).collect();
    assert_eq!(leaves, [2, 3, 4, 7, 8]);
    let rows = logits(5, &z.repeat(5));
    let loss = HierarchicalCrossEntropy::default().reduction(Reduction::None);
    let losses = run(&loss, &tree_of(rows, &leaves), "loss");
    let expected: Vec<f64> = probs.iter().map(|p| -p.ln()).collect();
    assert_close(&losses, &expected, EXACT, "losses");
    // A softmax without a value leaves none to the leaves below it.
    let mut bad = z.clone();
    bad[6] = NAN;
    let bad = tree.leaf_probs(&bad).unwrap();
    assert!(bad[..3] == probs[..3] && bad[3].is_nan() && bad[4].is_nan());
    assert!(matches!(tree.leaf_probs(&z[1..]), Err(Error::WrongShape { .. })));
}

#[test]
fn one_softmax_is_cross_entropy() {
    let z = logits(3, &testing::gaussian(15, 12));
    let flat = named([
        ("logits", z.clone()),
        ("parent", indices(&[0; 4])),
        ("targets", indices(&[1, 4, 3])),
    ]);
    let plain = named([("logits", z), ("targets", indices(&[0, 3, 2]))]);
    for name in ["loss", "grad.logits"] {
        let tree = run(&HierarchicalCrossEntropy::default(), &flat, name);
        assert_close(&tree, &run(&CrossEntropy::default(), &plain, name), EXACT, name);
    }
}

#[test]
fn edges_of_a_tree() {
    let loss = HierarchicalCrossEntropy::default().reduction(Reduction::None);
    let call = |z: &[f64], target: i64| {
        let inputs = tree_of(logits(1, z), &[target]);
        let outputs = cpu::run(&loss, &inputs, &["loss", "grad.logits", "status"]).unwrap();
        let status = Status::from_array(&outputs["status"]);
        let found = (status.bad_targets, status.bad_rows);
        (outputs["loss"].to_f64()[0], outputs["grad.logits"].to_f64(), found)
    };
    let zeros = [0.0; 8];
    // Other columns are not read; the single child adds nothing.
    let (value, gradient, found) = call(&[0.0, NAN, NAN, INF, 0.0, 3.0, 0.0, 0.0], 7);
    assert_close(&[value], &[4.0_f64.ln()], EXACT, "loss");
    assert_eq!(gradient, [0.5, 0.0, 0.0, 0.0, -0.5, 0.0, -0.5, 0.5]);
    assert_eq!(found, (0, 0));
    for inner in [0, 1, 5, 6, 9, -1] {
        let (value, gradient, found) = call(&zeros, inner);
        assert!(value.is_nan() && gradient == zeros && found == (1, 0), "{inner}");
    }
    let (value, gradient, _) = call(&[0.0, -INF, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2);
    assert_eq!((value, gradient), (INF, vec![-0.5, -1.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0]));
    for bad in [[NAN, 0.0, 0.0], [0.0, INF, 0.0], [-INF, -INF, -INF]] {
        let (value, gradient, found) = call(&[0.0, bad[0], bad[1], bad[2], 0.0, 0.0, 0.0, 0.0], 2);
        assert!(value.is_nan() && found == (0, 1), "{bad:?}");
        assert!(gradient[..5].iter().all(|g| g.is_nan()) && gradient[5..] == [0.0; 3], "{bad:?}");
    }
}

#[test]
fn what_is_no_tree() {
    for (parent, entry, value) in
        [(&[0, 4, 0][..], 1, "4"), (&[0, -1], 1, "-1"), (&[1], 0, "1"), (&[0, 3, 4, 2, 4], 1, "3")]
    {
        match Tree::new(parent) {
            Err(Error::InputValue { element, found, .. }) => {
                assert_eq!((element, &*found), (entry, value), "{parent:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let tree = Tree::new(&[3, 3, 0]).unwrap();
    assert_eq!(tree.compressed(), (&[0, 1, 1, 1, 3][..], &[3, 1, 2][..]));
    assert_eq!((tree.parent(1), tree.parent(0), tree.parent(9)), (Some(3), None, None));
    assert_eq!(Tree::new(&[]).unwrap().leaves().count(), 0);
}

// --- negative log-likelihoods ---

#[test]
fn gradients_of_given_log_probabilities() {
    let inputs = weighted(12, 5);
    let weight = vector(&[0.5, 2.0, 0.0, 1.0, 3.0]);
    let scores = inputs["logits"].to_f64();
    for probabilities in [false, true] {
        let scores = scores.iter().map(|x| if probabilities { x * x + 0.1 } else { *x });
        let x = logits(4, &scores.collect::<Vec<_>>());
        let plain = and(&without(&inputs, "logits"), "log_probs", x);
        for inputs in [and(&plain, "weight", weight.clone()), plain] {
            for reduction in REDUCTIONS {
                for denominator in ["targets", "weights"] {
                    let reduction: Value = serde_json::from_str(reduction).unwrap();
                    let options = json!({"probabilities": probabilities, "reduction": reduction,
                        "denominator": denominator});
                    assert_differences(&*parse("nll", &options), &inputs, "log_probs");
                }
            }
        }
    }
}

#[test]
fn likelihoods_of_known_numbers() {
    let call = |loss: &Nll, x: [f64; 2]| {
        let inputs = named([("log_probs", logits(1, &x)), ("targets", indices(&[1]))]);
        let outputs = cpu::run(loss, &inputs, &["loss", "grad.log_probs", "status"]).unwrap();
        let status = Status::from_array(&outputs["status"]);
        (outputs["loss"].to_f64()[0], outputs["grad.log_probs"].to_f64(), status.bad_rows)
    };
    // Only the target's number is read.
    let log = Nll::default();
    assert_eq!(call(&log, [NAN, -2.0]), (2.0, vec![0.0, -1.0], 0));
    assert_eq!(call(&log, [0.0, -INF]), (INF, vec![0.0, -1.0], 0));
    for bad in [NAN, INF] {
        for loss in [&log, &log.clone().probabilities(true)] {
            let (value, gradient, rows) = call(loss, [0.0, bad]);
            assert!(value.is_nan() && gradient.iter().all(|g| g.is_nan()) && rows == 1);
        }
    }
    let floored = Nll::default().probabilities(true).eps(0.125);
    assert_eq!(call(&floored, [0.0, 0.5]), (2.0_f64.ln(), vec![0.0, -2.0], 0));
    assert_eq!(call(&floored, [0.0, 0.125]), (8.0_f64.ln(), vec![0.0, -8.0], 0));
    for x in [0.1, 0.0, -1.0, -INF] {
        assert_eq!(call(&floored, [0.0, x]), (8.0_f64.ln(), vec![0.0; 2], 0), "{x}");
    }
}

#[test]
fn likelihoods_that_do_not_count() {
    let inputs = named([
        ("log_probs", logits(4, &[NAN, NAN, -1.0, -2.0, NAN, NAN, -0.5, -1.5])),
        ("targets", indices(&[-100, 1, 0, 7])),
        ("weight", vector(&[3.0, 0.5])),
        ("row_weight", vector(&[1.0, 4.0, 0.0, 1.0])),
    ]);
    let loss = Nll::default().reduction(Reduction::None);
    let losses = run(&loss, &inputs, "loss");
    assert_eq!(losses[..3], [0.0, 4.0, 0.0]);
    assert!(losses[3].is_nan());
    let gradient = run(&loss, &inputs, "grad.log_probs");
    assert_eq!(gradient, [0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(run(&loss, &inputs, "denominator"), [3.5]);
    let by_weights = loss.denominator(Denominator::Weights);
    assert_eq!(run(&by_weights, &inputs, "denominator"), [2.0]);
    let nothing = named([("log_probs", logits(1, &[NAN, 0.0])), ("targets", indices(&[-100]))]);
    assert!(run(&Nll::default(), &nothing, "loss")[0].is_nan());
    assert_eq!(run(&Nll::default().empty(Empty::Zero), &nothing, "loss"), [0.0]);
    assert_eq!(run(&Nll::default(), &nothing, "grad.log_probs"), [0.0; 2]);
}

// --- the Brier score ---

#[test]
fn sure_and_right_keeps_its_digits() {
    // 1 − p_y = 2·e^(−60)/(1 + 2·e^(−60)); computed as 1 − p it would have no correct digit.
    let inputs = named([("logits", logits(1, &[60.0, 0.0, 0.0])), ("targets", indices(&[0]))]);
    let small = (-60.0_f64).exp();
    let expected = 6.0 * small * small;
    assert_close(&run(&Brier::default(), &inputs, "loss"), &[expected], EXACT, "6·e^(−120)");
    let gradient = run(&Brier::default(), &inputs, "grad.logits");
    assert_close(&gradient, &[-2.0 * expected, expected, expected], EXACT, "its gradient");
}

#[test]
fn brier_is_bounded_at_minus_infinity() {
    let inputs = named([("logits", logits(1, &[-INF, 0.0, 0.0])), ("targets", indices(&[0]))]);
    assert_close(&run(&Brier::default(), &inputs, "loss"), &[1.5], EXACT, "1 + 2/4");
    assert_close(&run(&Brier::default(), &inputs, "grad.logits"), &[0.0; 3], EXACT, "no slope");
    let mean = Brier::default().over_classes(surprisal::OverClasses::Mean);
    assert_close(&run(&mean, &inputs, "loss"), &[0.5], EXACT, "over three classes");
}

// --- the mix of cross-entropy and squared error ---

#[test]
fn a_mix_is_its_terms() {
    let inputs = weighted(11, 5);
    let squares = Brier::default().over_classes(surprisal::OverClasses::Mean);
    for (alpha, other) in [(1.0, &CrossEntropy::default() as &dyn Operation), (0.0, &squares)] {
        let loss = CeMseMix::default().alpha(alpha);
        for name in ["loss", "grad.logits"] {
            let expected = run(other, &inputs, name);
            assert_close(&run(&loss, &inputs, name), &expected, EXACT, name);
        }
        // The input replaces the option.
        let learned = and(&inputs, "alpha", vector(&[alpha]));
        let found = run(&CeMseMix::default(), &learned, "grad.logits");
        assert_eq!(found, run(&loss, &inputs, "grad.logits"));
    }
    let refused = cpu::run(&CeMseMix::default(), &inputs, &["grad.alpha"]).unwrap_err();
    assert!(matches!(refused, Error::MissingInput { .. }), "{refused}");
    for alpha in [NAN, INF] {
        let learned = and(&inputs, "alpha", vector(&[alpha]));
        let outputs =
            cpu::run(&CeMseMix::default(), &learned, &["loss", "grad.alpha", "status"]).unwrap();
        assert!(outputs["loss"].to_f64()[0].is_nan() && outputs["grad.alpha"].to_f64()[0].is_nan());
        assert_eq!(Status::from_array(&outputs["status"]).bad_rows, 3);
    }
}

/// Where the softmax is sure, the gradient of the squared error is p_y or less times that of cross-entropy.
#[test]
fn saturation_keeps_its_digits() {
    let call = |z: &[f64], label| {
        let inputs = named([("logits", logits(1, z)), ("targets", indices(&[label]))]);
        let loss = CeMseMix::default().alpha(0.0);
        let gradient = run(&loss, &inputs, "grad.logits");
        (run(&loss, &inputs, "saturation")[0], gradient)
    };
    let small = (-60.0_f64).exp();
    // Two classes: the slopes are ±p_y·p_other·2, and cross-entropy's are ±p_other.
    for (z, label) in [([60.0, 0.0], 1), ([0.0, 60.0], 1)] {
        let (p_label, p_other) = if z[1] > 0.0 { (1.0, small) } else { (small, 1.0) };
        let (saturation, gradient) = call(&z, label);
        let slope = 2.0 * p_label * p_other * p_other;
        assert_close(&[saturation], &[2.0 * p_label * p_other], EXACT, "saturation");
        assert_close(&gradient, &[slope, -slope], EXACT, "the squared error's slopes");
    }
    let (saturation, _) = call(&[0.0, -INF], 0);
    assert_eq!(saturation, 0.0, "both are 0");
    let masked = named([("logits", logits(1, &[0.0, -INF])), ("targets", indices(&[1]))]);
    assert_eq!(run(&CeMseMix::default(), &masked, "loss"), [INF]);
    assert_eq!(run(&CeMseMix::default().alpha(0.0), &masked, "loss"), [1.0]);
    assert_eq!(run(&CeMseMix::default(), &masked, "grad.logits"), [0.5, -0.5]);
}

// --- generalised cross-entropy ---

#[test]
fn generalized_cross_entropy_between_its_ends() {
    let far = named([("logits", logits(1, &[60.0, 0.0, 0.0])), ("targets", indices(&[0]))]);
    let small = 2.0 * (-60.0_f64).exp();
    for q in [0.1, 1.0] {
        let loss = GeneralizedCrossEntropy::default().q(q);
        assert_close(&run(&loss, &far, "loss"), &[small], EXACT, "1 − p_y keeps its digits");
        let gradient = run(&loss, &far, "grad.logits");
        assert_close(&gradient, &[-small, 0.5 * small, 0.5 * small], EXACT, "its gradient");
    }
    let plain =
        named([("logits", logits(2, &[1.0, 0.5, -2.0, 0.0])), ("targets", indices(&[1, 0]))]);
    let towards = GeneralizedCrossEntropy::default().q(1e-6);
    let expected = run(&CrossEntropy::default(), &plain, "loss");
    assert_close(&run(&towards, &plain, "loss"), &expected, 1e-5, "cross-entropy");
    let masked = named([("logits", logits(1, &[-INF, 0.0, 0.0])), ("targets", indices(&[0]))]);
    let bounded = GeneralizedCrossEntropy::default().q(0.5);
    assert_eq!(run(&bounded, &masked, "loss"), [2.0]);
    assert_eq!(run(&bounded, &masked, "grad.logits"), [0.0; 3]);
    for q in [0.0, -0.5, 1.5, NAN] {
        let refused = cpu::run(&bounded.clone().q(q), &plain, &["loss"]).unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { option: "q", .. }), "{refused}");
    }
}

// --- the Kullback–Leibler divergence ---

#[test]
fn where_a_divergence_is_infinite() {
    let call = |direction, z: &[f64], q: &[f64]| {
        let loss = KlDiv::default().direction(direction);
        let inputs = named([("logits", logits(1, z)), ("target_probs", logits(1, q))]);
        let outputs = cpu::run(&loss, &inputs, &["loss", "grad.logits", "status"]).unwrap();
        let status = Status::from_array(&outputs["status"]);
        (outputs["loss"].to_f64()[0], outputs["grad.logits"].to_f64(), status.bad_rows)
    };
    let half = 0.5_f64.ln();
    for direction in [Direction::Forward, Direction::Reverse] {
        // A class that neither distribution has adds nothing.
        let (loss, gradient, bad) = call(direction, &[-INF, 0.0, 0.0], &[0.0, 0.5, 0.5]);
        assert!(loss == 0.0 && gradient == [0.0; 3] && bad == 0, "{direction:?}: {loss}");
    }
    let (loss, gradient, bad) = call(Direction::Forward, &[-INF, 0.0, 0.0], &[0.5, 0.5, 0.0]);
    assert_eq!((loss, gradient, bad), (INF, vec![-0.5, 0.0, 0.5], 0));
    let (loss, _, bad) = call(Direction::Reverse, &[-INF, 0.0, 0.0], &[0.5, 0.25, 0.25]);
    assert_close(&[loss], &[-half], EXACT, "p misses a class of q");
    assert_eq!(bad, 0);
    let (loss, gradient, bad) = call(Direction::Reverse, &[0.0, 0.0, 0.0], &[0.5, 0.5, 0.0]);
    assert_eq!((loss, gradient, bad), (INF, vec![0.0; 3], 1));
    for q in [[-0.5, 1.5, 0.0], [NAN, 0.5, 0.5], [INF, 0.5, 0.5]] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let (loss, gradient, bad) = call(direction, &[0.0, 0.0, 0.0], &q);
            assert!(loss.is_nan() && gradient.iter().all(|g| g.is_nan()) && bad == 1, "{q:?}");
        }
    }
}

/// KL(q‖p) = CE(q, p) − H(q), and KL(p‖q) is that of a teacher whose softmax is q.
#[test]
fn divergences_of_other_losses() {
    let q = [0.2, 0.5, 0.3, 0.1, 0.3, 0.6];
    let inputs =
        named([("logits", logits(2, &testing::gaussian(8, 6))), ("target_probs", logits(2, &q))]);
    let entropy = |q: &[f64]| -q.iter().map(|q| q * q.ln()).sum::<f64>();
    let forward = KlDiv::default().reduction(Reduction::None);
    let cross = run(&CrossEntropy::default().reduction(Reduction::None), &inputs, "loss");
    let excess = [cross[0] - entropy(&q[..3]), cross[1] - entropy(&q[3..])];
    assert_close(&run(&forward, &inputs, "loss"), &excess, EXACT, "CE − H");
    let temperature = 2.5;
    let scores = q.map(|q| temperature * q.ln());
    let teacher = and(&without(&inputs, "target_probs"), "teacher_logits", logits(2, &scores));
    for (direction, divergence) in
        [(Direction::Forward, Divergence::Kl), (Direction::Reverse, Divergence::ReverseKl)]
    {
        let loss = KlDiv::default().direction(direction).temperature(temperature);
        let distilled = Distillation::default().divergence(divergence).temperature(temperature);
        for name in ["loss", "grad.logits"] {
            let squared = temperature * temperature;
            let expected: Vec<f64> =
                run(&distilled, &teacher, name).iter().map(|x| x / squared).collect();
            assert_close(&run(&loss, &inputs, name), &expected, EXACT, name);
        }
    }
}

// --- entropy and free energy ---

#[test]
fn entropies_of_known_rows() {
    let z = [0.0, 0.0, 0.0, 0.0, -INF, 2.0, 2.0, -INF, 60.0, 0.0, 0.0, -INF];
    let inputs = named([("logits", logits(3, &z))]);
    let small = (-60.0_f64).exp();
    // 1 − p = 2·e^(−60), of which each class has the half.
    let expected = [4.0_f64.ln(), 2.0_f64.ln(), 2.0 * small * 61.0];
    let loss = Entropy::default().reduction(Reduction::None);
    let found = run(&loss, &inputs, "loss");
    for (found, expected) in found.iter().zip(expected) {
        assert_close(&[*found], &[expected], EXACT, "an entropy");
    }
    let gradient = run(&loss, &inputs, "grad.logits");
    assert!(gradient[..8].iter().all(|g| g.abs() < 1e-15), "all equal: {gradient:?}");
    let slope = 60.0 * small;
    assert_close(&gradient[8..], &[-2.0 * slope, slope, slope, 0.0], EXACT, "nearly sure");
}

/// F = E − T·S, and the gradient of F is −p.
#[test]
fn free_energies() {
    let z = [0.5, -1.0, 2.0, -INF, 3.0, 1.0];
    let inputs = named([("logits", logits(2, &z)), ("row_weight", vector(&[1.0, 0.0]))]);
    for temperature in [0.3, 1.0, 5.0] {
        let loss = FreeEnergy::default().temperature(temperature).reduction(Reduction::None);
        let [free, energy, entropy] =
            ["loss", "energy", "entropy"].map(|name| run(&loss, &inputs, name));
        assert_close(&free[..1], &[energy[0] - temperature * entropy[0]], EXACT, "F");
        // A row of weight 0 has no loss; its by-products are its own.
        assert_eq!(free[1], 0.0);
        let p: Vec<f64> = [3.0, 1.0].map(|z: f64| (z / temperature).exp()).into();
        let sum = p[0] + p[1];
        assert_close(&energy[1..], &[-(3.0 * p[0] + p[1]) / sum], EXACT, "E");
        let loss = Entropy::default().temperature(temperature).reduction(Reduction::None);
        let plain = without(&inputs, "row_weight");
        assert_close(&run(&loss, &plain, "loss"), &entropy, EXACT, "S");
    }
    let bad = and(&inputs, "logits", logits(2, &[0.0, NAN, 0.0, 0.0, NAN, 0.0]));
    let outputs = cpu::run(&FreeEnergy::default(), &bad, &["energy", "status"]).unwrap();
    assert!(outputs["energy"].to_f64().iter().all(|energy| energy.is_nan()));
    assert_eq!(Status::from_array(&outputs["status"]).bad_rows, 1, "the row of weight 0 is none");
}

// --- distillation ---

/// Which divergence is infinite for -inf logits of the student or the teacher.
#[test]
fn masked_classes_of_either() {
    let masked = logits(1, &[-INF, 0.5, 1.0]);
    let full = logits(1, &[0.25, 0.5, 1.0]);
    let call = |divergence, student: &Array, teacher: &Array| {
        let loss = Distillation::default().divergence(divergence).temperature(2.0);
        let inputs = named([("logits", student.clone()), ("teacher_logits", teacher.clone())]);
        let outputs = cpu::run(&loss, &inputs, &["loss", "grad.logits", "status"]).unwrap();
        let status = Status::from_array(&outputs["status"]);
        (outputs["loss"].to_f64()[0], outputs["grad.logits"].to_f64(), status.bad_rows)
    };
    for divergence in [Divergence::Kl, Divergence::ReverseKl, Divergence::Js] {
        let (loss, gradient, bad) = call(divergence, &masked, &masked);
        let none = loss.abs() < 1e-12 && gradient.iter().all(|g| g.abs() < 1e-12);
        assert!(none && bad == 0, "not there: {divergence:?} {loss} {gradient:?}");
    }
    let (loss, gradient, bad) = call(Divergence::Kl, &masked, &full);
    assert!(loss == INF && gradient.iter().all(|g| g.is_finite()) && bad == 0);
    assert!(gradient[0] < 0.0, "towards the teacher: {gradient:?}");
    let (loss, gradient, bad) = call(Divergence::ReverseKl, &full, &masked);
    assert_eq!((loss, gradient, bad), (INF, vec![0.0; 3], 1));
    for (divergence, student, teacher) in [
        (Divergence::Kl, &full, &masked),
        (Divergence::ReverseKl, &masked, &full),
        (Divergence::Js, &full, &masked),
        (Divergence::Js, &masked, &full),
    ] {
        let (loss, gradient, bad) = call(divergence, student, teacher);
        assert!(loss.is_finite() && loss > 0.0 && bad == 0, "{divergence:?}: {loss}");
        assert!(gradient.iter().all(|g| g.is_finite()), "{divergence:?}: {gradient:?}");
    }
}

#[test]
fn the_hard_term() {
    let student = logits(2, &[-INF, 0.5, 1.0, 2.0, 0.0, 1.0]);
    let inputs = named([
        ("logits", student),
        ("teacher_logits", logits(2, &[-INF, 1.0, 0.0, 1.0, 1.0, 1.0])),
        ("targets", indices(&[0, 2])),
    ]);
    let loss = Distillation::default().reduction(Reduction::None).temperature(3.0);
    assert_eq!(run(&loss.clone().alpha(0.5), &inputs, "loss")[0], INF, "a target at -inf");
    assert!(run(&loss, &inputs, "loss")[0].is_finite(), "without a hard term");
    // α = 1 is cross-entropy.
    let hard = surprisal::CrossEntropy::default().reduction(Reduction::None);
    let plain = without(&inputs, "teacher_logits");
    for name in ["loss", "grad.logits"] {
        let alone = run(&loss.clone().alpha(1.0), &inputs, name);
        assert_close(&alone, &run(&hard, &plain, name), EXACT, name);
    }
    // Without targets α counts as 0.
    let soft = without(&inputs, "targets");
    for name in ["loss", "grad.logits"] {
        let given = run(&loss.clone().alpha(0.5), &soft, name);
        assert_eq!(given, run(&loss, &soft, name), "{name}");
    }
    // A target that is ignored drops both terms.
    let ignoring = loss.ignore_index(IgnoreIndex::One(0)).alpha(0.25);
    assert_eq!(run(&ignoring, &inputs, "loss")[0], 0.0);
    assert_eq!(run_int(&ignoring, &inputs, "count"), [1]);
}

/// β·KL(q‖m) + (1 − β)·KL(p‖m) tends to β·KL(q‖p) as β goes to 0, and to (1 − β)·KL(p‖q) as it goes to 1.
#[test]
fn jensen_shannon_lies_between() {
    let inputs = named([
        ("logits", logits(1, &testing::gaussian(6, 5))),
        ("teacher_logits", logits(1, &testing::gaussian(7, 5))),
    ]);
    let base = Distillation::default();
    let divergence =
        |divergence, beta| run(&base.clone().divergence(divergence).beta(beta), &inputs, "loss")[0];
    let forward = divergence(Divergence::Js, 1e-6) / 1e-6;
    let reverse = divergence(Divergence::Js, 1.0 - 1e-6) / 1e-6;
    assert_close(&[forward], &[divergence(Divergence::Kl, 0.5)], 1e-5, "forward");
    assert_close(&[reverse], &[divergence(Divergence::ReverseKl, 0.5)], 1e-5, "reverse");
}

// --- the multi-class hinge ---

fn hinge(loss: &MulticlassHinge, z: &[f64], label: i64) -> (f64, Vec<f64>) {
    let inputs = named([("logits", logits(1, z)), ("targets", indices(&[label]))]);
    (run(loss, &inputs, "loss")[0], run(loss, &inputs, "grad.logits"))
}

#[test]
fn hinges_of_one_row() {
    let sum = MulticlassHinge::default();
    let max = sum.clone().variant(HingeVariant::Max);
    let z = [3.0, 2.0, 2.5, 1.0];
    // h = 2, 1.5 and, at the kink, 0.
    assert_eq!(hinge(&sum, &z, 1), (0.875, vec![0.25, -0.5, 0.25, 0.0]));
    assert_eq!(hinge(&sum.clone().p(2.0), &z, 1), (1.5625, vec![1.0, -1.75, 0.75, 0.0]));
    assert_eq!(hinge(&max, &z, 1), (2.0, vec![1.0, -1.0, 0.0, 0.0]));
    assert_eq!(hinge(&max.clone().p(2.0), &z, 1), (4.0, vec![4.0, -4.0, 0.0, 0.0]));
    // A tie goes to the lowest index; one class alone has no hinge.
    assert_eq!(hinge(&max, &[1.0, 2.0, 2.0], 0), (2.0, vec![-1.0, 1.0, 0.0]));
    for loss in [&sum, &max] {
        assert_eq!(hinge(loss, &[5.0], 0), (0.0, vec![0.0]));
    }
    // The ramp caps the row, and takes its gradient away.
    for (loss, reached) in [(&sum, 0.875), (&max, 2.0)] {
        let capped = |ramp: f64| hinge(&loss.clone().ramp(ramp), &z, 1);
        assert_eq!(capped(2.0 * reached), hinge(loss, &z, 1));
        assert_eq!(capped(0.5 * reached), (0.5 * reached, vec![0.0; 4]));
        assert_eq!(capped(reached), (reached, vec![0.0; 4]));
    }
}

#[test]
fn hinges_at_minus_infinity() {
    let sum = MulticlassHinge::default();
    let max = sum.clone().variant(HingeVariant::Max);
    for loss in [&sum, &max] {
        let masked = hinge(loss, &[-INF, 1.0, 5.0], 1);
        let share = if *loss == sum { 1.0 / 3.0 } else { 1.0 };
        assert_close(&[masked.0], &[5.0 * share], EXACT, "a masked class");
        assert_close(&masked.1, &[0.0, -share, share], EXACT, "its gradient");
        let z = [2.0, -INF, 1.0];
        let (value, gradient) = hinge(loss, &z, 1);
        assert_eq!(value, INF);
        let expected = if *loss == sum { [1.0, -2.0, 1.0] } else { [1.0, -1.0, 0.0] };
        assert_close(&gradient, &expected.map(|g| g * share), EXACT, "a target at -inf");
        assert_eq!(hinge(&loss.clone().p(2.0), &z, 1), (INF, vec![0.0; 3]));
        assert_eq!(hinge(&loss.clone().p(2.0).ramp(1.5), &z, 1), (1.5, vec![0.0; 3]));
    }
}

#[test]
fn weights_and_margins_of_classes() {
    let inputs = named([
        ("logits", logits(3, &[3.0, 2.0, 2.5, 0.0, 4.0, 0.0, -INF, 1.0, 0.0])),
        ("targets", indices(&[1, 1, 0])),
        ("weight", vector(&[0.0, 2.0, NAN])),
        ("class_margin", vector(&[1.0, 0.5, INF])),
    ]);
    // The mean divides by the rows; of weight and class_margin only the targets' entries count.
    let loss = MulticlassHinge::default();
    assert_close(&run(&loss, &inputs, "loss"), &[2.0 * 2.5 / 9.0], EXACT, "the mean");
    assert_eq!(run(&loss, &inputs, "denominator"), [3.0]);
    assert_close(&run(&loss, &inputs, "active"), &[2.0 / 3.0], EXACT, "active");
    let rows = run(&loss.clone().reduction(Reduction::None), &inputs, "loss");
    assert_close(&rows, &[2.0 * 2.5 / 3.0, 0.0, 0.0], EXACT, "rows");
    let bad = and(&inputs, "targets", indices(&[1, 2, -100]));
    assert!(run(&loss, &bad, "active")[0].is_nan());
    let status = &cpu::run(&loss, &bad, &["status"]).unwrap()["status"];
    assert_eq!(Status::from_array(status).bad_rows, 1);
    assert!(
        run(
            &loss.clone().empty(Empty::Nan),
            &and(&inputs, "targets", indices(&[-100; 3])),
            "active"
        )[0]
        .is_nan()
    );
}

// --- the top-k hinge ---

#[test]
fn ties_go_to_the_lowest_index() {
    let call = |loss: &TopkHinge, z: &[f64], label| {
        let inputs = named([("logits", logits(1, z)), ("targets", indices(&[label]))]);
        (run(loss, &inputs, "loss")[0], run(loss, &inputs, "grad.logits"))
    };
    let kth = |k| TopkHinge::default().k(k).margin(1.0);
    let z = [2.0, 1.0, 2.0, 2.0];
    assert_eq!(call(&kth(1), &z, 1), (2.0, vec![1.0, -1.0, 0.0, 0.0]));
    assert_eq!(call(&kth(2), &z, 1), (2.0, vec![0.0, -1.0, 1.0, 0.0]));
    assert_eq!(call(&kth(3), &z, 1), (2.0, vec![0.0, -1.0, 0.0, 1.0]));
    let average = |k| kth(k).variant(TopkVariant::Average);
    assert_eq!(call(&average(2), &z, 1), (2.0, vec![0.5, -1.0, 0.5, 0.0]));
    // The target contributes 0 to the k largest; on a tie its place follows from its index.
    let z = [2.0, 3.0, 4.0];
    assert_eq!(call(&average(2), &z, 1), (1.0, vec![0.5, -1.0, 0.5]));
    let z = [3.0, 2.0, 4.0];
    assert_eq!(call(&average(2), &z, 0), (1.0, vec![-0.5, 0.0, 0.5]));
    let z = [2.0, 5.0, 3.0];
    assert_eq!(call(&average(2), &z, 2), (1.5, vec![0.5, 0.5, -1.0]));
    // At the kink and below it the gradient is 0.
    assert_eq!(call(&kth(1), &[1.0, 2.0], 1), (0.0, vec![0.0; 2]));
    assert_eq!(call(&average(1), &[1.0, 2.0], 1), (0.0, vec![0.0; 2]));
}

#[test]
fn masked_classes_come_last() {
    let call = |loss: &TopkHinge, z: &[f64], label| {
        let inputs = named([("logits", logits(1, z)), ("targets", indices(&[label]))]);
        (run(loss, &inputs, "loss")[0], run(loss, &inputs, "grad.logits"))
    };
    let (kth, average) =
        (TopkHinge::default().k(2), TopkHinge::default().k(2).variant(TopkVariant::Average));
    for loss in [&kth, &average] {
        // Only the target and one other class take part; the other class is far below, or far above.
        assert_eq!(call(loss, &[-INF, 1.0, 5.0, -INF], 1).0, if *loss == kth { 0.0 } else { 2.5 });
        assert_eq!(call(loss, &[-INF, 5.0, 1.0, -INF], 1), (0.0, vec![0.0; 4]));
        assert_eq!(call(loss, &[1.0, -INF, 3.0, 2.0], 1).0, INF, "a target at -inf");
    }
    assert_eq!(call(&kth, &[1.0, -INF, 3.0, 2.0], 1).1, [0.0, -1.0, 0.0, 1.0]);
    assert_eq!(call(&average, &[1.0, -INF, 3.0, 2.0], 1).1, [0.0, -1.0, 0.5, 0.5]);
}

#[test]
fn k_is_below_the_classes() {
    let inputs = named([("logits", logits(1, &[0.0, 1.0, 2.0])), ("targets", indices(&[0]))]);
    for (k, good) in [(0, false), (1, true), (2, true), (3, false), (4, false)] {
        let found = cpu::run(&TopkHinge::default().k(k), &inputs, &["loss"]);
        match found {
            Ok(_) => assert!(good, "{k}"),
            Err(Error::InvalidOption { option: "k", .. }) => assert!(!good, "{k}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn options_out_of_their_domain() {
    for (name, options, option) in [
        ("distillation", json!({"temperature": 0.0}), "temperature"),
        ("distillation", json!({"temperature": 1e30}), "temperature"),
        ("distillation", json!({"beta": 0.0}), "beta"),
        ("distillation", json!({"beta": 1.0}), "beta"),
        ("distillation", json!({"alpha": 1.5}), "alpha"),
        ("nll", json!({"eps": 0.0}), "eps"),
        ("nll", json!({"eps": 1.0}), "eps"),
        ("ce_mse_mix", json!({"alpha": 1.5}), "alpha"),
        ("kl_div", json!({"temperature": 0.0}), "temperature"),
        ("kl_div", json!({"temperature": 1e-39}), "temperature"),
        ("entropy", json!({"temperature": -1.0}), "temperature"),
        ("free_energy", json!({"temperature": 1e39}), "temperature"),
        ("multiclass_hinge", json!({"p": 3}), "p"),
        ("multiclass_hinge", json!({"margin": 1e39}), "margin"),
        ("multiclass_hinge", json!({"ramp": 0.0}), "ramp"),
        ("topk_hinge", json!({"margin": 1e39}), "margin"),
        ("brier", json!({"reduction": "multilabel"}), "reduction"),
        ("brier", json!({"ignore_index": [1, 2, 3, 4, 5]}), "ignore_index"),
    ] {
        match (operations::find(name).unwrap().parse)(&options) {
            Err(Error::InvalidOption { option: found, .. }) => assert_eq!(found, option),
            other => panic!("{name} {options}: {other:?}"),
        }
    }
    let z = logits(1, &[0.0, 1.0]);
    let none = named([("logits", z.clone())]);
    let missing = cpu::run(&Brier::default(), &none, &["loss"]);
    assert!(matches!(missing, Err(Error::MissingInput { .. })), "{missing:?}");
    let both = named([("logits", z.clone()), ("targets", indices(&[0])), ("target_probs", z)]);
    let conflict = cpu::run(&Brier::default(), &both, &["loss"]);
    assert!(matches!(conflict, Err(Error::Conflict { .. })), "{conflict:?}");
}
