//! Losses of a target and sampled classes.

use serde_json::json;
use surprisal::{Array, Arrays, Operation, operations, testing};

use super::{EXACT, assert_close, assert_differences, run, vector};

const ROWS: usize = 4;
const CLASSES: usize = 6;
const HIDDEN: usize = 3;

fn parse(name: &str, options: &serde_json::Value) -> Box<dyn Operation> {
    (operations::find(name).unwrap().parse)(options).unwrap()
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Array {
    Array::float(&[rows as u64, columns as u64], testing::gaussian(seed, rows * columns))
}

/// Samples with a class that is drawn twice, a hit, and one that is no class; a row that is ignored.
fn shared() -> Arrays {
    let given = [
        ("targets", Array::int(&[ROWS as u64], vec![2, -100, 5, 0])),
        ("samples", Array::int(&[6], vec![1, 4, 1, 2, 9, 0])),
        ("log_expected_count", vector(&testing::gaussian(3, CLASSES))),
        ("row_weight", vector(&[1.0, 2.0, 0.5, 1.5])),
    ];
    given.into_iter().map(|(name, array)| (name.to_owned(), array)).collect()
}

#[test]
fn gradients_are_slopes() {
    for form in ["softmax", "logistic"] {
        for reduction in ["sum", "mean"] {
            let options = json!({"form": form, "reduction": reduction});
            let mut inputs = shared();
            inputs.insert("logits".to_owned(), matrix(ROWS, CLASSES, 1));
            assert_differences(&*parse("sampled_softmax", &options), &inputs, "logits");
            let mut inputs = shared();
            inputs.insert("hidden".to_owned(), matrix(ROWS, HIDDEN, 4));
            inputs.insert("weight".to_owned(), matrix(CLASSES, HIDDEN, 5));
            inputs.insert("bias".to_owned(), vector(&testing::gaussian(6, CLASSES)));
            let loss = parse("linear_sampled_softmax", &options);
            for name in ["hidden", "weight", "bias"] {
                assert_differences(&*loss, &inputs, name);
            }
        }
    }
}

/// The sparse gradient of W adds up to the dense one.
#[test]
fn sparse_gradients_add_up() {
    let mut inputs = shared();
    inputs.insert("hidden".to_owned(), matrix(ROWS, HIDDEN, 7));
    inputs.insert("weight".to_owned(), matrix(CLASSES, HIDDEN, 8));
    for form in ["softmax", "logistic"] {
        let loss = parse("linear_sampled_softmax", &json!({"form": form}));
        let mut sum = vec![0.0; CLASSES * HIDDEN];
        let parts = [("samples", "grad.sampled_weight"), ("targets", "grad.target_weight")];
        for (classes, output) in parts {
            let values = run(&*loss, &inputs, output);
            for (class, values) in inputs[classes].to_i64().into_iter().zip(values.chunks(HIDDEN)) {
                match usize::try_from(class) {
                    Ok(class) if class < CLASSES => {
                        for (sum, value) in sum[class * HIDDEN..].iter_mut().zip(values) {
                            *sum += value;
                        }
                    }
                    _ => assert!(values.iter().all(|&value| value == 0.0), "{output} {class}"),
                }
            }
        }
        assert_close(&run(&*loss, &inputs, "grad.weight"), &sum, EXACT, form);
    }
}

/// With every class drawn once, the softmax form is cross-entropy.
#[test]
fn all_classes_as_samples_are_the_whole_softmax() {
    let inputs = Arrays::from([
        ("logits".to_owned(), matrix(ROWS, CLASSES, 9)),
        ("targets".to_owned(), Array::int(&[ROWS as u64], vec![2, -100, 5, 0])),
    ]);
    let mut sampled = inputs.clone();
    let all = (0..CLASSES as i64).collect();
    sampled.insert("samples".to_owned(), Array::int(&[CLASSES as u64], all));
    for output in ["loss", "grad.logits"] {
        let whole = run(&*parse("cross_entropy", &json!({})), &inputs, output);
        let drawn = run(&*parse("sampled_softmax", &json!({})), &sampled, output);
        assert_close(&drawn, &whole, EXACT, output);
    }
}
