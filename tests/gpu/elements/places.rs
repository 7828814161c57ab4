//! The layouts of the tensors and the cuts of a call: neither changes a bit, and nothing around the tensors is
//! touched.

use surprisal::{Array, BceWithLogits, Dtype, Layout, Mse, Named, Request, Tensor, testing};

use super::{GRADIENT, NAN, none, positive, sample};
use crate::support::{
    Context, FLOATS, Placed, Reference, assert_same_bits, check, in_turn, named, outcome,
    placed_inputs, set, storage, submit, tensors, vector, with,
};

tests![layouts, windows, windows_of_byte_masks, in_place, everything_at_once, sums_of_many];

/// Offsets, strides and odd columns change no bit and touch nothing around them.
fn layouts(context: &Context) {
    let gpu = &context.gpu;
    let loss = BceWithLogits::default();
    for (turn, (rows, columns)) in [(5, 7), (6, 8), (3, 1)].into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let inputs =
                with(&sample(2, rows, columns), [("weight", positive(1, &[columns as u64]))]);
            let (mut dense, _) = check(gpu, &loss, &inputs, dtype, &GRADIENT);
            dense.remove("status");
            for (offset, gap) in [(1, 0), (4, 0), (0, 4), (3, 2), (8, 8)] {
                let place = |name: &str| {
                    let array = &inputs[name];
                    let mut layout = Layout::dense(dtype, &array.shape).offset(offset);
                    if array.shape.len() == 2 {
                        layout.row_stride += gap;
                    }
                    layout
                };
                let placed: Vec<(String, Placed)> = ["logits", "targets", "weight"]
                    .into_iter()
                    .map(|name| (name.to_owned(), Placed::input(gpu, &inputs[name], place(name))))
                    .collect();
                let gradient = Placed::output(gpu, place("logits"));
                let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
                let outputs = Named::from([
                    ("grad.logits".to_owned(), gradient.tensor()),
                    ("loss".to_owned(), value.tensor()),
                ]);
                submit(gpu, &Request::new(&loss, tensors(&placed), outputs));
                gradient.assert_surroundings(gpu);
                let actual =
                    named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]);
                let what = format!("{dtype} {rows}×{columns} offset {offset} gap {gap}");
                assert_same_bits(&actual, &dense, &what);
            }
        }
    }
    let padded = Layout::matrix(Dtype::F16, 4, 5).row_stride(9);
    let inputs = placed_inputs(gpu, &loss, &sample(2, 4, 5), Dtype::F16);
    let mut gradient = Placed::output(gpu, padded);
    let outputs = Named::from([("grad.logits".to_owned(), gradient.tensor())]);
    let zeroing = loss.padding(surprisal::Padding::Zero);
    submit(gpu, &Request::new(&zeroing, tensors(&inputs), outputs));
    gradient.assert_zero_padding(gpu);
}

fn windows(context: &Context) {
    let inputs = with(
        &sample(7, 150, 60),
        [("weight", positive(1, &[60])), ("mask", positive(2, &[150, 1]))],
    );
    let wanted = ["loss", "grad.logits", "sum", "count"];
    let small = |profile: &mut surprisal::Profile| profile.element_block = 64;
    let whole = context.with(small);
    let loss = BceWithLogits::default();
    let (expected, _) = check(&whole, &loss, &inputs, Dtype::F32, &wanted);
    // The tallies must still fit one binding.
    let cuts: [fn(&mut surprisal::Profile); 2] =
        [|profile| profile.dispatch_elements = 128, |profile| profile.binding_bytes = 16_384];
    for cut in cuts {
        let gpu = context.with(|profile| {
            small(profile);
            cut(profile);
        });
        let run = gpu.run_arrays(&loss, &inputs, Dtype::F32, &wanted).unwrap();
        assert!(run.prepared().plan().windows > 1);
        let (outputs, _) = outcome(&gpu, &loss, &inputs, Dtype::F32, &wanted);
        assert_same_bits(&outputs, &expected, "windows");
    }
}

/// The last columns of a window may be past its number of elements.
fn windows_of_byte_masks(context: &Context) {
    let gpu = context.with(|profile| {
        profile.element_block = 64;
        profile.dispatch_elements = 500;
    });
    let mask = (0..400).map(|column| i64::from(column % 3 == 0)).collect();
    let inputs = with(&sample(7, 3, 400), [("mask", Array::int(&[400], mask))]);
    check(&gpu, &BceWithLogits::default(), &inputs, Dtype::F32, &GRADIENT);
}

fn in_place(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for columns in [7, 8] {
            let inputs = sample(5, 6, columns);
            let loss = none();
            let placed = placed_inputs(gpu, &loss, &inputs, dtype);
            let value = Placed::output(gpu, Layout::matrix(Dtype::F32, 6, columns as u64));
            let outputs = Named::from([("loss".to_owned(), value.tensor())]);
            submit(gpu, &Request::new(&loss, tensors(&placed), outputs).gradient_in_place());
            let logits = placed.iter().find(|(name, _)| name == "logits").unwrap();
            let actual = named([("grad.logits", logits.1.array(gpu)), ("loss", value.array(gpu))]);
            Reference::new(&loss, &inputs, dtype, &GRADIENT).assert(&actual);
            logits.1.assert_surroundings(gpu);
        }
    }
}

/// More tensors than a dispatch may bind.
fn everything_at_once(context: &Context) {
    let (rows, columns) = (5, 9);
    let shape = [rows as u64, columns as u64];
    let inputs = with(
        &sample(3, rows, columns),
        [
            ("weight", positive(1, &shape)),
            ("pos_weight", positive(2, &shape)),
            ("logit_bias", positive(3, &[columns as u64])),
            ("mask", positive(4, &shape)),
            ("upstream", positive(5, &shape)),
        ],
    );
    let gpu = context.with(|profile| profile.storage_buffers = 8);
    for (turn, focal) in [0.0, 1.5].into_iter().enumerate() {
        let loss = none().focal_gamma(focal).temperature(2.0).label_smoothing(0.1);
        for dtype in in_turn(turn) {
            check(&gpu, &loss, &inputs, dtype, &GRADIENT);
        }
    }
    // Several passes give the bits of one, also where a denominator divides the gradients.
    let wanted = ["loss", "sum", "count", "grad.logits", "grad.temperature"];
    let mut inputs = with(&inputs, [("temperature", positive(6, &[columns as u64]))]);
    inputs.insert("mask".to_owned(), set(&inputs["mask"], 4, 0.0));
    inputs.insert("weight".to_owned(), set(&inputs["weight"], 4, NAN));
    let inputs = with(&inputs, [("targets", set(&inputs["targets"], 7, -1.0))]);
    let reduced = with(&inputs, [("upstream", vector(&[0.5]))]);
    for (loss, inputs) in [(none(), &inputs), (BceWithLogits::default(), &reduced)] {
        let loss = loss.unknown_target(-1.0);
        let (outputs, _) = check(&gpu, &loss, inputs, Dtype::F32, &wanted);
        let whole = context.with(|profile| profile.storage_buffers = 16);
        if context.gpu.profile().storage_buffers >= 16 {
            let once = outcome(&whole, &loss, inputs, Dtype::F32, &wanted).0;
            assert_same_bits(&outputs, &once, "in one pass");
        }
    }
}

/// 2^26 elements stay within the tolerance: a running f32 sum would be wrong by percents.
fn sums_of_many(context: &Context) {
    let gpu = &context.gpu;
    let (count, block) = (1u64 << 26, 1usize << 16);
    if gpu.device().limits().max_buffer_size < 2 * count {
        return;
    }
    let logits = Array::float(&[block as u64], testing::gaussian(1, block)).rounded(Dtype::F16);
    let bytes = logits.to_bytes(Dtype::F16);
    let buffer = storage(gpu, 2 * count);
    for start in (0..2 * count).step_by(bytes.len()) {
        gpu.queue().write_buffer(&buffer, start, &bytes);
        gpu.queue().submit([]);
    }
    let zeros = storage(gpu, 2 * count);
    let value = storage(gpu, 16);
    let inputs = Named::from([
        ("logits".to_owned(), Tensor::vector(&buffer, Dtype::F16, count)),
        ("targets".to_owned(), Tensor::vector(&zeros, Dtype::F16, count)),
    ]);
    let sum = Tensor::vector(&value, Dtype::F32, 1);
    let outputs = Named::from([("sum".to_owned(), sum.clone())]);
    let loss = Mse::default();
    submit(gpu, &Request::new(&loss, inputs, outputs));
    let actual = gpu.read_blocking(&sum).unwrap().to_f64()[0];
    let truth = logits.to_f64().iter().map(|z| z * z).sum::<f64>() * (count / block as u64) as f64;
    let error = (actual - truth).abs() / truth;
    assert!(error < (8.0 + 26.0) * 2f64.powi(-24), "{error:e}");
}
