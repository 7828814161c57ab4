//! The largest and smallest floats, infinities and NaN as weights, scales and denominators: nothing hides a NaN, and
//! nothing finite is lost.

use serde_json::{Value, json};
use surprisal::{Arithmetic, Array, Arrays, Dtype, Operation, Reduction, cpu, testing};

use crate::support::{
    Context, INF, check, gaussian, indices, matrix, named, outcome, parse, positive, sample,
    vector, with,
};

tests![
    no_divisor_hides_a_nan,
    no_weight_hides_a_nan,
    weights_and_divisors_of_every_kind,
    gradients_of_nothing_are_zero,
    dice_of_tiny_probabilities,
    dice_of_large_smoothing,
    dice_of_large_masks,
    vectors_of_every_size,
    scores_near_256,
];

const NAN: f64 = f64::NAN;

/// Calls of every kind, with their gradients.
fn calls() -> Vec<(&'static str, Value, Arrays, Vec<&'static str>)> {
    let gradient = || vec!["loss", "grad.logits"];
    let masks = |seed| matrix(4, 6, positive(seed, 24).iter().map(|p| p.min(1.0)).collect());
    let rows = sample(1, 4, 6);
    let elements = named([("logits", gaussian(2, 4, 6)), ("targets", masks(3))]);
    let units = named([("queries", gaussian(4, 4, 6)), ("keys", gaussian(5, 4, 6))]);
    let scaled = with(&units, [("scale", vector(&[1.5]))]);
    let labels = ("labels", indices(&[0, 1, 0, 1]));
    let linear = [("hidden", gaussian(6, 4, 3)), ("weight", gaussian(7, 6, 3))];
    let linear = with(&named(linear), [("targets", rows["targets"].clone())]);
    vec![
        ("cross_entropy", json!({}), rows, gradient()),
        ("linear_cross_entropy", json!({}), linear, vec!["loss", "grad.hidden", "grad.weight"]),
        ("bce_with_logits", json!({}), elements.clone(), gradient()),
        ("mse", json!({}), elements.clone(), gradient()),
        ("dice", json!({}), elements.clone(), gradient()),
        ("dice", json!({"per": "batch", "bce": 0.5}), elements, gradient()),
        ("info_nce", json!({}), units.clone(), vec!["loss", "grad.queries", "grad.keys"]),
        (
            "info_nce",
            json!({"symmetric": true, "normalize": true}),
            units.clone(),
            vec!["loss", "grad.queries", "grad.keys"],
        ),
        ("info_nce", json!({"symmetric": true}), scaled.clone(), vec!["loss", "grad.scale"]),
        ("info_nce", json!({}), scaled.clone(), vec!["loss", "grad.scale"]),
        ("sigmoid_contrastive", json!({}), units, vec!["loss", "grad.queries", "grad.keys"]),
        (
            "sigmoid_contrastive",
            json!({}),
            with(&scaled, [("bias", vector(&[-0.5]))]),
            vec!["loss", "grad.scale", "grad.bias"],
        ),
        (
            "sup_con",
            json!({}),
            with(&named([("features", gaussian(8, 4, 6))]), [labels]),
            vec!["loss", "grad.features"],
        ),
    ]
}

/// Compares all outputs of a call in f32 with the reference. Their NaN and infinities must be at the same places.
#[track_caller]
fn check_all(context: &Context, loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]) -> Arrays {
    check(&context.gpu, loss, inputs, Dtype::F32, wanted).0
}

/// As `check_all`, for one output. WGSL allows a device to flush subnormal numbers to zero: an output of which all
/// numbers are subnormal may differ from the reference by the smallest normal number.
fn check_normal(
    context: &Context,
    loss: &dyn Operation,
    inputs: &Arrays,
    wanted: &[&str; 1],
) -> Arrays {
    let smallest = f64::from(f32::MIN_POSITIVE);
    let subnormal = |value: &f64| value.abs() < smallest;
    let truth = cpu::run(loss, inputs, wanted).unwrap()[wanted[0]].to_f64();
    if !truth.iter().all(subnormal) {
        return check_all(context, loss, inputs, wanted);
    }
    let outputs = outcome(&context.gpu, loss, inputs, Dtype::F32, wanted).0;
    for (actual, truth) in outputs[wanted[0]].to_f64().iter().zip(&truth) {
        assert!((actual - truth).abs() <= smallest, "{loss:?}: {actual}, expected {truth}");
    }
    outputs
}

fn is_nan(outputs: &Arrays, name: &str) -> bool {
    outputs[name].to_f64().iter().all(|value| value.is_nan())
}

/// A caller's denominator, or an upstream gradient, that is NaN, infinite, 0 or negative, with losses that are finite,
/// infinite or NaN.
fn no_divisor_hides_a_nan(context: &Context) {
    for (name, options, inputs, wanted) in calls() {
        let is_matrix = |(_, array): &(&String, &Array)| array.shape.len() == 2;
        let first = inputs.iter().find(is_matrix).unwrap().0.clone();
        // Dice's share of cross-entropy is never infinite.
        let has_limits = inputs.contains_key("logits") && options.get("bce").is_none();
        let spoilt: &[f64] = if has_limits { &[-INF, NAN] } else { &[NAN] };
        for spoil in [None].into_iter().chain(spoilt.iter().map(|&value| Some(value))) {
            let mut inputs = inputs.clone();
            if let Some(value) = spoil {
                let name = if inputs.contains_key("logits") { "logits" } else { &first };
                let spoilt = crate::support::fill(&inputs[name], 1, value);
                // The target of the row is at -inf, and another class is not.
                let spoilt =
                    crate::support::set(&spoilt, 6, if value.is_nan() { NAN } else { 1.0 });
                inputs.insert(name.to_owned(), spoilt);
                if let Some(targets) = inputs.get("targets").filter(|targets| targets.shape == [4])
                {
                    let mut classes = targets.to_i64();
                    classes[1] = 3;
                    inputs.insert("targets".to_owned(), indices(&classes));
                }
            }
            let loss = parse(name, &options);
            for denominator in [NAN, -NAN, INF, -INF, 0.0, -0.0, -2.5] {
                let inputs = with(&inputs, [("denominator", vector(&[denominator]))]);
                let outputs = check_all(context, &*loss, &inputs, &wanted);
                assert!(!denominator.is_nan() || is_nan(&outputs, "loss"), "{name} {spoil:?}");
            }
            for upstream in [NAN, 0.0] {
                let inputs = with(&inputs, [("upstream", vector(&[upstream]))]);
                check_all(context, &*loss, &inputs, &wanted);
            }
        }
    }
}

/// Weights and masks that are infinite or NaN, over divisors that are: the gradient of a mean over nothing is 0, and
/// infinity over infinity is no number.
fn weights_and_divisors_of_every_kind(context: &Context) {
    let masks = matrix(4, 6, positive(3, 24).iter().map(|p| p.min(1.0)).collect());
    let elements = named([("logits", gaussian(2, 4, 6)), ("targets", masks)]);
    let rows = named([("logits", gaussian(2, 4, 6)), ("targets", indices(&[0, 3, 2, 5]))]);
    // Every second element is at its target: its slope is 0.
    let met =
        (0..24).map(|at| elements["logits"].to_f64()[at] + f64::from(at as u32 % 2)).collect();
    let met = with(&elements, [("targets", matrix(4, 6, met))]);
    let none = [NAN, INF, -INF, 0.0];
    let any = [NAN, INF, -INF, 0.0, 2.0];
    let calls: [(_, _, _, _, &[f64]); 5] = [
        ("mse", &met, "weight", 6, &any),
        ("bce_with_logits", &elements, "weight", 6, &any),
        ("bce_with_logits", &elements, "mask", 6, &any),
        ("cross_entropy", &rows, "row_weight", 4, &none),
        ("cross_entropy", &rows, "weight", 6, &none),
    ];
    for (name, inputs, argument, count, divisors) in calls {
        let loss = parse(name, &json!({}));
        let given = divisors.iter().map(|&divisor| ("denominator", divisor));
        let given: Vec<_> = given.chain([("upstream", NAN), ("upstream", 0.0)]).collect();
        for weight in [NAN, INF, -INF, 0.0] {
            let mut weights = [1.0, 2.0, 0.5, weight, 1.5, 1.0];
            weights[0] = 0.0;
            for &(other, value) in &given {
                let weights = (argument, vector(&weights[..count]));
                let inputs = with(inputs, [weights, (other, vector(&[value]))]);
                let outputs = check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
                let gradient = outputs["grad.logits"].to_f64();
                let is_zero = gradient.iter().all(|&g| g == 0.0);
                let nothing = (other, value) == ("denominator", 0.0);
                assert!(is_zero || !nothing, "{name} {argument} {weight}: {gradient:?}");
            }
        }
    }
    // The mean's own divisor is infinite then.
    let loss = parse("bce_with_logits", &json!({}));
    for mask in [INF, -INF] {
        let mask = ("mask", vector(&[1.0, 2.0, 0.5, mask, 0.0, 1.0]));
        let inputs = with(&elements, [mask]);
        let outputs = check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
        assert!(outputs["grad.logits"].to_f64()[3].is_nan());
    }
}

/// Weights of rows, classes, elements and positives, and masks.
fn no_weight_hides_a_nan(context: &Context) {
    let rows = {
        let inputs = sample(1, 4, 6);
        let logits = crate::support::set(&inputs["logits"], 9, -INF);
        with(&inputs, [("logits", logits), ("targets", indices(&[0, 3, 2, 3]))])
    };
    let masks = matrix(4, 6, positive(3, 24).iter().map(|p| p.min(1.0)).collect());
    let scores = crate::support::set(&gaussian(2, 4, 6), 9, -INF);
    let elements = named([("logits", scores), ("targets", masks)]);
    let of_rows = |value| vector(&[1.0, value, 2.0, 0.5]);
    let of_classes = |value| vector(&[1.0, 2.0, 0.5, value, 1.5, 1.0]);
    for reduction in ["mean", "none", "sum"] {
        let options = |more: Value| {
            let mut options = more;
            options["reduction"] = json!(reduction);
            options
        };
        for more in [json!({}), json!({"label_smoothing": 0.1}), json!({"denominator": "weights"})]
        {
            let loss = parse("cross_entropy", &options(more));
            for weights in [("row_weight", of_rows(NAN)), ("weight", of_classes(NAN))] {
                let inputs = with(&rows, [weights]);
                let outputs = check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
                let losses = outputs["loss"].to_f64();
                assert!(losses[usize::from(reduction == "none")].is_nan(), "{loss:?}");
            }
        }
        let loss = parse("bce_with_logits", &options(json!({})));
        for name in ["weight", "mask", "pos_weight"] {
            let inputs = with(&elements, [(name, of_classes(NAN))]);
            let outputs = check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
            let losses = outputs["loss"].to_f64();
            assert!(losses[if reduction == "none" { 9 } else { 0 }].is_nan(), "{name}");
        }
        let loss = parse("dice", &options(json!({"bce": 0.5})));
        let inputs = with(&elements, [("row_weight", of_rows(NAN))]);
        check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
    }
    // The mean over infinite weights is NaN.
    let loss = parse("cross_entropy", &json!({}));
    let inputs = with(&sample(9, 4, 6), [("weight", vector(&[INF; 6]))]);
    let outputs = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss", "denominator"]).0;
    assert!(is_nan(&outputs, "loss") && outputs["denominator"].to_f64() == [INF]);
}

/// What is ignored, masked or has weight 0 has the gradient 0, whatever the denominator is.
fn gradients_of_nothing_are_zero(context: &Context) {
    let nan = ("denominator", vector(&[NAN]));
    let rows = with(
        &sample(1, 3, 5),
        [
            ("targets", indices(&[-100, 1, 2])),
            ("row_weight", vector(&[1.0, 0.0, 1.0])),
            nan.clone(),
        ],
    );
    let loss = parse("cross_entropy", &json!({}));
    let gradient = check_all(context, &*loss, &rows, &["grad.logits"])["grad.logits"].to_f64();
    assert!(gradient[..10].iter().all(|&g| g == 0.0), "{gradient:?}");
    assert!(gradient[10..].iter().all(|g| g.is_nan()), "{gradient:?}");
    let elements = named([
        ("logits", gaussian(2, 1, 3)),
        ("targets", matrix(1, 3, vec![0.5; 3])),
        ("mask", vector(&[0.0, 1.0, 1.0])),
        ("weight", vector(&[1.0, 0.0, 1.0])),
        nan,
    ]);
    let loss = parse("bce_with_logits", &json!({}));
    let gradient = check_all(context, &*loss, &elements, &["grad.logits"])["grad.logits"].to_f64();
    assert!(gradient[..2].iter().all(|&g| g == 0.0) && gradient[2].is_nan(), "{gradient:?}");
}

/// The sigmoids of a row underflow in every column, but their quotient does not.
fn dice_of_tiny_probabilities(context: &Context) {
    let tiny = f64::from(f32::from_bits(3));
    for per in ["row", "channel", "batch"] {
        for smooth in [0.0, 1e-44, 1e-39, 1e-30, 1.0] {
            for z in [-80.0, -88.0, -90.0, -103.0, -120.0, -1000.0, -3e38, -INF] {
                for y in [0.0, tiny, 1e-39, 1.0] {
                    let targets = matrix(2, 9, vec![y; 18]);
                    let inputs =
                        named([("logits", matrix(2, 9, vec![z; 18])), ("targets", targets)]);
                    let loss = parse("dice", &json!({"per": per, "smooth": smooth}));
                    let outputs = check_normal(context, &*loss, &inputs, &["loss"]);
                    check_normal(context, &*loss, &inputs, &["grad.logits"]);
                    if smooth == 0.0 {
                        let empty = z == -INF && y == 0.0;
                        let expected = if empty { 0.0 } else { 1.0 };
                        assert_eq!(outputs["loss"].to_f64(), [expected], "{per} {z} {y}");
                    }
                }
            }
        }
    }
}

/// With a large smoothing the sums are not raised.
fn dice_of_large_smoothing(context: &Context) {
    let targets = matrix(2, 9, positive(1, 18).iter().map(|p| p.min(1.0)).collect());
    let inputs = named([("logits", gaussian(2, 2, 9)), ("targets", targets)]);
    for smooth in [4e9, 5e9, 1e20, 3e38] {
        let loss = parse("dice", &json!({"smooth": smooth}));
        check_all(context, &*loss, &inputs, &["loss"]);
        check_normal(context, &*loss, &inputs, &["grad.logits"]);
    }
    let loss = surprisal::Dice::default().smooth(0.0).reduction(Reduction::None);
    let large = named([
        ("logits", matrix(1, 2, vec![0.0; 2])),
        ("targets", matrix(1, 2, vec![255.0, 65535.0])),
    ]);
    let truth = cpu::run(&loss, &large, &["loss"]).unwrap()["loss"].to_f64();
    let actual = check_all(context, &loss, &large, &["loss"])["loss"].to_f64();
    assert!((truth[0] - actual[0]).abs() < 1e-6, "{truth:?} {actual:?}");
}

/// Masks far above 1 do not overflow, whatever the smoothing.
fn dice_of_large_masks(context: &Context) {
    // Row 0 adds up to just below 1e23, row 1 to 1e21.
    let masks: Vec<f64> = (0..18).map(|at| if at < 9 { 1.1e22 } else { 1.1e20 }).collect();
    let inputs = named([("logits", gaussian(2, 2, 9)), ("targets", matrix(2, 9, masks))]);
    for per in ["row", "channel", "batch"] {
        for smooth in [0.0, 1e-7, 1.0, 1e20] {
            let loss = parse("dice", &json!({"per": per, "smooth": smooth}));
            let outputs = check_all(context, &*loss, &inputs, &["loss", "grad.logits"]);
            let numbers: Vec<f64> = outputs.values().flat_map(Array::to_f64).collect();
            assert!(numbers.iter().all(|number| number.is_finite()), "{per} {smooth}: {outputs:?}");
        }
    }
}

/// Vectors from the smallest to the largest normal numbers, each with all others and with ordinary ones.
fn vectors_of_every_size(context: &Context) {
    let sizes = [1e-37, 3e-30, 1e-20, 1e-13, 1.0, 1e13, 1e20, 3e30, 3e38];
    let (count, depth) = (2 * sizes.len(), 13);
    let vectors = |seed: u64, shift: usize| {
        let mut values = surprisal::testing::gaussian(seed, count * depth);
        for (row, vector) in values.chunks_mut(depth).enumerate() {
            let top = vector.iter().fold(0.0_f64, |top, v| top.max(v.abs()));
            let size = sizes[(row + shift) % sizes.len()];
            // The largest element has this size, and none is below 1e-37.
            for v in vector {
                let scaled = *v * size / top;
                *v = if scaled.abs() < 1e-37 { 0.0 } else { scaled };
            }
        }
        matrix(count, depth, values)
    };
    let units = named([("queries", vectors(1, 0)), ("keys", vectors(2, 4))]);
    let labels = (0..count as i64).map(|row| row % 3).collect::<Vec<_>>();
    let features = named([("features", vectors(3, 0)), ("labels", indices(&labels))]);
    // The larger a vector, the smaller its gradient: the upstream gradient is large enough to make it a normal number.
    let upstream = ("upstream", vector(&[1e10]));
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for chunk in [json!(null), json!(4 * 24 * 3)] {
            let options = |more: Value| {
                let mut options = more;
                options["normalize"] = json!(true);
                options["chunk_bytes"] = chunk.clone();
                options
            };
            let gpu = &context.gpu;
            let pairs = with(&units, [upstream.clone()]);
            for symmetric in [false, true] {
                let loss = parse(
                    "info_nce",
                    &options(json!({"symmetric": symmetric, "temperature": 0.2})),
                );
                check(gpu, &*loss, &pairs, dtype, &["loss", "lse"]);
                check_by_row(context, &*loss, &pairs, dtype, &["grad.queries", "grad.keys"]);
            }
            let loss = parse("sigmoid_contrastive", &options(json!({})));
            check(gpu, &*loss, &pairs, dtype, &["loss"]);
            check_by_row(context, &*loss, &pairs, dtype, &["grad.queries", "grad.keys"]);
            let loss = parse("sup_con", &json!({"chunk_bytes": chunk}));
            let all = with(&features, [upstream.clone()]);
            check(gpu, &*loss, &all, dtype, &["loss", "lse"]);
            check_by_row(context, &*loss, &all, dtype, &["grad.features"]);
        }
        let loss = parse("similarity", &json!({"normalize": true, "k": 3}));
        let (outputs, status) =
            check(&context.gpu, &*loss, &units, dtype, &["scores", "top_scores", "top_indices"]);
        assert!(outputs["scores"].to_f64().iter().all(|score| score.abs() <= 1.01));
        assert_eq!(status.zero_vectors, 0);
    }
    let of = |queries: &[f64], keys: &[f64]| {
        named([("queries", matrix(1, 2, queries.to_vec())), ("keys", matrix(1, 2, keys.to_vec()))])
    };
    let loss = parse("similarity", &json!({"normalize": true}));
    for (inputs, expected) in [
        (of(&[1e-20, 0.0], &[1e-20, 0.0]), 1.0),
        (of(&[2.0775e38, 3.0262e38], &[1.0, 1.0]), 0.983_158_64),
        (of(&[1e-37, 1e-37], &[3e38, -3e38]), 0.0),
        (of(&[3e38, 3e38], &[3e38, 3e38]), 1.0),
    ] {
        let score = check_all(context, &*loss, &inputs, &["scores"])["scores"].to_f64()[0];
        assert!((score - expected).abs() < 1e-6, "{score} {expected}");
    }
}

/// Compares the gradient of each vector with the tolerance separately, because the largest gradients would hide errors
/// in all others.
#[track_caller]
fn check_by_row(
    context: &Context,
    loss: &dyn Operation,
    inputs: &Arrays,
    dtype: Dtype,
    wanted: &[&str],
) {
    let stored = testing::rounded(loss, inputs, dtype);
    let actual = outcome(&context.gpu, loss, inputs, dtype, wanted).0;
    let truth = cpu::run(loss, &stored, wanted).unwrap();
    let naive = loss.reference(&stored, wanted, Arithmetic::F32).unwrap();
    for &name in wanted {
        let rows = truth[name].shape[0] as usize;
        for index in 0..rows {
            let of = |arrays: &Arrays| vector(&crate::support::row(&arrays[name], index));
            let (truth, actual) = (of(&truth), of(&actual));
            let compared = testing::compare(name, &actual, &truth, &of(&naive), dtype, rows as u64);
            assert!(
                compared.passed,
                "{name} {index} {dtype} {loss:?}: {compared:?}\n{:?}\n{:?}",
                actual.to_f64(),
                truth.to_f64()
            );
        }
    }
}

/// A large bias costs the scores no more digits than a naive sum loses.
fn scores_near_256(context: &Context) {
    let (rows, classes, depth) = (16, 64, 8);
    let within = |seed: u64, count: usize| {
        testing::gaussian(seed, count).iter().map(|v| v.clamp(-1.0, 1.0)).collect::<Vec<_>>()
    };
    for seed in 0..40 {
        let bias: Vec<f64> =
            testing::gaussian(4 * seed, classes).iter().map(|b| 256.0 + b).collect();
        let inputs = named([
            ("hidden", matrix(rows, depth, within(4 * seed + 1, rows * depth))),
            ("weight", matrix(classes, depth, within(4 * seed + 2, classes * depth))),
            ("bias", vector(&bias)),
            ("targets", indices(&testing::targets(4 * seed + 3, rows, classes as u64))),
        ]);
        for reduction in ["mean", "none"] {
            let loss = parse("linear_cross_entropy", &json!({"reduction": reduction}));
            let wanted =
                ["loss", "lse", "log_prob", "entropy", "grad.hidden", "grad.weight", "grad.bias"];
            check_all(context, &*loss, &inputs, &wanted);
        }
    }
}
