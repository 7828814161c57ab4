//! Losses of elements: the slopes of their reference, and what is particular to each.

use serde_json::json;
use surprisal::{
    Array, Arrays, Dice, Error, Huber, Operation, Per, Reduction, cpu, operations, testing,
};

use crate::{EXACT, INF, assert_close, assert_differences, logits, named, run};

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
