//! By-products with upstream gradients of their own: what a policy gradient or a preference loss needs of a head.

use serde_json::json;
use surprisal::{Array, Arrays, CrossEntropy, Dtype, WeightLayout, testing};

use crate::{
    linear::{self, GRADIENTS},
    section0::{NAN, is_zero, none, some_ignored},
    support::{
        Context, INF, bits, check, gaussian, in_turn, indices, matrix, named, outcome, parse, row,
        sample, sample_probs, set, vector, with,
    },
};

tests![
    stored_logits,
    the_loss_takes_part_if_asked,
    from_a_saved_lse,
    edges,
    temperature,
    a_linear_layer,
    a_row_alone_and_in_a_batch,
];

const WANTED: [&str; 4] = ["log_prob", "entropy", "lse", "grad.logits"];

/// The upstream gradients of all three by-products.
fn pulled(inputs: &Arrays, seed: u64, rows: usize) -> Arrays {
    let pull = |seed| vector(&testing::gaussian(seed, rows));
    with(
        inputs,
        [
            ("upstream.log_prob", pull(seed)),
            ("upstream.entropy", pull(seed + 1)),
            ("upstream.lse", pull(seed + 2)),
        ],
    )
}

fn without(inputs: &Arrays, names: &[&str]) -> Arrays {
    let mut inputs = inputs.clone();
    inputs.retain(|name, _| !names.contains(&name.as_str()));
    inputs
}

fn stored_logits(context: &Context) {
    let gpu = &context.gpu;
    for (turn, (rows, classes)) in [(13, 1), (13, 70), (5, 1001), (2, 20_000)].iter().enumerate() {
        let plain = some_ignored(&sample(1, *rows, *classes));
        let inputs = pulled(&plain, 2, *rows);
        for dtype in in_turn(turn) {
            check(gpu, &CrossEntropy::default(), &inputs, dtype, &WANTED);
        }
        let loss = none().temperature(0.7).softcap(6.0);
        check(gpu, &loss, &inputs, Dtype::F32, &WANTED);
        // Each of them alone.
        for name in ["upstream.log_prob", "upstream.entropy", "upstream.lse"] {
            let alone = with(&plain, [(name, inputs[name].clone())]);
            check(gpu, &CrossEntropy::default(), &alone, Dtype::F32, &["grad.logits"]);
        }
    }
    // Probability targets have an entropy and an lse.
    let probs = without(&pulled(&sample_probs(5, 6, 77), 6, 6), &["upstream.log_prob"]);
    let wanted = ["entropy", "grad.logits", "grad.target_probs"];
    let (outputs, _) = check(gpu, &CrossEntropy::default(), &probs, Dtype::F32, &wanted);
    assert!(is_zero(&outputs["grad.target_probs"].to_f64()), "the loss takes no part");
}

/// With `upstream`, the gradient has both parts, and every option of the loss.
fn the_loss_takes_part_if_asked(context: &Context) {
    let gpu = &context.gpu;
    let plain = some_ignored(&sample(11, 9, 130));
    let inputs = with(&pulled(&plain, 12, 9), [("upstream", vector(&[0.75]))]);
    let weighed = with(
        &inputs,
        [
            ("row_weight", vector(&[1.0, 0.0, -2.0].repeat(3))),
            ("weight", vector(&crate::support::positive(13, 130))),
            ("logit_bias", vector(&gaussian(14, 1, 130).to_f64())),
        ],
    );
    for options in [
        json!({}),
        json!({"label_smoothing": 0.2, "z_loss": 0.1, "denominator": "weights"}),
        json!({"label_smoothing": 0.3, "smoothing": "ordinal", "reduction": "sum"}),
        json!({"focal_gamma": 2.0, "temperature": 1.5}),
    ] {
        let loss = parse("cross_entropy", &options);
        check(gpu, &*loss, &weighed, Dtype::F32, &["loss", "grad.logits"]);
        // Without it, no weight changes the gradient, be it NaN.
        let mut alone = without(&weighed, &["upstream"]);
        alone.insert("weight".to_owned(), set(&weighed["weight"], 3, NAN));
        let (outputs, _) = check(gpu, &*loss, &alone, Dtype::F32, &["grad.logits"]);
        assert!(outputs["grad.logits"].to_f64().iter().all(|g| g.is_finite()), "{options}");
    }
}

/// A saved lse, with and without the saved entropy, which spares the entropy's part a stream.
fn from_a_saved_lse(context: &Context) {
    let gpu = &context.gpu;
    for classes in [70, 1001] {
        let inputs = pulled(&some_ignored(&gentle(21, 9, classes)), 22, 9);
        let loss = none().temperature(1.3);
        let saved = outcome(gpu, &loss, &inputs, Dtype::F32, &["lse", "entropy"]).0;
        let of_lse = with(&inputs, [("lse", saved["lse"].clone())]);
        let of_both = with(&of_lse, [("entropy", saved["entropy"].clone())]);
        for given in [&of_lse, &of_both] {
            check(gpu, &loss, given, Dtype::F32, &["grad.logits"]);
            let without_entropy = without(given, &["upstream.entropy"]);
            check(gpu, &loss, &without_entropy, Dtype::F32, &["grad.logits"]);
        }
    }
}

/// Logits without outliers: a gradient cannot recover what rounding a large lse to f32 has lost.
fn gentle(seed: u64, rows: usize, classes: usize) -> Arrays {
    with(&sample(seed, rows, classes), [("logits", gaussian(seed, rows, classes))])
}

fn edges(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes) = (6, 40);
    let mut logits = gaussian(31, rows, classes);
    // A masked class, a target that is masked, NaN in a bad row and in an ignored one.
    for (at, value) in [(3, -INF), (classes + 7, -INF), (2 * classes, NAN), (3 * classes, NAN)] {
        logits = set(&logits, at, value);
    }
    let targets = indices(&[5, 7, 1, -100, 40, 2]);
    let inputs = pulled(&named([("logits", logits), ("targets", targets)]), 32, rows);
    let (outputs, _) = check(gpu, &none(), &inputs, Dtype::F32, &WANTED);
    let gradient = &outputs["grad.logits"];
    assert!(row(gradient, 0).iter().all(|g| g.is_finite()) && row(gradient, 0)[3] == 0.0);
    assert!(row(gradient, 1).iter().all(|g| g.is_finite()), "the entropy at -inf is no NaN");
    let pull = inputs["upstream.log_prob"].to_f64()[1];
    assert_eq!(row(gradient, 1)[7], f64::from(pull as f32), "e of the target itself");
    assert!(row(gradient, 2).iter().all(|g| g.is_nan()), "bad logits");
    assert!(is_zero(&row(gradient, 3)) && is_zero(&row(gradient, 4)), "ignored; a bad target");
    // Where all factors of a row are 0, so is its gradient, whatever its logits hold.
    let zero = vector(&[0.0; 6]);
    let names = ["upstream.log_prob", "upstream.entropy", "upstream.lse"];
    let still = with(&inputs, names.map(|name| (name, zero.clone())));
    let (outputs, _) = check(gpu, &none(), &still, Dtype::F32, &["grad.logits"]);
    assert!(is_zero(&outputs["grad.logits"].to_f64()));
    // A NaN among them is the row's alone.
    let poisoned = with(&inputs, [("upstream.entropy", set(&inputs["upstream.entropy"], 0, NAN))]);
    let (outputs, _) = check(gpu, &none(), &poisoned, Dtype::F32, &["grad.logits"]);
    assert!(row(&outputs["grad.logits"], 0).iter().all(|g| g.is_nan()));
    assert!(row(&outputs["grad.logits"], 5).iter().all(|g| g.is_finite()));
    // A common offset of the logits changes nothing.
    let far = gaussian(33, 3, 65).to_f64();
    let far = far.iter().map(|z| 1e4 + (z * 64.0).round() / 64.0);
    let far = named([("logits", matrix(3, 65, far.collect())), ("targets", indices(&[0, 9, 64]))]);
    check(gpu, &none(), &pulled(&far, 34, 3), Dtype::F32, &["log_prob", "entropy", "grad.logits"]);
}

/// The gradient of a learned temperature has the parts of log_prob and lse.
fn temperature(context: &Context) {
    let gpu = &context.gpu;
    let wanted = ["grad.logits", "grad.temperature"];
    for classes in [70, 1001] {
        let inputs = pulled(&some_ignored(&gentle(41, 9, classes)), 42, 9);
        let inputs = with(&inputs, [("temperature", vector(&[0.6]))]);
        let inputs = without(&inputs, &["upstream.entropy"]);
        check(gpu, &none(), &inputs, Dtype::F32, &wanted);
        let both = with(&inputs, [("upstream", vector(&[-0.5]))]);
        check(gpu, &CrossEntropy::default().z_loss(0.1), &both, Dtype::F32, &wanted);
        let logits = set(&inputs["logits"], 0, -INF);
        let mut targets = inputs["targets"].to_i64();
        targets[0] = 0;
        let infinite = with(&inputs, [("logits", logits), ("targets", indices(&targets))]);
        check(gpu, &none(), &infinite, Dtype::F32, &wanted);
    }
}

/// The same on a head whose logits are not stored: chunks of whole rows, blocks of classes, saved lse and entropy.
fn a_linear_layer(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes, depth) = (20, 301, 18);
    for layout in [WeightLayout::ClassesHidden, WeightLayout::HiddenClasses] {
        let inputs = pulled(&linear::sample(51, rows, classes, depth, layout), 52, rows);
        let wanted = [&["log_prob", "entropy", "lse"], &GRADIENTS[1..]].concat();
        let mut first: Option<Arrays> = None;
        for chunk in [1 << 20, 5000, 2000] {
            let loss = linear::loss(&json!({"chunk_bytes": chunk, "softcap": 10.0}), layout);
            let (outputs, _) = check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
            for name in &wanted {
                let expected = first.as_ref().map_or(&outputs, |first| first);
                assert_eq!(bits(&outputs[*name]), bits(&expected[*name]), "{name}, {chunk}");
            }
            let saved = with(
                &inputs,
                [("lse", outputs["lse"].clone()), ("entropy", outputs["entropy"].clone())],
            );
            check(gpu, &*loss, &saved, Dtype::F32, &GRADIENTS[1..]);
            let lse_alone = without(&saved, &["entropy"]);
            check(gpu, &*loss, &lse_alone, Dtype::F32, &GRADIENTS[1..]);
            first.get_or_insert(outputs);
        }
    }
}

/// A scorer and a trainer see the same numbers: a sequence alone, in a batch, in micro-batches and in chunks has the
/// same bits. The ratio of a policy that was not trained is then exactly 1.
fn a_row_alone_and_in_a_batch(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes, depth) = (41, 1201, 24);
    let layout = WeightLayout::ClassesHidden;
    let batch = linear::sample(61, rows, classes, depth, layout);
    let wanted = ["log_prob", "entropy", "lse"];
    let of = |inputs: &Arrays, chunk: u64, dtype: Dtype| {
        let loss = linear::loss(&json!({"chunk_bytes": chunk, "reduction": "none"}), layout);
        outcome(gpu, &*loss, inputs, dtype, &wanted).0
    };
    let part = |from: usize, to: usize| {
        let mut part = batch.clone();
        let hidden = batch["hidden"].to_f64()[from * depth..to * depth].to_vec();
        part.insert("hidden".to_owned(), matrix(to - from, depth, hidden));
        part.insert("targets".to_owned(), indices(&batch["targets"].to_i64()[from..to]));
        part
    };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let whole = of(&batch, 1 << 20, dtype);
        let expect = |outputs: &Arrays, from: usize, to: usize, what: &str| {
            for name in wanted {
                let expected: Vec<u64> = bits(&whole[name])[from..to].to_vec();
                assert_eq!(bits(&outputs[name]), expected, "{name} of {from}..{to}, {what}");
            }
        };
        for chunk in [30_000, 6000] {
            expect(&of(&batch, chunk, dtype), 0, rows, "in chunks");
        }
        for (from, to) in [(0, 1), (17, 18), (3, 12), (12, 41), (40, 41), (0, 25)] {
            expect(&of(&part(from, to), 1 << 20, dtype), from, to, "alone");
        }
        let reversed: Vec<f64> =
            batch["hidden"].to_f64().chunks(depth).rev().flatten().copied().collect();
        let targets: Vec<i64> = batch["targets"].to_i64().into_iter().rev().collect();
        let other = with(
            &batch,
            [("hidden", matrix(rows, depth, reversed)), ("targets", indices(&targets))],
        );
        let mut turned = of(&other, 1 << 20, dtype);
        for name in wanted {
            let values = turned[name].to_f64().into_iter().rev().collect();
            turned.insert(name.to_owned(), Array::float(&[rows as u64], values));
        }
        expect(&turned, 0, rows, "in another order");
    }
}
