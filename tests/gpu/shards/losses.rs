//! Every loss that has shards, with its options: all shards together give the result of the whole.

use serde_json::{Value, json};
use surprisal::{Arrays, Dtype, Operation, testing};

use super::whole::{Cut, Whole, add, join, labelled, pairs, slice};
use crate::support::{
    Context, Reference, gaussian, indices, matrix, named, outcome, parse, positive, vector, with,
};

tests![cross_entropy, linear_cross_entropy, info_nce, sup_con, sigmoid_contrastive];

const BY_PRODUCTS: [&str; 11] = [
    "loss",
    "lse",
    "log_prob",
    "entropy",
    "max_prob",
    "argmax",
    "correct",
    "sum",
    "count",
    "denominator",
    "correct_count",
];

/// Sets of options in which other classes than the target matter.
fn options() -> Vec<Value> {
    vec![
        json!({}),
        json!({"reduction": "sum", "z_loss": 0.02, "temperature": 1.3, "softcap": 7.0}),
        json!({"label_smoothing": 0.2, "denominator": "weights"}),
        json!({"label_smoothing": 0.3, "smoothing": "ordinal", "reduction": {"over": 7.0}}),
        json!({"focal_gamma": 1.5}),
        json!({"focal_gamma": 0.5, "label_smoothing": 0.1, "z_loss": 0.1, "reduction": "none"}),
    ]
}

fn cross_entropy(context: &Context) {
    let (rows, classes) = (23, 300);
    let mut targets = testing::targets(43, rows, classes as u64);
    (targets[1], targets[2], targets[3], targets[4]) = (0, 299, -100, 111);
    (targets[5], targets[6], targets[7]) = (110, 112, 113);
    let plain = named([
        ("logits", matrix(rows, classes, testing::outliers(40, rows * classes))),
        ("targets", indices(&targets)),
    ]);
    let weighed = with(
        &plain,
        [
            ("weight", vector(&positive(41, classes))),
            ("logit_bias", vector(&testing::gaussian(42, classes))),
            ("row_weight", vector(&positive(44, rows))),
        ],
    );
    let mut whole = Whole {
        name: "cross_entropy",
        options: json!({}),
        inputs: plain.clone(),
        cut: &[("logits", 1), ("target_probs", 1), ("logit_bias", 0)],
        rows,
        columns: classes,
        outputs: &BY_PRODUCTS,
        gradients: &["grad.logits"],
    };
    for (nth, options) in options().into_iter().enumerate() {
        (whole.options, whole.inputs) = (options, plain.clone());
        whole.check(&context.gpu, &[0, 111, 111, 112, 300]);
        // Weights and biases are streams of the functor, whatever its options: every second set has them.
        if nth % 2 == 1 {
            continue;
        }
        whole.inputs = weighed.clone();
        whole.check(&context.gpu, &[0, 300]);
        // The options do not change where the weights and biases of a shard begin.
        let cuts: &[usize] = if nth == 0 {
            &[0, 0, 64, 111, 192, 256, 299, 300]
        } else {
            &[0, 0, 64, 128, 192, 256, 300]
        };
        whole.check(&context.gpu, cuts);
    }
    // A learned temperature: every shard has the gradient of all of them.
    whole.outputs = &["loss", "grad.temperature"];
    whole.inputs = with(&weighed, [("temperature", vector(&[0.7]))]);
    for options in [json!({"z_loss": 0.1}), json!({"focal_gamma": 1.5})] {
        whole.options = options;
        whole.check(&context.gpu, &[0, 111, 112, 300]);
    }
    whole.outputs = &BY_PRODUCTS;
    // Classes at -inf (some of them targets), a NaN, a bad target, a common offset.
    let mut logits = testing::masked(45, rows * classes);
    logits[4 * classes + 111] = f64::NEG_INFINITY;
    logits[8 * classes..8 * classes + 120].fill(f64::NEG_INFINITY);
    logits[9 * classes + 200] = f64::NAN;
    logits[10 * classes..11 * classes].fill(f64::NEG_INFINITY);
    logits[11 * classes..12 * classes].iter_mut().for_each(|z| *z += 1e6);
    (targets[12], targets[13]) = (300, -5);
    whole.inputs =
        named([("logits", matrix(rows, classes, logits)), ("targets", indices(&targets))]);
    for options in [json!({"reduction": "none"}), json!({"reduction": "none", "focal_gamma": 2.0})]
    {
        whole.options = options;
        whole.check(&context.gpu, &[0, 111, 112, 300]);
    }
    // Probability targets.
    whole.inputs = crate::support::sample_probs(46, rows, classes);
    whole.outputs = &["loss", "lse", "entropy", "sum", "count", "denominator"];
    whole.gradients = &["grad.logits", "grad.target_probs"];
    for options in [json!({}), json!({"label_smoothing": 0.2, "z_loss": 0.1})] {
        whole.options = options;
        whole.check(&context.gpu, &[0, 111, 112, 300]);
    }
}

fn linear_cross_entropy(context: &Context) {
    let (rows, classes, depth) = (23, 300, 9);
    let mut targets = testing::targets(47, rows, classes as u64);
    (targets[3], targets[8]) = (-100, 111);
    let inputs = |layout: usize| {
        let weight = [[classes, depth], [depth, classes]][layout];
        named([
            ("hidden", gaussian(48, rows, depth)),
            ("weight", gaussian(49, weight[0], weight[1])),
            ("bias", vector(&testing::gaussian(50, classes))),
            ("targets", indices(&targets)),
            ("class_weight", vector(&positive(51, classes))),
        ])
    };
    let cuts: [Cut; 2] =
        [&[("weight", 0), ("bias", 0), ("logit_bias", 0)], &[("weight", 1), ("bias", 0)]];
    for (layout, cut) in cuts.into_iter().enumerate() {
        for (nth, mut options) in options().into_iter().enumerate() {
            options["weight_layout"] = json!(["classes_hidden", "hidden_classes"][layout]);
            options["chunk_bytes"] = json!(7 * 304 * 4);
            let whole = Whole {
                name: "linear_cross_entropy",
                options,
                inputs: inputs(layout),
                cut,
                rows,
                columns: classes,
                outputs: &BY_PRODUCTS,
                gradients: &["grad.hidden", "grad.weight", "grad.bias"],
            };
            let cuts: &[usize] = if nth == 0 { &[0, 111, 112, 300] } else { &[0, 112, 300] };
            whole.check(&context.gpu, cuts);
        }
    }
}

fn info_nce(context: &Context) {
    let mut whole = Whole {
        name: "info_nce",
        options: json!({}),
        inputs: pairs(17, 40, 6),
        cut: &[("keys", 0), ("key_labels", 0)],
        rows: 17,
        columns: 40,
        outputs: &["loss", "lse", "sum", "count", "denominator"],
        gradients: &["grad.queries", "grad.keys", "grad.scale"],
    };
    let cuts: [&[usize]; 3] = [&[0, 40], &[0, 5, 5, 6, 40], &[0, 16, 32, 40]];
    let mut targets = testing::targets(54, 17, 40);
    targets[5] = -100;
    let labelled = with(
        &whole.inputs,
        [
            ("targets", indices(&targets)),
            ("labels", indices(&testing::targets(55, 17, 5))),
            ("key_labels", indices(&testing::targets(56, 40, 5))),
        ],
    );
    for inputs in [whole.inputs.clone(), labelled] {
        whole.inputs = inputs;
        for options in [
            json!({"normalize": true}),
            json!({"reduction": "none", "chunk_bytes": 5 * 160}),
            json!({"reduction": {"over": 3.0}, "normalize": true}),
        ] {
            whole.options = options;
            for cuts in cuts {
                whole.check(&context.gpu, cuts);
            }
        }
    }
    (whole.inputs, whole.rows) = (pairs(40, 40, 6), 40);
    for options in [
        json!({"symmetric": true, "normalize": true}),
        json!({"symmetric": true, "reduction": "none", "chunk_bytes": 5 * 160}),
    ] {
        whole.options = options;
        for cuts in cuts {
            whole.check(&context.gpu, cuts);
        }
    }
    // A NaN in one shard makes the row NaN in all shards.
    let keys = crate::support::set(&whole.inputs["keys"], 20 * 6 + 1, f64::NAN);
    whole.inputs = with(&whole.inputs, [("keys", keys)]);
    whole.outputs = &["loss", "lse"];
    for symmetric in [false, true] {
        whole.options = json!({"symmetric": symmetric, "reduction": "none"});
        whole.gradients = &["grad.queries"];
        whole.check(&context.gpu, cuts[1]);
    }
}

fn sup_con(context: &Context) {
    let mut whole = labelled(json!({"temperature": 0.4}), 30);
    whole.outputs = &["loss", "lse", "sum", "count", "denominator"];
    whole.gradients = &["grad.features", "grad.scale"];
    for cuts in [&[0, 30][..], &[0, 7, 7, 8, 30], &[0, 16, 30]] {
        for options in
            [json!({"temperature": 0.4}), json!({"reduction": "none", "chunk_bytes": 700})]
        {
            whole.options = options;
            whole.check(&context.gpu, cuts);
        }
        // The gradients of the keys are the complete gradients of the features.
        let on_gpu = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
            outcome(&context.gpu, loss, inputs, Dtype::F32, wanted).0
        };
        whole.gradients = &["grad.keys"];
        let (_, gradients) = whole.run(cuts, &on_gpu);
        let of = named([("grad.features", gradients["grad.keys"].clone())]);
        whole.gradients = &["grad.features"];
        let mut plain = whole.inputs.clone();
        plain.remove("keys");
        let loss = parse("sup_con", &whole.options);
        Reference::new(&*loss, &plain, Dtype::F32, whole.gradients).assert(&of);
        whole.gradients = &["grad.features", "grad.scale"];
    }
}

/// The sums of the shards are simply added.
fn sigmoid_contrastive(context: &Context) {
    let inputs = with(&pairs(17, 40, 6), [("bias", vector(&[-1.0]))]);
    let targets = indices(&testing::targets(59, 17, 40));
    let gradients = ["grad.queries", "grad.scale", "grad.bias"];
    let wanted = ["loss", "sum", "grad.queries", "grad.scale", "grad.bias", "grad.keys"];
    for inputs in [inputs.clone(), with(&inputs, [("targets", targets)])] {
        let options = json!({"normalize": true});
        let mut parts: Vec<Arrays> = Vec::new();
        for (from, to) in [(0, 5), (5, 6), (6, 40)] {
            let mut options = options.clone();
            options["shard"] = json!({"first": from, "classes": 40});
            let part = with(&inputs, [("keys", slice(&inputs["keys"], 0, from, to))]);
            let loss = parse("sigmoid_contrastive", &options);
            parts.push(crate::support::check(&context.gpu, &*loss, &part, Dtype::F32, &wanted).0);
        }
        let of = |name: &str| parts.iter().map(|part| part[name].clone()).collect::<Vec<_>>();
        let mut all: Arrays = gradients
            .iter()
            .chain(&["loss", "sum"])
            .map(|&n| (n.to_owned(), add(&of(n))))
            .collect();
        all.insert("grad.keys".to_owned(), join(&of("grad.keys"), 0));
        let loss = parse("sigmoid_contrastive", &options);
        Reference::new(&*loss, &inputs, Dtype::F32, &wanted).assert(&all);
    }
}
