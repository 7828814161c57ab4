//! Buffers: their usages, sizes, strides and offsets, and which tensors may not share one.

use std::ops::Range;

use surprisal::{CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Layout, Request, Tensor};

use super::{Good, none, refused, works, wrong_shape};
use crate::support::{
    Context, Placed, buffer, encoder, gaussian, indices, storage, submit, vector,
};

tests![
    missing_usages,
    destroyed_buffers,
    watches,
    scratch_without_storage,
    too_small_buffers,
    strides,
    misaligned_words,
    overlaps,
    shared_alignment_blocks,
];

/// A buffer that its owner has destroyed is not a lost device.
fn destroyed_buffers(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let gone = Placed::input(gpu, &vector(&[0.0; 6]), Layout::vector(Dtype::F32, 6));
    gone.buffer.destroy();
    let error = refused(gpu, &none(), good.inputs().weight(gone.tensor()), good.outputs());
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.chain().contains("has been destroyed"), "{}", error.chain());
    let error = gpu.read_blocking(&gone.tensor()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    works(gpu);
}

fn missing_usages(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let copies = buffer(gpu, 256, wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST);
    let stores = buffer(gpu, 256, wgpu::BufferUsages::STORAGE);
    let usage = |argument: &str, needed: &str, found: &str| Error::WrongUsage {
        argument: argument.into(),
        needed: needed.into(),
        found: found.into(),
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
    assert_eq!(gpu.read_status_blocking(&words).unwrap_err(), usage("status", "COPY_SRC", &found));
    let mut encoder = encoder(gpu);
    let error = gpu.watch(&mut encoder, [(&good.one_loss(), &words)]).unwrap_err();
    assert_eq!(error, usage("status", "COPY_SRC", &found));
    works(gpu);
}

/// A tensor that cannot be copied is refused before it invalidates the caller's encoder.
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
    assert_eq!(outside, Error::BufferTooSmall { argument: argument.into(), needed, found });
    gpu.queue().submit([encoder.finish()]);
    works(gpu);
}

fn scratch_without_storage(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let plan = gpu.plan(&none().request(good.inputs(), good.outputs())).unwrap();
    let scratch = buffer(gpu, plan.scratch_bytes, wgpu::BufferUsages::COPY_DST);
    let none = none();
    let request =
        none.request(good.inputs(), good.outputs()).scratch(&scratch, 0..plan.scratch_bytes);
    let error = gpu.prepare(&request).unwrap_err();
    works(gpu);
    assert!(
        matches!(&error, Error::WrongUsage { argument, .. } if &**argument == "scratch"),
        "{error}"
    );
}

fn too_small_buffers(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let small = storage(gpu, 92);
    let too_small = |argument: &str, needed| Error::BufferTooSmall {
        argument: argument.into(),
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
    let expected = Error::WrongStride { argument: "logits".into(), found: 5, least: 6 };
    assert_eq!(error, expected);
    let none_at_all = good.gradient.tensor().row_stride(0);
    let error = refused(gpu, &none(), good.inputs(), good.outputs().gradient(none_at_all));
    assert_eq!(error, Error::WrongStride { argument: "grad.logits".into(), found: 0, least: 6 });
    // Words are written row by row without a gap.
    let gaps =
        Tensor::new(good.gradient.tensor().buffer, Layout::vector(Dtype::F32, 4).row_stride(2));
    let error = refused(gpu, &none(), good.inputs(), good.outputs().loss(gaps));
    assert_eq!(error, Error::WrongStride { argument: "loss".into(), found: 2, least: 1 });
}

/// Offsets are in elements, so only an offset inside a word could be misaligned, and this is handled: a binding begins
/// at an earlier place if the device cannot bind the tensor's own offset.
fn misaligned_words(context: &Context) {
    let gpu = &context.gpu;
    let targets = Placed::input(gpu, &indices(&[0, 1, 2]), Layout::vector(Dtype::I64, 3).offset(3));
    let logits = Placed::input(gpu, &gaussian(3, 3, 5), Layout::matrix(Dtype::F16, 3, 5).offset(7));
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 3).offset(1));
    let none = none();
    let request = Request::new(
        &none,
        CrossEntropyInputs::default().logits(logits.tensor()).targets(targets.tensor()).into(),
        CrossEntropyOutputs::default().loss(loss.tensor()).into(),
    );
    submit(gpu, &request);
    assert!(loss.array(gpu).to_f64().iter().all(|value| value.is_finite()));
    loss.assert_surroundings(gpu);
}

fn overlaps(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let expected =
        |argument: &str, other: &str, bytes: Range<u64>, other_bytes: Range<u64>| Error::Overlap {
            argument: argument.into(),
            other: other.into(),
            bytes: bytes.into(),
            other_bytes: other_bytes.into(),
            reason: "overlap; an output lies over an input only if `Request::in_place` asks for it"
                .into(),
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
    submit(gpu, &none().request(inputs, good.outputs()));
}

fn shared_alignment_blocks(context: &Context) {
    let gpu = &context.gpu;
    let good = Good::new(gpu);
    let alignment = gpu.profile().offset_alignment;
    let pool = storage(gpu, 4 * alignment.max(64));
    let loss = Tensor::vector(&pool, Dtype::F32, 4);
    let lse = Tensor::vector(&pool, Dtype::F32, 4).offset(4);
    let reason = format!("share an alignment block of {alignment} bytes of one buffer");
    let expected = |bytes: Range<u64>, other_bytes: Range<u64>| Error::Overlap {
        argument: "loss".into(),
        other: "lse".into(),
        bytes: bytes.into(),
        other_bytes: other_bytes.into(),
        reason: reason.clone().into(),
    };
    if alignment > 16 {
        let outputs = good.outputs().loss(loss.clone()).lse(lse);
        assert_eq!(refused(gpu, &none(), good.inputs(), outputs), expected(0..16, 16..32));
    }
    let next = Tensor::vector(&pool, Dtype::F32, 4).offset(alignment / 4);
    let outputs = good.outputs().loss(loss).lse(next);
    submit(gpu, &none().request(good.inputs(), outputs));
}
