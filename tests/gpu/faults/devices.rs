//! Tensors of another device, and a device that is gone.

use std::error::Error as _;

use surprisal::{CrossEntropyOutputs, Dtype, Error, Gpu, Layout, wgpu};

use super::{Good, none, refused, works};
use crate::support::{Context, Placed, encoder, indices, sample, storage, submit};

tests![
    another_device,
    destroyed_before_read,
    destroyed_before_run,
    destroyed_before_status,
    destroyed_before_recording,
    destroyed_device_while_watching,
];

/// A tensor of another device is refused with the name of the kernel, and both devices work
/// afterwards.
fn another_device(context: &Context) {
    let (gpu, other) = (&context.gpu, context.another());
    let (good, foreign) = (Good::new(gpu), Good::new(&other));
    for (inputs, outputs) in [
        (good.inputs().logits(foreign.logits.tensor()), good.outputs()),
        (good.inputs(), good.outputs().gradient(foreign.gradient.tensor())),
        (good.inputs().targets(foreign.targets.tensor()), good.outputs()),
    ] {
        refused_by_wgpu(&refused(gpu, &none(), inputs, outputs), "Validation Error");
    }
    let plan = gpu.plan(&none().request(good.inputs(), good.outputs())).unwrap();
    let scratch = storage(&other, plan.scratch_bytes);
    let none = none();
    let request =
        none.request(good.inputs(), good.outputs()).scratch(&scratch, 0..plan.scratch_bytes);
    refused_by_wgpu(&gpu.prepare(&request).unwrap_err(), "Validation Error");
    refused_by_wgpu(&gpu.read_blocking(&foreign.loss.tensor()).unwrap_err(), "Validation Error");
    works(gpu);
    works(&other);
}

/// The reason is the error of wgpu, once.
#[track_caller]
fn refused_by_wgpu(error: &Error, reason: &str) {
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let source = error.source().and_then(|source| source.downcast_ref::<wgpu::Error>());
    assert!(matches!(source, Some(wgpu::Error::Validation { .. })), "{source:?}");
    assert!(!error.to_string().contains(reason), "{error}");
    assert_eq!(error.chain().matches(reason).count(), 1, "{}", error.chain());
}

#[track_caller]
fn lost<T: std::fmt::Debug>(result: &surprisal::Result<T>, what: &str) {
    assert!(matches!(result, Err(Error::DeviceLost { .. })), "{what}: {result:?}");
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
    submit(&gpu, &none().request(good.inputs(), good.outputs().status(status.tensor())));
    works(&gpu);
    let run = gpu.run_arrays(&none(), &sample(1, 4, 6), Dtype::F32, &["loss"]).unwrap();
    let prepared = gpu.prepare(&none().request(good.inputs(), good.outputs())).unwrap();
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
    let run = it.gpu.run(
        &none().request(it.good.inputs(), CrossEntropyOutputs::default()),
        &["loss", "grad.logits"],
    );
    lost(&run.and_then(surprisal::Run::read_blocking), "run");
    let run = it.gpu.run_arrays(&none(), &sample(1, 4, 6), Dtype::F32, &["loss"]);
    lost(&run.and_then(surprisal::Run::read_blocking), "run_arrays");
    works(&context.gpu);
}

fn destroyed_before_status(context: &Context) {
    let it = destroyed(context);
    lost(&it.gpu.read_status_blocking(&it.status.tensor()), "read_status_blocking");
    lost(&it.gpu.read_blocking(&it.good.loss.tensor()), "read_blocking");
    works(&context.gpu);
}

/// Recording, watching and preparing do not panic either.
fn destroyed_before_recording(context: &Context) {
    let it = destroyed(context);
    let mut encoder = encoder(&it.gpu);
    it.prepared.encode(&mut encoder);
    drop(encoder);
    let none = none();
    let request = none.request(it.good.inputs(), it.good.outputs());
    let prepared = it.gpu.prepare(&request);
    assert!(prepared.is_ok() || matches!(prepared, Err(Error::DeviceLost { .. })), "{prepared:?}");
    let mut encoder = self::encoder(&it.gpu);
    let watch = it.gpu.watch(&mut encoder, [(&it.good.one_loss(), &it.status.tensor())]);
    assert!(watch.is_ok() || matches!(watch, Err(Error::DeviceLost { .. })), "{watch:?}");
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
    // The report either was copied before the end or is an error; it never hangs.
    let report = pollster::block_on(watch);
    assert!(report.is_ok() || matches!(report, Err(Error::DeviceLost { .. })), "{report:?}");
    drop(unsubmitted);
    lost(&pollster::block_on(never), "a watch whose encoder was dropped");
    works(&context.gpu);
}
