//! Pair losses: every option against the reference at awkward shapes, edges, and what changes no bit.

use serde_json::{Value, json};
use surprisal::{Array, Arrays, Dtype, Error, Layout, Named, Operation, Request, testing};

use crate::{
    conformance::every,
    support::{
        Context, FLOATS, Placed, Reference, assert_same_bits, bits, check, fill, gaussian, indices,
        matrix, named, outcome, parse, placed_inputs, row, set, submit, tensors, vector, with,
    },
};

tests![
    info_nce_cases,
    sup_con_cases,
    sigmoid_contrastive_cases,
    similarity_cases,
    described,
    awkward_shapes,
    options,
    scales,
    zero_vectors,
    duplicates,
    rows_without_positives,
    few,
    all_alike,
    resident_scale,
    labels,
    margins,
    equal_similarities,
    margins_of_bad_pairs,
    margins_from_a_saved_lse,
    bad_targets,
    not_numbers,
    refusals,
    similarities,
    similarities_of_zero_vectors,
];

const GRADIENTS: [&str; 4] = ["loss", "lse", "grad.queries", "grad.keys"];

fn cases(context: &Context, loss: &str) {
    every(context, loss, Dtype::F32, 1, 0);
    every(context, loss, Dtype::F16, 2, 0);
    every(context, loss, Dtype::Bf16, 2, 1);
}

fn info_nce_cases(context: &Context) {
    cases(context, "info_nce");
}

fn sup_con_cases(context: &Context) {
    cases(context, "sup_con");
}

fn sigmoid_contrastive_cases(context: &Context) {
    cases(context, "sigmoid_contrastive");
}

fn similarity_cases(context: &Context) {
    cases(context, "similarity");
}

/// Inputs that are made only from the descriptions, in every storage type.
fn described(context: &Context) {
    for name in ["info_nce", "sup_con", "sigmoid_contrastive"] {
        for checked in testing::check(&*parse(name, &json!({})), &context.gpu).unwrap() {
            assert!(checked.comparison.passed, "{name}: {checked}");
        }
    }
}

/// Vectors whose scores are about as large as 1.
pub fn sample(seed: u64, queries: usize, keys: usize, depth: usize) -> Arrays {
    let size = 1.0 / (depth as f64).sqrt().sqrt();
    let scaled = |seed, count| {
        let values = gaussian(seed, count, depth).to_f64();
        matrix(count, depth, values.into_iter().map(|v| v * size).collect())
    };
    named([("queries", scaled(seed, queries)), ("keys", scaled(seed + 1, keys))])
}

pub fn features(seed: u64, count: usize, depth: usize, labels: u64) -> Arrays {
    let labels = indices(&testing::targets(seed + 1, count, labels));
    named([("features", gaussian(seed, count, depth)), ("labels", labels)])
}

pub fn info_nce(options: &Value) -> Box<dyn Operation> {
    parse("info_nce", options)
}

pub fn symmetric(normalize: bool) -> Value {
    json!({"symmetric": true, "normalize": normalize, "temperature": 0.3})
}

fn awkward_shapes(context: &Context) {
    let gpu = &context.gpu;
    for (queries, keys, depth) in
        [(1, 1, 1), (1, 5, 1), (7, 129, 65), (33, 33, 20), (25, 1000, 3), (9, 9, 1), (8, 40, 130)]
    {
        let inputs = sample(1, queries, keys, depth);
        for normalize in [false, true] {
            let plain = json!({"normalize": normalize, "temperature": 0.3});
            check(gpu, &*info_nce(&plain), &inputs, Dtype::F32, &GRADIENTS);
            if queries == keys {
                check(gpu, &*info_nce(&symmetric(normalize)), &inputs, Dtype::F32, &GRADIENTS);
            }
            let sigmoid = parse("sigmoid_contrastive", &json!({"normalize": normalize}));
            let scaled = with(&inputs, [("scale", vector(&[5.0])), ("bias", vector(&[-2.0]))]);
            let wanted = ["loss", "grad.queries", "grad.keys", "grad.scale", "grad.bias"];
            check(gpu, &*sigmoid, &scaled, Dtype::F32, &wanted);
        }
        let loss = parse("sup_con", &json!({"temperature": 0.2}));
        let inputs = features(2, keys, depth, 4);
        let inputs = with(&inputs, [("scale", vector(&[4.0]))]);
        let wanted = ["loss", "lse", "grad.features", "grad.scale", "count"];
        check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
    }
}

fn options(context: &Context) {
    let gpu = &context.gpu;
    let inputs = sample(3, 19, 19, 7);
    let wanted = ["loss", "sum", "denominator", "count", "grad.queries", "grad.keys"];
    for base in [json!({}), symmetric(true), symmetric(false)] {
        let mut options = base.clone();
        for reduction in [json!("sum"), json!("mean"), json!({"over": 7.0})] {
            options["reduction"] = reduction;
            let up = with(&inputs, [("upstream", vector(&[-0.6]))]);
            check(gpu, &*info_nce(&options), &up, Dtype::F32, &wanted);
        }
        options["reduction"] = json!("none");
        let each = vector(&testing::gaussian(4, 19));
        let up = with(&inputs, [("upstream", each)]);
        check(gpu, &*info_nce(&options), &up, Dtype::F32, &wanted);
        let over = with(&inputs, [("denominator", vector(&[11.0]))]);
        check(gpu, &*info_nce(&base), &over, Dtype::F32, &wanted);
        // Each output alone.
        for name in wanted {
            check(gpu, &*info_nce(&base), &inputs, Dtype::F32, &[name]);
        }
    }
    let features = features(5, 31, 6, 5);
    for reduction in [json!("sum"), json!("none"), json!({"over": 7.0})] {
        let loss = parse("sup_con", &json!({"reduction": reduction}));
        check(gpu, &*loss, &features, Dtype::F32, &["loss", "sum", "count", "grad.features"]);
    }
}

/// A learnable scale in a GPU buffer, also 0 and negative.
fn scales(context: &Context) {
    let wanted = ["loss", "grad.scale", "grad.queries", "grad.keys"];
    let inputs = sample(6, 21, 21, 9);
    for scale in [0.0, 1.0, 14.3, 100.0, -3.0] {
        let inputs = with(&inputs, [("scale", vector(&[scale]))]);
        for both in [false, true] {
            for normalize in [false, true] {
                let options = json!({"symmetric": both, "normalize": normalize});
                let loss = info_nce(&options);
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &["grad.scale"]);
            }
        }
        let loss = parse("sigmoid_contrastive", &json!({"normalize": true}));
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
    }
}

// --- edges ---

fn zero_vectors(context: &Context) {
    let inputs = sample(9, 12, 12, 5);
    let queries = fill(&fill(&inputs["queries"], 3, 0.0), 7, -0.0);
    let inputs = with(&inputs, [("queries", queries), ("keys", fill(&inputs["keys"], 7, 0.0))]);
    for both in [false, true] {
        let loss = info_nce(&json!({"normalize": true, "symmetric": both}));
        let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS);
        assert_eq!((status.zero_vectors, status.bad_rows), (3, 0));
        for at in [3, 7] {
            assert!(row(&outputs["grad.queries"], at).iter().all(|&g| g == 0.0));
        }
        assert!(row(&outputs["grad.keys"], 7).iter().all(|&g| g == 0.0));
    }
    // Without normalisation, zero is a vector like any other.
    let (_, status) = check(&context.gpu, &*info_nce(&json!({})), &inputs, Dtype::F32, &GRADIENTS);
    assert_eq!(status.zero_vectors, 0);
    // Squares that would overflow or underflow.
    let size = |exponent: i32| {
        let values = inputs["queries"].to_f64().iter().map(|v| v * 2f64.powi(exponent)).collect();
        with(&inputs, [("queries", matrix(12, 5, values))])
    };
    for exponent in [100, -100] {
        let loss = info_nce(&json!({"normalize": true}));
        let (outputs, _) = outcome(&context.gpu, &*loss, &size(exponent), Dtype::F32, &["loss"]);
        let (plain, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss"]);
        assert_same_bits(&only(outputs), &only(plain), "a power of two");
    }
}

pub fn only(mut outputs: Arrays) -> Arrays {
    outputs.remove("status");
    outputs
}

fn duplicates(context: &Context) {
    let inputs = sample(10, 10, 10, 6);
    let mut keys = inputs["keys"].to_f64();
    keys.copy_within(0..6, 6);
    keys.copy_within(0..6, 54);
    let inputs = with(&inputs, [("keys", matrix(10, 6, keys))]);
    for options in [json!({}), symmetric(true)] {
        check(&context.gpu, &*info_nce(&options), &inputs, Dtype::F32, &GRADIENTS);
    }
}

fn rows_without_positives(context: &Context) {
    let wanted = ["loss", "count", "denominator", "grad.features"];
    let loss = parse("sup_con", &json!({"temperature": 0.3}));
    let lonely = with(
        &features(11, 9, 5, 3),
        [("labels", indices(&[4, -1, 4, 9, i64::MAX, 0, 4, 1 << 32, -1]))],
    );
    let (outputs, _) = check(&context.gpu, &*loss, &lonely, Dtype::F32, &wanted);
    assert_eq!(outputs["count"].to_i64(), [5]);
    // 0 and 2^32 differ in only one word, and no query has a positive.
    for empty in ["nan", "zero"] {
        let loss = parse("sup_con", &json!({"empty": empty}));
        let labels = indices(&[1, 2, 3, 4, 0, 1 << 32, 7, 8, 9]);
        let inputs = with(&lonely, [("labels", labels)]);
        let (outputs, _) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!(outputs["count"].to_i64(), [0]);
        assert!(outputs["grad.features"].to_f64().iter().all(|&g| g == 0.0));
    }
    let equal = with(&lonely, [("labels", indices(&[5; 9]))]);
    check(&context.gpu, &*loss, &equal, Dtype::F32, &wanted);
    // Some queries have an ignored target, and one of them is NaN.
    let inputs = sample(12, 9, 13, 4);
    let queries = set(&inputs["queries"], 4 * 4 + 1, f64::NAN);
    let targets = indices(&[0, 12, 3, 3, -100, 5, -100, 7, 12]);
    let inputs = with(&inputs, [("targets", targets), ("queries", queries)]);
    for normalize in [false, true] {
        for name in ["info_nce", "sigmoid_contrastive"] {
            let loss = parse(name, &json!({"normalize": normalize}));
            let wanted = ["loss", "count", "grad.queries", "grad.keys"];
            let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            assert_eq!((status.bad_rows, outputs["count"].to_i64()), (0, vec![7]));
            assert!(row(&outputs["grad.queries"], 4).iter().all(|&g| g == 0.0));
            assert!(outputs["grad.keys"].to_f64().iter().all(|g| g.is_finite()));
        }
    }
}

/// One query, one key, no query, and two vectors.
fn few(context: &Context) {
    let gpu = &context.gpu;
    for options in [json!({}), symmetric(true)] {
        let (outputs, _) =
            check(gpu, &*info_nce(&options), &sample(13, 1, 1, 3), Dtype::F32, &GRADIENTS);
        assert_eq!(outputs["loss"].to_f64(), [0.0]);
        assert!(outputs["grad.keys"].to_f64().iter().all(|&g| g == 0.0));
    }
    let one_key = with(&sample(14, 6, 1, 3), [("targets", indices(&[0; 6]))]);
    check(gpu, &*info_nce(&json!({})), &one_key, Dtype::F32, &GRADIENTS);
    check(gpu, &*info_nce(&json!({})), &sample(15, 1, 9, 3), Dtype::F32, &GRADIENTS);
    for empty in ["nan", "zero"] {
        let options = json!({"normalize": true, "empty": empty});
        let none = sample(16, 0, 4, 3);
        let (outputs, _) = check(gpu, &*info_nce(&options), &none, Dtype::F32, &GRADIENTS);
        assert!(outputs["grad.keys"].to_f64().iter().all(|&g| g == 0.0));
        let options = json!({"symmetric": true, "empty": empty});
        check(gpu, &*info_nce(&options), &sample(16, 0, 0, 3), Dtype::F32, &["loss"]);
    }
    for (count, labels) in [(1, 1), (2, 1), (2, 9)] {
        let inputs = features(17, count, 3, labels);
        let loss = parse("sup_con", &json!({}));
        check(gpu, &*loss, &inputs, Dtype::F32, &["loss", "count", "grad.features"]);
    }
}

/// Each loss on copies of one vector, and on vectors of depth 1.
fn all_alike(context: &Context) {
    let gpu = &context.gpu;
    let copies = |count: usize| matrix(count, 3, [0.5, -1.0, 2.0].repeat(count));
    for (queries, keys) in [(1, 1), (5, 5), (4, 9)] {
        let inputs = named([("queries", copies(queries)), ("keys", copies(keys))]);
        let inputs = with(&inputs, [("scale", vector(&[3.0]))]);
        let wanted = [&GRADIENTS[..], &["grad.scale"]].concat();
        for normalize in [false, true] {
            let mut losses = vec![info_nce(&json!({"normalize": normalize, "reduction": "none"}))];
            losses.extend((queries == keys).then(|| info_nce(&symmetric(normalize))));
            for loss in losses {
                if !normalize {
                    check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
                    continue;
                }
                // Vectors of equal direction have no gradient: the result is only rounding, in the reference too.
                check(gpu, &*loss, &inputs, Dtype::F32, &["loss", "lse"]);
                let (outputs, _) = outcome(gpu, &*loss, &inputs, Dtype::F32, &wanted[2..]);
                for name in &wanted[2..] {
                    assert!(outputs[*name].to_f64().iter().all(|g| g.abs() < 1e-6), "{name}");
                }
            }
            let loss = parse("sigmoid_contrastive", &json!({"normalize": normalize}));
            let wanted = ["loss", "grad.queries", "grad.keys", "grad.scale"];
            check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
        }
    }
    // Depth 1: every normalised vector is 1 or -1.
    for labels in [[7; 6], [1, 1, 2, 2, 3, 3]] {
        let features = matrix(6, 1, vec![0.3, -2.0, 5.0, 1e-3, -0.7, 0.0]);
        let inputs = named([("features", features), ("labels", indices(&labels))]);
        let loss = parse("sup_con", &json!({"temperature": 0.5}));
        let wanted = ["loss", "count", "grad.features"];
        let (_, status) = check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!(status.zero_vectors, 1);
    }
}

/// A learnable temperature stays on the GPU, and may change between two runs of one recording.
fn resident_scale(context: &Context) {
    let gpu = &context.gpu;
    let inputs = with(&sample(36, 11, 11, 5), [("scale", vector(&[2.0]))]);
    for options in [json!({}), symmetric(true)] {
        let loss = info_nce(&options);
        let placed = placed_inputs(gpu, &*loss, &inputs, Dtype::F32);
        let output = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
        let gradient = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
        let outputs = Named::from([
            ("loss".to_owned(), output.tensor()),
            ("grad.scale".to_owned(), gradient.tensor()),
        ]);
        let request = Request::new(&*loss, tensors(&placed), outputs);
        for scale in [2.0, 0.25, -1.5] {
            let (_, held) = placed.iter().find(|(name, _)| name == "scale").unwrap();
            let at = held.tensor().layout.offset * 4;
            gpu.queue().write_buffer(held.tensor().buffer, at, &(scale as f32).to_le_bytes());
            submit(gpu, &request);
            let changed = with(&inputs, [("scale", vector(&[scale]))]);
            let found = named([("loss", output.array(gpu)), ("grad.scale", gradient.array(gpu))]);
            let wanted = ["loss", "grad.scale"];
            Reference::new(&*loss, &changed, Dtype::F32, &wanted).assert(&found);
        }
    }
}

/// False negatives: keys with the query's label take no part.
fn labels(context: &Context) {
    let gpu = &context.gpu;
    let inputs = sample(18, 23, 23, 6);
    for different in [1, 4, 1000] {
        let labels = indices(&testing::targets(19, 23, different));
        let inputs = with(&inputs, [("labels", labels), ("scale", vector(&[2.0]))]);
        for both in [false, true] {
            let loss = info_nce(&json!({"symmetric": both, "normalize": true}));
            let wanted = [&GRADIENTS[..], &["grad.scale"]].concat();
            check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
        }
    }
    // Labels with the same lower word are not the same label.
    let halves: Vec<i64> = (0..23).map(|i| i % 4 + ((i % 3) << 32)).collect();
    let apart = with(&inputs, [("labels", indices(&halves))]);
    check(gpu, &*info_nce(&json!({})), &apart, Dtype::F32, &GRADIENTS);
    let more = with(
        &sample(20, 8, 50, 5),
        [
            ("targets", indices(&testing::targets(21, 8, 50))),
            ("labels", indices(&testing::targets(22, 8, 3))),
            ("key_labels", indices(&testing::targets(23, 50, 3))),
        ],
    );
    check(gpu, &*info_nce(&json!({})), &more, Dtype::F32, &GRADIENTS);
}

fn bad_targets(context: &Context) {
    let targets = indices(&[0, 10, 2, -1, i64::MIN, 1 << 32, 9]);
    let inputs = with(&sample(24, 7, 10, 4), [("targets", targets)]);
    for name in ["info_nce", "sigmoid_contrastive"] {
        let loss = parse(name, &json!({"reduction": "none", "normalize": true}));
        let wanted = ["loss", "grad.queries", "grad.keys"];
        let (_, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!((status.bad_targets, status.first_bad_target), (4, Some((1, 10))));
    }
}

/// A NaN or an infinity makes everything NaN that it is part of, and is counted.
fn not_numbers(context: &Context) {
    let inputs = sample(25, 9, 9, 4);
    for value in [f64::NAN, f64::INFINITY] {
        for name in ["queries", "keys"] {
            let inputs = with(&inputs, [(name, set(&inputs[name], 4 * 4 + 2, value))]);
            for options in [
                json!({"reduction": "none"}),
                json!({"reduction": "none", "normalize": true}),
                json!({"reduction": "none", "normalize": true, "symmetric": true}),
            ] {
                let loss = info_nce(&options);
                let (outputs, status) = outcome(
                    &context.gpu,
                    &*loss,
                    &inputs,
                    Dtype::F32,
                    &["loss", "grad.queries", "grad.keys"],
                );
                let all = name == "keys" || options["symmetric"] == true;
                assert_eq!(status.bad_rows, if all { 9 } else { 1 }, "{options} {name}");
                let nan = outputs["loss"].to_f64().iter().filter(|loss| loss.is_nan()).count();
                assert_eq!(nan, if all { 9 } else { 1 });
                assert!(row(&outputs["grad.queries"], 4).iter().all(|g| g.is_nan()));
                let reached = |array: &Array| array.to_f64().iter().all(|g| g.is_nan());
                assert!(reached(&outputs["grad.keys"]));
            }
        }
    }
}

// --- margins ---

/// Every kind of call with each margin and with both.
fn margins(context: &Context) {
    let wanted = ["loss", "lse", "count", "grad.queries", "grad.keys", "grad.scale"];
    let margins = [
        json!({"target_margin": 0.3}),
        json!({"false_negative_margin": 0.05}),
        json!({"target_margin": -0.2, "false_negative_margin": -0.15}),
        json!({"target_margin": 0.1, "false_negative_margin": -1e30}),
    ];
    let square = with(&sample(60, 33, 33, 7), [("scale", vector(&[4.0]))]);
    let labels = indices(&testing::targets(61, 33, 9));
    let labelled = with(&square, [("labels", labels.clone())]);
    let wide = with(&sample(62, 20, 77, 9), [("scale", vector(&[-3.0]))]);
    let mut targets = testing::targets(63, 20, 77);
    (targets[0], targets[1], targets[2]) = (-100, 0, 76);
    let indexed = with(&wide, [("targets", indices(&targets))]);
    for margin in margins {
        for normalize in [false, true] {
            for (symmetric, inputs) in
                [(true, &square), (true, &labelled), (false, &wide), (false, &indexed)]
            {
                let mut options = margin.clone();
                options["normalize"] = json!(normalize);
                options["symmetric"] = json!(symmetric);
                let loss = info_nce(&options);
                check(&context.gpu, &*loss, inputs, Dtype::F32, &wanted);
            }
        }
    }
}

/// A key as similar as the positive is kept with a margin of 0, whichever vectors are equal.
fn equal_similarities(context: &Context) {
    let inputs = sample(64, 12, 12, 37);
    let twice = |array: &Array| {
        let mut values = array.to_f64();
        values.copy_within(0..5 * 37, 6 * 37);
        matrix(12, 37, values)
    };
    let alike =
        with(&inputs, [("queries", twice(&inputs["queries"])), ("keys", twice(&inputs["keys"]))]);
    for normalize in [false, true] {
        for both in [false, true] {
            let options = json!({
                "normalize": normalize, "symmetric": both, "target_margin": 0.1,
                "false_negative_margin": 0.0
            });
            check(&context.gpu, &*info_nce(&options), &alike, Dtype::F32, &GRADIENTS);
        }
    }
}

/// A vector that is no number has the effects that it has without margins.
fn margins_of_bad_pairs(context: &Context) {
    let inputs = sample(65, 9, 9, 4);
    let broken = with(&inputs, [("keys", set(&inputs["keys"], 2 * 4, f64::NAN))]);
    let zero = with(&inputs, [("queries", fill(&inputs["queries"], 3, 0.0))]);
    for both in [false, true] {
        let options = json!({
            "normalize": true, "symmetric": both, "target_margin": 0.1,
            "false_negative_margin": 0.02
        });
        let (_, status) =
            check(&context.gpu, &*info_nce(&options), &broken, Dtype::F32, &GRADIENTS);
        assert_eq!(status.bad_rows, 9);
        check(&context.gpu, &*info_nce(&options), &zero, Dtype::F32, &GRADIENTS);
    }
}

/// From a saved lse, rows still filter their keys by the score of the positive.
fn margins_from_a_saved_lse(context: &Context) {
    let gpu = &context.gpu;
    let inputs = with(&sample(66, 40, 40, 6), [("scale", vector(&[5.0]))]);
    let gradients = ["grad.queries", "grad.keys", "grad.scale"];
    for both in [false, true] {
        for chunk in [json!(null), json!(7 * 160), json!(1000)] {
            let loss = info_nce(&json!({
                "normalize": true, "symmetric": both, "target_margin": 0.2,
                "false_negative_margin": 0.1, "chunk_bytes": chunk
            }));
            let saved: &[&str] = if both { &["lse", "column_lse"] } else { &["lse"] };
            let (lse, _) = check(gpu, &*loss, &inputs, Dtype::F32, saved);
            let mut given = inputs.clone();
            given.extend(only(lse));
            check(gpu, &*loss, &given, Dtype::F32, &gradients);
        }
    }
}

/// Calls that cannot be meant are refused, with name and value.
fn refusals(context: &Context) {
    let refused = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
        let host = surprisal::cpu::run(loss, inputs, wanted).unwrap_err();
        let device = context.gpu.run_arrays(loss, inputs, Dtype::F32, wanted).unwrap_err();
        assert_eq!(host.to_string(), device.to_string());
        host
    };
    let few_keys = sample(30, 5, 4, 3);
    let error = refused(&*info_nce(&json!({})), &few_keys, &["loss"]);
    assert!(
        matches!(&error, Error::WrongShape { argument, .. } if &**argument == "keys"),
        "{error}"
    );
    let more_keys = sample(30, 4, 5, 3);
    let error = refused(&*info_nce(&symmetric(true)), &more_keys, &["loss"]);
    assert!(error.to_string().contains("symmetric"), "{error}");
    let square = with(&sample(30, 4, 4, 3), [("targets", indices(&[0; 4]))]);
    let error = refused(&*info_nce(&symmetric(true)), &square, &["loss"]);
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    let labelled = with(&more_keys, [("labels", indices(&[0; 4]))]);
    refused(&*info_nce(&json!({})), &labelled, &["loss"]);
    let labelled = with(&more_keys, [("key_labels", indices(&[0; 5]))]);
    refused(&*info_nce(&json!({})), &labelled, &["loss"]);
    let error = refused(&*info_nce(&json!({})), &more_keys, &["grad.scale"]);
    assert!(matches!(&error, Error::MissingInput { argument, .. } if &**argument == "scale"));
    let loss = info_nce(&json!({}));
    let placed = placed_inputs(&context.gpu, &*loss, &more_keys, Dtype::F32);
    let request = Request::new(&*loss, tensors(&placed), Named::new()).gradient_in_place();
    assert!(matches!(context.gpu.plan(&request), Err(Error::InPlace { .. })));
    let shard = json!({"first": 0, "classes": 8});
    let filtered = info_nce(&json!({"false_negative_margin": 0.1, "shard": shard}));
    let error = refused(&*filtered, &sample(30, 4, 4, 3), &["statistics"]);
    assert!(error.to_string().contains("`false_negative_margin` = 0.1"), "{error}");
    for name in ["target_margin", "false_negative_margin"] {
        let mut options = json!({});
        options[name] = json!(1e39);
        let error = (surprisal::operations::find("info_nce").unwrap().parse)(&options);
        assert!(error.unwrap_err().to_string().contains(name));
    }
    for options in [json!({"temperature": 0}), json!({"temperature": -1}), json!({"tau": 1})] {
        assert!((surprisal::operations::find("info_nce").unwrap().parse)(&options).is_err());
    }
}

// --- similarity ---

fn similarities(context: &Context) {
    let gpu = &context.gpu;
    for (queries, keys, depth, k) in [(1, 1, 1, 1), (5, 7, 3, 7), (30, 301, 17, 12)] {
        let inputs = sample(31, queries, keys, depth);
        for normalize in [false, true] {
            let loss = parse("similarity", &json!({"normalize": normalize, "k": k}));
            let wanted = ["scores", "top_scores", "top_indices"];
            let (all, _) = check(gpu, &*loss, &inputs, Dtype::F32, &wanted);
            // Chunks change no bit, and each output can be asked for alone.
            let options = json!({"normalize": normalize, "k": k, "chunk_bytes": 5 * keys * 4});
            for name in wanted {
                let small = parse("similarity", &options);
                let (one, _) = outcome(gpu, &*small, &inputs, Dtype::F32, &[name]);
                assert_eq!(bits(&one[name]), bits(&all[name]), "{name}");
            }
        }
        let scaled = with(&inputs, [("scale", vector(&[-2.5]))]);
        for dtype in FLOATS {
            let wanted = ["scores", "top_scores", "top_indices"];
            check(gpu, &*parse("similarity", &json!({"k": k})), &scaled, dtype, &wanted);
        }
    }
    // The ranks need several dispatches.
    let inputs = sample(32, 2, 5_000, 2);
    let loss = parse("similarity", &json!({"k": 3000}));
    check(gpu, &*loss, &inputs, Dtype::F32, &["top_scores", "top_indices"]);
    // On a tie the lower index comes first, NaN comes before all, and vectors of zeros have score 0.
    let keys = matrix(6, 1, vec![1.0, 2.0, f64::NAN, 2.0, 0.0, -1.0]);
    let ties = named([("queries", matrix(2, 1, vec![1.0, 0.0])), ("keys", keys)]);
    let loss = parse("similarity", &json!({"k": 6}));
    let (outputs, status) = check(gpu, &*loss, &ties, Dtype::F32, &["scores", "top_indices"]);
    assert_eq!(outputs["top_indices"].to_i64(), [2, 1, 3, 0, 4, 5, 2, 0, 1, 3, 4, 5]);
    assert_eq!(status.bad_rows, 2);
    let loss = parse("similarity", &json!({"k": 7}));
    assert!(gpu.run_arrays(&*loss, &ties, Dtype::F32, &["top_scores"]).is_err());
}

/// With `normalize`, a vector of zeros has score 0, is counted, and makes no other score NaN.
fn similarities_of_zero_vectors(context: &Context) {
    let inputs = sample(37, 6, 9, 5);
    let queries = fill(&fill(&inputs["queries"], 1, 0.0), 4, -0.0);
    let inputs = with(&inputs, [("queries", queries), ("keys", fill(&inputs["keys"], 7, 0.0))]);
    let wanted = ["scores", "top_scores", "top_indices"];
    for dtype in FLOATS {
        for chunk in [None, Some(2 * 40)] {
            let options = json!({"normalize": true, "k": 9, "chunk_bytes": chunk});
            let loss = parse("similarity", &options);
            let (outputs, status) = check(&context.gpu, &*loss, &inputs, dtype, &wanted);
            assert_eq!((status.zero_vectors, status.bad_rows), (3, 0));
            for at in [1, 4] {
                assert!(row(&outputs["scores"], at).iter().all(|&score| score == 0.0));
                // All keys are equal: the lower indices come first.
                let places: Vec<f64> = (0..9).map(f64::from).collect();
                assert_eq!(row(&outputs["top_indices"], at), places);
            }
            assert!((0..6).all(|at| row(&outputs["scores"], at)[7] == 0.0));
        }
    }
    let plain = parse("similarity", &json!({"k": 9}));
    let (_, status) = check(&context.gpu, &*plain, &inputs, Dtype::F32, &wanted);
    assert_eq!(status.zero_vectors, 0);
}
