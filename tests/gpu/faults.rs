//! Bad input is a typed error that names what is wrong, before any GPU work; the device works on.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Gpu,
    Layout, Loss, Named, Reduction, Request, Status, Tensor,
    cases::{self, Case},
    loss, tensor_blocking,
};

use crate::support::{
    Context, Placed, buffer, check, encoder, gaussian, indices, matrix, named, parse, sample,
    storage, submit, vector,
};

tests![
    wrong_shapes,
    wrong_dtypes,
    missing_usages,
    watches,
    scratch_without_storage,
    too_small_buffers,
    strides,
    misaligned_words,
    overlaps,
    shared_alignment_blocks,
    zero_classes,
    options,
    top_k_out_of_range,
    options_are_an_object,
    options_outside_f32,
    names,
    conflicts,
    missing_inputs,
    limits,
    another_device,
    destroyed_before_read,
    destroyed_before_run,
    destroyed_before_status,
    destroyed_before_recording,
    destroyed_device_while_watching,
    malformed_vectors,
];

fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

/// Good tensors for a call of 4 rows and 6 classes, to be spoilt one at a time.
struct Good {
    logits: Placed,
    targets: Placed,
    loss: Placed,
    gradient: Placed,
}

impl Good {
    fn new(gpu: &Gpu) -> Self {
        let arrays = sample(1, 4, 6);
        Self {
            logits: Placed::input(gpu, &arrays["logits"], Layout::matrix(Dtype::F32, 4, 6)),
            targets: Placed::input(gpu, &arrays["targets"], Layout::vector(Dtype::I32, 4)),
            loss: Placed::output(gpu, Layout::vector(Dtype::F32, 4)),
            gradient: Placed::output(gpu, Layout::matrix(Dtype::F32, 4, 6)),
        }
    }

    fn inputs(&self) -> CrossEntropyInputs<'_> {
        CrossEntropyInputs::default().logits(self.logits.tensor()).targets(self.targets.tensor())
    }

    fn outputs(&self) -> CrossEntropyOutputs<'_> {
        CrossEntropyOutputs::default().loss(self.loss.tensor()).gradient(self.gradient.tensor())
    }

    /// One number, as a watch takes it.
    fn one_loss(&self) -> Tensor<'_> {
        Tensor::vector(&self.loss.buffer, Dtype::F32, 1)
    }
}

/// Why a call is refused; nothing is written, and a good call works afterwards.
#[track_caller]
fn refused<'a>(
    gpu: &Gpu,
    loss: &dyn Loss,
    inputs: impl Into<Named<'a>>,
    outputs: impl Into<Named<'a>>,
) -> Error {
    let request = Request::new(inputs, outputs);
    let error = gpu.prepare(loss, &request).unwrap_err();
    works(gpu);
    error
}

#[track_caller]
fn works(gpu: &Gpu) {
    check(gpu, &CrossEntropy::default(), &sample(2, 3, 5), Dtype::F32, &["loss", "grad.logits"]);
}

fn wrong_shape(argument: &str, found: &[u64], expected: &str) -> Error {
    Error::WrongShape {
        argument: argument.to_owned(),
        found: found.to_vec(),
        expected: expected.to_owned(),
    }
}

fn wrong_shapes(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let wide = storage(gpu, 4096);
    let f32s = |shape: &[u64]| Tensor::new(&wide, Layout::dense(Dtype::F32, shape));
    let i32s = |shape: &[u64]| Tensor::new(&wide, Layout::dense(Dtype::I32, shape));
    let inputs = || good.inputs();
    let cases: Vec<(Error, CrossEntropyInputs, CrossEntropyOutputs)> = vec![
        (
            wrong_shape("logits", &[24], "[rows, classes]"),
            inputs().logits(f32s(&[24])),
            good.outputs(),
        ),
        (wrong_shape("targets", &[5], "[rows = 4]"), inputs().targets(i32s(&[5])), good.outputs()),
        (wrong_shape("weight", &[7], "[classes = 6]"), inputs().weight(f32s(&[7])), good.outputs()),
        (
            wrong_shape("logit_bias", &[6, 1], "[classes = 6]"),
            inputs().logit_bias(f32s(&[6, 1])),
            good.outputs(),
        ),
        (
            wrong_shape("row_weight", &[3], "[rows = 4]"),
            inputs().row_weight(f32s(&[3])),
            good.outputs(),
        ),
        (wrong_shape("denominator", &[2], "[1]"), inputs().denominator(f32s(&[2])), good.outputs()),
        (
            wrong_shape("upstream", &[3], "[1] or [rows = 4]"),
            inputs().upstream(f32s(&[3])),
            good.outputs(),
        ),
        (
            wrong_shape("grad.logits", &[4, 5], "[rows = 4, classes = 6]"),
            inputs(),
            good.outputs().gradient(f32s(&[4, 5])),
        ),
        (
            wrong_shape("loss", &[1], "[4] with this reduction"),
            inputs(),
            good.outputs().loss(f32s(&[1])),
        ),
        (
            wrong_shape("count", &[2], "[1]"),
            inputs(),
            good.outputs().count(Tensor::vector(&wide, Dtype::I64, 2)),
        ),
        (
            wrong_shape("status", &[7], "[status words = 8]"),
            inputs(),
            good.outputs().status(Tensor::vector(&wide, Dtype::U32, 7)),
        ),
    ];
    for (expected, inputs, outputs) in cases {
        assert_eq!(refused(gpu, &none(), inputs, outputs), expected);
    }
    let mean = CrossEntropy::default();
    let expected = wrong_shape("loss", &[4], "[1] with this reduction");
    assert_eq!(refused(gpu, &mean, good.inputs(), good.outputs()), expected);
    let upstream = good.inputs().upstream(f32s(&[4]));
    let expected = wrong_shape("upstream", &[4], "[1], since the loss is reduced");
    let outputs = good.outputs().loss(Tensor::vector(&good.loss.buffer, Dtype::F32, 1));
    assert_eq!(refused(gpu, &mean, upstream, outputs), expected);
    // Host arrays too.
    let arrays = named([("logits", gaussian(1, 3, 4)), ("targets", indices(&[0, 1]))]);
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, wrong_shape("targets", &[2], "[rows = 3]"));
    let lying =
        named([("logits", Array::float(&[3, 4], vec![0.0; 11])), ("targets", indices(&[0; 3]))]);
    let error = gpu.run_arrays(&none(), &lying, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, wrong_shape("logits", &[3, 4], "a shape of its 11 elements"));
    works(gpu);
}

fn wrong_dtypes(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let wide = storage(gpu, 4096);
    let of = |dtype, shape: &[u64]| Tensor::new(&wide, Layout::dense(dtype, shape));
    let wrong = |argument: &str, found, expected: &str| Error::WrongDtype {
        argument: argument.to_owned(),
        found,
        expected: expected.to_owned(),
    };
    let floats = "f32 or f16 or bf16";
    let error =
        refused(gpu, &none(), good.inputs().logits(of(Dtype::U32, &[4, 6])), good.outputs());
    assert_eq!(error, wrong("logits", Dtype::U32, floats));
    let error = refused(gpu, &none(), good.inputs().targets(of(Dtype::F32, &[4])), good.outputs());
    assert_eq!(error, wrong("targets", Dtype::F32, "i32 or u32 or i64"));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(of(Dtype::F16, &[4])));
    assert_eq!(error, wrong("loss", Dtype::F16, "f32"));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().argmax(of(Dtype::I64, &[4])));
    assert_eq!(error, wrong("argmax", Dtype::I64, "u32"));
    let error =
        refused(gpu, &none(), good.inputs().upstream(of(Dtype::Bf16, &[1])), good.outputs());
    assert_eq!(error, wrong("upstream", Dtype::Bf16, "f32"));
    let error =
        refused(gpu, &none(), good.inputs(), good.outputs().gradient(of(Dtype::I32, &[4, 6])));
    assert_eq!(error, wrong("grad.logits", Dtype::I32, floats));
    let arrays = named([("logits", gaussian(1, 3, 4)), ("targets", vector(&[0.0; 3]))]);
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, wrong("targets", Dtype::F32, "i32 or u32 or i64"));
    // A gradient of another float type than the logits' is fine.
    let narrow = Placed::output(gpu, Layout::matrix(Dtype::Bf16, 4, 6));
    submit(gpu, &none(), &Request::new(good.inputs(), good.outputs().gradient(narrow.tensor())));
}

fn missing_usages(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let copies = buffer(gpu, 256, wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST);
    let stores = buffer(gpu, 256, wgpu::BufferUsages::STORAGE);
    let usage = |argument: &str, needed: &str, found: &str| Error::WrongUsage {
        argument: argument.to_owned(),
        needed: needed.to_owned(),
        found: found.to_owned(),
    };
    let found = format!("{:?}", copies.usage());
    let logits = Tensor::matrix(&copies, Dtype::F32, 4, 6);
    let error = refused(gpu, &none(), good.inputs().logits(logits), good.outputs());
    assert_eq!(error, usage("logits", "STORAGE", &found));
    let loss = Tensor::vector(&copies, Dtype::F32, 4);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(loss));
    assert_eq!(error, usage("loss", "STORAGE", &found));
    let found = format!("{:?}", stores.usage());
    let words = Tensor::vector(&stores, Dtype::U32, 8);
    assert_eq!(Status::read(gpu, &words).unwrap_err(), usage("status", "COPY_SRC", &found));
    let mut encoder = encoder(gpu);
    let error = gpu.watch(&mut encoder, [(&good.one_loss(), &words)]).unwrap_err();
    assert_eq!(error, usage("status", "COPY_SRC", &found));
    works(gpu);
}

/// What cannot be copied is refused before it spoils the caller's encoder.
fn watches(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let status = Placed::input(gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8));
    let mut encoder = encoder(gpu);
    let mut watch = |loss: Tensor, status: Tensor| {
        gpu.watch(&mut encoder, [(&good.one_loss(), &status), (&loss, &status)]).unwrap_err()
    };
    let rows = watch(good.loss.tensor(), status.tensor());
    assert_eq!(rows, wrong_shape("loss", &[4], "[1]"));
    let narrow = watch(Tensor::vector(&good.loss.buffer, Dtype::F16, 1), status.tensor());
    assert!(matches!(narrow, Error::WrongDtype { found: Dtype::F16, .. }), "{narrow:?}");
    let signed = watch(good.one_loss(), Tensor::vector(&status.buffer, Dtype::I32, 8));
    assert!(matches!(signed, Error::WrongDtype { found: Dtype::I32, .. }), "{signed:?}");
    let words = status.buffer.size() / 4;
    let outside = watch(good.one_loss(), status.tensor().offset(words - 7));
    let (needed, found) = (4 * words + 4, 4 * words);
    let argument = "status".to_owned();
    assert_eq!(outside, Error::BufferTooSmall { argument, needed, found });
    gpu.queue().submit([encoder.finish()]);
    works(gpu);
}

fn scratch_without_storage(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let plan = gpu.plan(&none(), &Request::new(good.inputs(), good.outputs())).unwrap();
    let scratch = buffer(gpu, plan.scratch_bytes, wgpu::BufferUsages::COPY_DST);
    let request = Request::new(good.inputs(), good.outputs()).scratch(&scratch);
    let error = gpu.prepare(&none(), &request).unwrap_err();
    works(gpu);
    assert!(
        matches!(&error, Error::WrongUsage { argument, .. } if argument == "scratch"),
        "{error}"
    );
}

fn too_small_buffers(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let small = storage(gpu, 92);
    let too_small = |argument: &str, needed| Error::BufferTooSmall {
        argument: argument.to_owned(),
        needed,
        found: 92,
    };
    let logits = Tensor::matrix(&small, Dtype::F32, 4, 6);
    let error = refused(gpu, &none(), good.inputs().logits(logits.clone()), good.outputs());
    assert_eq!(error, too_small("logits", 96));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().gradient(logits.clone()));
    assert_eq!(error, too_small("grad.logits", 96));
    let offset = Tensor::vector(&small, Dtype::F32, 4).offset(20);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(offset));
    assert_eq!(error, too_small("loss", 96));
    let far = Tensor::vector(&small, Dtype::F32, 4).offset(u64::MAX - 2);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(far));
    assert_eq!(error, too_small("loss", u64::MAX));
    let strided = logits.row_stride(u64::MAX / 2);
    let error = refused(gpu, &none(), good.inputs().logits(strided), good.outputs());
    assert_eq!(error, too_small("logits", u64::MAX));
}

fn strides(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let narrow = good.logits.tensor().row_stride(5);
    let error = refused(gpu, &none(), good.inputs().logits(narrow), good.outputs());
    let expected = Error::WrongStride { argument: "logits".to_owned(), found: 5, least: 6 };
    assert_eq!(error, expected);
    let none_at_all = good.gradient.tensor().row_stride(0);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().gradient(none_at_all));
    assert_eq!(
        error,
        Error::WrongStride { argument: "grad.logits".to_owned(), found: 0, least: 6 }
    );
    // Words are written row by row without a gap.
    let gaps =
        Tensor::new(good.gradient.tensor().buffer, Layout::vector(Dtype::F32, 4).row_stride(2));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(gaps));
    assert_eq!(error, Error::WrongStride { argument: "loss".to_owned(), found: 2, least: 1 });
}

/// Offsets are in elements, so only what lies inside a word can be misaligned: nothing. What a device
/// cannot bind at a tensor's own offset is bound earlier.
fn misaligned_words(context: &Context) {
    let gpu = &context.gpu;
    let targets = Placed::input(gpu, &indices(&[0, 1, 2]), Layout::vector(Dtype::I64, 3).offset(3));
    let logits = Placed::input(gpu, &gaussian(3, 3, 5), Layout::matrix(Dtype::F16, 3, 5).offset(7));
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 3).offset(1));
    let request = Request::new(
        CrossEntropyInputs::default().logits(logits.tensor()).targets(targets.tensor()),
        CrossEntropyOutputs::default().loss(loss.tensor()),
    );
    submit(gpu, &none(), &request);
    assert!(loss.array(gpu).to_f64().iter().all(|value| value.is_finite()));
    loss.assert_surroundings(gpu);
}

fn overlaps(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let expected = |argument: &str, other: &str, bytes, other_bytes| Error::Overlap {
        argument: argument.to_owned(),
        other: other.to_owned(),
        bytes,
        other_bytes,
        reason: "overlap; ask for an in-place gradient explicitly".to_owned(),
    };
    let error = refused(gpu, &none(), good.inputs(), good.outputs().gradient(good.logits.tensor()));
    assert_eq!(error, expected("grad.logits", "logits", 0..96, 0..96));
    let loss = Tensor::vector(&good.gradient.buffer, Dtype::F32, 4).offset(20);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(loss));
    assert_eq!(error, expected("grad.logits", "loss", 0..96, 80..96));
    let loss = Tensor::vector(&good.targets.buffer, Dtype::F32, 4);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(loss));
    assert_eq!(error, expected("loss", "targets", 0..16, 0..16));
    // Inputs may share everything.
    let weights = vector(&[1.0; 6]);
    let weight = Placed::input(gpu, &weights, Layout::vector(Dtype::F32, 6));
    let inputs = good.inputs().weight(weight.tensor()).logit_bias(weight.tensor());
    submit(gpu, &none(), &Request::new(inputs, good.outputs()));
}

fn shared_alignment_blocks(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let alignment = gpu.profile().offset_alignment;
    let pool = storage(gpu, 4 * alignment.max(64));
    let loss = Tensor::vector(&pool, Dtype::F32, 4);
    let lse = Tensor::vector(&pool, Dtype::F32, 4).offset(4);
    let reason = format!("share an alignment block of {alignment} bytes of one buffer");
    let expected = |bytes, other_bytes| Error::Overlap {
        argument: "loss".to_owned(),
        other: "lse".to_owned(),
        bytes,
        other_bytes,
        reason: reason.clone(),
    };
    if alignment > 16 {
        let outputs = good.outputs().loss(loss.clone()).lse(lse);
        assert_eq!(refused(gpu, &none(), good.inputs(), outputs), expected(0..16, 16..32));
    }
    let next = Tensor::vector(&pool, Dtype::F32, 4).offset(alignment / 4);
    let outputs = good.outputs().loss(loss).lse(next);
    submit(gpu, &none(), &Request::new(good.inputs(), outputs));
}

fn zero_classes(context: &Context) {
    let gpu = &context.gpu;
    let expected = |argument: &str| wrong_shape(argument, &[0], "at least 1");
    let arrays = named([("logits", matrix(3, 0, Vec::new())), ("targets", indices(&[0; 3]))]);
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, expected("classes"));
    let good = Good::new(gpu);
    let empty = Tensor::matrix(&good.logits.buffer, Dtype::F32, 4, 0);
    let outputs = CrossEntropyOutputs::default().loss(good.loss.tensor());
    assert_eq!(refused(gpu, &none(), good.inputs().logits(empty), outputs), expected("classes"));
    let arrays = named([
        ("hidden", matrix(3, 0, Vec::new())),
        ("weight", matrix(4, 0, Vec::new())),
        ("targets", indices(&[0; 3])),
    ]);
    let linear = surprisal::LinearCrossEntropy::new(none());
    let error = gpu.run_arrays(&linear, &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, expected("hidden"));
    works(gpu);
}

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
        ("ignore_index", base().ignore_index(loss::cross_entropy::IgnoreIndex::List(vec![0; 5]))),
    ];
    refuse_options(gpu, bad);
    for options in [
        json!({"temprature": 1.0}),
        json!({"reduction": "men"}),
        json!({"temperature": "1"}),
        json!(3),
    ] {
        for entry in loss::REGISTRY {
            let parse: fn(&Value) -> _ = entry.parse;
            let error = parse(&options).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{options}: {error}");
        }
    }
}

/// As many as there are keys, and not one more; the same on the host and on the device.
fn top_k_out_of_range(context: &Context) {
    let (queries, keys) = (gaussian(1, 3, 4), gaussian(2, 5, 4));
    let inputs = named([("queries", queries), ("keys", keys)]);
    let wanted = ["top_scores", "top_indices"];
    check(&context.gpu, &*parse("similarity", &json!({"k": 5})), &inputs, Dtype::F32, &wanted);
    let loss = parse("similarity", &json!({"k": 6}));
    let host = surprisal::cpu::run(&*loss, &inputs, &wanted).unwrap_err();
    let device = context.gpu.run_arrays(&*loss, &inputs, Dtype::F32, &wanted).unwrap_err();
    assert_eq!(host, device);
    assert!(matches!(&host, Error::InvalidOption { option: "k", value, .. } if value == "6"));
    let zero = (surprisal::loss::find("similarity").unwrap().parse)(&json!({"k": 0})).unwrap_err();
    assert!(matches!(&zero, Error::InvalidOption { option: "k", value, .. } if value == "0"));
    works(&context.gpu);
}

/// A list by position is no set of options.
fn options_are_an_object(_: &Context) {
    for entry in loss::REGISTRY {
        let error = (entry.parse)(&json!([])).err();
        assert!(matches!(error, Some(Error::InvalidOption { .. })), "{}", entry.about.name);
    }
}

/// Numbers that f32, and so the GPU, does not have.
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
            gpu.prepare(&loss, &Request::new(good.inputs(), good.outputs())).err(),
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
        matches!(&error, Error::UnknownName { kind: "output", name, .. } if name == "los"),
        "{error}"
    );
    let mut arrays = sample(1, 2, 3);
    arrays.insert("weights".to_owned(), vector(&[1.0; 3]));
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownName { kind: "input", name, .. } if name == "weights"),
        "{error}"
    );
    let good = Good::new(gpu);
    let mut inputs = Named::from(good.inputs());
    inputs.insert("bias".to_owned(), good.loss.tensor());
    let error = refused(gpu, &none(), inputs, good.outputs());
    assert!(
        matches!(&error, Error::UnknownName { kind: "input", name, .. } if name == "bias"),
        "{error}"
    );
    assert!(loss::find("cross_entropie").is_none());
}

fn conflicts(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let conflict = |error: &Error, one: &str, two: &str| {
        let matches = matches!(error, Error::Conflict { argument, other, .. } if argument == one && other == two);
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
        matches!(&error, Error::MissingInput { argument, .. } if argument == "targets"),
        "{error}"
    );
}

fn missing_inputs(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let missing = |error: Error, name: &str| {
        assert!(
            matches!(&error, Error::MissingInput { argument, .. } if argument == name),
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

fn limits(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    // One row that no binding holds.
    let narrow = context.with(|profile| profile.binding_bytes = 4096);
    let wide = storage(gpu, 8192 * 4);
    let logits = Tensor::matrix(&wide, Dtype::F32, 1, 8192);
    let inputs = CrossEntropyInputs::default().logits(logits).targets(Tensor::vector(
        &good.targets.buffer,
        Dtype::I32,
        1,
    ));
    let loss = Tensor::vector(&good.loss.buffer, Dtype::F32, 1);
    let error = refused(&narrow, &none(), inputs, CrossEntropyOutputs::default().loss(loss));
    assert!(matches!(&error, Error::Limit { limit: 4096, .. }), "{error}");
    // An output buffer past what the device has.
    let error = gpu.output_buffer(Dtype::F32, &[1 << 40]).unwrap_err();
    assert!(matches!(&error, Error::Limit { found, .. } if *found == 1 << 42), "{error}");
    works(gpu);
}

// --- devices ---

/// A tensor of another device: refused by name of the kernel, both devices usable afterwards.
fn another_device(context: &Context) {
    let (gpu, other) = (&context.gpu, context.another());
    let (good, foreign) = (Good::new(gpu), Good::new(&other));
    for (inputs, outputs) in [
        (good.inputs().logits(foreign.logits.tensor()), good.outputs()),
        (good.inputs(), good.outputs().gradient(foreign.gradient.tensor())),
        (good.inputs().targets(foreign.targets.tensor()), good.outputs()),
    ] {
        let error = refused(gpu, &none(), inputs, outputs);
        assert!(matches!(&error, Error::Refused { .. }), "{error}");
    }
    let plan = gpu.plan(&none(), &Request::new(good.inputs(), good.outputs())).unwrap();
    let scratch = storage(&other, plan.scratch_bytes);
    let request = Request::new(good.inputs(), good.outputs()).scratch(&scratch);
    let error = gpu.prepare(&none(), &request).unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    let error = tensor_blocking(gpu, "loss", &foreign.loss.tensor()).unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    works(gpu);
    works(&other);
}

#[track_caller]
fn lost<T: std::fmt::Debug>(result: &surprisal::Result<T>, what: &str) {
    assert!(matches!(result, Err(Error::DeviceLost(_))), "{what}: {result:?}");
}

/// A device that worked and was then destroyed, with what was made on it.
struct Destroyed {
    gpu: Gpu,
    good: Good,
    status: Placed,
    run: surprisal::Run,
    prepared: surprisal::Prepared,
}

fn destroyed(context: &Context) -> Destroyed {
    let gpu = context.another();
    let status = Placed::input(&gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8));
    let good = Good::new(&gpu);
    submit(&gpu, &none(), &Request::new(good.inputs(), good.outputs().status(status.tensor())));
    works(&gpu);
    let run = gpu.run_arrays(&none(), &sample(1, 4, 6), Dtype::F32, &["loss"]).unwrap();
    let prepared = gpu.prepare(&none(), &Request::new(good.inputs(), good.outputs())).unwrap();
    gpu.device().destroy();
    Destroyed { gpu, good, status, run, prepared }
}

fn destroyed_before_read(context: &Context) {
    let it = destroyed(context);
    lost(&it.run.read_blocking(), "read");
    works(&context.gpu);
}

fn destroyed_before_run(context: &Context) {
    let it = destroyed(context);
    let run = it.gpu.run(&none(), it.good.inputs(), &["loss", "grad.logits"]);
    lost(&run.and_then(surprisal::Run::read_blocking), "run");
    let run = it.gpu.run_arrays(&none(), &sample(1, 4, 6), Dtype::F32, &["loss"]);
    lost(&run.and_then(surprisal::Run::read_blocking), "run_arrays");
    works(&context.gpu);
}

fn destroyed_before_status(context: &Context) {
    let it = destroyed(context);
    lost(&Status::read(&it.gpu, &it.status.tensor()), "Status::read");
    lost(&tensor_blocking(&it.gpu, "loss", &it.good.loss.tensor()), "tensor_blocking");
    works(&context.gpu);
}

/// Recording, watching and preparing do not panic either.
fn destroyed_before_recording(context: &Context) {
    let it = destroyed(context);
    let mut encoder = encoder(&it.gpu);
    it.prepared.encode(&mut encoder);
    drop(encoder);
    let request = Request::new(it.good.inputs(), it.good.outputs());
    let prepared = it.gpu.prepare(&none(), &request);
    assert!(prepared.is_ok() || matches!(prepared, Err(Error::DeviceLost(_))), "{prepared:?}");
    let mut encoder = self::encoder(&it.gpu);
    let watch = it.gpu.watch(&mut encoder, [(&it.good.one_loss(), &it.status.tensor())]);
    assert!(watch.is_ok() || matches!(watch, Err(Error::DeviceLost(_))), "{watch:?}");
    drop(encoder);
    works(&context.gpu);
}

fn destroyed_device_while_watching(context: &Context) {
    let gpu = context.another();
    let good = Good::new(&gpu);
    let status = Placed::input(&gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8));
    let mut recorded = encoder(&gpu);
    let watch = gpu.watch(&mut recorded, [(&good.one_loss(), &status.tensor())]).unwrap();
    let mut unsubmitted = encoder(&gpu);
    let never = gpu.watch(&mut unsubmitted, [(&good.one_loss(), &status.tensor())]).unwrap();
    gpu.queue().submit([recorded.finish()]);
    gpu.device().destroy();
    // Either it was copied before the end, or it says what happened: it does not hang.
    let report = pollster::block_on(watch);
    assert!(report.is_ok() || matches!(report, Err(Error::DeviceLost(_))), "{report:?}");
    drop(unsubmitted);
    lost(&pollster::block_on(never), "a watch whose encoder was dropped");
    works(&context.gpu);
}

// --- files ---

fn malformed_vectors(context: &Context) {
    let folder = std::env::temp_dir().join(format!("surprisal-faults-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let good = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/cross_entropy.safetensors");
    let bytes = std::fs::read(&good).unwrap();
    let mut changed = bytes.clone();
    changed[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let files: [(&str, &[u8]); 5] = [
        ("empty", &[]),
        ("short", &bytes[..100]),
        ("cut", &bytes[..bytes.len() - 10]),
        ("length", &changed),
        ("text", b"These are not tensors, they are words."),
    ];
    for (name, bytes) in files {
        let path = folder.join(format!("{name}.safetensors"));
        std::fs::write(&path, bytes).unwrap();
        let error = cases::load(&path).unwrap_err();
        let named = matches!(&error, Error::File { path: at, .. } if at.ends_with(&format!("{name}.safetensors")));
        assert!(named, "{name}: {error}");
    }
    let missing = cases::load(&folder.join("missing.safetensors")).unwrap_err();
    assert!(matches!(&missing, Error::File { .. }), "{missing}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(cases::load(&folder), Err(Error::File { .. })));
    // A case that is well-formed and makes no sense is an error of that case, not a crash.
    let case = Case {
        id: "nonsense".to_owned(),
        loss: "cross_entropy".to_owned(),
        options: json!({"temperature": -1.0}),
        inputs: Arrays::new(),
        expect: Arrays::from([("loss".to_owned(), vector(&[1.0]))]),
        ..Case::default()
    };
    let backend = surprisal::conformance::Backend::Gpu(context.gpu.clone());
    let outcomes = surprisal::conformance::run(&case, &backend, Dtype::F32);
    assert_eq!(outcomes[0].status, surprisal::conformance::Verdict::Error);
    works(&context.gpu);
}
