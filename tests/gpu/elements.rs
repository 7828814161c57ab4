//! Element losses: what users expect of them, and what other libraries get wrong.

pub(super) mod places;
pub(super) mod values;

use serde_json::json;
use surprisal::{
    Array, Arrays, BceWithLogits, Dice, Dtype, Elementwise, Error, GaussianNll, Layout, MaskedMean,
    Mse, Named, Operation, Per, Reduction, Request, Tensor, cpu, testing,
};

use crate::{
    common::own::LogCosh,
    support::{
        Context, FLOATS, INF, Placed, assert_same_bits, bits, check, gaussian, in_turn, matrix,
        named, outcome, parse, placed_inputs, set, storage, submit, tensors, vector, with,
    },
};

tests![
    broadcasts,
    masks,
    masks_of_bytes_and_bits,
    masks_of_other_integers,
    unknown_targets,
    smoothing_is_half_to_each_side,
    variances_and_their_logarithms,
    reductions,
    empty,
    wrong_shapes,
    dice_per_row_and_batch,
    dice_with_a_mask,
    losses_of_ones_own,
    saturation,
    one_target_for_all,
];

const NAN: f64 = f64::NAN;
pub const GRADIENT: [&str; 2] = ["loss", "grad.logits"];

/// Logits and soft targets.
pub fn sample(seed: u64, rows: usize, columns: usize) -> Arrays {
    let targets = testing::numbers(surprisal::loss::Domain::Probability, seed + 1, rows * columns);
    named([("logits", gaussian(seed, rows, columns)), ("targets", matrix(rows, columns, targets))])
}

pub fn positive(seed: u64, shape: &[u64]) -> Array {
    let count = shape.iter().product::<u64>() as usize;
    Array::float(shape, crate::support::positive(seed, count))
}

/// Logits and targets that are single elements, with the given values.
fn each(logits: &[f64], targets: &[f64]) -> Arrays {
    named([("logits", vector(logits)), ("targets", vector(targets))])
}

fn none() -> BceWithLogits {
    BceWithLogits::default().reduction(Reduction::None)
}

fn broadcasts(context: &Context) {
    for (rows, columns) in [(5, 7), (6, 8), (9, 1), (1, 9), (7, 7)] {
        let (r, c) = (rows as u64, columns as u64);
        for shape in [&[r, c][..], &[c], &[r, 1], &[1]] {
            let inputs = with(
                &sample(3, rows, columns),
                [
                    ("weight", positive(5, shape)),
                    ("pos_weight", positive(6, shape)),
                    ("logit_bias", positive(7, shape)),
                ],
            );
            check(&context.gpu, &BceWithLogits::default(), &inputs, Dtype::F32, &GRADIENT);
        }
    }
}

fn masks(context: &Context) {
    let logits = gaussian(1, 6, 11);
    let mask = testing::numbers(surprisal::loss::Domain::Mask, 2, 66);
    let hidden: Vec<usize> = (0..66).filter(|&at| mask[at] == 0.0).collect();
    assert!(hidden.len() > 3);
    let poisoned = hidden
        .iter()
        .enumerate()
        .fold(logits, |logits, (nth, &at)| set(&logits, at, [NAN, INF, -INF][nth % 3]));
    let inputs =
        with(&sample(1, 6, 11), [("logits", poisoned), ("mask", matrix(6, 11, mask.clone()))]);
    for denominator in [MaskedMean::Mask, MaskedMean::All] {
        let loss = BceWithLogits::default().denominator(denominator);
        let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
        let (outputs, status) = check(&context.gpu, &loss, &inputs, Dtype::F32, &wanted);
        assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
        let gradient = outputs["grad.logits"].to_f64();
        assert!(hidden.iter().all(|&at| gradient[at].to_bits() == 0), "exactly +0");
        let kept = 66 - hidden.len();
        assert_eq!(outputs["count"].to_i64(), [kept as i64]);
        let divisor = if denominator == MaskedMean::All { 66 } else { kept };
        assert_eq!(outputs["denominator"].to_f64(), [divisor as f64]);
    }
    // A fractional mask multiplies the sum and the denominator; also per column and per row.
    for shape in [&[6, 11][..], &[11], &[6, 1]] {
        let inputs = with(&sample(1, 6, 11), [("mask", positive(4, shape))]);
        check(&context.gpu, &BceWithLogits::default(), &inputs, Dtype::F32, &GRADIENT);
    }
}

/// A host mask of integers that is neither bytes of 0 and 1 nor clearly bits is refused, on the CPU and on the GPU.
fn masks_of_other_integers(context: &Context) {
    let loss = BceWithLogits::default();
    let refuse = |rows, columns, mask: Array, text: &str| {
        let inputs = with(&sample(1, rows, columns), [("mask", mask)]);
        let error = context.gpu.run_arrays(&loss, &inputs, Dtype::F32, &["loss"]).unwrap_err();
        assert!(matches!(error, Error::InputValue { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(cpu::run(&loss, &inputs, &["loss"]).unwrap_err(), error);
    };
    // 32 · 2 bits are 2 words, and a mask of 2 columns has 2 elements too.
    refuse(32, 2, Array::int(&[2], vec![1, 5]), "words of one bit");
    refuse(1, 3, Array::int(&[1, 3], vec![0, 256, 1]), "has 256 as element 1");
    refuse(1, 3, Array::int(&[3], vec![0, 1, -1]), "0 or 1");
    let columns = with(&sample(1, 32, 2), [("mask", Array::int(&[2], vec![1, 0]))]);
    check(&context.gpu, &loss, &columns, Dtype::F32, &GRADIENT);
}

/// A mask of bytes and a mask of bits give the same bits as the mask of floats.
fn masks_of_bytes_and_bits(context: &Context) {
    let gpu = &context.gpu;
    for (rows, columns) in [(6, 11), (4, 32), (9, 70)] {
        let count = rows * columns;
        let mask = testing::numbers(surprisal::loss::Domain::Mask, 2, count);
        let inputs =
            with(&sample(1, rows, columns), [("mask", matrix(rows, columns, mask.clone()))]);
        let loss = BceWithLogits::default();
        let (mut expected, _) = check(gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
        expected.remove("status");
        let shape = [rows as u64, columns as u64];
        // Any byte that is not 0 keeps its element.
        let bytes = Array::int(&shape, mask.iter().map(|&m| 3 * m as i64).collect());
        let word = |part: &[f64]| {
            part.iter().enumerate().fold(0, |word, (bit, &m)| word | ((m as i64) << bit))
        };
        let words: Vec<i64> = mask.chunks(32).map(word).collect();
        let bits = Array::int(&[words.len() as u64], words);
        for (array, dtype, offset) in [
            (&bytes, Dtype::U8, 0),
            (&bytes, Dtype::U8, 5),
            (&bits, Dtype::U32, 0),
            (&bits, Dtype::U32, 3),
        ] {
            let layout = Layout::dense(dtype, &array.shape).offset(offset);
            let placed = Placed::input(gpu, array, layout);
            let mut others = inputs.clone();
            others.remove("mask");
            let others = placed_inputs(gpu, &loss, &others, Dtype::F32);
            let mut given = tensors(&others);
            given.insert("mask".to_owned(), placed.tensor());
            let gradient = Placed::output(gpu, Layout::dense(Dtype::F32, &shape));
            let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
            let outputs = Named::from([
                ("grad.logits".to_owned(), gradient.tensor()),
                ("loss".to_owned(), value.tensor()),
            ]);
            submit(gpu, &Request::new(&loss, given, outputs));
            let actual = named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]);
            assert_same_bits(&actual, &expected, &format!("{dtype} {rows}×{columns} +{offset}"));
        }
        // Integers on the host are uploaded as their shape says.
        let places = ["loss", "grad.logits"];
        let host = Array::int(&shape, mask.iter().map(|&m| m as i64).collect());
        for mask in [&host, &bits] {
            let inputs = with(&inputs, [("mask", (*mask).clone())]);
            let (mut actual, _) = check(gpu, &loss, &inputs, Dtype::F32, &places);
            actual.remove("status");
            assert_same_bits(&actual, &expected, "integers");
        }
        let wrong = storage(gpu, 4096);
        let others = placed_inputs(gpu, &loss, &sample(1, rows, columns), Dtype::F32);
        let mut given = tensors(&others);
        given.insert("mask".to_owned(), Tensor::vector(&wrong, Dtype::U32, 1));
        let value = storage(gpu, 16);
        let outputs = Named::from([("loss".to_owned(), Tensor::vector(&value, Dtype::F32, 1))]);
        let error = gpu.prepare(&Request::new(&loss, given, outputs)).unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
    }
}

fn unknown_targets(context: &Context) {
    for (turn, unknown) in [-1.0, NAN].into_iter().enumerate() {
        let inputs = sample(8, 5, 9);
        // A NaN with the other sign is unknown too.
        let other = if unknown.is_nan() { -unknown } else { unknown };
        let targets = [(2, unknown), (17, unknown), (44, other)]
            .iter()
            .fold(inputs["targets"].clone(), |targets, &(at, value)| set(&targets, at, value));
        let logits = set(&inputs["logits"], 17, NAN);
        let inputs = named([("logits", logits), ("targets", targets)]);
        let loss = BceWithLogits::default().unknown_target(unknown).check_targets(true);
        let wanted = ["loss", "grad.logits", "denominator", "count"];
        for dtype in in_turn(turn) {
            let (outputs, status) = check(&context.gpu, &loss, &inputs, dtype, &wanted);
            assert_eq!(outputs["count"].to_i64(), [42]);
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
            assert_eq!(outputs["grad.logits"].to_f64()[17], 0.0);
        }
    }
}

fn smoothing_is_half_to_each_side(context: &Context) {
    let inputs = sample(4, 3, 6);
    let loss = BceWithLogits::default().label_smoothing(0.25);
    let (smoothed, _) = check(&context.gpu, &loss, &inputs, Dtype::F32, &GRADIENT);
    let targets = inputs["targets"].to_f64().into_iter().map(|y| y * 0.75 + 0.125).collect();
    let by_hand = with(&inputs, [("targets", matrix(3, 6, targets))]);
    let plain = cpu::run(&BceWithLogits::default(), &by_hand, &GRADIENT).unwrap();
    assert!((smoothed["loss"].to_f64()[0] - plain["loss"].to_f64()[0]).abs() < 1e-6);
}

fn variances_and_their_logarithms(context: &Context) {
    let inputs = named([
        ("mean", gaussian(1, 4, 9)),
        ("variance", positive(2, &[4, 9])),
        ("targets", gaussian(3, 4, 9)),
    ]);
    let wanted = ["loss", "grad.mean", "grad.variance"];
    for full in [false, true] {
        for log_variance in [false, true] {
            let loss = GaussianNll::default().full(full).log_variance(log_variance).eps(0.5);
            for dtype in in_turn(usize::from(full) + usize::from(log_variance)) {
                check(&context.gpu, &loss, &inputs, dtype, &wanted);
            }
        }
    }
    // Below the floor the gradient is that at the floor, not 0.
    let at = |variance: f64| {
        let inputs = named([
            ("mean", vector(&[1.0])),
            ("variance", vector(&[variance])),
            ("targets", vector(&[0.0])),
        ]);
        let loss = GaussianNll::default().eps(0.25);
        check(&context.gpu, &loss, &inputs, Dtype::F32, &wanted).0["grad.variance"].to_f64()[0]
    };
    assert_eq!((at(0.0), at(0.25)), (-6.0, -6.0));
}

fn reductions(context: &Context) {
    let gpu = &context.gpu;
    let inputs = with(&sample(1, 6, 10), [("weight", positive(3, &[10]))]);
    let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
    for options in [
        json!({"reduction": "sum"}),
        json!({"reduction": "mean"}),
        json!({"reduction": "multilabel"}),
        json!({"reduction": {"over": 7.0}}),
    ] {
        for loss in ["bce_with_logits", "binary_hinge", "mse"] {
            let loss = parse(loss, &options);
            check(gpu, loss.as_ref(), &inputs, Dtype::F32, &wanted);
            let upstream = with(&inputs, [("upstream", vector(&[-2.5]))]);
            check(gpu, loss.as_ref(), &upstream, Dtype::F32, &GRADIENT);
        }
    }
    let over = with(&inputs, [("denominator", vector(&[12.0]))]);
    check(gpu, &BceWithLogits::default(), &over, Dtype::F32, &GRADIENT);
    // The results of two parts combine by their sums and denominators.
    let halves = |first: usize| {
        let half = |name: &str| {
            let values = inputs[name].to_f64();
            matrix(3, 10, values[first * 30..(first + 1) * 30].to_vec())
        };
        let weight = inputs["weight"].clone();
        named([("logits", half("logits")), ("targets", half("targets")), ("weight", weight)])
    };
    let wanted = ["sum", "denominator"];
    let parts = [0, 1]
        .map(|half| outcome(gpu, &BceWithLogits::default(), &halves(half), Dtype::F32, &wanted).0);
    let total = |name: &str| parts.iter().map(|part| part[name].to_f64()[0]).sum::<f64>();
    let whole =
        cpu::run(&BceWithLogits::default(), &inputs, &["loss"]).unwrap()["loss"].to_f64()[0];
    assert!((total("sum") / total("denominator") - whole).abs() < 1e-6);
}

fn empty(context: &Context) {
    let no_rows =
        named([("logits", matrix(0, 4, Vec::new())), ("targets", matrix(0, 4, Vec::new()))]);
    let masked = with(&sample(1, 2, 3), [("mask", vector(&[0.0]))]);
    let wanted = ["loss", "sum", "count", "grad.logits"];
    for inputs in [no_rows, masked] {
        for options in [json!({}), json!({"empty": "zero"})] {
            let loss = parse("bce_with_logits", &options);
            let (outputs, _) = check(&context.gpu, loss.as_ref(), &inputs, Dtype::F32, &wanted);
            assert!(outputs["grad.logits"].to_f64().iter().all(|&g| g == 0.0));
        }
    }
}

fn wrong_shapes(context: &Context) {
    let wrong = |name: &str, shape: &[u64]| {
        let inputs = with(&sample(1, 4, 6), [(name, positive(2, shape))]);
        let loss = BceWithLogits::default();
        let error = context.gpu.run_arrays(&loss, &inputs, Dtype::F32, &["loss"]).unwrap_err();
        assert!(
            matches!(&error, Error::WrongShape { argument, .. } if &**argument == name),
            "{error}"
        );
        assert!(cpu::run(&loss, &inputs, &["loss"]).is_err());
    };
    wrong("mask", &[5]);
    wrong("mask", &[4]);
    wrong("weight", &[4, 5]);
    wrong("pos_weight", &[6, 1]);
    wrong("upstream", &[4, 6]);
}

fn dice_per_row_and_batch(context: &Context) {
    let gpu = &context.gpu;
    let inputs = sample(3, 5, 203);
    for (first, per) in [Per::Row, Per::Batch].into_iter().enumerate() {
        let losses = [
            Dice::default(),
            Dice::default().smooth(0.0).bce(0.5),
            Dice::default().reduction(Reduction::None),
            Dice::default().reduction(Reduction::Sum).bce(2.0),
        ];
        for (second, loss) in losses.into_iter().enumerate() {
            for dtype in in_turn(first + second) {
                check(gpu, &loss.clone().per(per), &inputs, dtype, &GRADIENT);
            }
        }
    }
    // Row weights have one value a coefficient: one over the batch, and one for each row otherwise.
    let weighed = with(&inputs, [("row_weight", vector(&[2.5]))]);
    check(gpu, &Dice::default().per(Per::Batch), &weighed, Dtype::F32, &GRADIENT);
    for per in [Per::Row, Per::Channel] {
        let error = cpu::run(&Dice::default().per(per), &weighed, &["loss"]).unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        let run = gpu.run_arrays(&Dice::default().per(per), &weighed, Dtype::F32, &["loss"]);
        assert_eq!(run.unwrap_err(), error);
    }
    // An empty mask that is predicted as empty is right; otherwise it is wrong.
    let masks = named([
        ("logits", matrix(2, 3, vec![-INF, -INF, -INF, INF, -INF, -INF])),
        ("targets", matrix(2, 3, vec![0.0; 6])),
    ]);
    let loss = Dice::default().smooth(0.0).reduction(Reduction::None);
    let (outputs, _) = check(gpu, &loss, &masks, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64(), [0.0, 1.0]);
    let poisoned = with(&inputs, [("logits", set(&inputs["logits"], 204, NAN))]);
    let (outputs, status) = check(gpu, &loss, &poisoned, Dtype::F32, &GRADIENT);
    assert_eq!(outputs["loss"].to_f64().iter().filter(|loss| loss.is_nan()).count(), 1);
    assert_eq!(status.bad_rows, 1);
}

/// What is masked counts for nothing, whatever it holds; a fraction multiplies both sides.
fn dice_with_a_mask(context: &Context) {
    let gpu = &context.gpu;
    let mut mask = testing::numbers(surprisal::loss::Domain::Mask, 2, 5 * 203);
    mask.iter_mut().step_by(7).for_each(|m| *m *= 0.25);
    // The last row is masked altogether.
    mask.iter_mut().skip(4 * 203).for_each(|m| *m = 0.0);
    let hidden: Vec<usize> = (0..mask.len()).filter(|&at| mask[at] == 0.0).collect();
    let plain = with(&sample(3, 5, 203), [("mask", matrix(5, 203, mask))]);
    let poisoned = |array: &Array, values: &[f64]| {
        let spread = hidden.iter().zip(values.iter().cycle());
        spread.fold(array.clone(), |array, (&at, &value)| set(&array, at, value))
    };
    let logits = poisoned(&plain["logits"], &[NAN, INF, -INF, 1.0]);
    let targets = poisoned(&plain["targets"], &[1.0, INF, NAN]);
    let inputs = with(&plain, [("logits", logits), ("targets", targets)]);
    let shared = Dice::default().smooth(0.0).bce(0.5);
    for (loss, dtype) in [
        (Dice::default(), Dtype::F32),
        (shared.clone(), Dtype::F16),
        (Dice::default().per(Per::Channel), Dtype::F32),
        (shared.per(Per::Batch), Dtype::F16),
    ] {
        let (outputs, status) = check(gpu, &loss, &inputs, dtype, &GRADIENT);
        assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
        let gradient = bits(&outputs["grad.logits"]);
        assert!(hidden.iter().all(|&at| gradient[at] == 0), "exactly +0");
    }
    let kept = (0..203).find(|at| !hidden.contains(at)).unwrap();
    // Beside a NaN that is not masked, what is masked still has no gradient.
    let none = Dice::default().reduction(Reduction::None);
    let bad = with(&inputs, [("mask", set(&inputs["mask"], kept, NAN))]);
    let (outputs, status) = check(gpu, &none, &bad, Dtype::F32, &GRADIENT);
    assert_eq!(status.bad_rows, 1);
    let gradient = bits(&outputs["grad.logits"]);
    assert!(hidden.iter().all(|&at| gradient[at] == 0), "exactly +0");
}

/// The saturation measures how much of its gradient a loss has left, without weights and masked elements.
fn saturation(context: &Context) {
    let gpu = &context.gpu;
    let sigmoid = parse("mse", &json!({"activation": "sigmoid"}));
    let mask = testing::numbers(surprisal::loss::Domain::Mask, 2, 63);
    let inputs = with(
        &sample(6, 7, 9),
        [("weight", positive(3, &[9])), ("mask", matrix(7, 9, mask.clone()))],
    );
    for dtype in FLOATS {
        check(gpu, sigmoid.as_ref(), &inputs, dtype, &["saturation", "loss", "grad.logits"]);
        check(gpu, &none().focal_gamma(1.5).temperature(2.0), &inputs, dtype, &["slope"]);
    }
    // The ratio of the two losses' gradients for each element.
    let alone = each(&[1.25], &[0.0]);
    let slope = |loss: &dyn Operation| {
        outcome(gpu, loss, &alone, Dtype::F32, &["grad.logits"]).0["grad.logits"].to_f64()[0]
    };
    let ratio = slope(sigmoid.as_ref()) / slope(&none());
    let (outputs, _) = outcome(gpu, sigmoid.as_ref(), &alone, Dtype::F32, &["saturation"]);
    assert!((outputs["saturation"].to_f64()[0] - ratio).abs() < 1e-6);
    let far = each(&[200.0, -INF, 0.0, 0.0], &[0.0, 1.0, 0.0, 1.0]);
    let (outputs, _) = check(gpu, sigmoid.as_ref(), &far, Dtype::F32, &["saturation"]);
    assert_eq!(outputs["saturation"].to_f64(), [0.25]);
    let unknown = each(&[NAN, 0.0], &[0.0, 0.0]);
    for loss in [sigmoid.as_ref(), &BceWithLogits::default()] {
        let monitored = if loss.about().name == "mse" { "saturation" } else { "slope" };
        let (outputs, _) = check(gpu, loss, &unknown, Dtype::F32, &[monitored]);
        assert!(outputs[monitored].to_f64()[0].is_nan(), "NaN is not laundered");
    }
    let plain = gpu.run_arrays(&Mse::default(), &alone, Dtype::F32, &["saturation"]).unwrap_err();
    assert!(matches!(plain, Error::Conflict { .. }), "{plain}");
    assert_eq!(cpu::run(&Mse::default(), &alone, &["saturation"]).unwrap_err(), plain);
}

fn one_target_for_all(context: &Context) {
    let gpu = &context.gpu;
    let logits = named([("logits", gaussian(3, 5, 7))]);
    let wanted = ["loss", "grad.logits", "slope"];
    for target in [0.0, 0.9, 1.0] {
        let loss = BceWithLogits::default().target(target);
        let (outputs, _) = check(gpu, &loss, &logits, Dtype::F32, &wanted);
        let targets = with(&logits, [("targets", matrix(5, 7, vec![target; 35]))]);
        let (expected, _) = check(gpu, &BceWithLogits::default(), &targets, Dtype::F32, &wanted);
        let loss = |outputs: &Arrays| outputs["loss"].to_f64()[0];
        assert!((loss(&outputs) - loss(&expected)).abs() < 1e-6);
        let both = BceWithLogits::default().target(target);
        let error = gpu.run_arrays(&both, &targets, Dtype::F32, &wanted).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert!(cpu::run(&both, &targets, &wanted).is_err());
    }
    let neither = gpu.run_arrays(&BceWithLogits::default(), &logits, Dtype::F32, &wanted);
    assert!(matches!(neither.unwrap_err(), Error::MissingInput { .. }));
}

fn losses_of_ones_own(context: &Context) {
    let loss = Elementwise::new(LogCosh).reduction(Reduction::Sum);
    let inputs = with(&sample(4, 7, 9), [("weight", positive(2, &[9]))]);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        check(&context.gpu, &loss, &inputs, dtype, &GRADIENT);
    }
    let poisoned = with(&inputs, [("logits", set(&inputs["logits"], 3, INF))]);
    let (_, status) = check(&context.gpu, &loss, &poisoned, Dtype::F16, &GRADIENT);
    assert_eq!(status.bad_rows, 1);
}
