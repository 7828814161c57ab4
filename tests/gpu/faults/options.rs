//! Options outside their domain, names that no loss has, and combinations that exclude each other.

use serde_json::{Value, json};
use surprisal::{
    CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Gpu, Layout, Named,
    Reduction, Request, Signature, loss,
};

use super::{Good, none, refused, works};
use crate::support::{Context, Placed, check, gaussian, named, parse, sample, vector};

tests![
    options,
    top_k_out_of_range,
    options_are_an_object,
    operations_of_the_host,
    options_outside_f32,
    names,
    conflicts,
    missing_inputs,
];

fn options(context: &Context) {
    let gpu = &context.gpu;
    let nan = f64::NAN;
    let base = CrossEntropy::default;
    let bad: Vec<(&str, CrossEntropy)> = vec![
        ("temperature", base().temperature(0.0)),
        ("temperature", base().temperature(-1.0)),
        ("temperature", base().temperature(nan)),
        ("temperature", base().temperature(f64::INFINITY)),
        ("temperature", base().temperature(1e-60)),
        ("label_smoothing", base().label_smoothing(-0.1)),
        ("label_smoothing", base().label_smoothing(1.1)),
        ("label_smoothing", base().label_smoothing(nan)),
        ("softcap", base().softcap(Some(0.0))),
        ("softcap", base().softcap(Some(nan))),
        ("z_loss", base().z_loss(-1.0)),
        ("z_loss", base().z_loss(nan)),
        ("focal_gamma", base().focal_gamma(-0.5)),
        ("focal_gamma", base().focal_gamma(nan)),
        ("reduction", base().reduction(Reduction::Over(0.0))),
        ("reduction", base().reduction(Reduction::Over(nan))),
        ("ignore_index", base().ignore_index(surprisal::IgnoreIndex::List(vec![0; 5]))),
    ];
    refuse_options(gpu, bad);
    let parsed = |entry: &surprisal::operations::Entry, options: &Value| {
        let parse: fn(&Value) -> _ = entry.parse;
        parse(options).unwrap_err()
    };
    for entry in loss::REGISTRY {
        let error = parsed(entry, &json!({"temprature": 1.0}));
        assert!(matches!(error, Error::UnknownName { .. }), "{error}");
        let error = parsed(entry, &json!(3));
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let known = surprisal::operations::find("cross_entropy").unwrap();
    for options in [json!({"reduction": "men"}), json!({"temperature": "1"})] {
        let error = parsed(known, &options);
        assert!(matches!(error, Error::InvalidOption { .. }), "{options}: {error}");
    }
}

/// k may be as large as the number of keys, but not larger, on the host and on the device.
fn top_k_out_of_range(context: &Context) {
    let (queries, keys) = (gaussian(1, 3, 4), gaussian(2, 5, 4));
    let inputs = named([("queries", queries), ("keys", keys)]);
    let wanted = ["top_scores", "top_indices"];
    check(&context.gpu, &*parse("similarity", &json!({"k": 5})), &inputs, Dtype::F32, &wanted);
    let loss = parse("similarity", &json!({"k": 6}));
    let host = surprisal::cpu::run(&*loss, &inputs, &wanted).unwrap_err();
    let device = context.gpu.run_arrays(&*loss, &inputs, Dtype::F32, &wanted).unwrap_err();
    assert_eq!(host, device);
    assert!(matches!(&host, Error::InvalidOption { option: "k", value, .. } if &**value == "6"));
    let zero =
        (surprisal::operations::find("similarity").unwrap().parse)(&json!({"k": 0})).unwrap_err();
    assert!(matches!(&zero, Error::InvalidOption { option: "k", value, .. } if &**value == "0"));
    works(&context.gpu);
}

/// An operation of the host is refused before anything is allocated for it.
fn operations_of_the_host(context: &Context) {
    let inputs = named([("counts", surprisal::Array::int(&[2], vec![3, 1]))]);
    let operation = surprisal::targets::ClassWeights::default();
    let held = context.gpu.memory().held;
    let error = context.gpu.run_arrays(&operation, &inputs, Dtype::F32, &["weights"]).unwrap_err();
    assert!(matches!(&error, Error::HostOnly { operation } if &**operation == "class_weights"));
    assert_eq!(context.gpu.memory().held, held);
    let counts = Placed::input(&context.gpu, &inputs["counts"], Layout::vector(Dtype::I64, 2));
    let held = context.gpu.memory().held;
    let given = Named::from([("counts".to_owned(), counts.tensor())]);
    let error =
        context.gpu.run(&Request::new(&operation, given, Named::new()), &["weights"]).unwrap_err();
    assert!(matches!(error, Error::HostOnly { .. }), "{error}");
    let error =
        context.gpu.plan(&Request::new(&operation, Named::new(), Named::new())).unwrap_err();
    assert!(matches!(error, Error::HostOnly { .. }), "{error}");
    assert_eq!(context.gpu.memory().held, held);
    works(&context.gpu);
}

/// An array of values is not accepted as a set of options.
fn options_are_an_object(_: &Context) {
    for entry in loss::REGISTRY {
        let error = (entry.parse)(&json!([])).err();
        assert!(matches!(error, Some(Error::InvalidOption { .. })), "{}", entry.about.name);
    }
}

/// Numbers outside the range of f32, which the GPU uses.
fn options_outside_f32(context: &Context) {
    let base = CrossEntropy::default;
    let bad = vec![
        ("temperature", base().temperature(1e60)),
        ("softcap", base().softcap(Some(1e60))),
        ("z_loss", base().z_loss(1e60)),
        ("focal_gamma", base().focal_gamma(1e60)),
        ("reduction", base().reduction(Reduction::Over(1e60))),
        ("reduction", base().reduction(Reduction::Over(1e-60))),
    ];
    refuse_options(&context.gpu, bad);
}

#[track_caller]
fn refuse_options(gpu: &Gpu, bad: Vec<(&str, CrossEntropy)>) {
    let good = Good::new(gpu);
    for (option, loss) in bad {
        let linear = surprisal::LinearCrossEntropy::new(loss.clone());
        let errors = [
            gpu.run_arrays(&loss, &sample(1, 2, 3), Dtype::F32, &["loss"]).err(),
            gpu.prepare(&loss.request(good.inputs(), good.outputs())).err(),
            linear.validate().err(),
        ];
        for error in errors {
            assert!(
                matches!(&error, Some(Error::InvalidOption { option: found, .. }) if *found == option),
                "{loss:?}: {error:?}"
            );
        }
    }
    works(gpu);
}

fn names(context: &Context) {
    let gpu = &context.gpu;
    let error = gpu.run_arrays(&none(), &sample(1, 2, 3), Dtype::F32, &["los"]).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownName { kind: "output", name, .. } if &**name == "los"),
        "{error}"
    );
    let mut arrays = sample(1, 2, 3);
    arrays.insert("weights".to_owned(), vector(&[1.0; 3]));
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownName { kind: "input", name, .. } if &**name == "weights"),
        "{error}"
    );
    let good = Good::new(gpu);
    let mut inputs = Named::from(good.inputs());
    inputs.insert("bias".to_owned(), good.loss.tensor());
    let error = refused(gpu, &none(), inputs, good.outputs());
    assert!(
        matches!(&error, Error::UnknownName { kind: "input", name, .. } if &**name == "bias"),
        "{error}"
    );
    assert!(surprisal::operations::find("cross_entropie").is_none());
}

fn conflicts(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let conflict = |error: &Error, one: &str, two: &str| {
        let matches = matches!(error, Error::Conflict { argument, other, .. } if &**argument == one && &**other == two);
        assert!(matches, "{error}");
    };
    let probs = good.inputs().target_probs(good.logits.tensor());
    conflict(&refused(gpu, &none(), probs, good.outputs()), "targets", "target_probs");
    let saved = Placed::input(gpu, &vector(&[1.0; 4]), Layout::vector(Dtype::F32, 4));
    let error = refused(gpu, &none(), good.inputs().lse(saved.tensor()), good.outputs());
    conflict(&error, "lse", "loss");
    let one = Placed::input(gpu, &vector(&[4.0]), Layout::vector(Dtype::F32, 1));
    let error = refused(gpu, &none(), good.inputs().denominator(one.tensor()), good.outputs());
    conflict(&error, "denominator", "reduction");
    // Options that need index targets.
    let probs = || {
        CrossEntropyInputs::default()
            .logits(good.logits.tensor())
            .target_probs(good.logits.tensor())
    };
    let error = refused(gpu, &none().focal_gamma(1.0), probs(), good.outputs());
    assert!(matches!(error, Error::InvalidOption { option: "focal_gamma", .. }), "{error}");
    let rank = Placed::output(gpu, Layout::vector(Dtype::U32, 4));
    let error = refused(gpu, &none(), probs(), good.outputs().rank(rank.tensor()));
    assert!(
        matches!(&error, Error::MissingInput { argument, .. } if &**argument == "targets"),
        "{error}"
    );
}

fn missing_inputs(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let missing = |error: Error, name: &str| {
        assert!(
            matches!(&error, Error::MissingInput { argument, .. } if &**argument == name),
            "{error}"
        );
    };
    let alone = CrossEntropyInputs::default().logits(good.logits.tensor());
    missing(refused(gpu, &none(), alone, good.outputs()), "targets");
    let alone = CrossEntropyInputs::default().targets(good.targets.tensor());
    missing(
        refused(gpu, &none(), alone, CrossEntropyOutputs::default().loss(good.loss.tensor())),
        "logits",
    );
    let outputs = CrossEntropyOutputs::default().target_probs_gradient(good.gradient.tensor());
    missing(refused(gpu, &none(), good.inputs(), outputs), "target_probs");
}
