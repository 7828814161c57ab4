//! Bad input is a typed error that names what is wrong, before any GPU work, and the device works
//! afterwards.

pub(super) mod buffers;
pub(super) mod devices;
pub(super) mod options;

use serde_json::json;
use surprisal::{
    Array, Arrays, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Gpu,
    Layout, Named, Operation, Reduction, Request, Tensor,
    cases::{self, Case},
};

use crate::support::{
    Context, Placed, check, gaussian, indices, matrix, named, sample, storage, submit, vector,
};

tests![wrong_shapes, wrong_dtypes, zero_classes, no_output, limits, malformed_vectors];

fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

/// Valid tensors for a call of 4 rows and 6 classes, which the tests make invalid one at a time.
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

    /// One number, as a watch expects it.
    fn one_loss(&self) -> Tensor<'_> {
        Tensor::vector(&self.loss.buffer, Dtype::F32, 1)
    }
}

/// The error with which a call is refused. Nothing is written, and a valid call works afterwards.
#[track_caller]
fn refused<'a>(
    gpu: &Gpu,
    loss: &dyn Operation,
    inputs: impl Into<Named<'a>>,
    outputs: impl Into<Named<'a>>,
) -> Error {
    let request = Request::new(loss, inputs.into(), outputs.into());
    let error = gpu.prepare(&request).unwrap_err();
    works(gpu);
    error
}

#[track_caller]
fn works(gpu: &Gpu) {
    check(gpu, &CrossEntropy::default(), &sample(2, 3, 5), Dtype::F32, &["loss", "grad.logits"]);
}

fn wrong_shape(argument: &str, found: &[u64], expected: &str) -> Error {
    Error::WrongShape {
        argument: argument.into(),
        found: found.to_vec().into(),
        expected: expected.into(),
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
        (
            wrong_shape("targets", &[5], "[4] or [4, targets a row]"),
            inputs().targets(i32s(&[5])),
            good.outputs(),
        ),
        (wrong_shape("weight", &[7], "[6]"), inputs().weight(f32s(&[7])), good.outputs()),
        (
            wrong_shape("logit_bias", &[6, 1], "[6]"),
            inputs().logit_bias(f32s(&[6, 1])),
            good.outputs(),
        ),
        (wrong_shape("row_weight", &[3], "[4]"), inputs().row_weight(f32s(&[3])), good.outputs()),
        (wrong_shape("denominator", &[2], "[1]"), inputs().denominator(f32s(&[2])), good.outputs()),
        (
            wrong_shape("upstream", &[3], "[1] or [4]"),
            inputs().upstream(f32s(&[3])),
            good.outputs(),
        ),
        (
            wrong_shape("grad.logits", &[4, 5], "[4, 6]"),
            inputs(),
            good.outputs().gradient(f32s(&[4, 5])),
        ),
        (
            wrong_shape("loss", &[1], "[4], since the losses are not reduced"),
            inputs(),
            good.outputs().loss(f32s(&[1])),
        ),
        (
            wrong_shape("count", &[2], "[1]"),
            inputs(),
            good.outputs().count(Tensor::vector(&wide, Dtype::I64, 2)),
        ),
        (
            wrong_shape("status", &[7], "[8]"),
            inputs(),
            good.outputs().status(Tensor::vector(&wide, Dtype::U32, 7)),
        ),
    ];
    for (expected, inputs, outputs) in cases {
        assert_eq!(refused(gpu, &none(), inputs, outputs), expected);
    }
    let mean = CrossEntropy::default();
    let expected = wrong_shape("loss", &[4], "[1], since the losses are reduced");
    assert_eq!(refused(gpu, &mean, good.inputs(), good.outputs()), expected);
    let upstream = good.inputs().upstream(f32s(&[4]));
    let expected = wrong_shape("upstream", &[4], "[1], since the losses are reduced");
    let outputs = good.outputs().loss(Tensor::vector(&good.loss.buffer, Dtype::F32, 1));
    assert_eq!(refused(gpu, &mean, upstream, outputs), expected);
    // Host arrays are refused too.
    let arrays = named([("logits", gaussian(1, 3, 4)), ("targets", indices(&[0, 1]))]);
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, wrong_shape("targets", &[2], "[3] or [3, targets a row]"));
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
        argument: argument.into(),
        found,
        expected: expected.into(),
    };
    let floats = "f32 or f16 or bf16";
    let error =
        refused(gpu, &none(), good.inputs().logits(of(Dtype::U32, &[4, 6])), good.outputs());
    assert_eq!(error, wrong("logits", Dtype::U32, "f32 or f16 or bf16 or i8"));
    let error = refused(gpu, &none(), good.inputs().targets(of(Dtype::F32, &[4])), good.outputs());
    assert_eq!(error, wrong("targets", Dtype::F32, "i32 or u32 or i64"));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(of(Dtype::F16, &[4])));
    assert_eq!(error, wrong("loss", Dtype::F16, "f32"));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().argmax(of(Dtype::I64, &[4])));
    assert_eq!(error, wrong("argmax", Dtype::I64, "u32"));
    let error = refused(gpu, &none(), good.inputs().upstream(of(Dtype::I32, &[1])), good.outputs());
    assert_eq!(error, wrong("upstream", Dtype::I32, floats));
    let error =
        refused(gpu, &none(), good.inputs(), good.outputs().gradient(of(Dtype::I32, &[4, 6])));
    assert_eq!(error, wrong("grad.logits", Dtype::I32, floats));
    let arrays = named([("logits", gaussian(1, 3, 4)), ("targets", vector(&[0.0; 3]))]);
    let error = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap_err();
    assert_eq!(error, wrong("targets", Dtype::F32, "i32 or u32 or i64"));
    // The gradient may have another float type than the logits.
    let narrow = Placed::output(gpu, Layout::matrix(Dtype::Bf16, 4, 6));
    submit(
        gpu,
        &Request::new(
            &none(),
            good.inputs().into(),
            good.outputs().gradient(narrow.tensor()).into(),
        ),
    );
}

/// A call that asks for nothing is refused, also in the one-line forms.
fn no_output(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let nothing = CrossEntropyOutputs::default();
    let is_refused = |error: Error| {
        assert!(
            matches!(&error, Error::NoOutput { operation, .. } if &**operation == "cross_entropy"),
            "{error}"
        );
    };
    is_refused(refused(gpu, &none(), good.inputs(), nothing.clone()));
    is_refused(gpu.run(&none().request(good.inputs(), nothing.clone()), &[]).unwrap_err());
    is_refused(gpu.run_arrays(&none(), &sample(1, 4, 6), Dtype::F32, &[]).unwrap_err());
    // The gradient over the logits is an output.
    gpu.prepare(&none().request(good.inputs(), nothing).gradient_in_place()).unwrap();
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
    // An output buffer that is larger than the device allows.
    let error = gpu.output_buffer(Dtype::F32, &[1 << 40]).unwrap_err();
    assert!(matches!(&error, Error::Limit { found, .. } if *found == 1 << 42), "{error}");
    works(gpu);
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
    // A well-formed case that makes no sense is an error of this case, not a crash.
    let case = Case {
        id: "nonsense".to_owned(),
        loss: "cross_entropy".to_owned(),
        options: json!({"temperature": -1.0}),
        inputs: Arrays::new(),
        expect: Arrays::from([("loss".to_owned(), vector(&[1.0]))]),
        ..Case::default()
    };
    let backend = surprisal_cli::conformance::Backend::Gpu(context.gpu.clone());
    let outcomes = surprisal_cli::conformance::run(&case, &backend, Dtype::F32);
    assert_eq!(outcomes[0].status, surprisal_cli::conformance::Verdict::Error);
    works(&context.gpu);
}
