//! Classes that are drawn at random.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use surprisal::{
    Array, Arrays, Error, cpu,
    targets::{Distribution, DrawSamples},
};

use super::INF;

const DISTRIBUTIONS: [Distribution; 3] =
    [Distribution::Uniform, Distribution::LogUniform, Distribution::Alias];
const WEIGHTS: [f64; 7] = [1.0, 0.0, 5.0, 0.25, 2.0, 2.0, 1e-3];

/// Weights, for the distribution that takes them.
fn inputs(distribution: Distribution) -> Arrays {
    let weights = ("weights".to_owned(), Array::float(&[7], WEIGHTS.to_vec()));
    match distribution {
        Distribution::Alias => Arrays::from([weights]),
        _ => Arrays::new(),
    }
}

fn of(distribution: Distribution, count: u32) -> DrawSamples {
    DrawSamples::default().classes(7).count(count).distribution(distribution).seed(21)
}

fn samples(draw: &DrawSamples) -> Vec<i64> {
    cpu::run(draw, &inputs(draw.distribution), &["samples"]).unwrap()["samples"].to_i64()
}

/// Pearson's test of the classes at fixed seeds, against the counts that the operation itself expects.
#[test]
fn classes_follow_their_distribution() {
    for distribution in DISTRIBUTIONS {
        let draw = of(distribution, 50_000);
        let drawn = samples(&draw);
        let given = inputs(distribution);
        let expected = cpu::run(&draw, &given, &["log_expected_count"]).unwrap();
        let expected = expected["log_expected_count"].to_f64();
        let mut statistic = 0.0;
        let mut degrees = -1.0;
        for (class, log) in expected.iter().enumerate() {
            let found = drawn.iter().filter(|&&c| c == class as i64).count() as f64;
            if *log == -INF {
                assert_eq!(found, 0.0, "{distribution:?}: class {class} has no weight");
                continue;
            }
            statistic += (found - log.exp()).powi(2) / log.exp();
            degrees += 1.0;
        }
        let above = 1.0 - ChiSquared::new(degrees).unwrap().cdf(statistic);
        assert!(above > 1e-3, "{distribution:?}: χ² = {statistic} of {degrees}: {above}");
    }
}

/// The expected counts are those of the definitions.
#[test]
fn expected_counts_add_up() {
    for distribution in DISTRIBUTIONS {
        let given = inputs(distribution);
        let outputs = cpu::run(&of(distribution, 30), &given, &["log_expected_count"]).unwrap();
        let counts: Vec<f64> =
            outputs["log_expected_count"].to_f64().iter().map(|log| log.exp()).collect();
        assert!((counts.iter().sum::<f64>() - 30.0).abs() < 1e-6, "{counts:?}");
        let ratio = counts[2] / counts[0];
        let wanted = match distribution {
            Distribution::Uniform => 1.0,
            Distribution::LogUniform => (4.0_f64 / 3.0).ln() / 2.0_f64.ln(),
            _ => 5.0,
        };
        assert!((ratio - wanted).abs() < 1e-6, "{distribution:?}: {ratio}");
    }
}

/// A sample is that of its number, its seed and its offset, however many are drawn.
#[test]
fn samples_belong_to_their_numbers() {
    for distribution in DISTRIBUTIONS {
        let many = samples(&of(distribution, 101));
        assert_eq!(samples(&of(distribution, 64)), many[..64]);
        for other in [of(distribution, 101).seed(22), of(distribution, 101).offset(1 << 32)] {
            assert_ne!(samples(&other), many);
        }
    }
}

#[test]
fn one_class_is_always_drawn() {
    for distribution in [Distribution::Uniform, Distribution::LogUniform] {
        let draw = DrawSamples::default().count(9).distribution(distribution);
        assert_eq!(samples(&draw), [0; 9]);
    }
}

#[test]
fn draws_that_are_refused() {
    let refused = |draw: &DrawSamples, weights: Option<&[f64]>| {
        let given = weights.map(|weights| {
            ("weights".to_owned(), Array::float(&[weights.len() as u64], weights.to_vec()))
        });
        cpu::run(draw, &given.into_iter().collect(), &["samples"]).unwrap_err()
    };
    let alias = DrawSamples::default().classes(3).distribution(Distribution::Alias);
    let missing = refused(&alias, None);
    assert!(matches!(missing, Error::Conflict { .. }), "{missing}");
    let conflict = refused(&DrawSamples::default().classes(3), Some(&[1.0; 3]));
    assert!(matches!(conflict, Error::Conflict { .. }), "{conflict}");
    let length = refused(&alias, Some(&[1.0; 4]));
    assert!(matches!(length, Error::WrongShape { .. }), "{length}");
    for (weights, at, value) in [
        ([1.0, -0.5, f64::NAN], 1, "-0.5"),
        ([1.0, 2.0, f64::NAN], 2, "NaN"),
        ([1.0, INF, 0.0], 1, "inf"),
        ([0.0; 3], 0, "0"),
    ] {
        let error = refused(&alias, Some(&weights));
        assert!(
            matches!(&error, Error::InputValue { element, found, .. } if *element == at && **found == *value),
            "{error}"
        );
    }
    for (draw, name) in [
        (DrawSamples::default().classes(0), "classes"),
        (DrawSamples::default().classes((1 << 24) + 1), "classes"),
        (DrawSamples::default().count(0), "count"),
    ] {
        let error = refused(&draw, None);
        assert!(
            matches!(&error, Error::InvalidOption { option, .. } if *option == name),
            "{error}"
        );
    }
}
