//! Section 0 of the catalogue, line by line.

use serde_json::json;
use surprisal::{
    Array, Arrays, CrossEntropy, Denominator, Dtype, Error, IgnoreIndex, Layout, Reduction,
    Request, Status,
};

use crate::support::{
    BY_PRODUCTS, Context, FLOATS, INF, NO_CLASS, Placed, bits, check, gaussian, in_turn, indices,
    matrix, named, outcome, parse, positive, row, sample, sample_probs, set, submit, vector, with,
};

tests![
    reductions,
    sums_of_shards,
    empty_means,
    upstream_gradients,
    denominators_on_the_gpu,
    ignored_rows_with_nan_logits,
    lists_of_ignored_targets,
    minus_infinite_logits,
    minus_infinite_targets,
    zero_times_minus_infinity,
    class_weights_of_zero,
    bad_rows,
    bad_rows_of_factor_zero,
    bad_targets,
    bad_targets_on_the_checked_path,
    integer_types,
    common_offsets,
    huge_logits,
    lowest_logits,
    first_tiles_of_minus_infinity,
    completion_counts_calls,
];

pub const NAN: f64 = f64::NAN;
pub const GRADIENT: [&str; 2] = ["loss", "grad.logits"];
pub const REDUCED: [&str; 7] =
    ["loss", "sum", "denominator", "count", "correct_count", "perplexity", "grad.logits"];

pub fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

pub fn is_zero(values: &[f64]) -> bool {
    values.iter().all(|&value| value == 0.0)
}

fn is_nan(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_nan())
}

/// The same inputs with rows 1, 4, … ignored.
pub fn some_ignored(inputs: &Arrays) -> Arrays {
    let targets = inputs["targets"].to_i64().into_iter().enumerate();
    let targets: Vec<i64> = targets.map(|(i, y)| if i % 3 == 1 { -100 } else { y }).collect();
    with(inputs, [("targets", indices(&targets))])
}

// --- reductions ---

fn reductions(context: &Context) {
    let inputs = with(
        &some_ignored(&sample(1, 33, 21)),
        [("weight", vector(&positive(2, 21))), ("row_weight", vector(&positive(3, 33)))],
    );
    for reduction in [json!("mean"), json!("sum"), json!({"over": 7.5}), json!({"over": -2.0})] {
        for denominator in ["targets", "weights"] {
            let options = json!({"reduction": reduction, "denominator": denominator});
            let loss = parse("cross_entropy", &options);
            let (outputs, _) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &REDUCED);
            assert_eq!(outputs["count"].to_i64(), [22]);
        }
    }
    for dtype in FLOATS {
        let scalars = ["loss", "grad.logits", "sum", "denominator", "count", "correct_count"];
        check(&context.gpu, &none(), &inputs, dtype, &scalars);
    }
    let probs = with(
        &sample_probs(4, 9, 11),
        [("weight", vector(&positive(2, 11))), ("row_weight", vector(&positive(3, 9)))],
    );
    for denominator in [Denominator::Targets, Denominator::Weights] {
        let loss = CrossEntropy::default().denominator(denominator);
        check(&context.gpu, &loss, &probs, Dtype::F32, &["loss", "denominator", "grad.logits"]);
    }
}

/// (sum, denominator, count) of two parts combine to those of the whole.
fn sums_of_shards(context: &Context) {
    let inputs = some_ignored(&sample(5, 24, 10));
    let part = |from: usize, to: usize| {
        let logits = inputs["logits"].to_f64()[from * 10..to * 10].to_vec();
        let targets = &inputs["targets"].to_i64()[from..to];
        let part =
            named([("logits", matrix(to - from, 10, logits)), ("targets", indices(targets))]);
        let (outputs, _) =
            check(&context.gpu, &CrossEntropy::default(), &part, Dtype::F32, &REDUCED);
        ["sum", "denominator", "count"].map(|name| outputs[name].to_f64()[0])
    };
    let (whole, one, two) = (part(0, 24), part(0, 10), part(10, 24));
    for i in 0..3 {
        assert!((one[i] + two[i] - whole[i]).abs() <= 1e-6 * whole[i], "{one:?} {two:?} {whole:?}");
    }
}

fn empty_means(context: &Context) {
    let logits = gaussian(6, 4, 9);
    let ignored = named([("logits", logits.clone()), ("targets", indices(&[-100; 4]))]);
    let no_rows = named([("logits", matrix(0, 9, Vec::new())), ("targets", indices(&[]))]);
    let weightless = with(
        &named([("logits", logits.clone()), ("targets", indices(&[0, 1, 2, 3]))]),
        [("weight", vector(&[0.0; 9]))],
    );
    let no_probs =
        named([("logits", matrix(0, 9, Vec::new())), ("target_probs", matrix(0, 9, Vec::new()))]);
    for (inputs, count) in [(&ignored, 0), (&no_rows, 0), (&weightless, 4), (&no_probs, 0)] {
        for (empty, expected) in [("nan", NAN), ("zero", 0.0)] {
            let loss = parse("cross_entropy", &json!({"empty": empty}));
            let wanted = ["loss", "sum", "denominator", "count", "grad.logits"];
            let (outputs, status) = check(&context.gpu, &*loss, inputs, Dtype::F32, &wanted);
            assert_eq!(outputs["loss"].to_f64()[0].is_nan(), expected.is_nan());
            assert_eq!(outputs["sum"].to_f64(), [0.0]);
            assert_eq!(outputs["denominator"].to_f64(), [0.0]);
            assert_eq!(outputs["count"].to_i64(), [count]);
            assert!(is_zero(&outputs["grad.logits"].to_f64()));
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
        }
    }
    // A caller's denominator of 0 is also a mean over nothing.
    let inputs = with(&sample(7, 3, 5), [("denominator", vector(&[0.0]))]);
    let zero = parse("cross_entropy", &json!({"empty": "zero"}));
    let (outputs, _) = check(&context.gpu, &*zero, &inputs, Dtype::F32, &GRADIENT);
    assert!(is_zero(&outputs["grad.logits"].to_f64()));
    // A NaN stays NaN, also in a mean over nothing.
    let spoilt = with(&inputs, [("logits", set(&inputs["logits"], 2, NAN))]);
    let (outputs, _) = check(&context.gpu, &*zero, &spoilt, Dtype::F32, &["loss"]);
    assert!(outputs["loss"].to_f64()[0].is_nan());
}

// --- gradients from above, denominators ---

fn upstream_gradients(context: &Context) {
    let inputs = some_ignored(&sample(8, 12, 70));
    for dtype in FLOATS {
        let scalar = with(&inputs, [("upstream", vector(&[-2.5]))]);
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::Over(3.0)] {
            let loss = CrossEntropy::default().reduction(reduction);
            check(&context.gpu, &loss, &scalar, dtype, &GRADIENT);
        }
        check(&context.gpu, &none(), &scalar, dtype, &GRADIENT);
        let mut each = positive(9, 12);
        each[3] = 0.0;
        each[4] = NAN;
        let rows = with(&inputs, [("upstream", vector(&each))]);
        let (outputs, _) = check(&context.gpu, &none(), &rows, dtype, &GRADIENT);
        assert!(is_zero(&row(&outputs["grad.logits"], 3)));
        assert!(is_zero(&row(&outputs["grad.logits"], 4)), "row 4 is ignored, its factor NaN");
    }
}

fn denominators_on_the_gpu(context: &Context) {
    let inputs = with(&sample(10, 12, 70), [("denominator", vector(&[5.0]))]);
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::Over(2.0)] {
        let loss = CrossEntropy::default().reduction(reduction);
        check(&context.gpu, &loss, &inputs, Dtype::F32, &["loss", "sum", "grad.logits"]);
    }
    let over = CrossEntropy::default().reduction(Reduction::Over(5.0));
    let mut plain = inputs.clone();
    plain.remove("denominator");
    let here = outcome(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &GRADIENT).0;
    let there = outcome(&context.gpu, &over, &plain, Dtype::F32, &GRADIENT).0;
    assert_eq!(bits(&here["grad.logits"]), bits(&there["grad.logits"]));
}

// --- ignored rows ---

fn ignored_rows_with_nan_logits(context: &Context) {
    for (turn, classes) in [3, 64, 1001].into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let inputs = some_ignored(&sample(11, 9, classes));
            let mut values = inputs["logits"].to_f64();
            for row in [1, 4, 7] {
                let bad = [NAN, INF, -INF][row % 3];
                values[row * classes..(row + 1) * classes].fill(bad);
            }
            let spoilt = with(&inputs, [("logits", matrix(9, classes, values))]);
            let row_wanted =
                [&GRADIENT[..], &BY_PRODUCTS[..], &["sum", "count", "denominator"]].concat();
            for (loss, wanted) in [(none(), &row_wanted[..]), (CrossEntropy::default(), &REDUCED)] {
                let (outputs, status) = check(&context.gpu, &loss, &spoilt, dtype, wanted);
                let plain = outcome(&context.gpu, &loss, &inputs, dtype, wanted).0;
                for &name in wanted {
                    assert_eq!(bits(&outputs[name]), bits(&plain[name]), "{name}");
                }
                assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
                assert!(is_zero(&row(&outputs["grad.logits"], 4)));
                if let Some(argmax) = outputs.get("argmax") {
                    assert_eq!(argmax.to_i64()[4], NO_CLASS);
                }
            }
        }
    }
}

fn lists_of_ignored_targets(context: &Context) {
    let targets = indices(&[0, -1, 2, 7, -100, 1_i64 << 40, 3, 0]);
    let inputs = named([("logits", gaussian(12, 8, 5)), ("targets", targets)]);
    let list = IgnoreIndex::List(vec![-1, 7, -100, 1 << 40]);
    let loss = CrossEntropy::default().ignore_index(list);
    let (outputs, status) = check(&context.gpu, &loss, &inputs, Dtype::F32, &REDUCED);
    assert_eq!((outputs["count"].to_i64()[0], status.bad_targets), (4, 0));
    // A class can be ignored, and a list can be empty.
    let loss = CrossEntropy::default().ignore_index(IgnoreIndex::One(0));
    let inputs = named([("logits", gaussian(12, 3, 5)), ("targets", indices(&[0, 1, 0]))]);
    check(&context.gpu, &loss, &inputs, Dtype::F32, &REDUCED);
    let loss = CrossEntropy::default().ignore_index(IgnoreIndex::List(Vec::new()));
    let (outputs, _) = check(&context.gpu, &loss, &inputs, Dtype::F32, &REDUCED);
    assert_eq!(outputs["count"].to_i64(), [3]);
}

// --- limits ---

fn minus_infinite_logits(context: &Context) {
    for (turn, classes) in [4, 70, 1001].into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let inputs = sample(13, 6, classes);
            let mut values = inputs["logits"].to_f64();
            let targets = inputs["targets"].to_i64();
            for (row, &target) in targets.iter().enumerate() {
                for column in 0..classes {
                    if column as i64 != target && (column + row) % 3 == 0 {
                        values[row * classes + column] = -INF;
                    }
                }
            }
            let inputs = with(&inputs, [("logits", matrix(6, classes, values.clone()))]);
            let wanted = [&GRADIENT[..], &BY_PRODUCTS[..]].concat();
            let (outputs, status) = check(&context.gpu, &none(), &inputs, dtype, &wanted);
            let gradient = outputs["grad.logits"].to_f64();
            let exact = values.iter().zip(&gradient).filter(|(z, _)| **z == -INF);
            assert!(exact.clone().count() > 0 && exact.clone().all(|(_, g)| *g == 0.0));
            assert_eq!(status.bad_rows, 0);
        }
    }
}

fn minus_infinite_targets(context: &Context) {
    let logits = matrix(2, 4, vec![1.0, -INF, 2.0, 0.0, 0.5, 1.0, 2.0, 3.0]);
    let inputs = named([("logits", logits), ("targets", indices(&[1, 2]))]);
    for options in [
        json!({"reduction": "none"}),
        json!({"reduction": "none", "label_smoothing": 0.1}),
        json!({"reduction": "none", "focal_gamma": 0.5}),
        json!({"reduction": "none", "focal_gamma": 2.0}),
    ] {
        let loss = parse("cross_entropy", &options);
        let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        assert_eq!(outputs["loss"].to_f64()[0], INF, "{options}");
        assert!(outputs["loss"].to_f64()[1].is_finite());
        assert!(outputs["grad.logits"].to_f64().iter().all(|value| value.is_finite()));
        assert_eq!(status.bad_rows, 0);
    }
    let (outputs, _) = check(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &REDUCED);
    assert_eq!(outputs["loss"].to_f64(), [INF]);
    assert_eq!(outputs["perplexity"].to_f64(), [INF]);
    // The finite classes and the first -inf come before it; the padding is not counted.
    let tied = named([
        ("logits", matrix(1, 5, vec![1.0, -INF, 0.0, -INF, -INF])),
        ("targets", indices(&[3])),
    ]);
    let (outputs, _) = check(&context.gpu, &none(), &tied, Dtype::F32, &["rank"]);
    assert_eq!(outputs["rank"].to_i64(), [3]);
    // Smoothing gives a class at -inf a share: the loss is +inf though the target is finite.
    let inputs = with(&inputs, [("targets", indices(&[0, 2]))]);
    let loss = none().label_smoothing(0.1);
    let (outputs, _) = check(&context.gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64()[0], INF);
    // A negative factor changes the sign, and the sum of +inf and -inf is NaN.
    let negative = with(&inputs, [("row_weight", vector(&[-1.0, 1.0]))]);
    check(&context.gpu, &loss, &negative, Dtype::F32, &GRADIENT);
}

fn zero_times_minus_infinity(context: &Context) {
    let logits = matrix(3, 4, vec![1.0, -INF, 2.0, 0.0, 0.5, 1.0, -INF, 3.0, -INF, 1.0, 2.0, 3.0]);
    let probs = matrix(3, 4, vec![0.5, 0.0, 0.5, 0.0, 0.25, 0.25, 0.0, 0.5, 0.5, 0.0, 0.0, 0.5]);
    let inputs = named([("logits", logits.clone()), ("target_probs", probs)]);
    let wanted = ["loss", "grad.logits", "grad.target_probs"];
    let (outputs, _) = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted[..2]);
    let losses = outputs["loss"].to_f64();
    assert!(losses[0].is_finite() && losses[1].is_finite() && losses[2] == INF);
    assert!(outputs["grad.logits"].to_f64().iter().all(|value| value.is_finite()));
    check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
    // The same with a class weight of 0 where the target is at -inf, or with a share of ε.
    let weight = ("weight", vector(&[1.0, 0.0, 0.0, 1.0]));
    let inputs = named([("logits", logits), ("targets", indices(&[1, 2, 1])), weight]);
    for loss in [none(), none().label_smoothing(0.2)] {
        let (outputs, _) = check(&context.gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
        assert!(outputs["loss"].to_f64()[..2].iter().all(|value| value.is_finite()));
        assert!(outputs["grad.logits"].to_f64().iter().all(|value| value.is_finite()));
    }
}

fn class_weights_of_zero(context: &Context) {
    let mut weight = positive(14, 33);
    for class in [0, 5, 32] {
        weight[class] = 0.0;
    }
    let targets = indices(&[0, 5, 32, 1, 2]);
    let inputs =
        named([("logits", gaussian(15, 5, 33)), ("targets", targets), ("weight", vector(&weight))]);
    let losses =
        [none(), none().label_smoothing(0.1), CrossEntropy::default(), none().focal_gamma(2.0)];
    for (turn, loss) in losses.into_iter().enumerate() {
        for dtype in in_turn(turn) {
            check(&context.gpu, &loss, &inputs, dtype, &GRADIENT);
        }
    }
}

// --- bad rows ---

fn bad_rows(context: &Context) {
    for (turn, classes) in [3, 70, 2049].into_iter().enumerate() {
        let inputs = sample(16, 8, classes);
        let mut values = inputs["logits"].to_f64();
        values[classes + classes / 2] = NAN;
        values[3 * classes + classes - 1] = INF;
        values[5 * classes..6 * classes].fill(-INF);
        let spoilt = with(&inputs, [("logits", matrix(8, classes, values))]);
        for dtype in in_turn(turn) {
            let wanted =
                [&GRADIENT[..], &BY_PRODUCTS[..], &["sum", "denominator", "count"]].concat();
            let (outputs, status) = check(&context.gpu, &none(), &spoilt, dtype, &wanted);
            let plain = outcome(&context.gpu, &none(), &inputs, dtype, &wanted).0;
            assert_eq!((status.bad_rows, status.bad_targets), (3, 0));
            for at in 0..8 {
                let gradient = row(&outputs["grad.logits"], at);
                if [1, 3, 5].contains(&at) {
                    assert!(outputs["loss"].to_f64()[at].is_nan() && is_nan(&gradient), "row {at}");
                    for name in ["lse", "log_prob", "entropy", "max_prob"] {
                        assert!(outputs[name].to_f64()[at].is_nan(), "{name} of row {at}");
                    }
                    assert_eq!(outputs["argmax"].to_i64()[at], NO_CLASS);
                    assert_eq!(outputs["rank"].to_i64()[at], NO_CLASS);
                    assert_eq!(outputs["correct"].to_i64()[at], 0);
                } else {
                    assert_eq!(gradient, row(&plain["grad.logits"], at));
                    assert_eq!(outputs["loss"].to_f64()[at], plain["loss"].to_f64()[at]);
                }
            }
            assert!(outputs["sum"].to_f64()[0].is_nan());
            assert_eq!(outputs["count"].to_i64(), [8]);
        }
        let (outputs, _) =
            check(&context.gpu, &CrossEntropy::default(), &spoilt, Dtype::F32, &REDUCED);
        assert!(outputs["loss"].to_f64()[0].is_nan());
        // Even where other options would hide the NaN.
        for options in [
            json!({"softcap": 30.0}),
            json!({"label_smoothing": 0.1, "empty": "zero"}),
            json!({"focal_gamma": 2.0}),
            json!({"z_loss": 0.1, "temperature": 3.0}),
        ] {
            let loss = parse("cross_entropy", &options);
            let (outputs, status) = check(&context.gpu, &*loss, &spoilt, Dtype::F32, &GRADIENT);
            assert_eq!(status.bad_rows, 3, "{options}");
            assert!(is_nan(&row(&outputs["grad.logits"], 3)), "{options}");
        }
    }
}

/// NaN times a factor of 0 is 0 here.
fn bad_rows_of_factor_zero(context: &Context) {
    let inputs = named([
        ("logits", matrix(2, 3, vec![NAN, 1.0, 2.0, 0.0, 1.0, 2.0])),
        ("targets", indices(&[1, 2])),
        ("row_weight", vector(&[0.0, 1.0])),
    ]);
    let (outputs, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
    assert!(is_zero(&row(&outputs["grad.logits"], 0)));
    assert_eq!((outputs["loss"].to_f64()[0], status.bad_rows), (0.0, 0), "a row of weight 0");
    let wanted = ["loss", "count", "denominator", "lse"];
    let (outputs, _) = check(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &wanted);
    assert!(outputs["loss"].to_f64()[0].is_finite() && outputs["lse"].to_f64()[0].is_nan());
    assert_eq!(outputs["count"].to_i64(), [2]);
    // So it is where a loss follows from sums.
    let dice = named([
        ("logits", inputs["logits"].clone()),
        ("targets", matrix(2, 3, vec![1.0, 0.0, 1.0, 0.0, 1.0, 1.0])),
        ("row_weight", vector(&[0.0, 1.0])),
    ]);
    let loss = parse("dice", &json!({"reduction": "none"}));
    let (outputs, status) = check(&context.gpu, &*loss, &dice, Dtype::F32, &GRADIENT);
    assert_eq!((outputs["loss"].to_f64()[0], status.bad_rows), (0.0, 0));
    // A factor of 0 from above spares the gradient, but not the loss.
    let mut still = inputs.clone();
    still.remove("row_weight");
    let still = with(&still, [("upstream", vector(&[0.0, 1.0]))]);
    let (outputs, status) = check(&context.gpu, &none(), &still, Dtype::F32, &GRADIENT);
    assert!(is_zero(&row(&outputs["grad.logits"], 0)) && outputs["loss"].to_f64()[0].is_nan());
    assert_eq!(status.bad_rows, 1);
}

// --- bad targets ---

fn bad_targets(context: &Context) {
    let bad = [5, -1, i64::from(i32::MAX), i64::MIN, i64::MAX, 1 << 32, (1 << 32) + 2];
    for (index, target) in bad.into_iter().enumerate() {
        let mut targets = vec![0, 1, 2, 3, 4, -100];
        targets.insert(index % 6, target);
        targets.push(target);
        let inputs = with(
            &named([("logits", gaussian(17, 8, 5)), ("targets", indices(&targets))]),
            [("weight", vector(&positive(18, 5)))],
        );
        let wanted = [&GRADIENT[..], &BY_PRODUCTS[..], &["sum", "denominator", "count"]].concat();
        let (outputs, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
        assert_eq!(status.first_bad_target, Some((index as u32 % 6, target)));
        assert_eq!((status.bad_targets, status.bad_rows), (2, 0));
        let at = index % 6;
        assert!(outputs["loss"].to_f64()[at].is_nan());
        assert!(is_zero(&row(&outputs["grad.logits"], at)));
        assert_eq!(outputs["lse"].to_f64()[at], 0.0);
        assert_eq!(outputs["argmax"].to_i64()[at], NO_CLASS);
        assert_eq!(outputs["count"].to_i64(), [5]);
        assert!(outputs["sum"].to_f64()[0].is_nan());
        check(&context.gpu, &CrossEntropy::default(), &inputs, Dtype::F32, &REDUCED);
    }
    // The logits of the row are not read either: a NaN in them makes no bad row.
    let logits = set(&gaussian(17, 2, 5), 0, NAN);
    let inputs = named([("logits", logits), ("targets", indices(&[9, 0]))]);
    let (_, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
    assert_eq!((status.bad_targets, status.bad_rows), (1, 0));
    // A row table in several windows still finds the first bad target.
    let mut targets = vec![0; 3000];
    (targets[1500], targets[2500]) = (77, 88);
    let inputs = named([("logits", gaussian(19, 3000, 3)), ("targets", indices(&targets))]);
    let gpu = context.with(|profile| profile.dispatch_elements = 600);
    let (_, status) = outcome(&gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
    assert_eq!((status.bad_targets, status.first_bad_target), (2, Some((1500, 77))));
}

fn bad_targets_on_the_checked_path(context: &Context) {
    let inputs = named([("logits", gaussian(20, 3, 4)), ("targets", indices(&[0, 4, -7]))]);
    let run = context.gpu.run_arrays(&none(), &inputs, Dtype::F32, &["loss"]).unwrap();
    let expected = Error::BadTargets { count: 2, row: 1, value: 4 };
    assert_eq!(run.read_blocking().unwrap_err(), expected);
}

/// The loss with targets stored as `dtype`, and the status.
fn typed(context: &Context, targets: &Array, dtype: Dtype, ignored: i64) -> (Array, Status) {
    let gpu = &context.gpu;
    let rows = targets.shape[0];
    let logits =
        Placed::input(gpu, &gaussian(21, rows as usize, 5), Layout::matrix(Dtype::F32, rows, 5));
    let targets = Placed::input(gpu, targets, Layout::vector(dtype, rows).offset(1));
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, rows));
    let words = Placed::input(gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8));
    let inputs =
        surprisal::CrossEntropyInputs::default().logits(logits.tensor()).targets(targets.tensor());
    let outputs =
        surprisal::CrossEntropyOutputs::default().loss(loss.tensor()).status(words.tensor());
    let options = none().ignore_index(IgnoreIndex::One(ignored));
    submit(gpu, &options.request(inputs, outputs));
    (loss.array(gpu), gpu.read_status_blocking(&words.tensor()).unwrap())
}

fn integer_types(context: &Context) {
    let targets = indices(&[3, 0, 4, 1, 2]);
    let all =
        [Dtype::I32, Dtype::U32, Dtype::I64].map(|dtype| typed(context, &targets, dtype, -100));
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
    assert_eq!(all[0].1.bad_targets, 0);
    // -100 as u32 is a large class, not the ignored index.
    let large = indices(&[0, 4_294_967_196, 1]);
    let (losses, status) = typed(context, &large, Dtype::U32, -100);
    assert!(losses.to_f64()[1].is_nan());
    assert_eq!(status.first_bad_target, Some((1, 4_294_967_196)));
    // As i32 the same words are -100, but as i64 they are not.
    assert_eq!(typed(context, &indices(&[0, -100, 1]), Dtype::I32, -100).1.bad_targets, 0);
    assert_eq!(typed(context, &large, Dtype::I64, -100).1.bad_targets, 1);
    assert_eq!(typed(context, &large, Dtype::U32, 4_294_967_196).1.bad_targets, 0);
    assert_eq!(typed(context, &indices(&[-5]), Dtype::I32, -100).1.first_bad_target, Some((0, -5)));
}

// --- offsets ---

fn common_offsets(context: &Context) {
    for classes in [3_usize, 70, 5000] {
        // Multiples of 1/16, which stay exact with the offset.
        let coarse: Vec<f64> = gaussian(22, 4, classes)
            .to_f64()
            .iter()
            .map(|value| (value * 16.0).round() / 16.0)
            .collect();
        let targets = ("targets", indices(&[0, 1, 2, 1]));
        let plain = named([("logits", matrix(4, classes, coarse.clone())), targets]);
        let wanted = ["loss", "grad.logits", "entropy", "log_prob", "max_prob"];
        let expected = check(&context.gpu, &none(), &plain, Dtype::F32, &wanted).0;
        for offset in [1e4, -1e4, 1e6, -1e6] {
            let moved = coarse.iter().map(|value| value + offset).collect();
            let inputs = with(&plain, [("logits", matrix(4, classes, moved))]);
            let actual = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted).0;
            for name in wanted {
                assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name} at {offset}");
            }
        }
    }
}

/// Finite logits of any size, whose differences must not overflow. The lowest finite number is a
/// logit like any other, even beside -inf.
fn lowest_logits(context: &Context) {
    let low = f64::from(f32::MIN);
    let logits = [
        [low; 5],
        [low, -INF, low, -INF, low],
        [0.0, low, -INF, 1.0, low],
        [1.0, 2.0, 3.0, -INF, low],
    ];
    let inputs =
        named([("logits", matrix(4, 5, logits.concat())), ("targets", indices(&[4, 0, 3, 1]))]);
    let wanted = ["loss", "lse", "entropy", "argmax", "grad.logits"];
    let (outputs, _) = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
    assert!((row(&outputs["grad.logits"], 1)[2] - 1.0 / 3.0).abs() < 1e-6);
}

fn huge_logits(context: &Context) {
    let largest = f64::from(f32::MAX);
    for huge in [1e8, 1e10, 1e30, largest] {
        let logits = vec![huge, 0.0, 1.0, 0.0, -huge, 1.0, huge, -huge, huge, -huge, -huge, -huge];
        let inputs = named([("logits", matrix(4, 3, logits)), ("targets", indices(&[0, 2, 2, 1]))]);
        for classes in [3, 40] {
            let mut values = Vec::new();
            for at in 0..4 {
                values.extend(row(&inputs["logits"], at));
                values.extend(vec![-huge; classes - 3]);
            }
            let inputs = with(&inputs, [("logits", matrix(4, classes, values))]);
            let (_, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &GRADIENT);
            assert_eq!(status.bad_rows, 0);
        }
    }
}

fn first_tiles_of_minus_infinity(context: &Context) {
    for (classes, masked) in [(40, 32), (1000, 600), (3000, 2999), (40_000, 33_000)] {
        let mut values = gaussian(23, 2, classes).to_f64();
        for row in 0..2 {
            values[row * classes..row * classes + masked].fill(-INF);
        }
        let targets = indices(&[classes as i64 - 1, classes as i64 - 1]);
        let inputs = named([("logits", matrix(2, classes, values)), ("targets", targets)]);
        let wanted = [&GRADIENT[..], &BY_PRODUCTS[..]].concat();
        let (outputs, status) = check(&context.gpu, &none(), &inputs, Dtype::F32, &wanted);
        assert!(is_zero(&row(&outputs["grad.logits"], 1)[..masked]));
        assert_eq!(status.bad_rows, 0);
    }
}

// --- status ---

fn completion_counts_calls(context: &Context) {
    let gpu = &context.gpu;
    let inputs = crate::support::placed_inputs(gpu, &none(), &sample(24, 3, 5), Dtype::F32);
    let status = Placed::input(gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8));
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 3));
    let outputs =
        surprisal::CrossEntropyOutputs::default().loss(loss.tensor()).status(status.tensor());
    let none = none();
    let request =
        Request::new(&none, crate::support::tensors(&inputs), outputs.into()).accumulate_status();
    for completed in 1..=3 {
        submit(gpu, &request);
        assert_eq!(gpu.read_status_blocking(&status.tensor()).unwrap().completed, completed);
    }
}
