//! Operations on the Jacobian of a softmax: the product of a Hessian and a vector, and samples with Gumbel noise.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use surprisal::{
    Array, Arrays, BceWithLogits, CrossEntropy, Error, GumbelSoftmax, HessianOf,
    HessianVectorProduct, Operation, Reduction, cpu, testing,
};

use super::{DIFFERENCES, INF, assert_close, assert_slopes, run, vector};

const ROWS: usize = 3;
const CLASSES: usize = 5;

fn matrix(seed: u64) -> Array {
    Array::float(&[ROWS as u64, CLASSES as u64], testing::gaussian(seed, ROWS * CLASSES))
}

fn inputs<const N: usize>(given: [(&str, Array); N]) -> Arrays {
    given.into_iter().map(|(name, array)| (name.to_owned(), array)).collect()
}

/// The central difference of a loss's gradient along a direction.
fn difference(loss: &dyn Operation, given: &Arrays, direction: &[f64]) -> Vec<f64> {
    let step = 1e-5;
    let gradient = |sign: f64| {
        let mut moved = given.clone();
        let logits = given["logits"].to_f64();
        let values = logits.iter().zip(direction).map(|(z, v)| z + sign * step * v).collect();
        moved.insert("logits".to_owned(), Array::float(&given["logits"].shape, values));
        run(loss, &moved, "grad.logits")
    };
    let sides = gradient(1.0).into_iter().zip(gradient(-1.0));
    sides.map(|(above, below)| (above - below) / (2.0 * step)).collect()
}

const REDUCTIONS: [Reduction; 4] =
    [Reduction::None, Reduction::Sum, Reduction::Mean, Reduction::Over(2.5)];

#[test]
fn hessian_of_cross_entropy() {
    let vector_of = matrix(2);
    let (row_weight, targets) = (vector(&[0.5, 0.0, 2.0]), Array::int(&[3], vec![1, 4, 0]));
    for reduction in REDUCTIONS {
        for denominator in [surprisal::Denominator::Targets, surprisal::Denominator::Weights] {
            let shared = [("logits", matrix(1)), ("row_weight", row_weight.clone())];
            let upstream =
                if reduction == Reduction::None { vec![1.0, 2.0, -3.0] } else { vec![3.0] };
            let mut given = inputs(shared);
            given.insert("upstream".to_owned(), vector(&upstream));
            let mut of_loss = given.clone();
            of_loss.insert("targets".to_owned(), targets.clone());
            given.insert("vector".to_owned(), vector_of.clone());
            let loss = CrossEntropy::default()
                .temperature(0.7)
                .label_smoothing(0.1)
                .reduction(reduction)
                .denominator(denominator);
            let product = HessianVectorProduct::default()
                .temperature(0.7)
                .reduction(reduction)
                .denominator(denominator);
            let expected = difference(&loss, &of_loss, &vector_of.to_f64());
            let what = format!("{reduction:?} {denominator:?}");
            assert_close(&run(&product, &given, "product"), &expected, DIFFERENCES, &what);
        }
    }
}

/// The weight of an element is that of its loss's second derivative.
#[test]
fn hessian_of_binary_cross_entropy() {
    let (vector_of, weight) = (matrix(4), matrix(5));
    let labels: Vec<f64> = (0..ROWS * CLASSES).map(|at| (at % 3) as f64 / 2.0).collect();
    let targets = Array::float(&[ROWS as u64, CLASSES as u64], labels.clone());
    let positive = 2.5;
    let curved = weight.to_f64().into_iter().zip(labels);
    let curved = curved.map(|(w, y)| w * ((1.0 - y) + positive * y)).collect();
    let given = inputs([
        ("logits", matrix(3)),
        ("vector", vector_of.clone()),
        ("weight", Array::float(&weight.shape, curved)),
    ]);
    let of_loss = inputs([
        ("logits", matrix(3)),
        ("targets", targets),
        ("weight", weight),
        ("pos_weight", vector(&[positive])),
    ]);
    for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Over(2.5)] {
        let loss = BceWithLogits::default().temperature(1.6).reduction(reduction);
        let product = HessianVectorProduct::default()
            .of(HessianOf::BceWithLogits)
            .temperature(1.6)
            .reduction(reduction);
        let expected = difference(&loss, &of_loss, &vector_of.to_f64());
        let what = format!("{reduction:?}");
        assert_close(&run(&product, &given, "product"), &expected, DIFFERENCES, &what);
    }
}

#[test]
fn what_has_no_product() {
    let shared = [("logits", matrix(1)), ("vector", matrix(2))];
    let mut given = inputs(shared);
    given.insert("weight".to_owned(), matrix(3));
    let refused = cpu::run(&HessianVectorProduct::default(), &given, &["product"]).unwrap_err();
    assert!(
        matches!(&refused, Error::Conflict { argument, .. } if **argument == *"weight"),
        "{refused}"
    );
    given.remove("weight");
    given.insert("upstream".to_owned(), vector(&[1.0, 1.0, 1.0]));
    let refused = cpu::run(&HessianVectorProduct::default(), &given, &["product"]).unwrap_err();
    assert!(
        matches!(&refused, Error::WrongShape { argument, .. } if **argument == *"upstream"),
        "{refused}"
    );
    let loss = HessianVectorProduct::default().temperature(0.0);
    let refused = cpu::run(&loss, &given, &["product"]).unwrap_err();
    assert!(
        matches!(&refused, Error::InvalidOption { option, .. } if *option == "temperature"),
        "{refused}"
    );
}

/// The gradient is the slope of Σ upstream·output of the soft samples, and that of the hard samples is the same.
#[test]
fn gradient_of_samples() {
    let (logits, upstream) = (matrix(6), matrix(7));
    let soft = GumbelSoftmax::default().temperature(0.6).seed(5).offset(2);
    let given = inputs([("logits", logits.clone()), ("upstream", upstream.clone())]);
    let gradient = run(&soft, &given, "grad.logits");
    let objective = |inputs: &Arrays| {
        let terms = run(&soft, inputs, "output").into_iter().zip(upstream.to_f64());
        terms.map(|(y, v)| y * v).sum::<f64>()
    };
    assert_slopes(&given, "logits", &gradient, objective);
    let hard = soft.hard(true);
    assert_eq!(run(&hard, &given, "grad.logits"), gradient);
    for row in run(&hard, &given, "output").chunks(CLASSES) {
        assert_eq!(row.iter().filter(|&&y| y == 1.0).count(), 1);
        assert_eq!(row.iter().filter(|&&y| y == 0.0).count(), CLASSES - 1);
    }
}

/// The noise is that of the seed, the offset and the number of the row, whatever else the call holds.
#[test]
fn noise_belongs_to_its_row() {
    let given = |rows: usize| {
        let values = testing::gaussian(8, CLASSES).repeat(rows);
        inputs([("logits", Array::float(&[rows as u64, CLASSES as u64], values))])
    };
    let sample = |seed, offset, rows| {
        run(&GumbelSoftmax::default().seed(seed).offset(offset), &given(rows), "output")
    };
    let many = sample(3, 1, 7);
    assert_eq!(sample(3, 1, 4), many[..4 * CLASSES]);
    for (seed, offset) in [(3, 2), (4, 1), (3 + (1 << 32), 1), (3, 1 + (1 << 32))] {
        assert!(sample(seed, offset, 7).iter().zip(&many).all(|(a, b)| a != b));
    }
    assert_ne!(many[..CLASSES], many[CLASSES..2 * CLASSES]);
}

/// Pearson's test of the classes that hard samples choose, at fixed seeds.
#[test]
fn hard_samples_follow_the_softmax() {
    let rows = 20_000_usize;
    let probs = [0.5, 0.2, 0.15, 0.1, 0.05];
    let row = probs.map(f64::ln);
    let given = inputs([("logits", Array::float(&[rows as u64, 5], row.repeat(rows)))]);
    for seed in [1, 2] {
        let hard = GumbelSoftmax::default().hard(true).seed(seed).temperature(0.3);
        let output = run(&hard, &given, "output");
        let count = |class: usize| output.iter().skip(class).step_by(5).sum::<f64>();
        let term = |(class, p): (usize, f64)| {
            let expected = p * rows as f64;
            (count(class) - expected).powi(2) / expected
        };
        let statistic: f64 = probs.into_iter().enumerate().map(term).sum();
        let above = 1.0 - ChiSquared::new(4.0).unwrap().cdf(statistic);
        assert!(above > 1e-3, "seed {seed}: χ² = {statistic}, exceeded with probability {above}");
    }
}

/// The test of Kolmogorov and Smirnov: the difference of two Gumbel numbers, the logarithm of the ratio of two soft samples, is
/// logistic.
#[test]
fn noise_is_gumbel_noise() {
    let rows = 20_000_usize;
    let given = inputs([("logits", Array::float(&[rows as u64, 2], vec![0.0; 2 * rows]))]);
    let output = run(&GumbelSoftmax::default().seed(11), &given, "output");
    let mut uniform: Vec<f64> = output.into_iter().step_by(2).collect();
    // The logistic distribution function of log(y/(1 − y)) is y itself.
    uniform.sort_by(f64::total_cmp);
    let apart = |(at, &y): (usize, &f64)| {
        (y - at as f64 / rows as f64).abs().max(((at + 1) as f64 / rows as f64 - y).abs())
    };
    let statistic = uniform.iter().enumerate().map(apart).fold(0.0, f64::max);
    // The limit that √n times the statistic exceeds with a probability of 0.001.
    assert!(statistic * (rows as f64).sqrt() < 1.95, "{statistic}");
}

#[test]
fn rows_without_samples() {
    let logits = Array::float(&[4, 2], vec![f64::NAN, 0.0, -INF, -INF, -INF, 1.0, 0.0, 2.0]);
    let upstream = Array::float(&[4, 2], vec![1.0, 1.0, 1.0, 1.0, 1.0, 2.0, INF, 0.0]);
    let given = inputs([("logits", logits), ("upstream", upstream)]);
    let output = run(&GumbelSoftmax::default(), &given, "output");
    assert!(output[..4].iter().chain(&output[6..]).all(|y| y.is_nan()));
    assert_eq!(output[4..6], [0.0, 1.0]);
    assert_eq!(run(&GumbelSoftmax::default(), &given, "grad.logits")[4..6], [0.0, 0.0]);
    let alone = inputs([("logits", matrix(1))]);
    let refused = cpu::run(&GumbelSoftmax::default(), &alone, &["grad.logits"]).unwrap_err();
    assert!(
        matches!(&refused, Error::MissingInput { argument, .. } if **argument == *"upstream"),
        "{refused}"
    );
}
