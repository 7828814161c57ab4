//! Distillation between two linear layers: the teacher's scores come a chunk at a time beside the student's.

use serde_json::{Value, json};
use surprisal::{Arrays, Dtype, Operation, WeightLayout, testing};

use crate::{
    linear::{GRADIENTS, layouts, sample},
    support::{
        Context, bits, check, check_status, gaussian, indices, matrix, named, outcome, parse,
        positive, set, vector, with,
    },
};

tests![
    awkward_shapes,
    by_products,
    chunks_and_blocks,
    as_stored_logits,
    ignored_rows,
    windows,
    no_rows
];

/// A student of this depth, and a teacher of another one.
fn heads(
    seed: u64,
    [rows, classes]: [usize; 2],
    [depth, teacher]: [usize; 2],
    layout: WeightLayout,
) -> Arrays {
    let student = sample(seed, rows, classes, depth, layout);
    let other = sample(seed + 10, rows, classes, teacher, layout);
    with(
        &student,
        [
            ("teacher_hidden", other["hidden"].clone()),
            ("teacher_weight", other["weight"].clone()),
            ("teacher_bias", other["bias"].clone()),
            ("row_weight", vector(&positive(seed + 20, rows))),
        ],
    )
}

fn loss(options: &Value, layout: WeightLayout) -> Box<dyn Operation> {
    let mut options = options.clone();
    let turned = layout == WeightLayout::HiddenClasses;
    options["weight_layout"] = if turned { "hidden_classes" } else { "classes_hidden" }.into();
    parse("linear_distillation", &options)
}

/// Every divergence with either layout, in the types in turn.
fn awkward_shapes(context: &Context) {
    let divergences = [
        json!({"alpha": 0.3, "temperature": 2.0}),
        json!({"divergence": "reverse_kl", "temperature": 1.5}),
        json!({"divergence": "js", "beta": 0.3, "alpha": 0.5, "reduction": "sum"}),
    ];
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    let shapes = [([1, 5], [1, 3]), ([7, 129], [3, 65]), ([33, 1000], [20, 9])];
    for (turn, layout) in layouts().into_iter().enumerate() {
        for (index, options) in divergences.iter().enumerate() {
            let (shape, depths) = shapes[(turn + index) % shapes.len()];
            let inputs = heads(1, shape, depths, layout);
            for dtype in [dtypes[index], dtypes[(turn + index + 1) % dtypes.len()]] {
                check(&context.gpu, &*loss(options, layout), &inputs, dtype, &GRADIENTS);
            }
        }
    }
    let layout = WeightLayout::ClassesHidden;
    let inputs = heads(2, [9, 70], [5, 6], layout);
    let learned = with(&inputs, [("temperature", vector(&[1.5]))]);
    let wanted = [&GRADIENTS[..], &["grad.temperature"]].concat();
    check(&context.gpu, &*loss(&json!({"alpha": 0.3}), layout), &learned, Dtype::F32, &wanted);
}

/// The teacher's entropy, and how often the two argmax agree, in rows with ties and rows of weight 0.
fn by_products(context: &Context) {
    let wanted = ["loss", "teacher_entropy", "agreement"];
    for divergence in ["kl", "js"] {
        for classes in [7, 1100] {
            let coarse = |seed| {
                let scores = testing::gaussian(seed, 9 * classes);
                matrix(9, classes, scores.iter().map(|z| z.round()).collect())
            };
            let inputs = named([
                ("logits", coarse(30)),
                ("teacher_logits", coarse(if classes == 7 { 31 } else { 30 })),
                ("row_weight", vector(&[1.0, 0.0, 2.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])),
            ]);
            let options = json!({"divergence": divergence, "temperature": 1.5});
            let loss = parse("distillation", &options);
            let (outputs, _) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            let agreement = outputs["agreement"].to_f64()[0];
            assert!(if classes == 7 { agreement < 1.0 } else { agreement == 1.0 }, "{agreement}");
        }
    }
    let layout = WeightLayout::ClassesHidden;
    let inputs = heads(7, [12, 2100], [5, 6], layout);
    let options = json!({"chunk_bytes": 3 * 4 * 2100, "temperature": 0.7});
    check(&context.gpu, &*loss(&options, layout), &inputs, Dtype::F32, &wanted);
}

/// Chunks of whole rows, and blocks of classes: the same bits.
fn chunks_and_blocks(context: &Context) {
    let (rows, classes) = (40, 2100);
    for (index, layout) in layouts().into_iter().enumerate() {
        let divergence = ["reverse_kl", "js"][index];
        let inputs = heads(3, [rows, classes], [4, 7], layout);
        let options = json!({"divergence": divergence, "alpha": 0.25});
        let expected =
            check(&context.gpu, &*loss(&options, layout), &inputs, Dtype::F32, &GRADIENTS).0;
        // Both chunks together: ten rows each, and less than two rows.
        for chunk_bytes in [2 * 10 * 4 * classes, 3 * 4 * classes] {
            let mut options = options.clone();
            options["chunk_bytes"] = chunk_bytes.into();
            let loss = loss(&options, layout);
            let actual = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS).0;
            for name in GRADIENTS {
                assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name} {options}");
            }
        }
    }
}

/// The loss is that of `distillation` on the logits of both layers.
fn as_stored_logits(context: &Context) {
    // Small integers, whose products are exact.
    let coarse = |seed: u64, rows: usize, columns: usize| {
        let values = gaussian(seed, rows, columns).to_f64().iter().map(|x| x.round()).collect();
        matrix(rows, columns, values)
    };
    let (rows, classes, depths) = (6, 50, [3, 5]);
    let [hidden, teacher_hidden] = [0, 1].map(|head| coarse(head as u64, rows, depths[head]));
    let [weight, teacher_weight] =
        [0, 1].map(|head| coarse(5 + head as u64, classes, depths[head]));
    let product = |a: &surprisal::Array, b: &surprisal::Array, depth: usize| {
        let (a, b) = (a.to_f64(), b.to_f64());
        let dot = |at: usize| {
            let (row, class) = (at / classes, at % classes);
            (0..depth).map(|k| a[row * depth + k] * b[class * depth + k]).sum::<f64>()
        };
        matrix(rows, classes, (0..rows * classes).map(dot).collect())
    };
    let stored = named([
        ("logits", product(&hidden, &weight, depths[0])),
        ("teacher_logits", product(&teacher_hidden, &teacher_weight, depths[1])),
        ("targets", indices(&testing::targets(9, rows, classes as u64))),
    ]);
    let inputs = named([
        ("hidden", hidden),
        ("weight", weight),
        ("teacher_hidden", teacher_hidden),
        ("teacher_weight", teacher_weight),
        ("targets", stored["targets"].clone()),
    ]);
    let options = json!({"reduction": "none", "alpha": 0.4, "temperature": 2.0});
    let wanted = ["loss"];
    let expected =
        outcome(&context.gpu, &*parse("distillation", &options), &stored, Dtype::F32, &wanted).0;
    let linear = loss(&options, WeightLayout::ClassesHidden);
    let actual = outcome(&context.gpu, &*linear, &inputs, Dtype::F32, &wanted).0;
    assert_eq!(bits(&actual["loss"]), bits(&expected["loss"]));
}

/// A NaN in a hidden state, of the student or of the teacher, that belongs to an ignored row changes nothing; in another
/// row it makes a bad row.
fn ignored_rows(context: &Context) {
    let layout = WeightLayout::ClassesHidden;
    let inputs = heads(4, [12, 70], [5, 6], layout);
    let options = json!({"alpha": 0.3});
    let loss = loss(&options, layout);
    let expected = check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS).0;
    // `sample` ignores row 2.
    let spoilt = with(
        &inputs,
        [
            ("hidden", set(&inputs["hidden"], 2 * 5, f64::NAN)),
            ("teacher_hidden", set(&inputs["teacher_hidden"], 2 * 6 + 1, f64::NAN)),
        ],
    );
    let actual = check(&context.gpu, &*loss, &spoilt, Dtype::F32, &GRADIENTS).0;
    for name in GRADIENTS {
        assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name}");
    }
    let bad = with(&inputs, [("teacher_hidden", set(&inputs["teacher_hidden"], 6, f64::NAN))]);
    let wanted = [&GRADIENTS[..], &["status"]].concat();
    let status = check_status(&context.gpu, &*loss, &bad, Dtype::F32, &wanted);
    assert_eq!(status.bad_rows, 1);
}

/// Bindings too small for all rows of the teacher's hidden states.
fn windows(context: &Context) {
    let layout = WeightLayout::ClassesHidden;
    let inputs = heads(5, [150, 30], [3, 64], layout);
    let loss = loss(&json!({}), layout);
    let narrow = context.with(|profile| profile.binding_bytes = 24 << 10);
    let expected = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS).0;
    let actual = check(&narrow, &*loss, &inputs, Dtype::F32, &GRADIENTS).0;
    for name in GRADIENTS {
        assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name}");
    }
}

fn no_rows(context: &Context) {
    for layout in layouts() {
        let inputs = heads(6, [0, 13], [5, 2], layout);
        let loss = loss(&json!({"empty": "zero"}), layout);
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS);
    }
}
