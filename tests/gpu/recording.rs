//! Recording on the caller's encoder or pass, with the caller's buffers and scratch; watching
//! losses.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use serde_json::json;
use surprisal::{
    Array, Arrays, CrossEntropy, CrossEntropyInputs, CrossEntropyOutputs, Dtype, Error, Gpu,
    Layout, Operation, Record, Reduction, Request, Tensor,
};

use crate::support::{
    Context, Placed, bits, check, encoder, gaussian, indices, named, outcome, parse, placed_inputs,
    positive, sample, storage, submit, tensors, vector, with,
};

tests![
    open_pass,
    several_losses_in_one_submission,
    one_pooled_buffer,
    pooled_linear,
    tensors_from_bindings,
    prepared_twice,
    own_scratch,
    pooled_scratch,
    parts_in_turn,
    short_submissions_in_turn,
    nothing_is_submitted,
    short_submissions,
    memory,
    trimmed,
    watch_without_a_stall,
    watch_of_several_losses,
    watch_without_a_busy_loop,
    full_ring,
    dropped_watches,
    async_and_cloned,
    send_and_sync,
    webgpu_default_limits,
];

fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

/// A call with its own buffers, and its expected results.
struct Call {
    inputs: Vec<(String, Placed)>,
    loss: Placed,
    gradient: Placed,
    status: Placed,
    expected: Arrays,
}

impl Call {
    fn new(gpu: &Gpu, options: &CrossEntropy, seed: u64, rows: usize, classes: usize) -> Self {
        let arrays = sample(seed, rows, classes);
        let expected = outcome(gpu, options, &arrays, Dtype::F32, &["loss", "grad.logits"]).0;
        let losses = expected["loss"].len() as u64;
        Self {
            inputs: placed_inputs(gpu, options, &arrays, Dtype::F32),
            loss: Placed::output(gpu, Layout::vector(Dtype::F32, losses)),
            gradient: Placed::output(gpu, Layout::dense(Dtype::F32, &arrays["logits"].shape)),
            status: Placed::input(gpu, &indices(&[0; 8]), Layout::vector(Dtype::U32, 8)),
            expected,
        }
    }

    fn request<'a>(&'a self, loss: &'a dyn Operation) -> Request<'a> {
        Request::new(loss, tensors(&self.inputs), self.outputs().into()).accumulate_status()
    }

    fn outputs(&self) -> CrossEntropyOutputs<'_> {
        CrossEntropyOutputs::default()
            .loss(self.loss.tensor())
            .gradient(self.gradient.tensor())
            .status(self.status.tensor())
    }

    #[track_caller]
    fn assert_ran(&self, gpu: &Gpu, times: u32) {
        assert_eq!(bits(&self.loss.array(gpu)), bits(&self.expected["loss"]));
        assert_eq!(bits(&self.gradient.array(gpu)), bits(&self.expected["grad.logits"]));
        assert_eq!(gpu.read_status_blocking(&self.status.tensor()).unwrap().completed, times);
    }
}

fn open_pass(context: &Context) {
    let gpu = &context.gpu;
    let calls = [Call::new(gpu, &none(), 1, 9, 33), Call::new(gpu, &none(), 2, 4, 1000)];
    let mut encoder = encoder(gpu);
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for call in &calls {
            gpu.encode(&mut pass, &call.request(&none())).unwrap();
        }
        gpu.prepare(&calls[0].request(&none())).unwrap().encode(&mut pass);
    }
    gpu.queue().submit([encoder.finish()]);
    calls[0].assert_ran(gpu, 2);
    calls[1].assert_ran(gpu, 1);
}

fn several_losses_in_one_submission(context: &Context) {
    let gpu = &context.gpu;
    let mean = CrossEntropy::default().label_smoothing(0.1);
    let calls: Vec<(CrossEntropy, Call)> =
        [(none(), 40, 70), (mean.clone(), 3, 2000), (mean, 200, 5)]
            .into_iter()
            .enumerate()
            .map(|(i, (loss, rows, classes))| {
                let call = Call::new(gpu, &loss, i as u64, rows, classes);
                (loss, call)
            })
            .collect();
    let mut encoder = encoder(gpu);
    for (loss, call) in &calls {
        gpu.encode(&mut encoder, &call.request(loss)).unwrap();
    }
    gpu.queue().submit([encoder.finish()]);
    for (_, call) in &calls {
        call.assert_ran(gpu, 1);
    }
}

/// Allocates slices of one buffer, each on its own alignment blocks.
struct Pool {
    buffer: wgpu::Buffer,
    used: u64,
    alignment: u64,
}

impl Pool {
    fn new(gpu: &Gpu) -> Self {
        Self { buffer: storage(gpu, 1 << 20), used: 0, alignment: gpu.profile().offset_alignment }
    }

    /// A dense layout at an odd element of the next free block.
    fn place(&mut self, gpu: &Gpu, dtype: Dtype, shape: &[u64], array: Option<&Array>) -> Layout {
        let start = self.used + if dtype == Dtype::I64 { 8 } else { 4 };
        let layout = Layout::dense(dtype, shape).offset(start / dtype.bytes());
        self.used = layout.byte_range().unwrap().end.next_multiple_of(self.alignment);
        if let Some(array) = array {
            let mut bytes = array.to_bytes(dtype);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            gpu.queue().write_buffer(&self.buffer, start, &bytes);
        }
        layout
    }
}

/// Inputs and outputs of every kind are slices of one buffer.
fn one_pooled_buffer(context: &Context) {
    let gpu = &context.gpu;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for in_place in [false, true] {
            let arrays = with(&sample(3, 6, 45), [("weight", vector(&positive(4, 45)))]);
            let wanted = ["loss", "grad.logits", "lse", "argmax", "count"];
            let expected = outcome(gpu, &none(), &arrays, dtype, &wanted).0;
            let mut pool = Pool::new(gpu);
            let mut input = |name: &str, dtype| {
                pool.place(gpu, dtype, &arrays[name].shape, Some(&arrays[name]))
            };
            let (logits, targets, weight) =
                (input("logits", dtype), input("targets", Dtype::I64), input("weight", dtype));
            let mut output =
                |name: &str, dtype| pool.place(gpu, dtype, &expected[name].shape, None);
            let gradient = output("grad.logits", dtype);
            let (loss, lse) = (output("loss", Dtype::F32), output("lse", Dtype::F32));
            let (argmax, count) = (output("argmax", Dtype::U32), output("count", Dtype::I64));
            let at = |layout: &Layout| Tensor::new(&pool.buffer, layout.clone());
            let inputs = CrossEntropyInputs::default()
                .logits(at(&logits))
                .targets(at(&targets))
                .weight(at(&weight));
            let outputs = CrossEntropyOutputs::default()
                .loss(at(&loss))
                .lse(at(&lse))
                .argmax(at(&argmax))
                .count(at(&count));
            let none = none();
            let (request, gradient) = if in_place {
                (none.request(inputs, outputs).gradient_in_place(), logits)
            } else {
                (none.request(inputs, outputs.gradient(at(&gradient))), gradient)
            };
            submit(gpu, &request);
            for (name, layout) in [
                ("loss", &loss),
                ("grad.logits", &gradient),
                ("lse", &lse),
                ("argmax", &argmax),
                ("count", &count),
            ] {
                let actual = gpu.read_blocking(&at(layout)).unwrap();
                assert_eq!(bits(&actual), bits(&expected[name]), "{name} {dtype} {in_place}");
            }
        }
    }
}

fn pooled_linear(context: &Context) {
    let gpu = &context.gpu;
    let loss = parse("linear_cross_entropy", &json!({"chunk_bytes": 3000}));
    let arrays = named([
        ("hidden", gaussian(5, 20, 9)),
        ("weight", gaussian(6, 70, 9)),
        ("bias", vector(&[0.5; 70])),
        ("targets", indices(&[3; 20])),
    ]);
    for dtype in [Dtype::F32, Dtype::F16] {
        let wanted = ["loss", "grad.hidden", "grad.weight", "grad.bias"];
        let expected = outcome(gpu, &*loss, &arrays, dtype, &wanted).0;
        let mut pool = Pool::new(gpu);
        let inputs: Vec<(String, Layout)> = arrays
            .iter()
            .map(|(name, array)| {
                let dtype = surprisal::stored_dtype(&*loss, name, dtype);
                (name.clone(), pool.place(gpu, dtype, &array.shape, Some(array)))
            })
            .collect();
        let outputs = wanted.map(|name| {
            let dtype = if name == "loss" { Dtype::F32 } else { dtype };
            (name.to_owned(), pool.place(gpu, dtype, &expected[name].shape, None))
        });
        let at = |(name, layout): &(String, Layout)| {
            let bytes = layout.byte_range().unwrap();
            let binding = wgpu::BufferBinding {
                buffer: &pool.buffer,
                offset: bytes.start,
                size: wgpu::BufferSize::new(bytes.end - bytes.start),
            };
            (name.clone(), Tensor::from_binding(binding, layout.dtype, &layout.shape).unwrap())
        };
        let request = Request::new(
            &*loss,
            inputs.iter().map(at).collect::<surprisal::Named>(),
            outputs.iter().map(at).collect::<surprisal::Named>(),
        );
        submit(gpu, &request);
        for (name, layout) in &outputs {
            let there = Tensor::new(&pool.buffer, layout.clone());
            let actual = gpu.read_blocking(&there).unwrap();
            assert_eq!(bits(&actual), bits(&expected[name]), "{name} {dtype}");
        }
    }
}

/// A binding is taken by its bytes; what does not fit it, or begins inside an element, is refused.
fn tensors_from_bindings(context: &Context) {
    let buffer = storage(&context.gpu, 64);
    let of = |offset: u64, size: u64, dtype: Dtype, shape: &[u64]| {
        let size = wgpu::BufferSize::new(size);
        let binding = wgpu::BufferBinding { buffer: &buffer, offset, size };
        Tensor::from_binding(binding, dtype, shape).map(|tensor| tensor.layout)
    };
    let matrix = Layout::matrix(Dtype::F16, 3, 2).offset(5);
    assert_eq!(of(10, 12, Dtype::F16, &[3, 2]).unwrap(), matrix);
    // Without a size, a binding ends with its buffer.
    assert_eq!(of(52, 0, Dtype::F32, &[3]).unwrap(), Layout::vector(Dtype::F32, 3).offset(13));
    assert_eq!(of(64, 0, Dtype::U8, &[0]).unwrap(), Layout::vector(Dtype::U8, 0).offset(64));
    for (offset, size, dtype, shape, found) in [
        (10, 10, Dtype::F16, &[3, 2], 10),
        (52, 0, Dtype::F32, &[2, 2], 12),
        (60, 100, Dtype::F32, &[1, 2], 4),
        (72, 0, Dtype::U8, &[1, 1], 0),
    ] {
        let needed = dtype.bytes() * shape.iter().product::<u64>();
        let argument = "binding".to_owned();
        let expected = Error::BufferTooSmall { argument: argument.into(), needed, found };
        assert_eq!(of(offset, size, dtype, shape).unwrap_err(), expected);
    }
    for (offset, dtype) in [(6, Dtype::F32), (5, Dtype::Bf16), (12, Dtype::I64)] {
        let argument = format!("{dtype} tensor");
        let expected = Error::WrongOffset {
            argument: argument.into(),
            found: offset,
            multiple: dtype.bytes(),
        };
        assert_eq!(of(offset, 0, dtype, &[1]).unwrap_err(), expected);
        let tensor = Tensor::vector(&buffer, dtype, 1);
        assert_eq!(tensor.clone().byte_offset(offset).unwrap_err(), expected);
        let moved = tensor.byte_offset(3 * dtype.bytes()).unwrap();
        assert_eq!(moved.layout.offset, 3);
    }
}

/// One preparation, encoded in two submissions and twice in a third one, with new logits between
/// them.
fn prepared_twice(context: &Context) {
    let gpu = &context.gpu;
    let call = Call::new(gpu, &none(), 7, 12, 100);
    let prepared = gpu.prepare(&call.request(&none())).unwrap();
    let mut completed = 0;
    for times in [1, 1, 2] {
        let mut encoder = encoder(gpu);
        for _ in 0..times {
            prepared.encode(&mut encoder);
        }
        gpu.queue().submit([encoder.finish()]);
        completed += times;
        call.assert_ran(gpu, completed);
    }
    let other = sample(8, 12, 100);
    let logits = &call.inputs.iter().find(|(name, _)| name == "logits").unwrap().1;
    gpu.queue().write_buffer(&logits.buffer, 0, &other["logits"].to_bytes(Dtype::F32));
    let targets = &call.inputs.iter().find(|(name, _)| name == "targets").unwrap().1;
    gpu.queue().write_buffer(&targets.buffer, 0, &other["targets"].to_bytes(Dtype::I64));
    let mut encoder = encoder(gpu);
    prepared.encode(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let expected = outcome(gpu, &none(), &other, Dtype::F32, &["loss"]).0;
    assert_eq!(bits(&call.loss.array(gpu)), bits(&expected["loss"]));
}

fn own_scratch(context: &Context) {
    let gpu = &context.gpu;
    let call = Call::new(gpu, &none(), 9, 5, 3000);
    let plan = gpu.plan(&call.request(&none())).unwrap();
    let usage = wgpu::BufferUsages::STORAGE;
    let scratch = crate::support::buffer(gpu, plan.scratch_bytes, usage);
    submit(gpu, &call.request(&none()).scratch(&scratch, 0..scratch.size()));
    call.assert_ran(gpu, 1);
    let none = none();
    let small = call.request(&none).scratch(&scratch, 0..plan.scratch_bytes - 4);
    let refused = gpu.prepare(&small).unwrap_err();
    let expected = Error::BufferTooSmall {
        argument: "scratch".into(),
        needed: plan.scratch_bytes,
        found: plan.scratch_bytes - 4,
    };
    assert_eq!(refused, expected);
}

/// Scratch and tensors share one buffer: with the same bits if they are disjoint, refused if they
/// overlap.
fn pooled_scratch(context: &Context) {
    let gpu = &context.gpu;
    let alignment = gpu.profile().offset_alignment;
    let spans = json!({"spans": [{"kind": "cce", "columns": 40}, {"kind": "mse", "columns": 5}]});
    let logits = [("logits", gaussian(3, 6, 45)), ("targets", gaussian(4, 6, 45))];
    let pairs = [("queries", gaussian(5, 9, 12)), ("keys", gaussian(6, 9, 12))];
    let linear = [("hidden", gaussian(7, 6, 9)), ("weight", gaussian(8, 45, 9))];
    let of = |arrays: [(&str, Array); 2]| named(arrays);
    let targets = ("targets", indices(&[3; 6]));
    for (name, options, arrays, wanted) in [
        ("cross_entropy", json!({}), sample(3, 6, 45), ["loss", "grad.logits"]),
        ("mse", json!({}), of(logits.clone()), ["loss", "grad.logits"]),
        ("dice", json!({"per": "batch"}), of(logits.clone()), ["loss", "grad.logits"]),
        ("mixed_columns", spans, of(logits), ["loss", "grad.logits"]),
        ("info_nce", json!({"symmetric": true}), of(pairs), ["loss", "grad.keys"]),
        ("linear_cross_entropy", json!({}), with(&of(linear), [targets]), ["loss", "grad.weight"]),
    ] {
        let loss = parse(name, &options);
        let expected = outcome(gpu, &*loss, &arrays, Dtype::F32, &wanted).0;
        let mut pool = Pool::new(gpu);
        let inputs: Vec<(String, Layout)> = arrays
            .iter()
            .map(|(name, array)| {
                let dtype = surprisal::stored_dtype(&*loss, name, Dtype::F32);
                (name.clone(), pool.place(gpu, dtype, &array.shape, Some(array)))
            })
            .collect();
        let at = |(name, layout): &(String, Layout)| {
            (name.clone(), Tensor::new(&pool.buffer, layout.clone()))
        };
        // The outputs have their own buffers: only the scratch is written in this one.
        let outputs = wanted.map(|name| {
            (name.to_owned(), Placed::output(gpu, Layout::dense(Dtype::F32, &expected[name].shape)))
        });
        let request = || Request::new(&*loss, inputs.iter().map(at).collect(), tensors(&outputs));
        let bytes = gpu.plan(&request()).unwrap().scratch_bytes;
        let behind = pool.used.next_multiple_of(alignment);
        submit(gpu, &request().scratch(&pool.buffer, behind..behind + bytes));
        for (name, placed) in &outputs {
            assert_eq!(bits(&placed.array(gpu)), bits(&expected[name]), "{name}");
        }
        let refused = |range| {
            let request = request().scratch(&pool.buffer, range);
            gpu.prepare(&request).unwrap_err()
        };
        let (over, end) = (refused(0..bytes), pool.buffer.size());
        assert!(
            matches!(&over, Error::Overlap { argument, .. } if &**argument == "scratch"),
            "{name}: {over}"
        );
        let odd = refused(behind + 4..behind + 4 + bytes);
        assert!(matches!(&odd, Error::WrongOffset { found, .. } if *found == behind + 4), "{odd}");
        let outside = refused(end - alignment..end - alignment + bytes);
        assert!(matches!(&outside, Error::BufferTooSmall { .. }), "{outside}");
        let short = refused(behind..behind + bytes - 4);
        assert!(matches!(&short, Error::BufferTooSmall { .. }), "{short}");
    }
}

/// Two calls that are recorded in parts, alternately, give the same results as each alone.
fn parts_in_turn(context: &Context) {
    let gpu = &context.gpu;
    let mean = CrossEntropy::default();
    let calls = [17, 18].map(|seed| Call::new(gpu, &mean, seed, 40, 70));
    let whole = gpu.prepare(&calls[0].request(&mean)).unwrap();
    let mut encoder = encoder(gpu);
    let several = whole.plan().submissions(gpu.profile()).count() > 1;
    let refused = whole.encode_part(&mut encoder, 0..1);
    let (loss, all) = ("cross_entropy".to_owned(), whole.plan().dispatches.len());
    let expected = Error::SharedScratch { operation: loss.into(), part: 0..1, all };
    assert!(several || refused == Err(expected), "{refused:?}");
    for nothing in [0..0, 1..1, all..all + 1] {
        whole.encode_part(&mut encoder, nothing).unwrap();
    }
    drop(encoder);
    let mut encoder = self::encoder(gpu);
    let prepared =
        calls.each_ref().map(|call| gpu.prepare(&call.request(&mean).in_parts()).unwrap());
    let steps = prepared[0].plan().dispatches.len();
    assert!(steps > 2);
    for step in 0..steps {
        for call in &prepared {
            call.encode_part(&mut encoder, step..step + 1).unwrap();
        }
    }
    gpu.queue().submit([encoder.finish()]);
    for call in &calls {
        call.assert_ran(gpu, 1);
    }
}

/// Calls that are cut automatically share no scratch, because those of two threads may alternate.
fn short_submissions_in_turn(context: &Context) {
    let gpu = context.with(|profile| profile.submission_dispatches = 1);
    let mean = CrossEntropy::default();
    let calls = [19, 20].map(|seed| Call::new(&gpu, &mean, seed, 40, 70));
    let prepared = calls.each_ref().map(|call| gpu.prepare(&call.request(&mean)).unwrap());
    let parts = prepared[0].plan().submissions(gpu.profile());
    for part in parts {
        for call in &prepared {
            let mut encoder = encoder(&gpu);
            call.encode_part(&mut encoder, part.clone()).unwrap();
            gpu.queue().submit([encoder.finish()]);
        }
    }
    for call in &calls {
        call.assert_ran(&gpu, 1);
    }
}

/// Encoding alone changes nothing, and a recording that is dropped never runs.
fn nothing_is_submitted(context: &Context) {
    let gpu = &context.gpu;
    let call = Call::new(gpu, &none(), 10, 5, 30);
    let mut dropped = encoder(gpu);
    gpu.encode(&mut dropped, &call.request(&none())).unwrap();
    drop(dropped);
    let kept = {
        let mut encoder = encoder(gpu);
        gpu.encode(&mut encoder, &call.request(&none())).unwrap();
        encoder.finish()
    };
    gpu.queue().submit([]);
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(gpu.read_status_blocking(&call.status.tensor()).unwrap().completed, 0);
    let poisoned = call.loss.array(gpu);
    assert_ne!(bits(&poisoned), bits(&call.expected["loss"]));
    gpu.queue().submit([kept]);
    call.assert_ran(gpu, 1);
}

/// Where submissions must be short, a call is cut into several, and no bit changes.
fn short_submissions(context: &Context) {
    let loss = parse("linear_cross_entropy", &json!({"chunk_bytes": 3000}));
    let arrays = named([
        ("hidden", gaussian(5, 40, 9)),
        ("weight", gaussian(6, 70, 9)),
        ("targets", indices(&[3; 40])),
    ]);
    let wanted = ["loss", "grad.hidden", "grad.weight"];
    let run = |most| {
        let gpu = context.with(|profile| profile.submission_dispatches = most);
        let run = gpu.run_arrays(&*loss, &arrays, Dtype::F32, &wanted).unwrap();
        let submissions = run.prepared().plan().submissions(gpu.profile()).count();
        (submissions, run.read_blocking().unwrap())
    };
    let (one, whole) = run(u32::MAX);
    let (several, cut) = run(3);
    assert!(one == 1 && several > 4, "{one} and {several} submissions");
    for name in wanted {
        assert_eq!(bits(&cut[name]), bits(&whole[name]), "{name}");
    }
    // On OpenGL this happens without asking.
    let gl = context.gpu.info().backend == wgpu::Backend::Gl;
    assert_eq!(context.gpu.profile().submission_dispatches < 20, gl);
}

/// Everything that a handle allocates for itself is counted while it is held.
fn memory(context: &Context) {
    // A handle with its own count.
    let gpu = context.with(|_| ());
    assert_eq!(gpu.memory(), surprisal::Memory::default());
    let call = Call::new(&context.gpu, &none(), 16, 5, 3000);
    let plan = gpu.plan(&call.request(&none())).unwrap();
    let (scratch, parameters) = (plan.scratch_bytes.max(256), plan.params_bytes());
    assert_eq!(gpu.memory().peak, 0, "a plan makes nothing");
    let prepared = gpu.prepare(&call.request(&none())).unwrap();
    assert_eq!(gpu.memory().held, scratch + parameters);
    let again = gpu.prepare(&call.request(&none())).unwrap();
    assert_eq!(gpu.memory().held, scratch + 2 * parameters, "the scratch is shared");
    drop((prepared, again));
    assert_eq!(gpu.memory().held, scratch, "the pool keeps its scratch");
    assert_eq!(gpu.memory().peak, scratch + 2 * parameters);
    let own = crate::support::buffer(&gpu, scratch, wgpu::BufferUsages::STORAGE);
    let prepared = gpu.prepare(&call.request(&none()).scratch(&own, 0..scratch)).unwrap();
    assert_eq!(gpu.memory().held, scratch + parameters, "the caller's scratch is the caller's");
    drop(prepared);
    let before = gpu.memory();
    let run = gpu.run_arrays(&none(), &sample(1, 100, 300), Dtype::F32, &["grad.logits"]).unwrap();
    let tensors = 2 * 100 * 300 * 4;
    assert!(gpu.memory().peak >= before.held + tensors, "{:?}", gpu.memory());
    run.read_blocking().unwrap();
    assert!(gpu.memory().peak >= before.held + tensors, "{:?}", gpu.memory());
    assert!(gpu.memory().held < before.held + tensors / 10, "{:?}", gpu.memory());
}

/// The shared scratch is given back: at once where no prepared call holds it, else with the last call that does.
fn trimmed(context: &Context) {
    // A handle with its own scratch.
    let gpu = context.with(|_| ());
    let call = Call::new(&gpu, &none(), 21, 5, 3000);
    gpu.trim();
    let before = gpu.memory().held;
    submit(&gpu, &call.request(&none()));
    let shared = gpu.memory().held - before;
    assert!(shared > 0);
    gpu.trim();
    assert_eq!(gpu.memory().held, before);
    let prepared = gpu.prepare(&call.request(&none())).unwrap();
    let held = gpu.memory().held;
    gpu.trim();
    assert_eq!(gpu.memory().held, held);
    let mut encoder = encoder(&gpu);
    prepared.encode(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    call.assert_ran(&gpu, 2);
    drop(prepared);
    assert_eq!(gpu.memory().held, before);
}

// --- watching ---

/// The report of the only loss of a watch.
fn report(watch: surprisal::Watch) -> surprisal::Report {
    let [report] = pollster::block_on(watch).unwrap();
    report
}

/// Steps are recorded and submitted while earlier reports are still in flight.
fn watch_without_a_stall(context: &Context) {
    let gpu = &context.gpu;
    let mean = CrossEntropy::default();
    let call = Call::new(gpu, &mean, 11, 64, 100);
    let prepared = gpu.prepare(&call.request(&mean)).unwrap();
    let mut watches: VecDeque<surprisal::Watch> = VecDeque::new();
    let mut reports = Vec::new();
    for _ in 0..30 {
        if watches.len() == 3 {
            reports.push(report(watches.pop_front().unwrap()));
        }
        let mut encoder = encoder(gpu);
        prepared.encode(&mut encoder);
        let watch =
            gpu.watch(&mut encoder, [(&call.loss.tensor(), &call.status.tensor())]).unwrap();
        gpu.queue().submit([encoder.finish()]);
        watches.push_back(watch);
    }
    reports.extend(watches.into_iter().map(report));
    let expected = call.expected["loss"].to_f64()[0];
    for (step, report) in reports.iter().enumerate() {
        assert_eq!(f64::from(report.loss), expected);
        assert_eq!(report.status.completed, step as u32 + 1);
        assert_eq!(report.status.bad_targets, 0);
    }
}

/// All losses of a step use one slot, with awaiting and with blocking.
fn watch_of_several_losses(context: &Context) {
    let gpu = &context.gpu;
    let mean = CrossEntropy::default();
    let calls = [(4, 10), (9, 33), (2, 500)]
        .map(|(rows, classes)| Call::new(gpu, &mean, rows as u64, rows, classes));
    for round in 1..=2 {
        let mut encoder = encoder(gpu);
        for call in &calls[..round] {
            gpu.prepare(&call.request(&mean)).unwrap().encode(&mut encoder);
        }
        let [a, b, c] = calls.each_ref().map(|call| (call.loss.tensor(), call.status.tensor()));
        let losses = [(&a.0, &a.1), (&b.0, &b.1), (&c.0, &c.1)];
        let watch = gpu.watch(&mut encoder, losses).unwrap();
        let submission = gpu.queue().submit([encoder.finish()]);
        let reports = if round == 1 {
            watch.wait(submission).unwrap()
        } else {
            pollster::block_on(watch).unwrap()
        };
        // The same of a number of losses that only the running program knows.
        for count in [3, round, 0] {
            let mut encoder = self::encoder(gpu);
            let watch = gpu.watch_all(&mut encoder, &losses[..count]).unwrap();
            gpu.queue().submit([encoder.finish()]);
            assert_eq!(pollster::block_on(watch).unwrap(), reports[..count]);
        }
        // The first call ran in both rounds, the second in the last one, the third in none.
        let completed = reports.map(|report| report.status.completed);
        assert_eq!(completed, [round as u32, round as u32 - 1, 0]);
        for (report, call) in reports.iter().zip(&calls[..round]) {
            assert_eq!(f64::from(report.loss), call.expected["loss"].to_f64()[0]);
        }
    }
}

/// A watch that is awaited but not ready sleeps between its polls of the device.
fn watch_without_a_busy_loop(context: &Context) {
    let gpu = &context.gpu;
    let call = Call::new(gpu, &CrossEntropy::default(), 15, 4, 10);
    let mut encoder = encoder(gpu);
    let (loss, status) = (call.loss.tensor(), call.status.tensor());
    let mut watch = gpu.watch(&mut encoder, [(&loss, &status)]).unwrap();
    let (start, mut polls) = (Instant::now(), 0);
    let span = Duration::from_millis(200);
    pollster::block_on(poll_fn(|task| {
        polls += 1;
        assert!(Pin::new(&mut watch).poll(task).is_pending(), "its encoder was not submitted");
        if start.elapsed() < span { Poll::Pending } else { Poll::Ready(()) }
    }));
    // One poll a millisecond, and a few at the start and at the end.
    assert!(polls <= 3 + span.as_millis(), "{polls} looks in {span:?}");
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(report(watch).status.completed, 0);
}

fn full_ring(context: &Context) {
    // A handle with its own ring.
    let gpu = context.with(|_| ());
    let call = Call::new(&gpu, &CrossEntropy::default(), 12, 4, 10);
    let mut encoder = encoder(&gpu);
    gpu.encode(&mut encoder, &call.request(&CrossEntropy::default())).unwrap();
    let watch = |encoder: &mut wgpu::CommandEncoder| {
        gpu.watch(encoder, [(&call.loss.tensor(), &call.status.tensor())])
    };
    let watches: Vec<_> = (0..surprisal::RING).map(|_| watch(&mut encoder).unwrap()).collect();
    let full = watch(&mut encoder).unwrap_err();
    assert_eq!(full, Error::RingFull { slots: surprisal::RING });
    gpu.queue().submit([encoder.finish()]);
    for watched in watches {
        assert_eq!(report(watched).status.completed, 1);
    }
    let mut encoder = self::encoder(&gpu);
    let again = watch(&mut encoder).unwrap();
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(report(again).status.completed, 1);
}

/// A watch that nobody awaits, and one whose encoder is never submitted, return their slots.
fn dropped_watches(context: &Context) {
    let gpu = context.with(|_| ());
    let call = Call::new(&gpu, &CrossEntropy::default(), 13, 4, 10);
    for round in 0..3 * surprisal::RING {
        let mut encoder = encoder(&gpu);
        let watch =
            gpu.watch(&mut encoder, [(&call.loss.tensor(), &call.status.tensor())]).unwrap();
        if round % 2 == 0 {
            gpu.queue().submit([encoder.finish()]);
        }
        drop(watch);
    }
    submit(&gpu, &call.request(&CrossEntropy::default()));
    call.assert_ran(&gpu, 1);
}

fn async_and_cloned(context: &Context) {
    let gpu = context.gpu.clone();
    let arrays = sample(14, 5, 9);
    let blocking = outcome(&gpu, &none(), &arrays, Dtype::F32, &["loss"]).0;
    let run = gpu.run_arrays(&none(), &arrays, Dtype::F32, &["loss"]).unwrap();
    let read = pollster::block_on(async { run.read().await }).unwrap();
    assert_eq!(bits(&read["loss"]), bits(&blocking["loss"]));
    let call = Call::new(&gpu, &none(), 14, 5, 9);
    submit(&gpu, &call.request(&none()));
    let (loss, status) = (gpu.read(&call.loss.tensor()), gpu.read_status(&call.status.tensor()));
    let (loss, status) = pollster::block_on(async { (loss.await, status.await) });
    assert_eq!(bits(&loss.unwrap()), bits(&blocking["loss"]));
    assert_eq!(status.unwrap().completed, 1);
    let own = Gpu::from_wgpu(gpu.device(), gpu.queue());
    assert_eq!(own.profile(), gpu.profile());
    assert_eq!(
        bits(&outcome(&own, &none(), &arrays, Dtype::F32, &["loss"]).0["loss"]),
        bits(&read["loss"])
    );
}

fn send_and_sync(context: &Context) {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    fn assert_record<T: Record>(_: &T) {}
    assert_shared(&context.gpu);
    assert_record(&encoder(&context.gpu));
}

/// A device of the caller with WebGPU's default limits and without features.
fn webgpu_default_limits(context: &Context) {
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: wgpu::Limits::default().or_worse_values_from(&context.adapter.limits()),
        ..wgpu::DeviceDescriptor::default()
    };
    let opened = pollster::block_on(context.adapter.request_device(&descriptor));
    let (device, queue) = opened.unwrap();
    let gpu = Gpu::from_wgpu(&device, &queue);
    assert!(gpu.profile().binding_bytes <= 128 << 20 && gpu.profile().storage_buffers <= 8);
    let options = json!({
        "label_smoothing": 0.1, "softcap": 20.0, "z_loss": 0.01, "focal_gamma": 1.2,
        "denominator": "weights"
    });
    let classes = 1001;
    let more = [
        ("logit_bias", vector(&positive(1, classes))),
        ("row_weight", vector(&positive(2, 9))),
        ("upstream", vector(&[0.5])),
    ];
    let inputs = with(&sample(3, 9, classes), more.clone());
    let wanted = ["loss", "grad.logits", "lse", "entropy", "argmax", "rank", "count", "perplexity"];
    let inputs = with(&inputs, [("weight", vector(&positive(4, classes)))]);
    check(&gpu, &*parse("cross_entropy", &options), &inputs, Dtype::F16, &wanted[..7]);
    let inputs = named([
        ("hidden", gaussian(5, 9, 13)),
        ("weight", gaussian(6, classes, 13)),
        ("bias", vector(&positive(7, classes))),
        ("class_weight", vector(&positive(8, classes))),
        ("targets", indices(&[1, 2, 3, 4, 5, 6, 7, 1000, -100])),
    ]);
    let inputs = with(&inputs, more);
    let wanted = ["loss", "grad.hidden", "grad.weight", "grad.bias", "lse", "entropy", "count"];
    let linear =
        parse("linear_cross_entropy", &json!({"label_smoothing": 0.1, "chunk_bytes": 9000}));
    check(&gpu, &*linear, &inputs, Dtype::F32, &wanted);
    check(&gpu, &*linear, &inputs, Dtype::Bf16, &wanted);
}
