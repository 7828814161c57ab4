//! Rows with several targets: the top k of a teacher, the votes of a crowd, several next tokens.

use serde_json::json;
use surprisal::{Array, Arrays, CrossEntropy, Dtype, Error, Profile, testing};

use crate::{
    linear::{self, GRADIENTS},
    section0::{NAN, none},
    support::{
        Context, INF, assert_same_bits, bits, check, gaussian, in_turn, indices, matrix, named,
        outcome, positive, row, set, vector, with,
    },
};

tests![
    stored_logits,
    options,
    edges,
    as_a_distribution,
    a_linear_layer,
    windows,
    many_targets_of_long_rows,
    too_many,
];

const WANTED: [&str; 4] = ["loss", "log_prob", "count", "grad.logits"];

/// `k` targets a row, of which some are ignored and some occur twice, with their weights.
fn targets(seed: u64, [rows, classes, k]: [usize; 3]) -> [(&'static str, Array); 2] {
    let mut targets = testing::targets(seed, rows * k, classes as u64);
    for row in targets.chunks_mut(k) {
        row[k - 1] = row[0];
    }
    targets.iter_mut().skip(2).step_by(5).for_each(|target| *target = -100);
    let ignored = rows.min(3) - 1;
    targets[ignored * k..(ignored + 1) * k].fill(-100);
    let shape = [rows as u64, k as u64];
    [
        ("targets", Array::int(&shape, targets)),
        ("target_weight", Array::float(&shape, positive(seed + 1, rows * k))),
    ]
}

fn sample(seed: u64, [rows, classes, k]: [usize; 3]) -> Arrays {
    let logits = named([("logits", gaussian(seed, rows, classes))]);
    with(&logits, targets(seed + 1, [rows, classes, k]))
}

fn stored_logits(context: &Context) {
    for (turn, shape) in
        [[5, 1, 1], [9, 70, 3], [6, 7, 20], [4, 1001, 64], [2, 20_000, 8]].into_iter().enumerate()
    {
        let inputs = sample(1, shape);
        for dtype in in_turn(turn) {
            check(&context.gpu, &CrossEntropy::default(), &inputs, dtype, &WANTED);
        }
        let mut plain = inputs.clone();
        plain.remove("target_weight");
        check(&context.gpu, &none(), &plain, Dtype::F32, &WANTED);
    }
    // One target a row, but with a weight.
    let one = named([
        ("logits", gaussian(2, 4, 9)),
        ("targets", indices(&[3, -100, 0, 8])),
        ("target_weight", vector(&[0.5, 1.0, 0.0, 2.0])),
    ]);
    check(&context.gpu, &CrossEntropy::default(), &one, Dtype::F32, &WANTED);
}

fn options(context: &Context) {
    let gpu = &context.gpu;
    let inputs = with(
        &sample(11, [9, 130, 4]),
        [
            ("weight", vector(&positive(12, 130))),
            ("row_weight", vector(&[1.0, 0.0, -2.0].repeat(3))),
            ("upstream", vector(&[0.75])),
            ("temperature", vector(&[0.6])),
        ],
    );
    let wanted = ["loss", "denominator", "entropy", "grad.logits", "grad.temperature"];
    for options in [
        json!({}),
        json!({"denominator": "weights", "z_loss": 0.1, "softcap": 5.0}),
        json!({"ignore_index": [3, -100], "reduction": "sum"}),
    ] {
        let loss = crate::support::parse("cross_entropy", &options);
        check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
    }
    // Upstream gradients of by-products, with the temperature and from a saved lse.
    let pull = |seed| vector(&testing::gaussian(seed, 9));
    let mut pulled = with(
        &sample(13, [9, 130, 4]),
        [("upstream.log_prob", pull(14)), ("upstream.lse", pull(15))],
    );
    let lse = outcome(gpu, &none(), &pulled, Dtype::F32, &["lse"]).0;
    check(gpu, &none(), &with(&pulled, [("lse", lse["lse"].clone())]), Dtype::F32, &WANTED[3..]);
    pulled.insert("temperature".to_owned(), vector(&[0.7]));
    check(gpu, &none(), &pulled, Dtype::F32, &["log_prob", "grad.logits", "grad.temperature"]);
}

fn edges(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes) = (5, 6);
    let mut logits = gaussian(21, rows, classes);
    for (at, value) in [(1, -INF), (8, -INF), (2 * classes, NAN), (3 * classes, NAN)] {
        logits = set(&logits, at, value);
    }
    // A masked class that is no target, and one that is; bad logits; nothing but ignored targets; a bad target.
    let targets = [[0, 2], [2, 5], [1, 1], [-100, -100], [4, 6]].concat();
    let inputs = named([
        ("logits", logits),
        ("targets", Array::int(&[5, 2], targets)),
        ("weight", set(&vector(&[1.0; 6]), 3, NAN)),
    ]);
    let (outputs, status) = check(gpu, &none(), &inputs, Dtype::F32, &["loss", "grad.logits"]);
    assert_eq!((status.bad_targets, status.bad_rows), (1, 1));
    let losses = outputs["loss"].to_f64();
    assert!(losses[0].is_finite(), "the weight of class 3, NaN, belongs to no target");
    assert!(losses[1] == INF && losses[3] == 0.0 && losses[4].is_nan());
    assert!(row(&outputs["grad.logits"], 1).iter().all(|g| g.is_finite()));
    let run = gpu.run_arrays(&none(), &inputs, Dtype::F32, &["loss"]).unwrap();
    let error = run.read_blocking().unwrap_err();
    assert!(matches!(error, Error::BadTargets { row: 4, .. }), "{error:?}");
}

/// Several targets and the distribution that they stand for have the same bits.
fn as_a_distribution(context: &Context) {
    let (rows, classes, k) = (7, 300, 5);
    let mut inputs = sample(31, [rows, classes, k]);
    let targets = inputs["targets"].to_i64();
    let targets: Vec<i64> = targets.iter().map(|&y| if y < 0 { 17 } else { y }).collect();
    inputs.insert("targets".to_owned(), Array::int(&[rows as u64, k as u64], targets.clone()));
    // Weights whose sums are exact.
    let weights: Vec<f64> = (0..rows * k).map(|at| f64::from(1 + at as u32 % 7) / 8.0).collect();
    let shape = [rows as u64, k as u64];
    inputs.insert("target_weight".to_owned(), Array::float(&shape, weights.clone()));
    let mut probs = vec![0.0; rows * classes];
    for (at, (target, weight)) in targets.iter().zip(weights).enumerate() {
        probs[at / k * classes + *target as usize] += weight;
    }
    let dense = named([
        ("logits", inputs["logits"].clone()),
        ("target_probs", matrix(rows, classes, probs)),
    ]);
    let wanted = ["loss", "lse", "entropy", "grad.logits"];
    for loss in [none(), CrossEntropy::default().z_loss(0.1).softcap(4.0)] {
        let sparse = outcome(&context.gpu, &loss, &inputs, Dtype::F32, &wanted).0;
        let expected = outcome(&context.gpu, &loss, &dense, Dtype::F32, &wanted).0;
        assert_same_bits(&sparse, &expected, "several targets and a distribution");
    }
}

/// The same on a head whose logits are not stored, and target distributions there.
fn a_linear_layer(context: &Context) {
    let gpu = &context.gpu;
    let (rows, classes, depth) = (20, 301, 18);
    let wanted = [&["log_prob"], &GRADIENTS[..]].concat();
    for layout in linear::layouts() {
        let inputs = linear::sample(41, rows, classes, depth, layout);
        let several = with(&inputs, targets(42, [rows, classes, 4]));
        let mut probs = inputs.clone();
        probs.remove("targets");
        let q = gaussian(43, rows, classes).to_f64().iter().map(|q| q.abs() / 200.0).collect();
        let probs = with(&probs, [("target_probs", matrix(rows, classes, q))]);
        for (inputs, wanted) in [(&several, &wanted[..]), (&probs, &GRADIENTS)] {
            let mut first: Option<Arrays> = None;
            for chunk in [1 << 20, 5000, 2000] {
                let loss = linear::loss(&json!({"chunk_bytes": chunk, "softcap": 10.0}), layout);
                let (outputs, _) = check(gpu, &*loss, inputs, Dtype::F32, wanted);
                let expected = first.as_ref().unwrap_or(&outputs);
                for name in wanted {
                    assert_eq!(bits(&outputs[*name]), bits(&expected[*name]), "{name}, {chunk}");
                }
                first.get_or_insert(outputs);
            }
        }
        let loss = linear::loss(&json!({}), layout);
        check(gpu, &*loss, &several, Dtype::Bf16, &GRADIENTS);
    }
}

/// Windows of rows begin where their tables are at any offset; wide tables cut windows too.
fn windows(context: &Context) {
    let inputs = sample(61, [29, 65, 3]);
    let wanted = ["loss", "grad.logits", "log_prob"];
    let whole = outcome(&context.gpu, &none(), &inputs, Dtype::F32, &wanted).0;
    for change in [
        |profile: &mut Profile| profile.dispatch_elements = 65 * 7,
        |profile: &mut Profile| profile.binding_bytes = 3000,
    ] {
        let gpu = context.with(change);
        let run = gpu.run_arrays(&none(), &inputs, Dtype::F32, &wanted).unwrap();
        assert!(run.prepared().plan().windows > 1);
        assert_same_bits(&run.outcome_blocking().unwrap().0, &whole, "in windows");
        check(&gpu, &none(), &inputs, Dtype::F32, &wanted);
    }
    // Few classes and many targets: the table is wider than the logits.
    let inputs = sample(63, [40, 5, 60]);
    let gpu = context.with(|profile| profile.binding_bytes = 6000);
    check(&gpu, &none(), &inputs, Dtype::F32, &wanted);
}

/// As many targets as a row may have, in descending order, over so many classes that the search in each quad counts.
fn many_targets_of_long_rows(context: &Context) {
    let (classes, k) = (128_000, 512);
    let targets: Vec<i64> = (0..k).map(|at| classes as i64 - 1 - 249 * at).collect();
    let logits = gaussian(71, 5, classes);
    let several = named([
        ("logits", logits),
        ("targets", Array::int(&[5, k as u64], targets.repeat(5))),
        ("target_weight", Array::float(&[5, k as u64], positive(72, 5 * k as usize))),
    ]);
    check(&context.gpu, &CrossEntropy::default(), &several, Dtype::F32, &["loss", "grad.logits"]);
}

fn too_many(context: &Context) {
    let inputs = sample(51, [2, 9, 513]);
    let error = context.gpu.run_arrays(&none(), &inputs, Dtype::F32, &["loss"]).unwrap_err();
    let is_limit = matches!(&error, Error::Limit { found: 513, limit: 512, .. });
    assert!(is_limit, "{error}");
}
