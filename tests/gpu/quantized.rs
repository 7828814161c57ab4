//! Quantised logits: i8, four to a word, with a scale.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Error, Gpu, Layout, Named, Operation, Reduction, Request,
    testing,
};

use crate::{
    rows::Call,
    support::{
        BY_PRODUCTS, Context, FLOATS, INF, Placed, Reference, bits, check, check_status, indices,
        named, outcome, parse, positive, row, sample, submit, tensors, vector, with,
    },
};

tests![
    every_number_of_classes,
    any_place,
    channels_in_planes,
    bad_scales,
    scales_of_0_and_below,
    windows_and_parts_of_rows,
    saved_lse,
    shards,
    twice_the_largest_change,
    never_in_place,
];

const GRADIENT: [&str; 2] = ["loss", "grad.logits"];
/// Short rows, which a lane walks alone, and long ones with tiles.
const CLASSES: [usize; 2] = [7, 1100];

fn none() -> Value {
    json!({"reduction": "none"})
}

/// Seeded i8 of all sizes.
fn integers(seed: u64, rows: usize, classes: usize) -> Array {
    let values = testing::targets(seed, rows * classes, 256);
    let values = values.into_iter().map(|value| value - 128).collect();
    Array::int(&[rows as u64, classes as u64], values)
}

/// The same calls with quantised logits, whose scales are for all rows or for each one.
fn quantized(seed: u64, calls: Vec<Call>) -> Vec<Call> {
    let change = |(at, (loss, inputs)): (usize, Call)| {
        let [rows, classes] = [0, 1].map(|axis| inputs["logits"].shape[axis] as usize);
        let count = if at % 2 == 0 { rows } else { 1 };
        let scales = positive(seed + 1, count).iter().map(|x| x / 30.0).collect::<Vec<_>>();
        let mut inputs = with(
            &inputs,
            [("logits", integers(seed, rows, classes)), ("logits_scale", vector(&scales))],
        );
        if at % 3 != 1 {
            let zero_points = testing::targets(seed + 2, count, 256);
            let zero_points: Vec<i64> = zero_points.into_iter().map(|value| value - 128).collect();
            inputs.insert("logits_zero_point".to_owned(), indices(&zero_points));
        }
        (loss, inputs)
    };
    calls.into_iter().enumerate().map(change).collect()
}

/// Calls of the losses whose functors read scores in ways of their own: by quads, from the label on, by their places.
/// The catalogue of calls has those of every loss.
fn calls(options: &Value, seed: u64, rows: usize, classes: usize) -> Vec<Call> {
    let call = |(name, own): (&str, Value)| {
        let mut options = options.clone();
        options.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        (parse(name, &options), sample(seed, rows, classes))
    };
    let losses = [
        ("cross_entropy", json!({})),
        ("multiclass_hinge", json!({"margin": 0.6})),
        ("topk_hinge", json!({"k": classes / 2})),
    ];
    quantized(seed, losses.into_iter().map(call).collect())
}

fn every_number_of_classes(context: &Context) {
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), classes as u64, 5, classes) {
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        }
    }
    for classes in [1, 2, 3, 5] {
        let call = (parse("cross_entropy", &none()), sample(3, 6, classes));
        let (loss, inputs) = quantized(4, vec![call]).remove(0);
        let wanted = [&GRADIENT[..], &BY_PRODUCTS].concat();
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
    }
}

/// The tensors of a call of cross-entropy, with logits at this place and a gradient of this type.
fn placed(
    gpu: &Gpu,
    inputs: &Arrays,
    logits: &Layout,
    [scale, gradient]: [Dtype; 2],
) -> (Arrays, Arrays) {
    let loss = CrossEntropy::default();
    let layout = |name: &str, array: &Array| match name {
        "logits" => logits.clone(),
        "logits_scale" => Layout::vector(scale, array.shape[0]).offset(3),
        "logits_zero_point" => Layout::vector(Dtype::I8, array.shape[0]).offset(5),
        _ => Layout::vector(Dtype::I64, array.shape[0]),
    };
    let stored: Arrays = inputs
        .iter()
        .map(|(name, array)| (name.clone(), array.rounded(layout(name, array).dtype)))
        .collect();
    let place = |(name, array): (&String, &Array)| {
        (name.clone(), Placed::input(gpu, array, layout(name, array)))
    };
    let given: Vec<_> = stored.iter().map(place).collect();
    let [rows, classes] = [0, 1].map(|axis| logits.shape[axis]);
    let written = Layout::matrix(gradient, rows, classes).row_stride(classes + 1).offset(1);
    let written = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", written)]
        .map(|(name, layout)| (name.to_owned(), Placed::output(gpu, layout)));
    submit(gpu, &Request::new(&loss, tensors(&given), tensors(&written)));
    for (_, placed) in given.iter().chain(&written) {
        placed.assert_surroundings(gpu);
    }
    let outputs = written.iter().map(|(name, placed)| (name.clone(), placed.array(gpu))).collect();
    let storage = |name: &str| if name == "loss" { Dtype::F32 } else { gradient };
    let what = format!("{logits:?} {scale} {gradient}");
    Reference::of(&loss, &stored, &GRADIENT, &storage, what).assert(&outputs);
    (stored, outputs)
}

/// Quads begin at every byte of a word, and rows end at every one. Scales and gradients have every type.
fn any_place(context: &Context) {
    for classes in CLASSES {
        let call = (parse("cross_entropy", &none()), sample(1, 5, classes));
        let (_, inputs) = quantized(2, vec![call]).remove(0);
        let zero_points = ("logits_zero_point", indices(&[3, -128, 127, 0, -1]));
        let inputs = with(&inputs, [zero_points]);
        let mut expected = None;
        for offset in 0..5 {
            for stride in [0, 1, 5] {
                let [rows, classes] = [5, classes as u64];
                let layout = Layout::matrix(Dtype::I8, rows, classes);
                let layout = layout.row_stride(classes + stride).offset(offset);
                let (_, outputs) = placed(&context.gpu, &inputs, &layout, [Dtype::F32; 2]);
                let expected = expected.get_or_insert_with(|| outputs.clone());
                for name in GRADIENT {
                    assert_eq!(bits(&outputs[name]), bits(&expected[name]), "{offset} {stride}");
                }
            }
        }
        for (scale, gradient) in FLOATS.into_iter().zip([Dtype::Bf16, Dtype::F16, Dtype::Bf16]) {
            let layout = Layout::matrix(Dtype::I8, 5, classes as u64).offset(2);
            placed(&context.gpu, &inputs, &layout, [scale, gradient]);
        }
    }
}

/// The rows are pixels, the classes planes.
fn channels_in_planes(context: &Context) {
    let call = (parse("cross_entropy", &none()), sample(1, 12, 5));
    let (_, inputs) = quantized(2, vec![call]).remove(0);
    let layout = Layout::matrix(Dtype::I8, 12, 5).class_stride(6).offset(3);
    placed(&context.gpu, &inputs, &layout, [Dtype::F32; 2]);
}

/// A scale that is NaN, infinite or past 2^120 makes its row a bad one, and no other.
fn bad_scales(context: &Context) {
    let most = 120f64.exp2();
    let scales = [0.1, f64::NAN, INF, -INF, 1.01 * most, -2.0 * most, 0.1, most];
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 9, scales.len(), classes) {
            let mut inputs = with(&inputs, [("logits_scale", vector(&scales))]);
            inputs.remove("logits_zero_point");
            let wanted = ["loss", "grad.logits", "status"];
            // The last row is not compared: such logits are past what losses and their gradients hold.
            let (outputs, status) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
            let has_nan = |at| row(&outputs["grad.logits"], at).iter().all(|g| g.is_nan());
            let losses = outputs["loss"].to_f64();
            for (at, loss_of_row) in losses.iter().enumerate().take(7) {
                let is_bad = (1..6).contains(&at);
                let nans = (loss_of_row.is_nan(), has_nan(at));
                assert_eq!(nans, (is_bad, is_bad), "{at} {loss:?}");
            }
            assert!(status.bad_rows >= 5, "{loss:?}");
            let first = [1.0, f64::NAN, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1];
            let inputs = with(&inputs, [("logits_scale", vector(&first))]);
            check_status(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss"]);
        }
    }
}

/// A negative scale reverses the order of a row's logits. 0 makes them equal, whatever the signs of the integers: the
/// first class is the largest one, and hinges are at their kinks.
fn scales_of_0_and_below(context: &Context) {
    let scales = [0.0, -0.0, -0.05, 1e-30, -3.0];
    for classes in CLASSES {
        for (loss, inputs) in calls(&none(), 11, scales.len(), classes) {
            let mut inputs = with(&inputs, [("logits_scale", vector(&scales))]);
            inputs.remove("logits_zero_point");
            check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT);
        }
        let inputs = with(
            &sample(12, 5, classes),
            [("logits", integers(12, 5, classes)), ("logits_scale", vector(&scales))],
        );
        let loss = CrossEntropy::default().reduction(Reduction::None);
        let (outputs, _) = check(&context.gpu, &loss, &inputs, Dtype::F32, &BY_PRODUCTS);
        assert_eq!(outputs["argmax"].to_i64()[..2], [0, 0]);
    }
}

/// Windows past one binding, and rows that several workgroups share, have the bits of whole calls.
fn windows_and_parts_of_rows(context: &Context) {
    let narrow = context.with(|profile| profile.binding_bytes = 32 << 10);
    let split = context.with(|profile| profile.busy_workgroups = u32::MAX);
    let segment = context.gpu.profile().segment as usize;
    for (gpu, rows, classes) in [(narrow, 40, CLASSES[1]), (split, 2, 2 * segment + 77)] {
        for (loss, inputs) in calls(&none(), 16, rows, classes) {
            let expected = check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
            let actual = outcome(&gpu, &*loss, &inputs, Dtype::F32, &GRADIENT).0;
            for name in GRADIENT {
                assert_eq!(bits(&actual[name]), bits(&expected[name]), "{name}: {loss:?}");
            }
        }
    }
}

/// From a saved lse.
fn saved_lse(context: &Context) {
    let loss = CrossEntropy::default();
    for (_, inputs) in quantized(5, vec![(Box::new(loss.clone()) as _, sample(1, 5, CLASSES[0]))]) {
        let lse = outcome(&context.gpu, &loss, &inputs, Dtype::F32, &["lse"]).0;
        let inputs = with(&inputs, [("lse", lse["lse"].clone())]);
        check(&context.gpu, &loss, &inputs, Dtype::F32, &["grad.logits"]);
    }
}

/// Each shard's logits have a scale of their own.
fn shards(context: &Context) {
    let gpu = &context.gpu;
    let whole = integers(7, 4, 10);
    let scales = vector(&[0.02, 0.05, 0.01, 0.03]);
    let targets = indices(&[0, 9, 5, 4]);
    let part = |first: usize, end: usize| {
        let values = whole.to_i64();
        let rows = values.chunks(10).flat_map(|row| row[first..end].to_vec()).collect();
        let loss = parse(
            "cross_entropy",
            &json!({"reduction": "none", "shard": {"first": first, "classes": 10}}),
        );
        let inputs = named([
            ("logits", Array::int(&[4, (end - first) as u64], rows)),
            ("logits_scale", scales.clone()),
            ("targets", targets.clone()),
        ]);
        (loss, inputs)
    };
    let parts = [part(0, 4), part(4, 10)];
    let statistics = |(loss, inputs): &(Box<dyn Operation>, Arrays)| {
        let outputs = outcome(gpu, &**loss, inputs, Dtype::F32, &["statistics"]).0;
        outputs["statistics"].to_f64()
    };
    let gathered: Vec<f64> = parts.iter().flat_map(statistics).collect();
    for (loss, inputs) in &parts {
        let statistics = ("statistics", Array::float(&[8, 8], gathered.clone()));
        check(gpu, &**loss, &with(inputs, [statistics]), Dtype::F32, &GRADIENT);
    }
}

/// A loss changes by at most twice the largest change of a logit, and by what f32 rounds.
fn twice_the_largest_change(context: &Context) {
    let loss = CrossEntropy::default().reduction(Reduction::None);
    for classes in CLASSES {
        let inputs = sample(21, 6, classes);
        let z = inputs["logits"].rounded(Dtype::F32).to_f64();
        let scale = z.iter().fold(0.0_f64, |most, z| most.max(z.abs())) / 127.0;
        let scale = f64::from(scale as f32);
        let stored: Vec<i64> = z.iter().map(|z| (z / scale).round().min(127.0) as i64).collect();
        let changes = z.iter().zip(&stored).map(|(z, &q)| (z - scale * q as f64).abs());
        let largest = changes.fold(0.0, f64::max);
        let quantized = with(
            &inputs,
            [
                ("logits", Array::int(&inputs["logits"].shape, stored)),
                ("logits_scale", vector(&[scale])),
            ],
        );
        let losses = [&inputs, &quantized]
            .map(|inputs| outcome(&context.gpu, &loss, inputs, Dtype::F32, &["loss"]).0);
        let [exact, rounded] = losses.map(|outputs| outputs["loss"].to_f64());
        for (exact, rounded) in exact.into_iter().zip(rounded) {
            let rounding = 1e-5 * exact.max(1.0);
            assert!((exact - rounded).abs() <= 2.0 * largest + rounding, "{exact} {rounded}");
        }
    }
}

/// No gradient fits where i8 logits lie.
fn never_in_place(context: &Context) {
    let gpu = &context.gpu;
    let logits = Placed::input(gpu, &integers(1, 3, 5), Layout::matrix(Dtype::I8, 3, 5));
    let scale = Placed::input(gpu, &vector(&[0.1]), Layout::vector(Dtype::F32, 1));
    let targets = Placed::input(gpu, &indices(&[0; 3]), Layout::vector(Dtype::I64, 3));
    let inputs = [("logits", &logits), ("logits_scale", &scale), ("targets", &targets)];
    let inputs = inputs.map(|(name, placed)| (name.to_owned(), placed.tensor()));
    let loss = CrossEntropy::default();
    let request = Request::new(&loss, inputs.into(), Named::new()).gradient_in_place();
    let refused = gpu.prepare(&request).unwrap_err();
    assert!(
        matches!(&refused, Error::InPlace { output, .. } if **output == *"grad.logits"),
        "{refused}"
    );
}
