//! Losses of elements: the slopes of their reference, and what is particular to each.

use serde_json::json;
use surprisal::{
    Array, Arrays, Dice, Error, Huber, Operation, Per, Reduction, cpu, operations, testing,
};

use crate::{EXACT, INF, assert_close, assert_differences, indices, logits, named, run, vector};

fn parse(name: &str, options: &serde_json::Value) -> Box<dyn Operation> {
    (operations::find(name).unwrap().parse)(options).unwrap()
}

fn scores(z: &[f64], y: &[f64]) -> Arrays {
    named([("logits", logits(1, z)), ("targets", logits(1, y))])
}

#[test]
fn the_gradient_of_huber_is_the_slope_of_its_loss() {
    let mut inputs = named([
        ("logits", logits(4, &testing::gaussian(1, 20))),
        ("targets", logits(4, &testing::gaussian(2, 20))),
        ("weight", logits(1, &[0.5, 1.0, 2.0, 0.0, 3.0])),
        ("mask", logits(4, &testing::numbers(surprisal::loss::Domain::Mask, 3, 20))),
    ]);
    for reduction in ["mean", "sum", "multilabel", "none"] {
        let upstream = if reduction == "none" {
            logits(4, &testing::gaussian(4, 20))
        } else {
            Array::float(&[1], vec![-1.5])
        };
        inputs.insert("upstream".to_owned(), upstream);
        for delta in [0.3, 1.0, 4.0] {
            let loss = parse("huber", &json!({"reduction": reduction, "delta": delta}));
            assert_differences(&*loss, &inputs, "logits");
        }
    }
}

#[test]
fn huber_is_quadratic_near_and_linear_far() {
    let loss = Huber::default().delta(2.0).reduction(Reduction::None);
    let inputs = scores(&[1.0, 2.0, -3.0, 1e30, INF, -INF], &[0.0; 6]);
    assert_eq!(run(&loss, &inputs, "loss"), [0.5, 2.0, 4.0, 2e30, INF, INF]);
    assert_eq!(run(&loss, &inputs, "grad.logits"), [1.0, 2.0, -2.0, 2.0, 2.0, -2.0]);
    // Far beyond every distance it is half the squared error.
    let inputs = scores(&testing::gaussian(5, 9), &testing::gaussian(6, 9));
    let squared = run(&*parse("mse", &json!({})), &inputs, "loss")[0];
    let wide = run(&Huber::default().delta(1e6), &inputs, "loss");
    assert_close(&wide, &[0.5 * squared], EXACT, "half the squared error");
    for delta in [0.0, -1.0, f64::NAN, INF, 1e-60] {
        let refused = cpu::run(&Huber::default().delta(delta), &inputs, &["loss"]).unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { option: "delta", .. }), "{refused}");
    }
}

// --- dice ---

const PERS: [&str; 3] = ["row", "channel", "batch"];

/// Logits, soft targets and a mask with zeros and fractions.
fn masked(seed: u64, rows: usize, columns: usize) -> Arrays {
    let count = rows * columns;
    let of = |domain, seed| logits(rows, &testing::numbers(domain, seed, count));
    let mut mask = testing::numbers(surprisal::loss::Domain::Mask, seed + 2, count);
    mask.iter_mut().step_by(3).for_each(|m| *m *= 0.5);
    named([
        ("logits", of(surprisal::loss::Domain::Any, seed)),
        ("targets", of(surprisal::loss::Domain::Probability, seed + 1)),
        ("mask", logits(rows, &mask)),
    ])
}

fn dice(per: &str, bce: f64, smooth: f64) -> Box<dyn Operation> {
    parse("dice", &json!({"per": per, "bce": bce, "smooth": smooth, "reduction": "none"}))
}

/// The inputs with one value of one of them replaced.
fn set(inputs: &Arrays, name: &str, at: usize, value: f64) -> Arrays {
    let mut inputs = inputs.clone();
    let mut values = inputs[name].to_f64();
    values[at] = value;
    let shape = inputs[name].shape.clone();
    inputs.insert(name.to_owned(), Array::float(&shape, values));
    inputs
}

#[test]
fn the_gradient_of_masked_dice_is_the_slope_of_its_loss() {
    for per in PERS {
        for (bce, smooth) in [(0.0, 1.0), (0.7, 0.0)] {
            assert_differences(&*dice(per, bce, smooth), &masked(1, 4, 5), "logits");
        }
    }
}

/// A mask of zeros and ones leaves the elements out, whatever they hold.
#[test]
fn what_dice_masks_is_not_there() {
    let kept = [0, 2, 3];
    let mask = logits(1, &[1.0, 0.0, 1.0, 1.0, 0.0]);
    for per in ["row", "batch"] {
        for (bce, smooth) in [(0.0, 1.0), (0.7, 0.0)] {
            let loss = dice(per, bce, smooth);
            let mut inputs = masked(3, 1, 5);
            inputs.insert("mask".to_owned(), mask.clone());
            let pick = |values: &[f64]| logits(1, &kept.map(|at| values[at]));
            let few = named(["logits", "targets"].map(|name| (name, pick(&inputs[name].to_f64()))));
            let inputs = set(&set(&inputs, "logits", 1, f64::NAN), "targets", 4, f64::NAN);
            assert_close(&run(&*loss, &inputs, "loss"), &run(&*loss, &few, "loss"), EXACT, per);
            let gradient = run(&*loss, &inputs, "grad.logits");
            let picked = kept.map(|at| gradient[at]);
            assert_close(&picked, &run(&*loss, &few, "grad.logits"), EXACT, per);
            assert_eq!([gradient[1], gradient[4]], [0.0; 2]);
            // What is kept is NaN beside a NaN, what is masked is not.
            let bad = run(&*loss, &set(&inputs, "logits", 0, f64::NAN), "grad.logits");
            assert!(kept.iter().all(|&at| bad[at].is_nan()) && bad[1] == 0.0 && bad[4] == 0.0);
        }
    }
}

/// An image that is masked altogether has the loss 0, with and without smoothing, and counts.
#[test]
fn dice_of_nothing() {
    let mut inputs = masked(5, 2, 3);
    inputs.insert("mask".to_owned(), logits(2, &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
    for (bce, smooth) in [(0.0, 1.0), (0.5, 0.0)] {
        let loss = dice("row", bce, smooth);
        assert_eq!(run(&*loss, &inputs, "loss")[0], 0.0);
        assert_eq!(run(&*loss, &inputs, "grad.logits")[..3], [0.0; 3]);
        assert_eq!(run(&*loss, &inputs, "denominator"), [2.0]);
    }
}

/// A mask of one value a pixel is that of all its channels.
#[test]
fn pixels_of_dice() {
    let pixels = [1.0, 0.0, 0.5, 1.0];
    let mut whole = masked(7, 4, 3);
    let mut each = whole.clone();
    whole.insert("mask".to_owned(), logits(4, &pixels.map(|m| [m; 3]).concat()));
    each.insert("mask".to_owned(), logits(4, &pixels));
    let loss = dice("channel", 0.5, 1.0);
    for name in ["loss", "grad.logits"] {
        assert_eq!(run(&*loss, &each, name), run(&*loss, &whole, name), "{name}");
    }
    for per in [Per::Row, Per::Batch] {
        let refused = cpu::run(&Dice::default().per(per), &each, &["loss"]).unwrap_err();
        assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
    }
    let bad = set(&each, "mask", 0, f64::NAN);
    assert!(run(&*loss, &bad, "loss").iter().all(|loss| loss.is_nan()), "NaN is not laundered");
}

/// Targets that are ignored leave their elements out, as a mask does.
#[test]
fn dice_ignores_targets() {
    for per in PERS {
        let mut inputs = masked(9, 2, 3);
        inputs.insert("mask".to_owned(), logits(2, &[1.0, 0.0, 1.0, 0.0, 1.0, 1.0]));
        let mut ignored = set(&set(&inputs, "targets", 1, 255.0), "targets", 3, 2.0);
        ignored.remove("mask");
        let options = json!({"per": per, "reduction": "none", "ignore_index": [255, 2]});
        let loss = parse("dice", &options);
        for name in ["loss", "grad.logits"] {
            let expected = run(&*dice(per, 0.0, 1.0), &inputs, name);
            assert_eq!(run(&*loss, &ignored, name), expected, "{per} {name}");
        }
    }
}

// --- dice over a softmax ---

fn over_softmax(options: &serde_json::Value) -> Box<dyn Operation> {
    let mut all = json!({"activation": "softmax", "reduction": "none"});
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    parse("dice", &all)
}

/// Five pixels of three classes; the third one is ignored.
fn pixels() -> Arrays {
    named([
        ("logits", logits(5, &testing::gaussian(11, 15))),
        ("targets", indices(&[0, 2, -100, 1, 0])),
    ])
}

fn and(inputs: &Arrays, more: &[(&str, Array)]) -> Arrays {
    let mut inputs = inputs.clone();
    inputs.extend(more.iter().map(|(name, array)| ((*name).to_owned(), array.clone())));
    inputs
}

/// One coefficient over all classes has the weighted sums of the classes.
#[test]
fn generalised_dice_by_hand() {
    let inputs = and(&pixels(), &[("targets", indices(&[0, 0, -100, 1, 0]))]);
    let (z, y) = (inputs["logits"].to_f64(), inputs["targets"].to_i64());
    // The third class has no pixel, so it weighs as much as the second one.
    for (weight, weights) in [("uniform", [1.0; 3]), ("inverse_square", [1.0 / 9.0, 1.0, 1.0])] {
        let (mut both, mut whole) = (0.0, 0.5);
        for row in (0..5).filter(|&row| y[row] >= 0) {
            let e: Vec<f64> = z[row * 3..row * 3 + 3].iter().map(|z| z.exp()).collect();
            for class in 0..3 {
                let p = e[class] / e.iter().sum::<f64>();
                let t = f64::from(u8::from(y[row] == class as i64));
                both += weights[class] * p * t;
                whole += weights[class] * (p + t);
            }
        }
        let expected = 1.0 - (2.0 * both + 0.5) / whole;
        let options = json!({"per": "batch", "class_weight": weight, "smooth": 0.5});
        let loss = over_softmax(&options);
        assert_close(&run(&*loss, &inputs, "loss"), &[expected], EXACT, weight);
        assert_eq!(run(&*loss, &inputs, "denominator"), [1.0]);
    }
}

/// The loss is that of masks that are the softmax, summed by hand.
#[test]
fn dice_over_a_softmax_by_hand() {
    let inputs = pixels();
    let (z, y) = (inputs["logits"].to_f64(), inputs["targets"].to_i64());
    let mask = [1.0, 0.5, 1.0, 0.0, 2.0];
    let masked = and(&inputs, &[("mask", logits(5, &mask))]);
    for smooth in [0.0, 1.0] {
        let (mut expected, mut cross_entropy) = (Vec::new(), [0.0, 0.0]);
        for class in 0..3 {
            let (mut both, mut whole) = (0.0, smooth);
            for row in (0..5).filter(|&row| y[row] >= 0) {
                let e: Vec<f64> = z[row * 3..row * 3 + 3].iter().map(|z| z.exp()).collect();
                let p = mask[row] * e[class] / e.iter().sum::<f64>();
                let t = if y[row] == class as i64 { mask[row] } else { 0.0 };
                (both, whole) = (both + p * t, whole + p + t);
                if t > 0.0 {
                    cross_entropy[0] -= t * (p / mask[row]).ln();
                    cross_entropy[1] += t;
                }
            }
            expected.push(1.0 - (2.0 * both + smooth) / whole);
        }
        let loss = over_softmax(&json!({"smooth": smooth}));
        assert_close(&run(&*loss, &masked, "loss"), &expected, EXACT, "coefficients");
        let [sum, count] = cross_entropy;
        let both = over_softmax(&json!({"smooth": smooth, "cross_entropy_weight": 0.5}));
        let expected: Vec<f64> = expected.iter().map(|loss| loss + 0.5 * sum / count).collect();
        assert_close(&run(&*both, &masked, "loss"), &expected, EXACT, "with cross-entropy");
    }
    // The share of cross-entropy is that of `cross_entropy`.
    let mean = |weight: f64| {
        let options = json!({"reduction": "mean", "cross_entropy_weight": weight});
        run(&*over_softmax(&options), &inputs, "loss")[0]
    };
    let expected = run(&*parse("cross_entropy", &json!({})), &inputs, "loss");
    assert_close(&[mean(1.0) - mean(0.0)], &expected, EXACT, "cross-entropy");
}

#[test]
fn the_gradient_of_dice_over_a_softmax_is_the_slope_of_its_loss() {
    let mask = ("mask", logits(5, &[1.0, 0.5, 1.0, 0.0, 2.0]));
    let weights = ("row_weight", vector(&[0.5, 2.0, 1.0]));
    for inputs in [pixels(), and(&pixels(), &[mask, weights])] {
        for (smooth, weight) in [(1.0, 0.0), (0.0, 0.7)] {
            for reduction in ["mean", "sum", "none"] {
                let upstream = if reduction == "none" { vec![1.0, -2.0, 0.5] } else { vec![-1.5] };
                let inputs = and(&inputs, &[("upstream", vector(&upstream))]);
                let options = json!({"smooth": smooth, "cross_entropy_weight": weight,
                    "reduction": reduction, "per": "channel"});
                assert_differences(&*over_softmax(&options), &inputs, "logits");
            }
            let one = [("row_weight", vector(&[2.0])), ("upstream", vector(&[-1.5]))];
            for class_weight in ["uniform", "inverse_square"] {
                let options = json!({"smooth": smooth, "cross_entropy_weight": weight,
                    "class_weight": class_weight, "per": "batch"});
                assert_differences(&*over_softmax(&options), &and(&inputs, &one), "logits");
            }
        }
    }
}

#[test]
fn pixels_that_do_not_count_or_cannot() {
    let loss = over_softmax(&json!({"cross_entropy_weight": 0.5}));
    let plain = pixels();
    let expected = run(&*loss, &plain, "loss");
    // What is ignored may hold anything, and a common offset changes nothing.
    let ignored = set(&plain, "logits", 7, f64::NAN);
    assert_eq!(run(&*loss, &ignored, "loss"), expected);
    assert_eq!(run(&*loss, &ignored, "grad.logits")[6..9], [0.0; 3]);
    let moved: Vec<f64> = plain["logits"].rounded(surprisal::Dtype::F16).to_f64();
    let at = |offset: f64| {
        let z: Vec<f64> = moved.iter().map(|z| z + offset).collect();
        run(&*loss, &and(&plain, &[("logits", logits(5, &z))]), "loss")
    };
    assert_close(&at(1e6), &at(0.0), 1e-9, "offset");
    // One bad pixel spoils every coefficient.
    let status = |inputs: &Arrays| {
        let words = &cpu::run(&*loss, inputs, &["status"]).unwrap()["status"];
        surprisal::Status::from_array(words)
    };
    for bad in [f64::NAN, INF] {
        let inputs = set(&plain, "logits", 3, bad);
        assert!(run(&*loss, &inputs, "loss").iter().all(|loss| loss.is_nan()));
        let gradient = run(&*loss, &inputs, "grad.logits");
        assert!(gradient[3..6].iter().all(|g| g.is_nan()) && gradient[6..9] == [0.0; 3]);
        assert_eq!((status(&inputs).bad_rows, status(&inputs).bad_targets), (1, 0));
        let nothing = and(&inputs, &[("upstream", vector(&[0.0]))]);
        assert_eq!(run(&*loss, &nothing, "grad.logits"), [0.0; 15], "0 wins over NaN");
    }
    let inputs = and(&plain, &[("targets", indices(&[0, 3, -100, 1, 0]))]);
    assert!(run(&*loss, &inputs, "loss").iter().all(|loss| loss.is_nan()));
    assert_eq!(run(&*loss, &inputs, "grad.logits")[3..6], [0.0; 3]);
    assert_eq!(status(&inputs).first_bad_target, Some((1, 3)));
    // Without a pixel that counts, all masks are empty.
    let nothing = and(&plain, &[("targets", indices(&[-100; 5]))]);
    assert_eq!(run(&*loss, &nothing, "loss"), [0.0; 3]);
    assert_eq!(run(&*loss, &nothing, "grad.logits"), [0.0; 15]);
    // -inf is a class that is not there; a target there has an infinite cross-entropy.
    let masked = set(&plain, "logits", 4, -INF);
    assert!(run(&*loss, &masked, "loss").iter().all(|loss| loss.is_finite()));
    assert_eq!(run(&*loss, &masked, "grad.logits")[4], 0.0);
    let masked = set(&plain, "logits", 5, -INF);
    assert_eq!(run(&*loss, &masked, "loss"), [INF; 3]);
    assert!(run(&*loss, &masked, "grad.logits").iter().all(|g| g.is_finite()));
}

#[test]
fn what_does_not_go_with_an_activation() {
    let conflict = |options: serde_json::Value, inputs: &Arrays| {
        let loss = (operations::find("dice").unwrap().parse)(&options);
        let refused = loss.and_then(|loss| cpu::run(&*loss, inputs, &["loss"])).unwrap_err();
        assert!(matches!(refused, Error::Conflict { .. }), "{options}: {refused}");
    };
    conflict(json!({"activation": "softmax", "class_weight": "inverse_square"}), &pixels());
    conflict(json!({"class_weight": "inverse_square"}), &masked(1, 2, 3));
    conflict(json!({"activation": "softmax", "bce": 0.5}), &pixels());
    conflict(json!({"cross_entropy_weight": 0.5}), &masked(1, 2, 3));
    let loss = over_softmax(&json!({}));
    let whole = and(&pixels(), &[("mask", logits(5, &[1.0; 15]))]);
    assert!(cpu::run(&*loss, &whole, &["loss"]).is_err(), "a mask is one of pixels");
    assert!(cpu::run(&*loss, &masked(1, 2, 3), &["loss"]).is_err(), "targets are indices");
}
