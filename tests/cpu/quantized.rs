//! Quantised logits: i8 with a scale, one number for all rows or one a row.

use serde_json::json;
use surprisal::{
    Array, Arrays, CrossEntropy, Data, Error, Operation, Reduction, Status, cpu, operations,
    testing,
};

use crate::{EXACT, INF, assert_close, indices, logits, named, none, run, run_int, vector};

const ROWS: usize = 4;
const CLASSES: usize = 7;

/// Every i8 in turn.
fn every_i8() -> Array {
    let count = (ROWS * CLASSES) as i64;
    Array::int(&[ROWS as u64, CLASSES as u64], (0..count).map(|at| at * 37 % 256 - 128).collect())
}

/// The floats that quantised logits stand for, and the others of their call.
fn as_floats(inputs: &Arrays) -> Arrays {
    let mut floats = inputs.clone();
    let scale = floats.remove("logits_scale").unwrap().to_f64();
    let zero_point = floats.remove("logits_zero_point").map_or(vec![0.0], |array| array.to_f64());
    let stored = inputs["logits"].to_f64();
    let rows = stored.chunks(CLASSES).enumerate().flat_map(|(row, values)| {
        let of_row = |values: &[f64]| values[row % values.len()];
        let (scale, zero_point) = (of_row(&scale), of_row(&zero_point));
        values.iter().map(move |value| scale * (value - zero_point)).collect::<Vec<_>>()
    });
    floats.insert("logits".to_owned(), logits(ROWS, &rows.collect::<Vec<_>>()));
    floats
}

/// Calls of every loss that takes quantised logits, without them.
fn calls() -> Vec<(Box<dyn Operation>, Arrays)> {
    let targets = ("targets", indices(&[3, 0, 6, -100]));
    let teacher = ("teacher_logits", logits(ROWS, &testing::gaussian(5, ROWS * CLASSES)));
    let probs = testing::gaussian(6, ROWS * CLASSES).iter().map(|x| x * x).collect::<Vec<_>>();
    let probs = ("target_probs", logits(ROWS, &probs));
    let calls = [
        ("cross_entropy", json!({"label_smoothing": 0.1, "temperature": 30.0}), vec![&targets]),
        ("brier", json!({}), vec![&targets]),
        ("ce_mse_mix", json!({}), vec![&targets]),
        ("generalized_cross_entropy", json!({}), vec![&targets]),
        ("kl_div", json!({"temperature": 20.0}), vec![&probs]),
        ("entropy", json!({"temperature": 20.0}), vec![]),
        ("free_energy", json!({"temperature": 20.0}), vec![]),
        ("distillation", json!({"alpha": 0.3, "temperature": 20.0}), vec![&targets, &teacher]),
        ("multiclass_hinge", json!({"variant": "max"}), vec![&targets]),
        ("topk_hinge", json!({"k": 3}), vec![&targets]),
    ];
    let parse = |name: &str, options: &serde_json::Value| {
        (operations::find(name).unwrap().parse)(options).unwrap()
    };
    let call = |(name, options, given): (&str, _, Vec<&(&str, Array)>)| {
        let inputs = given.into_iter().map(|(name, array)| ((*name).to_owned(), array.clone()));
        (parse(name, &options), inputs.collect())
    };
    calls.into_iter().map(call).collect()
}

/// Scales and zero points: for all rows, and for each row.
fn scales() -> [Arrays; 4] {
    let one = ("logits_scale", vector(&[0.03]));
    let each = ("logits_scale", vector(&[0.5, -0.02, 0.0, 0.01]));
    [
        named([one.clone()]),
        named([each.clone()]),
        named([one, ("logits_zero_point", indices(&[-128]))]),
        named([each, ("logits_zero_point", indices(&[127, 5, -9, 0]))]),
    ]
}

#[test]
fn they_are_the_floats_that_they_stand_for() {
    let wanted = ["loss", "grad.logits", "status"];
    for (loss, inputs) in calls() {
        for scales in scales() {
            let mut inputs = inputs.clone();
            inputs.extend(scales);
            inputs.insert("logits".to_owned(), every_i8());
            let quantized = cpu::run(&*loss, &inputs, &wanted).unwrap();
            let floats = cpu::run(&*loss, &as_floats(&inputs), &wanted).unwrap();
            for name in wanted {
                let [actual, expected] =
                    [&quantized, &floats].map(|outputs| outputs[name].to_f64());
                assert_close(&actual, &expected, EXACT, &format!("{name} {loss:?} {inputs:?}"));
            }
            assert!(matches!(quantized["grad.logits"].data, Data::Float(_)));
        }
    }
}

/// A scale that is NaN, infinite or above 2^120 in size makes its row a bad one; 0 makes all its logits equal.
#[test]
fn scales_that_are_no_factors() {
    let most = 120f64.exp2();
    for (scale, is_bad) in [
        (f64::NAN, true),
        (INF, true),
        (-INF, true),
        (-most * 1.001, true),
        (most, false),
        (0.0, false),
    ] {
        let inputs = named([
            ("logits", every_i8()),
            ("logits_scale", vector(&[1.0, scale, 1.0, 1.0])),
            ("targets", indices(&[0, 1, 2, 3])),
        ]);
        let status = cpu::run(&none(), &inputs, &["status"]).unwrap();
        let status = Status::from_array(&status["status"]);
        assert_eq!(status.bad_rows, u32::from(is_bad), "{scale}");
        let nans = |name| run(&none(), &inputs, name).iter().filter(|x| x.is_nan()).count();
        assert_eq!(nans("loss"), usize::from(is_bad), "{scale}");
        assert_eq!(nans("grad.logits"), usize::from(is_bad) * CLASSES, "{scale}");
        if scale == 0.0 {
            assert_close(&run(&none(), &inputs, "loss")[1..2], &[7f64.ln()], EXACT, "all equal");
            assert_eq!(run_int(&none(), &inputs, "argmax")[1], 0);
            assert_eq!(run_int(&none(), &inputs, "rank")[1], 1);
        }
    }
}

/// A negative scale reverses the order of a row's logits.
#[test]
fn a_negative_scale_reverses_the_order() {
    let inputs = |scale: f64| {
        named([
            ("logits", Array::int(&[1, 3], vec![-5, 7, 2])),
            ("logits_scale", vector(&[scale])),
            ("targets", indices(&[0])),
        ])
    };
    assert_eq!(run_int(&none(), &inputs(0.5), "argmax"), [1]);
    assert_eq!(run_int(&none(), &inputs(-0.5), "argmax"), [0]);
    assert_eq!(run_int(&none(), &inputs(-0.5), "rank"), [0]);
}

/// No loss changes by more than twice the largest change of a logit: log Σ exp and the target's logit each change by at
/// most that much.
#[test]
fn the_loss_changes_by_at_most_twice_the_largest_change_of_a_logit() {
    for (seed, classes) in (0..20).zip([2, 5, 30, 400].into_iter().cycle()) {
        let z = testing::outliers(seed, 3 * classes);
        let targets = ("targets", indices(&testing::targets(seed, 3, classes as u64)));
        let scale = z.iter().fold(0.0_f64, |most, z| most.max(z.abs())) / 127.0;
        let stored: Vec<i64> = z.iter().map(|z| (z / scale).round() as i64).collect();
        let changes = z.iter().zip(&stored).map(|(z, &q)| (z - scale * q as f64).abs());
        let largest = changes.fold(0.0, f64::max);
        assert!(largest <= 0.5001 * scale);
        let floats = named([("logits", logits(3, &z)), targets.clone()]);
        let quantized = named([
            ("logits", Array::int(&[3, classes as u64], stored)),
            ("logits_scale", vector(&[scale])),
            targets,
        ]);
        let losses = [floats, quantized].map(|inputs| run(&none(), &inputs, "loss"));
        for (exact, rounded) in losses[0].iter().zip(&losses[1]) {
            assert!((exact - rounded).abs() <= 2.0 * largest, "{exact} {rounded} {largest}");
        }
    }
}

/// Axes before the last one are rows, of the scale too.
#[test]
fn rows_of_any_rank() {
    let flat = named([
        ("logits", every_i8()),
        ("logits_scale", vector(&[0.1, 0.2, 0.3, 0.4])),
        ("logits_zero_point", indices(&[1, 2, 3, 4])),
        ("targets", indices(&[0, 1, 2, 3])),
    ]);
    let folded = flat.iter().map(|(name, array)| {
        let mut array = array.clone();
        array.shape.splice(..1, [2, 2]);
        (name.clone(), array)
    });
    let folded: Arrays = folded.collect();
    let loss = CrossEntropy::default().reduction(Reduction::None);
    assert_eq!(run(&loss, &folded, "loss"), run(&loss, &flat, "loss"));
    assert_eq!(cpu::run(&loss, &folded, &["loss"]).unwrap()["loss"].shape, [2, 2]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let refused = |change: &dyn Fn(&mut Arrays)| {
        let mut inputs = named([
            ("logits", every_i8()),
            ("logits_scale", vector(&[0.1])),
            ("targets", indices(&[0, 1, 2, 3])),
        ]);
        change(&mut inputs);
        cpu::run(&CrossEntropy::default(), &inputs, &["loss"]).unwrap_err()
    };
    let put = |inputs: &mut Arrays, name: &str, array| drop(inputs.insert(name, array));
    let floats = logits(ROWS, &[0.5; ROWS * CLASSES]);
    let error = refused(&|inputs| drop(inputs.remove("logits_scale")));
    assert!(
        matches!(&error, Error::MissingInput { argument, .. } if **argument == *"logits_scale"),
        "{error}"
    );
    let conflicts = |error: &Error, with: &str| matches!(error, Error::Conflict { argument, other, .. } if **argument == *with && **other == *"logits");
    let error = refused(&|inputs| put(inputs, "logits", floats.clone()));
    assert!(conflicts(&error, "logits_scale"), "{error}");
    let error = refused(&|inputs| {
        put(inputs, "logits", floats.clone());
        inputs.remove("logits_scale");
        put(inputs, "logits_zero_point", indices(&[3]));
    });
    assert!(conflicts(&error, "logits_zero_point"), "{error}");
    for (name, array) in [
        ("logits_scale", vector(&[0.1, 0.2])),
        ("logits_zero_point", indices(&[1, 2, 3, 4])),
        ("logits_zero_point", indices(&[1, 2])),
    ] {
        let error = refused(&|inputs| put(inputs, name, array.clone()));
        assert!(
            matches!(&error, Error::WrongShape { argument, .. } if **argument == *name),
            "{error}"
        );
    }
    for (name, array) in [
        ("logits_zero_point", indices(&[128])),
        ("logits", Array::int(&[ROWS as u64, 1], vec![0, -129, 0, 0])),
    ] {
        let error = refused(&|inputs| put(inputs, name, array.clone()));
        assert!(
            matches!(&error, Error::InputValue { argument, .. } if **argument == *name),
            "{error}"
        );
    }
    let error = refused(&|inputs| put(inputs, "logits_zero_point", vector(&[1.0])));
    assert!(matches!(&error, Error::WrongDtype { .. }), "{error}");
}

/// Rows whose largest class is another one than before rounding, from the two calls that the documentation names.
#[test]
fn changed_decisions_are_counted() {
    let exact = logits(4, &[0.9, 0.1, -0.2, 0.31, 0.29, 0.0, 1.0, 2.0, 3.0, 0.6, 0.7, 0.2]);
    // Rounded to whole numbers, the second row has a tie, which the first class wins; in the last row 0.6 and 0.7 are 1.
    let rounded = Array::int(&[4, 3], vec![1, 0, 0, 0, 0, 0, 1, 2, 3, 1, 1, 0]);
    let before =
        run_int(&none(), &named([("logits", exact), ("targets", indices(&[0; 4]))]), "argmax");
    let inputs = named([
        ("logits", rounded),
        ("logits_scale", vector(&[1.0])),
        ("targets", indices(&before)),
    ]);
    let [kept, same] = ["count", "correct_count"].map(|name| run_int(&none(), &inputs, name)[0]);
    assert_eq!(kept - same, 1);
}
