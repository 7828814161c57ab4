//! Tensors of any rank: the axes before the last one are rows, and broadcasts go from the last axis on.

use serde_json::json;
use surprisal::{
    Array, Arrays, BceWithLogits, CrossEntropy, Dtype, Error, GaussianNll, Layout, Mse, Named,
    Operation, Reduction, Request, cpu, testing,
};

use crate::{
    elements::positive,
    support::{
        Context, FLOATS, INF, Placed, assert_same_bits, check, named, outcome, parse, set, submit,
        tensors, with,
    },
};

tests![
    losses_of_elements,
    losses_of_rows,
    images_as_pytorch_has_them,
    strides_between_rows,
    targets_do_not_broadcast,
    shapes_in_errors,
    weights_broadcast_from_the_last_axis,
    variances_of_every_shape,
    variances_in_windows_and_planes,
    variances_that_are_not_finite,
    a_variance_that_could_be_rows_or_columns,
    unknown_targets_of_every_loss,
];

const NAN: f64 = f64::NAN;
const EACH: [&str; 2] = ["loss", "grad.logits"];

fn count(shape: &[u64]) -> usize {
    shape.iter().product::<u64>() as usize
}

fn gaussian(seed: u64, shape: &[u64]) -> Array {
    Array::float(shape, testing::gaussian(seed, count(shape)))
}

/// Seeded inputs of an element loss, all of this shape.
fn example(loss: &dyn Operation, shape: &[u64]) -> Arrays {
    let required =
        loss.about().inputs.iter().filter(|input| input.required || input.name == "targets");
    let array = |(seed, input): (u64, &surprisal::loss::Argument)| {
        let numbers = testing::numbers(input.domain, seed, count(shape));
        (input.name.to_owned(), Array::float(shape, numbers))
    };
    (1..).zip(required).map(array).collect()
}

/// The same numbers in another shape.
fn reshaped(arrays: &Arrays, shape: &[u64]) -> Arrays {
    let reshape = |(name, array): (&String, &Array)| {
        (name.clone(), Array { shape: shape.to_vec(), data: array.data.clone() })
    };
    arrays.iter().map(reshape).collect()
}

fn without_status(mut arrays: Arrays) -> Arrays {
    arrays.remove("status");
    arrays
}

const ELEMENTS: [&str; 8] = [
    "bce_with_logits",
    "binary_hinge",
    "mse",
    "huber",
    "gaussian_nll",
    "poisson_nll",
    "hurdle_poisson",
    "gan_generator",
];

/// The outputs have the shape of the scores, and the same bits as for a matrix.
fn losses_of_elements(context: &Context) {
    let gpu = &context.gpu;
    for name in ELEMENTS {
        let loss = parse(name, &json!({"reduction": "none"}));
        let first = format!("grad.{}", loss.about().inputs[0].name);
        let wanted = ["loss", first.as_str()];
        let matrix = example(loss.as_ref(), &[20, 7]);
        let expected = without_status(outcome(gpu, loss.as_ref(), &matrix, Dtype::F32, &wanted).0);
        for shape in [&[4, 5, 7][..], &[2, 2, 5, 7], &[1, 20, 1, 7]] {
            let inputs = reshaped(&matrix, shape);
            let (outputs, _) = check(gpu, loss.as_ref(), &inputs, Dtype::F32, &wanted);
            let reference = cpu::run(loss.as_ref(), &inputs, &wanted).unwrap();
            for name in wanted {
                assert_eq!(outputs[name].shape, shape, "{name}");
                assert_eq!(reference[name].shape, shape, "{name}");
            }
            assert_same_bits(&without_status(outputs), &expected, name);
        }
    }
    // A sum over the last axis, and the mean over all other axes.
    let loss = parse("bce_with_logits", &json!({"reduction": "multilabel"}));
    let inputs = example(loss.as_ref(), &[3, 4, 5]);
    let (outputs, _) = check(gpu, loss.as_ref(), &inputs, Dtype::F32, &["loss", "denominator"]);
    assert_eq!(outputs["denominator"].to_f64(), [12.0]);
}

/// Logits [B, T, V] and targets [B, T]; hidden states [B, T, D].
fn losses_of_rows(context: &Context) {
    let gpu = &context.gpu;
    let rows = [2, 3];
    let targets = Array::int(&rows, vec![0, 4, 1, -100, 3, 2]);
    let logits = gaussian(1, &[2, 3, 5]);
    let row_weight = positive(3, &rows);
    let inputs =
        named([("logits", logits), ("targets", targets.clone()), ("row_weight", row_weight)]);
    let none = CrossEntropy::default().reduction(Reduction::None);
    let upstream = with(&inputs, [("upstream", positive(4, &rows))]);
    let wanted = ["loss", "grad.logits", "lse", "entropy", "argmax", "rank"];
    let same = |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
        let (outputs, _) = check(gpu, loss, inputs, Dtype::F32, wanted);
        let reference = cpu::run(loss, inputs, wanted).unwrap();
        for name in wanted {
            assert_eq!(outputs[*name].shape, reference[*name].shape, "{name}");
            if let Some(input) = name.strip_prefix("grad.") {
                assert_eq!(outputs[*name].shape, inputs[input].shape, "{name}");
            }
        }
        outputs
    };
    let outputs = same(&none, &upstream, &wanted);
    for name in ["loss", "lse", "entropy", "argmax", "rank"] {
        assert_eq!(outputs[name].shape, rows, "{name}");
    }
    same(&CrossEntropy::default(), &inputs, &EACH);
    let probs = with(&inputs, [("target_probs", positive(5, &[2, 3, 5]))]);
    let mut probs = probs;
    probs.remove("targets");
    same(&CrossEntropy::default(), &probs, &["loss", "grad.logits", "grad.target_probs"]);
    let hidden = named([
        ("hidden", gaussian(6, &[2, 3, 4])),
        ("weight", gaussian(7, &[5, 4])),
        ("targets", targets),
    ]);
    let linear = parse("linear_cross_entropy", &json!({"reduction": "none"}));
    same(linear.as_ref(), &hidden, &["loss", "grad.hidden", "grad.weight", "lse"]);
    let masks = named([("logits", gaussian(8, &[2, 3, 9])), ("targets", positive(9, &[2, 3, 9]))]);
    let dice = parse("dice", &json!({"reduction": "none"}));
    let outputs = same(dice.as_ref(), &masks, &EACH);
    assert_eq!(outputs["loss"].shape, rows);
    let spans = json!({"spans": [{"kind": "bce", "columns": 4}, {"kind": "cce"}]});
    same(parse("mixed_columns", &spans).as_ref(), &masks, &EACH);
    let patches = named([("real", gaussian(1, &[2, 1, 3, 3])), ("fake", gaussian(2, &[4, 1, 3]))]);
    let gan = parse("gan_discriminator", &json!({}));
    same(gan.as_ref(), &patches, &["loss", "grad.real", "grad.fake"]);
}

/// The layout says that the classes are axis 1; targets may be [N, d…] or one vector.
fn images_as_pytorch_has_them(context: &Context) {
    let gpu = &context.gpu;
    let loss = CrossEntropy::default().reduction(Reduction::None);
    let logits = gaussian(1, &[12, 3]);
    let targets = testing::targets(2, 12, 3);
    let expected =
        named([("logits", logits.clone()), ("targets", Array::int(&[12], targets.clone()))]);
    let expected = without_status(check(gpu, &loss, &expected, Dtype::F32, &EACH).0);
    for shape in [&[2, 3, 2][..], &[2, 6], &[12]] {
        for planes in [Layout::nchw(Dtype::F32, [2, 3, 3, 2]), Layout::nchw(Dtype::F32, [2, 3, 6])]
        {
            let given = Placed::input(gpu, &logits, planes.clone());
            let labels = Array::int(shape, targets.clone());
            let labels = Placed::input(gpu, &labels, Layout::dense(Dtype::I64, shape));
            let inputs = Named::from([
                ("logits".to_owned(), given.tensor()),
                ("targets".to_owned(), labels.tensor()),
            ]);
            let value = Placed::output(gpu, Layout::dense(Dtype::F32, shape));
            let gradient = Placed::output(gpu, planes);
            let outputs = Named::from([
                ("loss".to_owned(), value.tensor()),
                ("grad.logits".to_owned(), gradient.tensor()),
            ]);
            submit(gpu, &Request::new(&loss, inputs, outputs));
            let actual = named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]);
            assert_same_bits(&actual, &expected, &format!("{shape:?}"));
        }
    }
}

fn given<'a>(logits: &'a Placed, targets: &'a Placed) -> Named<'a> {
    Named::from([("logits".to_owned(), logits.tensor()), ("targets".to_owned(), targets.tensor())])
}

/// Rows may have gaps between them, whatever axes count the rows; outputs with one value a row may not.
fn strides_between_rows(context: &Context) {
    let gpu = &context.gpu;
    let loss = CrossEntropy::default().reduction(Reduction::None);
    let inputs = named([
        ("logits", gaussian(1, &[2, 3, 5])),
        ("targets", Array::int(&[2, 3], vec![0, 4, 1, 2, 3, 2])),
    ]);
    let expected = without_status(outcome(gpu, &loss, &inputs, Dtype::F32, &EACH).0);
    let apart = Layout::dense(Dtype::F32, &[2, 3, 5]).row_stride(8).offset(3);
    let logits = Placed::input(gpu, &inputs["logits"], apart.clone());
    let dense = Layout::dense(Dtype::I64, &[2, 3]);
    let targets = Placed::input(gpu, &inputs["targets"], dense.clone());
    let gradient = Placed::output(gpu, apart);
    let value = Placed::output(gpu, Layout::dense(Dtype::F32, &[2, 3]));
    let outputs = || {
        Named::from([
            ("loss".to_owned(), value.tensor()),
            ("grad.logits".to_owned(), gradient.tensor()),
        ])
    };
    submit(gpu, &Request::new(&loss, given(&logits, &targets), outputs()));
    let actual = named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]);
    assert_same_bits(&actual, &expected, "rows apart");
    gradient.assert_surroundings(gpu);
    let gaps = Placed::input(gpu, &inputs["targets"], dense.row_stride(4));
    let error = gpu.prepare(&Request::new(&loss, given(&logits, &gaps), outputs())).unwrap_err();
    assert_eq!(error, Error::WrongStride { argument: "targets".into(), found: 4, least: 3 });
}

/// Targets of another shape are refused, on the CPU and on the GPU, and do not broadcast.
fn targets_do_not_broadcast(context: &Context) {
    for name in ELEMENTS.into_iter().filter(|name| *name != "gan_generator") {
        let loss = parse(name, &json!({"reduction": "none"}));
        let good = example(loss.as_ref(), &[2, 3]);
        for shape in [&[3][..], &[2, 1], &[1, 3], &[1], &[6]] {
            let targets = Array::float(shape, vec![1.0; count(shape)]);
            let inputs = with(&good, [("targets", targets)]);
            let run = context.gpu.run_arrays(loss.as_ref(), &inputs, Dtype::F32, &["loss"]);
            let error = run.unwrap_err();
            let expected = Error::WrongShape {
                argument: "targets".into(),
                found: shape.to_vec().into(),
                expected: "[2, 3]".into(),
            };
            assert_eq!(error, expected, "{name}");
            assert_eq!(
                cpu::run(loss.as_ref(), &inputs, &["loss"]).unwrap_err(),
                expected,
                "{name}"
            );
            let arithmetic = surprisal::Arithmetic::F64;
            assert!(loss.reference(&inputs, &["loss"], arithmetic).is_err(), "{name} {shape:?}");
        }
    }
}

fn shapes_in_errors(context: &Context) {
    let refuse = |loss: &dyn Operation, inputs: &Arrays, text: &str| {
        let error = context.gpu.run_arrays(loss, inputs, Dtype::F32, &["loss"]).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(cpu::run(loss, inputs, &["loss"]).unwrap_err(), error);
    };
    let mut inputs =
        named([("logits", gaussian(1, &[2, 3, 5])), ("targets", Array::int(&[2], vec![0, 1]))]);
    let loss = CrossEntropy::default();
    refuse(&loss, &inputs, "`targets` has shape [2], expected [2, 3] or [2, 3, targets a row]");
    inputs.insert("targets".to_owned(), Array::int(&[6], vec![0; 6]));
    refuse(&loss, &inputs, "`targets` has shape [6], expected [2, 3] or [2, 3, targets a row]");
    inputs.insert("targets".to_owned(), Array::int(&[3, 2], vec![0; 6]));
    refuse(&loss, &inputs, "`targets` has shape [3, 2], expected [2, 3] or [2, 3, targets a row]");
    let inputs = with(&example(&Mse::default(), &[2, 3, 4]), [("weight", positive(1, &[3]))]);
    refuse(
        &Mse::default(),
        &inputs,
        "`weight` has shape [3], expected [2, 3, 4], or what broadcasts to it from the last axis on",
    );
}

/// Every way to leave out axes, for every input that broadcasts.
fn weights_broadcast_from_the_last_axis(context: &Context) {
    let gpu = &context.gpu;
    let scores = [2, 3, 2, 8];
    let loss = BceWithLogits::default();
    let inputs = example(&loss, &scores);
    for mask in 1..15u32 {
        let keep = |(axis, &extent): (usize, &u64)| if mask >> axis & 1 == 1 { extent } else { 1 };
        let shape: Vec<u64> = scores.iter().enumerate().map(keep).collect();
        let missing = shape.iter().take_while(|extent| **extent == 1).count();
        let shape = &shape[if mask % 2 == 0 { missing } else { 0 }..];
        let given = with(
            &inputs,
            [
                ("weight", positive(5, shape)),
                ("pos_weight", positive(6, shape)),
                (
                    "mask",
                    Array::int(shape, (0..count(shape)).map(|at| i64::from(at % 3 != 1)).collect()),
                ),
            ],
        );
        let dtype = FLOATS[mask as usize % 3];
        check(gpu, &loss, &given, dtype, &EACH);
        if mask % 5 == 0 {
            // Windows that begin inside rows.
            let small = context.with(|profile| {
                profile.element_block = 32;
                profile.dispatch_elements = 32;
            });
            let whole = context.with(|profile| profile.element_block = 32);
            let run = |gpu| without_status(outcome(gpu, &loss, &given, dtype, &EACH).0);
            assert_same_bits(&run(&small), &run(&whole), "windows");
        }
    }
    // Beside planes, the axes of the pixels are those of the layout, and the channels come last.
    let none = BceWithLogits::default().reduction(Reduction::None);
    let dense = example(&none, &[2, 3, 2, 5]);
    for shape in [&[3, 1, 5][..], &[2, 1, 2, 1], &[3, 2, 1], &[5]] {
        let given = with(&dense, [("weight", positive(5, shape))]);
        let expected = check(gpu, &none, &given, Dtype::F32, &EACH).0;
        let place = |name: &str, array: &Array| {
            let layout = Layout::dense(Dtype::F32, &array.shape);
            let layout = if name == "weight" { layout } else { layout.class_stride(6) };
            (name.to_owned(), Placed::input(gpu, array, layout))
        };
        let placed: Vec<_> = given.iter().map(|(name, array)| place(name, array)).collect();
        let planes = Layout::dense(Dtype::F32, &[2, 3, 2, 5]).class_stride(6);
        let [value, gradient] = [(), ()].map(|()| Placed::output(gpu, planes.clone()));
        let outputs = Named::from([
            ("loss".to_owned(), value.tensor()),
            ("grad.logits".to_owned(), gradient.tensor()),
        ]);
        submit(gpu, &Request::new(&none, tensors(&placed), outputs));
        let actual = named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]);
        assert_same_bits(&actual, &without_status(expected), &format!("planes {shape:?}"));
    }
}

const VARIANCE: [&str; 3] = ["loss", "grad.mean", "grad.variance"];

fn gaussian_inputs(scores: &[u64], shape: &[u64]) -> Arrays {
    named([
        ("mean", gaussian(1, scores)),
        ("variance", positive(2, shape)),
        ("targets", gaussian(3, scores)),
    ])
}

/// The gradient of a variance has the shape of the variance, and is summed to it.
fn variances_of_every_shape(context: &Context) {
    let gpu = &context.gpu;
    for (scores, shapes) in [
        (&[70, 6][..], &[&[70, 6][..], &[70, 1], &[70], &[6], &[1, 6], &[1], &[1, 1]][..]),
        (&[3, 1300], &[&[3, 1], &[3], &[1300], &[1]]),
        (&[2, 3, 4], &[&[2, 3], &[6], &[2, 3, 1], &[4], &[2, 1, 4], &[3, 1], &[2, 1, 1], &[1]]),
        (&[9], &[&[9], &[1]]),
        (&[0, 4], &[&[4], &[0, 1], &[1]]),
    ] {
        for shape in shapes {
            let inputs = gaussian_inputs(scores, shape);
            for dtype in FLOATS {
                let loss = GaussianNll::default();
                let (outputs, _) = check(gpu, &loss, &inputs, dtype, &VARIANCE);
                assert_eq!(outputs["grad.variance"].shape, *shape);
                let reference = cpu::run(&loss, &inputs, &VARIANCE).unwrap();
                assert_eq!(reference["grad.variance"].shape, *shape);
                let again = outcome(gpu, &loss, &inputs, dtype, &VARIANCE).0;
                assert_same_bits(&again, &outputs, "the same call again");
            }
        }
    }
    // Mask, weight and an upstream gradient for each element multiply the terms of the sums.
    let inputs = with(
        &gaussian_inputs(&[7, 5], &[7]),
        [
            ("mask", Array::int(&[7, 5], (0..35).map(|at| i64::from(at % 4 != 0)).collect())),
            ("weight", positive(4, &[5])),
            ("upstream", positive(5, &[7, 5])),
        ],
    );
    let none = GaussianNll::default().reduction(Reduction::None).log_variance(true);
    check(gpu, &none, &inputs, Dtype::F32, &VARIANCE);
}

/// Neither the cuts of windows nor the order of the elements changes a sum.
fn variances_in_windows_and_planes(context: &Context) {
    let loss = GaussianNll::default();
    let run =
        |gpu, inputs: &Arrays| without_status(outcome(gpu, &loss, inputs, Dtype::F32, &VARIANCE).0);
    let whole = context.with(|profile| profile.element_block = 64);
    let small = context.with(|profile| {
        profile.element_block = 64;
        profile.dispatch_elements = 128;
        profile.binding_bytes = 8 << 10;
    });
    for shape in [&[300, 1][..], &[11], &[1]] {
        let inputs = gaussian_inputs(&[300, 11], shape);
        assert_same_bits(&run(&small, &inputs), &run(&whole, &inputs), &format!("{shape:?}"));
    }
    // Images of 2 · 5 pixels and 3 channels.
    let gpu = &context.gpu;
    let scores = [4, 2, 5, 3];
    for shape in [&[3][..], &[4, 2, 5, 1], &[1], &[2, 5, 3], &[4, 1, 1, 3], &[5, 1], &[4, 2, 1, 3]]
    {
        let inputs = gaussian_inputs(&scores, shape);
        let (expected, _) = check(gpu, &loss, &inputs, Dtype::F32, &VARIANCE);
        let place = |(name, array): (&String, &Array)| {
            let dense = Layout::dense(Dtype::F32, &array.shape);
            let planes = name != "variance";
            let layout = if planes { dense.class_stride(10) } else { dense };
            (name.clone(), Placed::input(gpu, array, layout))
        };
        let placed: Vec<_> = inputs.iter().map(place).collect();
        // The rows of the gradient have gaps between them, which are written 0.
        let own = Layout::dense(Dtype::F32, shape);
        let own = if shape.len() > 1 { own.row_stride(own_columns(shape) + 2) } else { own };
        let mut gradient = Placed::output(gpu, own);
        let outputs = Named::from([("grad.variance".to_owned(), gradient.tensor())]);
        let padded = GaussianNll::default().padding(surprisal::Padding::Zero);
        submit(gpu, &Request::new(&padded, tensors(&placed), outputs));
        let actual = gradient.array(gpu);
        for (actual, expected) in actual.to_f64().iter().zip(expected["grad.variance"].to_f64()) {
            assert!((actual - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{shape:?}");
        }
        gradient.assert_zero_padding(gpu);
        gradient.assert_surroundings(gpu);
    }
}

fn own_columns(shape: &[u64]) -> u64 {
    shape.last().copied().unwrap_or(1)
}

fn variances_that_are_not_finite(context: &Context) {
    let inputs = gaussian_inputs(&[40, 3], &[3]);
    let loss = GaussianNll::default();
    let poisoned = with(&inputs, [("mean", set(&inputs["mean"], 4, NAN))]);
    let (outputs, _) = check(&context.gpu, &loss, &poisoned, Dtype::F32, &VARIANCE);
    let gradient = outputs["grad.variance"].to_f64();
    assert!(gradient[1].is_nan() && gradient[0].is_finite() && gradient[2].is_finite());
    // A masked element is not in the sum.
    let mask = Array::int(&[40, 3], (0..120).map(|at| i64::from(at != 4)).collect());
    let masked = with(&poisoned, [("mask", mask)]);
    let (outputs, _) = check(&context.gpu, &loss, &masked, Dtype::F32, &VARIANCE);
    assert!(outputs["grad.variance"].to_f64().iter().all(|value| value.is_finite()));
    // Sums outside the range of f16 are infinite, and so may be the terms of a sum.
    let far = with(&inputs, [("variance", Array::float(&[3], vec![1e-4; 3]))]);
    let sum = GaussianNll::default().reduction(Reduction::Sum);
    let (outputs, _) = check(&context.gpu, &sum, &far, Dtype::F16, &VARIANCE);
    assert!(outputs["grad.variance"].to_f64().iter().all(|value| *value == -INF));
}

fn a_variance_that_could_be_rows_or_columns(context: &Context) {
    let loss = GaussianNll::default();
    let inputs = gaussian_inputs(&[3, 3], &[3]);
    let error = context.gpu.run_arrays(&loss, &inputs, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`variance` has shape [3], expected [3, 1] for one a row or [1, 3] for one a column: it \
         could be either"
    );
    assert_eq!(cpu::run(&loss, &inputs, &["loss"]).unwrap_err(), error);
    let none = GaussianNll::default().reduction(Reduction::None);
    let variance = |shape: &[u64]| {
        let inputs = named([
            ("mean", Array::float(&[2, 2], vec![0.0, 1.0, 2.0, 3.0])),
            ("variance", Array::float(shape, vec![1.0, 4.0])),
            ("targets", Array::float(&[2, 2], vec![0.0; 4])),
        ]);
        check(&context.gpu, &none, &inputs, Dtype::F32, &VARIANCE).0["loss"].to_f64()
    };
    let near = |found: Vec<f64>, expected: [f64; 4]| {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close, "{found:?} {expected:?}");
    };
    // PyTorch's results for one variance a row.
    near(variance(&[2, 1]), [0.0, 0.5, 1.1931, 1.8181]);
    near(variance(&[1, 2]), [0.0, 0.8181, 2.0, 1.8181]);
}

/// A NaN or any other number may mark an unknown target, in the options and in JSON.
fn unknown_targets_of_every_loss(context: &Context) {
    for name in ELEMENTS.into_iter().filter(|name| *name != "gan_generator") {
        for (unknown, value) in [(json!("nan"), NAN), (json!(0.5), 0.5)] {
            let loss = parse(name, &json!({"unknown_target": unknown}));
            let first = loss.about().inputs[0].name;
            let wanted = ["loss".to_owned(), format!("grad.{first}"), "count".to_owned()];
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            let inputs = example(loss.as_ref(), &[5, 9]);
            let targets = [2, 17, 44]
                .iter()
                .fold(inputs["targets"].clone(), |targets, &at| set(&targets, at, value));
            let scores = set(&inputs[first], 17, NAN);
            let inputs = with(&inputs, [("targets", targets), (first, scores)]);
            let (outputs, status) =
                check(&context.gpu, loss.as_ref(), &inputs, Dtype::F32, &wanted);
            assert_eq!(outputs["count"].to_i64(), [42], "{name} {value}");
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0), "{name} {value}");
            assert!(outputs["loss"].to_f64()[0].is_finite(), "{name} {value}");
        }
    }
    let error =
        (surprisal::operations::find("mse").unwrap().parse)(&json!({"unknown_target": "none"}));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`unknown_target` is a number, \"nan\" or null"), "{error}");
}
