//! Operations of the host, which make targets and weights.

use serde_json::json;
use surprisal::{
    Array, Arrays, Error, Profile, cpu, operations,
    targets::{ClassWeights, Weighting, class_weights},
};

use crate::named;

fn effective(counts: &[u64], beta: f64) -> Vec<f64> {
    class_weights(counts, Weighting::Effective { beta }).unwrap()
}

#[test]
fn class_weights_have_a_mean_of_one() {
    let counts = [7, 0, 1, 1_000_000, 1 << 53];
    for weights in [
        class_weights(&counts, Weighting::Inverse).unwrap(),
        effective(&counts, 0.0),
        effective(&counts, 0.5),
        effective(&counts, 1.0 - f64::EPSILON),
    ] {
        let mean = weights.iter().sum::<f64>() / counts.len() as f64;
        assert!((mean - 1.0).abs() < 1e-12, "{weights:?}");
        // A class that never occurs counts as if it occurred once; a class that occurs more often
        // has no larger weight.
        assert_eq!(weights[1], weights[2]);
        assert!(weights[2] >= weights[0] && weights[0] >= weights[3] && weights[3] >= weights[4]);
    }
    assert_eq!(class_weights(&[], Weighting::Inverse).unwrap(), Vec::<f64>::new());
}

/// β = 0 gives all classes the same weight; β → 1 approaches 1/n.
#[test]
fn effective_numbers_have_both_limits() {
    let counts = [1, 10, 1000];
    assert_eq!(effective(&counts, 0.0), [1.0; 3]);
    let inverse = class_weights(&counts, Weighting::Inverse).unwrap();
    for (near, limit) in effective(&counts, 1.0 - 1e-12).into_iter().zip(inverse) {
        assert!((near / limit - 1.0).abs() < 1e-8, "{near} {limit}");
    }
}

#[test]
fn bad_class_weights_are_refused() {
    for beta in [1.0, -0.1, f64::NAN, f64::INFINITY] {
        let error = class_weights(&[1], Weighting::Effective { beta }).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "beta", .. }), "{error}");
        let loss = ClassWeights { beta, ..ClassWeights::default() };
        let inputs = named([("counts", Array::int(&[1], vec![1]))]);
        assert!(cpu::run(&loss, &inputs, &["weights"]).is_err());
    }
    let run = |inputs: &Arrays, wanted: &str| {
        cpu::run(&ClassWeights::default(), inputs, &[wanted]).unwrap_err()
    };
    let negative = named([("counts", Array::int(&[3], vec![2, -1, 0]))]);
    let error = run(&negative, "weights");
    assert!(
        matches!(&error, Error::InputValue { element: 1, found, .. } if **found == *"-1"),
        "{error}"
    );
    let floats = named([("counts", Array::float(&[2], vec![1.0, 2.0]))]);
    assert!(matches!(run(&floats, "weights"), Error::WrongDtype { .. }));
    let good = named([("counts", Array::int(&[1], vec![1]))]);
    assert!(matches!(run(&good, "loss"), Error::UnknownName { .. }));
    assert!(matches!(run(&named([]), "weights"), Error::MissingInput { .. }));
    let empty = named([("counts", Array::int(&[0], vec![]))]);
    assert!(matches!(run(&empty, "weights"), Error::WrongShape { .. }));
}

/// An operation of the host has no plan, and the error says so. Every other operation is found by
/// its name too.
#[test]
fn operations_of_the_host_have_no_plan() {
    let all = operations::all().map(|entry| (entry.parse)(&json!({})).unwrap());
    for operation in all.filter(|operation| operation.is_host()) {
        let plan = operation.plan(&surprisal::plan::Call::default(), &Profile::default());
        assert!(matches!(plan, Err(Error::HostOnly { .. })), "{plan:?}");
    }
    for entry in operations::all() {
        assert_eq!(operations::find(entry.about.name).unwrap().about.name, entry.about.name);
    }
    assert!(surprisal::loss::REGISTRY.iter().all(|entry| !(entry.default)().is_host()));
}
