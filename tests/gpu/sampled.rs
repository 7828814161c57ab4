//! Losses of a target and sampled classes: samples that are no classes, hits, numbers that are not read, chunks, types.

use serde_json::json;
use surprisal::{Array, Arrays, Dtype};

use crate::support::{
    Context, FLOATS, INF, bits, check, check_status, gaussian, indices, matrix, outcome, parse,
    set, vector, with,
};

tests![stored_logits, layers, chunks, rows_without_numbers];

const NAN: f64 = f64::NAN;
const ROWS: usize = 9;
const CLASSES: usize = 37;
const SAMPLES: [i64; 7] = [1, 4, 1, 36, 37, -1, 0];
const FORMS: [&str; 2] = ["softmax", "logistic"];

fn shared() -> Arrays {
    with(
        &Arrays::new(),
        [
            ("targets", indices(&[2, -100, 5, 0, 99, 4, 1, 36, 8])),
            ("samples", indices(&SAMPLES)),
            ("log_expected_count", vector(&surprisal::testing::gaussian(3, CLASSES))),
            ("row_weight", vector(&[1.0, 2.0, 0.5, 0.0, 1.0, -1.5, 1.0, 3.0, 1.0])),
        ],
    )
}

fn layer() -> Arrays {
    with(
        &shared(),
        [
            ("hidden", gaussian(4, ROWS, 5)),
            ("weight", gaussian(5, CLASSES, 5)),
            ("bias", vector(&surprisal::testing::gaussian(6, CLASSES))),
        ],
    )
}

const OF_LAYER: [&str; 6] = [
    "loss",
    "grad.hidden",
    "grad.weight",
    "grad.bias",
    "grad.sampled_weight",
    "grad.target_weight",
];

fn stored_logits(context: &Context) {
    let inputs = with(&shared(), [("logits", gaussian(1, ROWS, CLASSES))]);
    for (form, dtype) in FORMS.into_iter().zip(FLOATS) {
        let loss = parse("sampled_softmax", &json!({"form": form, "reduction": "none"}));
        check(&context.gpu, &*loss, &inputs, dtype, &["loss", "grad.logits"]);
        let wanted = ["loss", "status"];
        let status = check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        // One target and two samples are no classes.
        assert_eq!((status.bad_targets, status.bad_rows), (3, 0));
    }
}

fn layers(context: &Context) {
    for (form, dtype) in FORMS.into_iter().zip(FLOATS.into_iter().rev()) {
        for layout in ["classes_hidden", "hidden_classes"] {
            let loss =
                parse("linear_sampled_softmax", &json!({"form": form, "weight_layout": layout}));
            let mut inputs = layer();
            if layout == "hidden_classes" {
                inputs.insert("weight".to_owned(), gaussian(5, 5, CLASSES));
            }
            check(&context.gpu, &*loss, &inputs, dtype, &OF_LAYER);
        }
    }
}

/// Rows in several chunks, with the same bits of what belongs to a row.
fn chunks(context: &Context) {
    let inputs = layer();
    let whole = parse("linear_sampled_softmax", &json!({"reduction": "none"}));
    let options = json!({"reduction": "none", "chunk_bytes": 96});
    let parts = parse("linear_sampled_softmax", &options);
    let found = check(&context.gpu, &*parts, &inputs, Dtype::F32, &OF_LAYER).0;
    let expected = outcome(&context.gpu, &*whole, &inputs, Dtype::F32, &OF_LAYER).0;
    for name in ["loss", "grad.hidden", "grad.target_weight"] {
        assert_eq!(bits(&found[name]), bits(&expected[name]), "{name}");
    }
}

/// Numbers of columns that a row does not read do not matter; those that it reads do.
fn rows_without_numbers(context: &Context) {
    let at = |row: usize, class: usize| row * CLASSES + class;
    let scores = gaussian(7, ROWS, CLASSES);
    let scores = set(&set(&scores, at(0, 20), NAN), at(2, 21), INF);
    let scores = set(&set(&scores, at(5, 36), NAN), at(7, 0), -INF);
    let inputs = with(&shared(), [("logits", set(&scores, at(8, 8), -INF))]);
    for form in FORMS {
        let loss = parse("sampled_softmax", &json!({"form": form, "reduction": "none"}));
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss", "grad.logits"]);
    }
    let alone = with(&inputs, [("samples", Array::int(&[1], vec![-5]))]);
    let loss = parse("sampled_softmax", &json!({}));
    let few = with(&alone, [("logits", matrix(ROWS, CLASSES, vec![0.5; ROWS * CLASSES]))]);
    check(&context.gpu, &*loss, &few, Dtype::F32, &["loss", "grad.logits"]);
}
