//! Numbers of classes around every boundary, places in memory, windows, split rows: the bits of a row depend only on
//! the row.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Gpu, Layout, Named, Operation, Padding, Reduction, Request,
    plan::Dispatch,
};

use crate::support::{
    BY_PRODUCTS, Context, FLOATS, Placed, Reference, assert_same_bits, bits, check, gaussian,
    in_turn, indices, matrix, named, outcome, parse, row, sample, sample_probs, set, submit,
    vector, with,
};

tests![
    few_classes,
    one_smoothed_class,
    classes_around_powers_of_two,
    real_vocabularies,
    quarter_of_a_million_classes,
    places_in_memory,
    places_of_target_probs,
    in_place_as_elsewhere,
    no_rows,
    one_row,
    rows_past_65535,
    windows_of_bindings,
    windows_of_elements,
    windows_of_sixteen_bit_rows,
    split_rows,
    grids_of_two_dimensions,
    other_rows_and_batches,
    run_to_run,
    more_data_than_a_default_binding,
    as_many_classes_as_there_can_be,
];

const WANTED: [&str; 9] = [
    "loss",
    "grad.logits",
    BY_PRODUCTS[0],
    BY_PRODUCTS[1],
    BY_PRODUCTS[2],
    BY_PRODUCTS[3],
    BY_PRODUCTS[4],
    BY_PRODUCTS[5],
    BY_PRODUCTS[6],
];

fn none() -> CrossEntropy {
    CrossEntropy::default().reduction(Reduction::None)
}

fn check_classes(context: &Context, classes: impl IntoIterator<Item = usize>, rows: usize) {
    for (turn, classes) in classes.into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let inputs = sample(classes as u64, rows, classes);
            check(&context.gpu, &none(), &inputs, dtype, &WANTED);
            let epsilon = if classes > 1 { 0.1 } else { 0.0 };
            let mean = CrossEntropy::default().label_smoothing(epsilon);
            check(&context.gpu, &mean, &inputs, dtype, &["loss", "grad.logits"]);
        }
    }
}

/// Around a quad, where a workgroup takes several rows.
fn few_classes(context: &Context) {
    check_classes(context, 1..=9, 37);
}

/// p = q = 1, however the shares of the smoothing are rounded.
fn one_smoothed_class(context: &Context) {
    let loss = CrossEntropy::default().label_smoothing(0.1);
    check(&context.gpu, &loss, &sample(1, 37, 1), Dtype::F32, &["loss", "grad.logits"]);
}

/// The sizes of tiles and workgroups ±1, and an awkward number. (One vendor's softmax was wrong only just past powers
/// of two.)
fn classes_around_powers_of_two(context: &Context) {
    let around = |power: u32| [(1 << power) - 1, 1 << power, (1 << power) + 1];
    let classes = [4].into_iter().chain(6..=14).flat_map(around);
    check_classes(context, classes.chain([1000, 4099]), 5);
}

/// The vocabulary of GPT-2, and a prime near 2^17; 32769 is one more than the segment of a software adapter, and
/// 131,070 is 2 modulo 4, unlike the others.
fn real_vocabularies(context: &Context) {
    check_classes(context, [32_769, 50_257, 131_070, 131_071], 3);
}

fn quarter_of_a_million_classes(context: &Context) {
    check_classes(context, [262_144], 2);
}

// --- places in memory ---

/// A call whose matrices and vectors have any stride and offset.
struct Anywhere {
    logits: Placed,
    targets: Placed,
    gradient: Option<Placed>,
    loss: Placed,
    lse: Placed,
}

impl Anywhere {
    fn new(gpu: &Gpu, inputs: &Arrays, place: &Place) -> Self {
        let (logits, targets) = (&inputs["logits"], &inputs["targets"]);
        let (rows, classes) = (logits.shape[0], logits.shape[1]);
        let layout = |shift: u64, padding: u64| {
            Layout::matrix(place.dtype, rows, classes)
                .row_stride(classes + padding)
                .offset(place.offset + shift)
        };
        let vector = |dtype| Layout::vector(dtype, rows).offset(place.offset);
        let gradient = layout(place.gradient_shift, place.padding + 2 * place.gradient_shift);
        Self {
            logits: Placed::input(gpu, logits, layout(0, place.padding)),
            targets: Placed::input(gpu, targets, vector(Dtype::I32)),
            gradient: (!place.over_logits).then(|| Placed::output(gpu, gradient)),
            loss: Placed::output(gpu, vector(Dtype::F32)),
            lse: Placed::output(gpu, vector(Dtype::F32)),
        }
    }

    fn run(&self, gpu: &Gpu, loss: &dyn Operation) -> Arrays {
        let inputs = [("logits", &self.logits), ("targets", &self.targets)];
        let mut outputs = vec![("loss", &self.loss), ("lse", &self.lse)];
        outputs.extend(self.gradient.as_ref().map(|gradient| ("grad.logits", gradient)));
        let request = Request::new(loss, by_name(&inputs), by_name(&outputs));
        let request = if self.gradient.is_none() { request.gradient_in_place() } else { request };
        submit(gpu, &request);
        let gradient = self.gradient.as_ref().unwrap_or(&self.logits);
        named_outputs([("grad.logits", gradient), ("loss", &self.loss), ("lse", &self.lse)], gpu)
    }

    /// Asserts that nothing around a tensor has changed, including its padding.
    fn assert_surroundings(&self, gpu: &Gpu) {
        let all = [&self.logits, &self.targets, &self.loss, &self.lse];
        for placed in all.into_iter().chain(&self.gradient) {
            placed.assert_surroundings(gpu);
        }
    }
}

fn by_name<'a>(placed: &[(&str, &'a Placed)]) -> Named<'a> {
    placed.iter().map(|(name, placed)| ((*name).to_owned(), placed.tensor())).collect()
}

fn named_outputs<const N: usize>(placed: [(&str, &Placed); N], gpu: &Gpu) -> Arrays {
    placed.map(|(name, placed)| (name.to_owned(), placed.array(gpu))).into()
}

#[derive(Clone, Debug)]
struct Place {
    dtype: Dtype,
    offset: u64,
    padding: u64,
    gradient_shift: u64,
    over_logits: bool,
}

/// All residues modulo 4 of classes, offset and stride, for every type, with guard bands around all tensors.
fn places_in_memory(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for classes in [1_usize, 6, 7, 64, 65, 133, 1024] {
            let inputs = sample(3, 5, classes);
            let wanted = ["loss", "grad.logits", "lse"];
            let expected = check(gpu, &none(), &inputs, dtype, &wanted).0;
            let expected = only(&expected, &wanted);
            for offset in 0..4 {
                for (padding, gradient_shift, over_logits) in [
                    (0, 0, false),
                    (1 + offset, 1, false),
                    (3, 2, false),
                    (4, 0, true),
                    (1, 0, true),
                ] {
                    let place = Place { dtype, offset, padding, gradient_shift, over_logits };
                    let call = Anywhere::new(gpu, &inputs, &place);
                    let actual = call.run(gpu, &none());
                    assert_same_bits(&actual, &expected, &format!("{classes} classes, {place:?}"));
                    call.assert_surroundings(gpu);
                    zero_padding(gpu, &inputs, &place);
                }
            }
        }
    }
}

/// With `padding = zero` the columns up to the stride become 0, and nothing else changes.
fn zero_padding(gpu: &Gpu, inputs: &Arrays, place: &Place) {
    let mut call = Anywhere::new(gpu, inputs, place);
    call.run(gpu, &none().padding(Padding::Zero));
    call.gradient.as_mut().unwrap_or(&mut call.logits).assert_zero_padding(gpu);
    call.assert_surroundings(gpu);
}

fn only(arrays: &Arrays, names: &[&str]) -> Arrays {
    names.iter().map(|&name| (name.to_owned(), arrays[name].clone())).collect()
}

/// A lane that closes its row late must not meet a gradient where the target's logit was.
fn in_place_as_elsewhere(context: &Context) {
    let inputs = sample(8, 40, 133);
    for options in [
        json!({"reduction": "none"}),
        json!({"reduction": "none", "focal_gamma": 1.5}),
        json!({"reduction": "none", "label_smoothing": 0.2, "smoothing": "ordinal"}),
    ] {
        let loss = parse("cross_entropy", &options);
        let wanted = ["loss", "grad.logits", "lse"];
        let expected = only(&check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted).0, &wanted);
        let (dtype, over_logits) = (Dtype::F32, true);
        let place = Place { dtype, offset: 0, padding: 0, gradient_shift: 0, over_logits };
        let actual = Anywhere::new(&context.gpu, &inputs, &place).run(&context.gpu, &*loss);
        assert_same_bits(&actual, &expected, &options.to_string());
    }
}

fn places_of_target_probs(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for classes in [5_u64, 66, 131] {
            let inputs = sample_probs(7, 4, classes as usize);
            let wanted = ["loss", "grad.logits", "grad.target_probs"];
            let expected = only(&check(gpu, &none(), &inputs, dtype, &wanted).0, &wanted);
            for offset in 0..4 {
                let layout = |extra: u64| {
                    Layout::matrix(dtype, 4, classes)
                        .row_stride(classes + extra)
                        .offset(offset + extra)
                };
                let place = |name: &str, extra| Placed::input(gpu, &inputs[name], layout(extra));
                let (logits, probs) = (place("logits", 1), place("target_probs", 2));
                let gradients = [0, 3].map(|extra| Placed::output(gpu, layout(extra)));
                let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 4));
                let inputs = surprisal::CrossEntropyInputs::default()
                    .logits(logits.tensor())
                    .target_probs(probs.tensor());
                let outputs = surprisal::CrossEntropyOutputs::default()
                    .loss(loss.tensor())
                    .gradient(gradients[0].tensor())
                    .target_probs_gradient(gradients[1].tensor());
                submit(gpu, &none().request(inputs, outputs));
                let actual = named_outputs(
                    [
                        ("loss", &loss),
                        ("grad.logits", &gradients[0]),
                        ("grad.target_probs", &gradients[1]),
                    ],
                    gpu,
                );
                assert_same_bits(&actual, &expected, &format!("{classes} {dtype} {offset}"));
                for placed in [&logits, &probs, &loss].into_iter().chain(&gradients) {
                    placed.assert_surroundings(gpu);
                }
            }
        }
    }
}

// --- rows ---

fn no_rows(context: &Context) {
    for options in [
        json!({}),
        json!({"empty": "zero"}),
        json!({"reduction": "sum"}),
        json!({"reduction": "none"}),
    ] {
        for classes in [1, 7, 1000] {
            let loss = parse("cross_entropy", &options);
            let inputs = sample(1, 0, classes);
            let wanted =
                ["loss", "grad.logits", "sum", "denominator", "count", "correct_count", "lse"];
            let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            assert_eq!(outputs["count"].to_i64(), [0]);
            assert_eq!(status.bad_targets + status.bad_rows, 0);
        }
    }
}

fn one_row(context: &Context) {
    check_classes(context, [1, 2, 1000], 1);
}

fn rows_past_65535(context: &Context) {
    let rows = 70_000;
    for (classes, dtype) in [(3, Dtype::F32), (17, Dtype::Bf16)] {
        let inputs = sample(5, rows, classes);
        let (outputs, _) = check(&context.gpu, &none(), &inputs, dtype, &WANTED);
        assert_eq!(outputs["loss"].len(), rows);
        let mean = ["loss", "sum", "denominator", "count", "correct_count", "grad.logits"];
        let (outputs, _) = check(&context.gpu, &CrossEntropy::default(), &inputs, dtype, &mean);
        assert_eq!(outputs["count"].to_i64(), [rows as i64]);
    }
}

// --- what changes no bit of a row ---

fn options() -> [Value; 3] {
    [
        json!({"reduction": "none"}),
        json!({"reduction": "sum", "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 50.0}),
        json!({"reduction": "none", "focal_gamma": 1.5, "temperature": 0.7}),
    ]
}

/// Compares the results of every profile, bit by bit, with those of the device's own profile.
fn assert_profile_is_invisible(
    context: &Context,
    other: &Gpu,
    inputs: &Arrays,
    least_windows: u64,
) {
    for options in options() {
        let loss = parse("cross_entropy", &options);
        let per_row: Vec<&str> =
            WANTED.into_iter().filter(|name| *name != "loss" || loss.is_per_row()).collect();
        let run = |gpu: &Gpu| {
            let run = gpu.run_arrays(&*loss, inputs, Dtype::F32, &per_row).unwrap();
            let windows = run.prepared().plan().windows;
            (only(&run.outcome_blocking().unwrap().0, &per_row), windows)
        };
        let (expected, _) = run(&context.gpu);
        let (actual, windows) = run(other);
        assert!(windows >= least_windows, "{windows} windows");
        assert_same_bits(&actual, &expected, &options.to_string());
        Reference::new(&*loss, inputs, Dtype::F32, &per_row).assert(&actual);
    }
}

fn windows_of_bindings(context: &Context) {
    let inputs = sample(11, 100, 1001);
    let small = context.with(|profile| profile.binding_bytes = 64 << 10);
    assert_profile_is_invisible(context, &small, &inputs, 7);
}

fn windows_of_elements(context: &Context) {
    let inputs = sample(12, 50, 333);
    let short = context.with(|profile| profile.dispatch_elements = 1000);
    assert_profile_is_invisible(context, &short, &inputs, 16);
}

/// The neighbouring rows of two windows share a word.
fn windows_of_sixteen_bit_rows(context: &Context) {
    let small = context.with(|profile| profile.binding_bytes = 16 << 10);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let inputs = sample(13, 60, 333);
        let wanted = ["loss", "grad.logits", "lse"];
        let expected = only(&outcome(&context.gpu, &none(), &inputs, dtype, &wanted).0, &wanted);
        for over_logits in [false, true] {
            let place = Place { dtype, offset: 1, padding: 0, gradient_shift: 0, over_logits };
            let call = Anywhere::new(&small, &inputs, &place);
            let actual = call.run(&small, &none());
            assert_same_bits(&actual, &expected, &format!("{place:?}"));
            call.assert_surroundings(&small);
        }
    }
}

/// Several workgroups a row, and one workgroup a row.
fn split_rows(context: &Context) {
    let segment = context.gpu.profile().segment as usize;
    let inputs = sample(13, 3, 3 * segment + 77);
    let split = context.with(|profile| profile.busy_workgroups = u32::MAX);
    let fused = context.with(|profile| profile.busy_workgroups = 0);
    let labels = |gpu: &Gpu| {
        let run = gpu.run_arrays(&none(), &inputs, Dtype::F32, &WANTED).unwrap();
        let labels: Vec<_> =
            run.prepared().plan().kernels.iter().map(|kernel| kernel.entry.clone()).collect();
        let _ = run.outcome_blocking().unwrap();
        labels
    };
    assert!(labels(&split).contains(&"partial".into()) && labels(&fused).contains(&"fused".into()));
    assert_profile_is_invisible(context, &split, &inputs, 1);
    assert_profile_is_invisible(context, &fused, &inputs, 1);
    // The state of a row can be an output, and is the same in both cases.
    let wanted = ["statistics", "loss"];
    let run = |gpu| outcome(gpu, &none(), &inputs, Dtype::F32, &wanted).0;
    assert_eq!(bits(&run(&split)["statistics"]), bits(&run(&fused)["statistics"]));
}

/// More workgroups than one dimension of a grid holds, for every skeleton, give the same bits. The last row of the
/// grid is not full, so that some workgroups have nothing to do.
fn grids_of_two_dimensions(context: &Context) {
    // The device, a loss with options, inputs, outputs, and the kernels that many workgroups run.
    type Call<'a> = (&'a Gpu, &'a str, Value, Arrays, &'a [&'a str], &'a [&'a str]);
    let kernels = |gpu: &Gpu, workgroups| {
        let mut profile = gpu.profile().clone();
        profile.workgroups = workgroups;
        // Small units on every adapter, so that small shapes have many of them.
        (profile.row_lanes, profile.segment, profile.element_block) = (8, 256, 64);
        (profile.tile.lanes, profile.tile.across) = (8, 8);
        gpu.with_profile(profile)
    };
    let split = context.with(|profile| profile.busy_workgroups = u32::MAX);
    let vectors = with(
        &named([("queries", gaussian(5, 37, 6)), ("keys", gaussian(6, 37, 6))]),
        [("scale", vector(&[1.5]))],
    );
    let layer = named([
        ("hidden", gaussian(7, 37, 6)),
        ("weight", gaussian(8, 280, 6)),
        ("targets", indices(&surprisal::testing::targets(9, 37, 280))),
    ]);
    let elements = named([("logits", gaussian(10, 41, 61)), ("targets", gaussian(11, 41, 61))]);
    let pairs = ["loss", "grad.queries", "grad.keys", "grad.scale"];
    let both = json!({"normalize": true, "symmetric": true});
    let calls: [Call; 6] = [
        (&context.gpu, "cross_entropy", json!({}), sample(1, 37, 133), &WANTED, &["fused"]),
        (&split, "cross_entropy", json!({}), sample(2, 9, 1001), &WANTED, &["partial", "backward"]),
        (
            &context.gpu,
            "linear_cross_entropy",
            json!({}),
            layer,
            &["loss", "grad.hidden", "grad.weight"],
            &["product"],
        ),
        (&context.gpu, "info_nce", both, vectors.clone(), &pairs, &["product"]),
        (&context.gpu, "similarity", json!({"k": 3}), vectors, &["top_indices"], &["top"]),
        (&context.gpu, "mse", json!({}), elements, &["loss", "grad.logits"], &["forward"]),
    ];
    for (gpu, name, options, inputs, wanted, entries) in calls {
        let loss = parse(name, &options);
        let (wide, narrow) = (kernels(gpu, 65_535), kernels(gpu, 7));
        let expected = only(&check(&wide, &*loss, &inputs, Dtype::F32, wanted).0, wanted);
        let run = narrow.run_arrays(&*loss, &inputs, Dtype::F32, wanted).unwrap();
        let plan = run.prepared().plan().clone();
        for entry in entries {
            let of = |dispatch: &&Dispatch| plan.kernels[dispatch.kernel].entry == *entry;
            let grids: Vec<_> = plan.dispatches.iter().filter(of).map(|d| d.workgroups).collect();
            assert!(grids.iter().any(|grid| grid[1] > 1), "{name} {entry}: {grids:?}");
        }
        let actual = only(&run.outcome_blocking().unwrap().0, wanted);
        assert_same_bits(&actual, &expected, &format!("{name} {options}"));
    }
}

fn other_rows_and_batches(context: &Context) {
    for classes in [3_usize, 70, 2000] {
        let rows = 40;
        let inputs = sample(14, rows, classes);
        let run = |inputs: &Arrays| outcome(&context.gpu, &none(), inputs, Dtype::F32, &WANTED).0;
        let all = run(&inputs);
        let chosen = 17;
        let one = run(&named([
            ("logits", matrix(1, classes, row(&inputs["logits"], chosen))),
            ("targets", indices(&inputs["targets"].to_i64()[chosen..=chosen])),
        ]));
        let mut others = gaussian(99, rows, classes).to_f64();
        others[chosen * classes..(chosen + 1) * classes]
            .copy_from_slice(&row(&inputs["logits"], chosen));
        let others = set(&matrix(rows, classes, others), (chosen - 1) * classes, f64::NAN);
        let others = run(&with(&inputs, [("logits", others)]));
        for name in WANTED {
            let values = |arrays: &Arrays, at: usize| {
                let width = arrays[name].len() / arrays["loss"].len();
                bits(&arrays[name])[at * width..(at + 1) * width].to_vec()
            };
            assert_eq!(values(&one, 0), values(&all, chosen), "{name} alone, {classes} classes");
            assert_eq!(values(&others, chosen), values(&all, chosen), "{name} among others");
        }
    }
}

fn run_to_run(context: &Context) {
    let inputs = with(&sample(15, 300, 1234), [("row_weight", vector(&[0.3; 300]))]);
    let wanted = ["loss", "grad.logits", "sum", "denominator", "perplexity", "entropy"];
    let loss = CrossEntropy::default().label_smoothing(0.1);
    let run = || only(&outcome(&context.gpu, &loss, &inputs, Dtype::F32, &wanted).0, &wanted);
    let first = run();
    for _ in 0..4 {
        assert_same_bits(&run(), &first, "again");
    }
}

/// 130 MiB of bf16 logits under WebGPU's default limits: windows, in place; every row has the bits of a call with only
/// this row.
fn more_data_than_a_default_binding(context: &Context) {
    let gpu = context.with(|profile| profile.binding_bytes = 128 << 20);
    let (rows, classes) = (2100_usize, 32_500_usize);
    let seed = gaussian(21, 1, classes).rounded(Dtype::Bf16);
    let values = seed.to_bytes(Dtype::Bf16);
    let buffer = crate::support::storage(&gpu, (rows * classes * 2) as u64);
    assert!(buffer.size() > 130 << 20);
    for row in 0..rows {
        gpu.queue().write_buffer(&buffer, (row * classes * 2) as u64, &values);
        if row % 64 == 0 {
            gpu.queue().submit([]);
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        }
    }
    let targets: Vec<i64> = (0..rows as i64).collect();
    let targets = Placed::input(&gpu, &indices(&targets), Layout::vector(Dtype::U32, rows as u64));
    let loss = Placed::output(&gpu, Layout::vector(Dtype::F32, rows as u64));
    let logits = surprisal::Tensor::matrix(&buffer, Dtype::Bf16, rows as u64, classes as u64);
    let inputs =
        surprisal::CrossEntropyInputs::default().logits(logits.clone()).targets(targets.tensor());
    let outputs = surprisal::CrossEntropyOutputs::default().loss(loss.tensor());
    let none = none();
    let request = none.request(inputs, outputs).gradient_in_place();
    assert!(gpu.plan(&request).unwrap().windows > 1);
    submit(&gpu, &request);
    let losses = loss.array(&gpu);
    for row in [0, 1, 1000, 2000, rows - 1] {
        let inputs = named([
            ("logits", matrix(1, classes, seed.to_f64())),
            ("targets", indices(&[row as i64])),
        ]);
        let (alone, _) = outcome(&gpu, &none, &inputs, Dtype::Bf16, &["loss", "grad.logits"]);
        assert_eq!(bits(&losses)[row], bits(&alone["loss"])[0], "loss of row {row}");
        let there = surprisal::Tensor::matrix(&buffer, Dtype::Bf16, 1, classes as u64)
            .offset((row * classes) as u64);
        let gradient: Array = gpu.read_blocking(&there).unwrap();
        assert_eq!(bits(&gradient), bits(&alone["grad.logits"]), "gradient of row {row}");
    }
}

/// 2^24 equal classes: every probability is exactly 2^-24, and every intermediate sum is exact.
fn as_many_classes_as_there_can_be(context: &Context) {
    let gpu = &context.gpu;
    let classes = 1_u64 << 24;
    let logits = gpu.output_buffer(Dtype::F32, &[1, classes]).unwrap();
    let target = Placed::input(gpu, &indices(&[classes as i64 - 1]), Layout::vector(Dtype::U32, 1));
    let one = |dtype| Placed::output(gpu, Layout::vector(dtype, 1));
    let (loss, argmax, rank) = (one(Dtype::F32), one(Dtype::U32), one(Dtype::U32));
    let scores = surprisal::Tensor::matrix(&logits, Dtype::F32, 1, classes);
    let inputs =
        surprisal::CrossEntropyInputs::default().logits(scores.clone()).targets(target.tensor());
    let outputs = surprisal::CrossEntropyOutputs::default()
        .loss(loss.tensor())
        .argmax(argmax.tensor())
        .rank(rank.tensor());
    submit(gpu, &none().request(inputs, outputs).gradient_in_place());
    let expected = (classes as f64).ln();
    let found = loss.array(gpu).to_f64()[0];
    assert!((found - expected).abs() < 4e-6, "{found}, expected {expected}");
    assert_eq!(argmax.array(gpu).to_i64(), [0]);
    assert_eq!(rank.array(gpu).to_i64(), [classes as i64 - 1]);
    let gradient = gpu.read_blocking(&scores).unwrap().to_f64();
    let share = 1.0 / classes as f64;
    let (last, others) = gradient.split_last().unwrap();
    // exp(0) may be an ulp off.
    assert!(others.iter().all(|p| (p / share - 1.0).abs() < 1e-6), "{:?}", &others[..4]);
    assert!((last - (share - 1.0)).abs() < 1e-7, "{last}");
}
