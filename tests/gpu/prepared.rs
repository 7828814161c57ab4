//! Prepared calls that take other numbers or other tensors, and plans that are recalled.

use std::sync::atomic::{AtomicUsize, Ordering};

use surprisal::{
    Arithmetic, Array, Arrays, CrossEntropy, Dtype, Error, Gpu, Layout, Named, Operation, Plan,
    Prepared, Profile, Reduction, Request, Signature, Tensor, ledger, loss::About,
    operations::Options, plan::Call,
};

use crate::support::{
    Context, Placed, bits, encoder, outcome, placed_inputs, sample, storage, submit, tensors,
};

tests![
    updated_numbers,
    updated_many_times,
    updates_that_need_a_preparation,
    rebound_buffers,
    rebound_and_updated,
    rebound_outputs,
    rebound_places,
    rebinds_that_need_a_preparation,
    recalled_plans,
    forgotten_plans,
    recalled_calls_are_checked,
    warmed_up,
];

const ROWS: usize = 3;
const CLASSES: usize = 2000;
const WANTED: [&str; 2] = ["loss", "grad.logits"];

/// Kernels that other tests compile, too.
fn smoothed(share: f64) -> CrossEntropy {
    CrossEntropy::default().label_smoothing(share)
}

/// A call's tensors, each in a buffer of its own.
struct Tensors {
    arrays: Arrays,
    inputs: Vec<(String, Placed)>,
    outputs: [(String, Placed); 2],
}

impl Tensors {
    fn new(gpu: &Gpu, seed: u64, rows: usize) -> Self {
        let arrays = sample(seed, rows, CLASSES);
        let inputs = placed_inputs(gpu, &smoothed(0.1), &arrays, Dtype::F32);
        let shapes = [vec![1], arrays["logits"].shape.clone()];
        let output = |(name, shape): (&str, &Vec<u64>)| {
            (name.to_owned(), Placed::output(gpu, Layout::dense(Dtype::F32, shape)))
        };
        let [loss, gradient] = [(WANTED[0], &shapes[0]), (WANTED[1], &shapes[1])].map(output);
        Self { arrays, inputs, outputs: [loss, gradient] }
    }

    fn request<'a>(&'a self, loss: &'a CrossEntropy) -> Request<'a> {
        Request::new(loss, tensors(&self.inputs), tensors(&self.outputs))
    }

    /// The outputs are those of this loss.
    #[track_caller]
    fn assert(&self, gpu: &Gpu, loss: &CrossEntropy) {
        let expected = outcome(gpu, loss, &self.arrays, Dtype::F32, &WANTED).0;
        for (name, output) in &self.outputs {
            assert_eq!(bits(&output.array(gpu)), bits(&expected[name]), "{name}");
        }
    }
}

fn recorded(gpu: &Gpu, prepared: &Prepared) -> wgpu::CommandBuffer {
    let mut encoder = encoder(gpu);
    prepared.encode(&mut encoder);
    encoder.finish()
}

/// What was recorded before an update keeps its numbers, whatever is submitted first.
fn updated_numbers(context: &Context) {
    let gpu = &context.gpu;
    let call = Tensors::new(gpu, 1, ROWS);
    let [first, second] = [0.1, 0.3].map(smoothed);
    let mut prepared = gpu.prepare(&call.request(&first)).unwrap();
    let before = recorded(gpu, &prepared);
    prepared.update(&second).unwrap();
    gpu.queue().submit([recorded(gpu, &prepared)]);
    call.assert(gpu, &second);
    gpu.queue().submit([before]);
    call.assert(gpu, &first);
    assert_eq!(*prepared.plan(), gpu.plan(&call.request(&second)).unwrap());
}

/// More updates than a buffer of parameters has slots. Each recording keeps its numbers, whatever is submitted first.
fn updated_many_times(context: &Context) {
    let gpu = &context.gpu;
    let call = Tensors::new(gpu, 1, ROWS);
    let losses: Vec<_> = (1..=150).map(|step| smoothed(f64::from(step) / 200.0)).collect();
    let mut prepared = gpu.prepare(&call.request(&losses[0])).unwrap();
    let mut record = |loss: &CrossEntropy| {
        prepared.update(loss).unwrap();
        recorded(gpu, &prepared)
    };
    let recordings: Vec<_> = losses.iter().map(&mut record).collect();
    for (nth, (loss, commands)) in losses.iter().zip(recordings).enumerate().rev() {
        gpu.queue().submit([commands]);
        if nth % 30 == 0 {
            call.assert(gpu, loss);
        }
    }
}

#[track_caller]
fn needs_preparation<T: std::fmt::Debug>(result: surprisal::Result<T>, about: &str) {
    match result.unwrap_err() {
        Error::NeedsPreparation { reason, .. } => assert!(reason.contains(about), "{reason}"),
        error => panic!("{error}"),
    }
}

fn updates_that_need_a_preparation(context: &Context) {
    let gpu = &context.gpu;
    let call = Tensors::new(gpu, 2, ROWS);
    let loss = smoothed(0.1);
    let mut prepared = gpu.prepare(&call.request(&loss)).unwrap();
    needs_preparation(prepared.update(&smoothed(0.1).focal_gamma(2.0)), "FOCAL");
    needs_preparation(prepared.update(&smoothed(0.1).reduction(Reduction::None)), "shape");
    needs_preparation(prepared.update(&surprisal::BceWithLogits::default()), "cross_entropy");
    let invalid = prepared.update(&smoothed(2.0)).unwrap_err();
    assert!(matches!(invalid, Error::InvalidOption { .. }), "{invalid}");
    gpu.queue().submit([recorded(gpu, &prepared)]);
    call.assert(gpu, &loss);
}

fn rebound_buffers(context: &Context) {
    let gpu = &context.gpu;
    let calls = [3, 4].map(|seed| Tensors::new(gpu, seed, ROWS));
    let loss = smoothed(0.1);
    let mut prepared = gpu.prepare(&calls[0].request(&loss)).unwrap();
    let before = recorded(gpu, &prepared);
    prepared.rebind(&calls[1].request(&loss)).unwrap();
    gpu.queue().submit([recorded(gpu, &prepared), before]);
    for call in &calls {
        call.assert(gpu, &loss);
    }
    // A new request may bring other numbers as well.
    let other = smoothed(0.3);
    prepared.rebind(&calls[0].request(&other)).unwrap();
    gpu.queue().submit([recorded(gpu, &prepared)]);
    calls[0].assert(gpu, &other);
}

/// Other buffers and other numbers in turn, more often than a buffer of parameters has slots. The parameters stay in one
/// buffer until it is full.
fn rebound_and_updated(context: &Context) {
    let gpu = &context.gpu;
    let calls = [3, 4].map(|seed| Tensors::new(gpu, seed, ROWS));
    let first = smoothed(0.1);
    let mut prepared = gpu.prepare(&calls[0].request(&first)).unwrap();
    prepared.update(&smoothed(0.2)).unwrap();
    let held = gpu.memory().held;
    prepared.rebind(&calls[1].request(&first)).unwrap();
    assert_eq!(gpu.memory().held, held, "the buffer of parameters was made anew");
    let losses: Vec<_> = (1..=80).map(|step| smoothed(f64::from(step) / 200.0)).collect();
    let mut recordings = Vec::new();
    for (nth, loss) in losses.iter().enumerate() {
        prepared.rebind(&calls[nth % 2].request(&first)).unwrap();
        let rebound = recorded(gpu, &prepared);
        prepared.update(loss).unwrap();
        recordings.push((rebound, recorded(gpu, &prepared)));
    }
    for (nth, (loss, (rebound, updated))) in losses.iter().zip(recordings).enumerate().rev() {
        gpu.queue().submit([updated]);
        if nth % 9 == 0 {
            calls[nth % 2].assert(gpu, loss);
            gpu.queue().submit([rebound]);
            calls[nth % 2].assert(gpu, &first);
        }
    }
}

/// Only the outputs move: what is bound to tensors that stay is kept.
fn rebound_outputs(context: &Context) {
    let gpu = &context.gpu;
    let [call, other] = [3, 4].map(|seed| Tensors::new(gpu, seed, ROWS));
    let loss = smoothed(0.1);
    let mut prepared = gpu.prepare(&call.request(&loss)).unwrap();
    let moved = Tensors { arrays: call.arrays, inputs: call.inputs, outputs: other.outputs };
    prepared.rebind(&moved.request(&loss)).unwrap();
    gpu.queue().submit([recorded(gpu, &prepared)]);
    moved.assert(gpu, &loss);
}

/// The tensors of a call in one buffer, each of them `shift` bytes behind a multiple of 4096.
struct Arena {
    buffer: wgpu::Buffer,
    arrays: Arrays,
}

impl Arena {
    fn new(gpu: &Gpu, seed: u64) -> Self {
        Self { buffer: storage(gpu, 1 << 20), arrays: sample(seed, ROWS, CLASSES) }
    }

    fn tensors(&self, gpu: &Gpu, first: u64, shift: u64) -> [Named<'_>; 2] {
        let places = [("logits", Dtype::F32), ("targets", Dtype::I64)];
        let tensor = |(name, dtype, shape, nth): (&str, Dtype, &[u64], u64)| {
            let start = first + 32_768 * nth + shift;
            let layout = Layout::dense(dtype, shape).offset(start / dtype.bytes());
            (name.to_owned(), Tensor::new(&self.buffer, layout))
        };
        let inputs = places.iter().zip(0..).map(|(&(name, dtype), nth)| {
            let array: &Array = &self.arrays[name];
            let tensor = tensor((name, dtype, &array.shape, nth));
            let start = tensor.1.layout.offset * dtype.bytes();
            gpu.queue().write_buffer(&self.buffer, start, &array.to_bytes(dtype));
            tensor
        });
        let inputs = inputs.collect();
        let gradient = tensor(("grad.logits", Dtype::F32, &self.arrays["logits"].shape, 2));
        let loss = tensor(("loss", Dtype::F32, &[1], 3));
        [inputs, Named::from([gradient, loss])]
    }

    #[track_caller]
    fn assert(&self, gpu: &Gpu, outputs: &Named<'_>, loss: &CrossEntropy) {
        let expected = outcome(gpu, loss, &self.arrays, Dtype::F32, &WANTED).0;
        for (name, tensor) in outputs {
            let found = gpu.read_blocking(tensor).unwrap();
            assert_eq!(bits(&found), bits(&expected[name]), "{name}");
        }
    }
}

/// Other places in one buffer: further on by whole alignment blocks, and at other distances from them.
fn rebound_places(context: &Context) {
    let gpu = &context.gpu;
    let arena = Arena::new(gpu, 5);
    let loss = smoothed(0.1);
    let [inputs, outputs] = arena.tensors(gpu, 0, 0);
    let mut prepared = gpu.prepare(&Request::new(&loss, inputs, outputs)).unwrap();
    for (first, shift) in [(131_072, 0), (262_144, 8), (0, 0)] {
        let [inputs, outputs] = arena.tensors(gpu, first, shift);
        let request = Request::new(&loss, inputs, outputs.clone());
        prepared.rebind(&request).unwrap();
        assert_eq!(*prepared.plan(), gpu.plan(&request).unwrap(), "{first} {shift}");
        gpu.queue().submit([recorded(gpu, &prepared)]);
        arena.assert(gpu, &outputs, &loss);
    }
}

fn rebinds_that_need_a_preparation(context: &Context) {
    let gpu = &context.gpu;
    let [call, longer] =
        [(6, ROWS), (7, ROWS + 1)].map(|(seed, rows)| Tensors::new(gpu, seed, rows));
    let loss = smoothed(0.1);
    let mut prepared = gpu.prepare(&call.request(&loss)).unwrap();
    let compiled = ledger::entries().len();
    needs_preparation(prepared.rebind(&longer.request(&loss)), "has another shape");
    let inputs = tensors(&call.inputs);
    let loss_alone = tensors(&call.outputs[..1]);
    needs_preparation(prepared.rebind(&Request::new(&loss, inputs, loss_alone)), "grad.logits");
    assert_eq!(ledger::entries().len(), compiled, "what is refused compiles nothing");
    gpu.queue().submit([recorded(gpu, &prepared)]);
    call.assert(gpu, &loss);
}

/// A call of a shape that was seen before has the plan that it would have been given, wherever its tensors lie.
fn recalled_plans(context: &Context) {
    let gpu = &context.with(|_| ());
    let arena = Arena::new(gpu, 8);
    let loss = smoothed(0.1);
    let plan = |first, shift| -> (Plan, Plan) {
        let [inputs, outputs] = arena.tensors(gpu, first, shift);
        let request = Request::new(&loss, inputs, outputs);
        (gpu.prepare(&request).unwrap().plan().clone(), gpu.plan(&request).unwrap())
    };
    for (first, shift) in [(0, 0), (131_072, 0), (262_144, 8), (393_216, 8)] {
        let (recalled, planned) = plan(first, shift);
        assert_eq!(recalled, planned, "{first} {shift}");
    }
    // In place, and with scratch in the same buffer, also before the place where it was first.
    for first in [131_072, 262_144, 0] {
        let [inputs, mut outputs] = arena.tensors(gpu, first, 0);
        outputs.remove("grad.logits");
        let request = Request::new(&loss, inputs.clone(), outputs.clone()).gradient_in_place();
        let bytes = gpu.plan(&request).unwrap().scratch_bytes;
        let behind = first + 131_072;
        let request = request.scratch(&arena.buffer, behind..behind + bytes);
        assert_eq!(*gpu.prepare(&request).unwrap().plan(), gpu.plan(&request).unwrap(), "{first}");
        submit(gpu, &request);
        outputs.insert("grad.logits".to_owned(), inputs["logits"].clone());
        arena.assert(gpu, &outputs, &loss);
    }
}

/// Cross-entropy that counts its plans.
#[derive(Debug)]
struct Counting<'a> {
    loss: CrossEntropy,
    plans: &'a AtomicUsize,
}

impl Signature for Counting<'_> {
    fn about(&self) -> &'static About {
        self.loss.about()
    }

    fn validate(&self) -> surprisal::Result<()> {
        self.loss.validate()
    }

    fn accepts(&self, call: &Call) -> surprisal::Result<()> {
        self.loss.accepts(call)
    }

    fn is_per_row(&self) -> bool {
        self.loss.is_per_row()
    }
}

impl Operation for Counting<'_> {
    fn plan(&self, call: &Call, profile: &Profile) -> surprisal::Result<Plan> {
        self.plans.fetch_add(1, Ordering::Relaxed);
        self.loss.plan(call, profile)
    }

    fn compared_by(&self, part: &mut dyn FnMut(&dyn Options)) -> bool {
        self.loss.compared_by(part)
    }

    fn reference(
        &self,
        inputs: &Arrays,
        wanted: &[&str],
        arithmetic: Arithmetic,
    ) -> surprisal::Result<Arrays> {
        self.loss.reference(inputs, wanted, arithmetic)
    }
}

/// A loop that changes an option at every call does not fill the memory with its plans.
fn forgotten_plans(context: &Context) {
    let gpu = &context.with(|_| ());
    let call = Tensors::new(gpu, 11, ROWS);
    let plans = AtomicUsize::new(0);
    let planned = |share: f64| {
        let loss = Counting { loss: smoothed(share), plans: &plans };
        let request = Request::new(&loss, tensors(&call.inputs), tensors(&call.outputs));
        gpu.prepare(&request).unwrap();
        plans.swap(0, Ordering::Relaxed)
    };
    assert_eq!([planned(0.1), planned(0.2), planned(0.1)], [1, 1, 0]);
    for step in 1..=100 {
        assert_eq!(planned(0.3 + f64::from(step) / 1000.0), 1);
        assert_eq!(planned(0.2), 0, "what every step uses is kept");
    }
    assert_eq!(planned(0.1), 1, "what no step uses is forgotten");
}

/// A plan that is recalled spares no check of the tensors' places.
fn recalled_calls_are_checked(context: &Context) {
    let gpu = &context.gpu;
    let arena = Arena::new(gpu, 9);
    let loss = smoothed(0.1);
    let [inputs, outputs] = arena.tensors(gpu, 0, 0);
    gpu.prepare(&Request::new(&loss, inputs.clone(), outputs.clone())).unwrap();
    let refused = |change: &dyn Fn(&mut Named<'_>)| {
        let mut outputs = outputs.clone();
        change(&mut outputs);
        gpu.prepare(&Request::new(&loss, inputs.clone(), outputs)).unwrap_err()
    };
    let moved = |outputs: &mut Named<'_>, element| {
        let gradient = outputs.get_mut("grad.logits").unwrap();
        gradient.layout.offset = element;
    };
    let overlap = refused(&|outputs| moved(outputs, 1024));
    assert!(matches!(overlap, Error::Overlap { .. }), "{overlap}");
    let end = arena.buffer.size() / 4 - 1024;
    let past = refused(&|outputs| moved(outputs, end));
    assert!(matches!(past, Error::BufferTooSmall { .. }), "{past}");
    let uniform = crate::support::buffer(gpu, 1 << 16, wgpu::BufferUsages::UNIFORM);
    let mut elsewhere = outputs.clone();
    elsewhere.insert("loss".to_owned(), Tensor::vector(&uniform, Dtype::F32, 1));
    let request = Request::new(&loss, inputs.clone(), elsewhere);
    let usage = gpu.prepare(&request).unwrap_err();
    assert!(matches!(usage, Error::WrongUsage { .. }), "{usage}");
}

/// After a warm-up over a range of rows, no call in the range compiles anything.
fn warmed_up(context: &Context) {
    let gpu = &Gpu::from_wgpu(context.gpu.device(), context.gpu.queue());
    let calls: Vec<Tensors> = (1..=ROWS).map(|rows| Tensors::new(gpu, 10, rows)).collect();
    let loss = smoothed(0.1);
    let request = |rows: u64| calls[rows as usize - 1].request(&loss);
    let warm_up = || gpu.warm_up(1..=ROWS as u64, |rows| gpu.plan(&request(rows))).unwrap();
    assert!(warm_up() > 0);
    let compiled = ledger::entries().len();
    for rows in 1..=ROWS as u64 {
        gpu.queue().submit([recorded(gpu, &gpu.prepare(&request(rows)).unwrap())]);
    }
    assert_eq!(warm_up(), 0);
    assert_eq!(ledger::entries().len(), compiled);
    for call in &calls {
        call.assert(&context.gpu, &loss);
    }
}
