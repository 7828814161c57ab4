//! Losses of elements: the slopes of their reference, and what is particular to each.

use serde_json::json;
use surprisal::{Array, Arrays, Error, Huber, Operation, Reduction, cpu, operations, testing};

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
