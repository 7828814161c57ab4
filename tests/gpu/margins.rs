//! Margins of cross-entropy, and linear cross-entropy of unit vectors.

use serde_json::{Value, json};
use surprisal::{Arrays, Dtype, Error, Gpu, Layout, Named, Request, WeightLayout, testing};

use crate::{
    linear::{GRADIENTS, layouts, loss, sample},
    support::{
        BY_PRODUCTS, Context, FLOATS, Placed, assert_same_bits, bits, check, fill, gaussian,
        in_turn, indices, matrix, outcome, parse, placed_inputs, positive, row, set, submit,
        tensors, vector, with,
    },
    tiles::tiled,
};

tests![
    margins_of_stored_logits,
    margins_at_the_edges,
    unit_vectors,
    by_products_of_unit_vectors,
    unit_vectors_of_two_heads,
    vectors_without_a_direction,
    sizes_of_vectors,
    chunks_of_unit_vectors,
    windows_of_unit_vectors,
    unit_vectors_in_place,
    unit_vectors_added_up,
    refusals,
];

/// CosFace: s = 16, m = 0.35.
fn cos_face() -> Value {
    json!({"normalize": true, "temperature": 0.0625, "target_margin": 0.35})
}

fn merged(options: &Value, more: &Value) -> Value {
    let mut all = options.clone();
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn only(mut outputs: Arrays) -> Arrays {
    outputs.remove("status");
    outputs
}

// --- margins ---

fn margins_of_stored_logits(context: &Context) {
    let wanted = [&["loss", "grad.logits"][..], &BY_PRODUCTS].concat();
    for (turn, options) in [
        json!({"target_margin": 0.7}),
        json!({"target_margin": -1.5, "softcap": 20.0, "temperature": 0.5, "z_loss": 0.1}),
        json!({"target_margin": 2.0, "focal_gamma": 2.0, "reduction": "sum"}),
    ]
    .iter()
    .enumerate()
    {
        for classes in [1, 5, 133, 1000] {
            let mut inputs = crate::support::sample(90, 9, classes);
            let targets = testing::targets(91, 9, classes as u64);
            inputs.insert("targets".to_owned(), indices(&targets));
            let weight = vector(&positive(92, classes));
            let inputs = with(&inputs, [("weight", weight)]);
            let loss = parse("cross_entropy", options);
            for dtype in in_turn(turn) {
                check(&context.gpu, &*loss, &inputs, dtype, &wanted);
            }
            let (lse, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["lse"]);
            let saved = with(&inputs, [("lse", lse["lse"].clone())]);
            check(&context.gpu, &*loss, &saved, Dtype::F32, &["grad.logits"]);
        }
    }
    // The margin is in the upstream gradients of by-products, and in the slope of a learned temperature.
    let pulls = |seed| vector(&testing::gaussian(seed, 9));
    let inputs = with(
        &crate::support::sample(93, 9, 37),
        [("upstream.log_prob", pulls(94)), ("upstream.lse", pulls(95))],
    );
    let inputs = with(&inputs, [("upstream", vector(&[0.7])), ("temperature", vector(&[0.8]))]);
    let loss = parse("cross_entropy", &json!({"target_margin": 0.7, "reduction": "sum"}));
    check(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss", "grad.logits", "grad.temperature"]);
}

/// Scores that are not finite stay what they are.
fn margins_at_the_edges(context: &Context) {
    let inputs = crate::support::sample(96, 6, 21);
    let targets = [3, 4, -100, 20, 7, 1];
    let minus = set(&inputs["logits"], 3, f64::NEG_INFINITY);
    let nan = set(&minus, 21 + 4, f64::NAN);
    let logits = fill(&set(&nan, 3 * 21 + 20, f64::INFINITY), 2, f64::NAN);
    let inputs = with(&inputs, [("logits", logits), ("targets", indices(&targets))]);
    for softcap in [json!(null), json!(4.0)] {
        let options = json!({"target_margin": 0.5, "softcap": softcap, "reduction": "none"});
        let loss = parse("cross_entropy", &options);
        let wanted = ["loss", "lse", "grad.logits"];
        let (outputs, status) = check(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
        assert_eq!(status.bad_rows, 2);
        assert_eq!(outputs["loss"].to_f64()[0], f64::INFINITY);
    }
}

// --- unit vectors ---

fn unit_vectors(context: &Context) {
    for layout in layouts() {
        for (turn, (rows, classes, depth)) in
            [(1, 5, 1), (7, 129, 65), (33, 5, 20), (25, 1000, 3), (9, 64, 130)]
                .into_iter()
                .enumerate()
        {
            let inputs = sample(97, rows, classes, depth, layout);
            for options in [cos_face(), json!({"normalize": true, "label_smoothing": 0.1})] {
                let loss = loss(&options, layout);
                for dtype in in_turn(turn) {
                    check(&context.gpu, &*loss, &inputs, dtype, &GRADIENTS);
                }
            }
        }
        let inputs = sample(98, 13, 67, 11, layout);
        for dtype in FLOATS {
            for name in GRADIENTS {
                check(&context.gpu, &*loss(&cos_face(), layout), &inputs, dtype, &[name]);
            }
        }
    }
}

fn by_products_of_unit_vectors(context: &Context) {
    for layout in layouts() {
        let options = merged(&cos_face(), &json!({"softcap": 2.0, "focal_gamma": 1.0}));
        let inputs = with(
            &sample(99, 19, 77, 12, layout),
            [
                ("class_weight", vector(&positive(100, 77))),
                ("row_weight", vector(&positive(101, 19))),
            ],
        );
        let loss = loss(&options, layout);
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &[&GRADIENTS[..], &BY_PRODUCTS].concat());
        let (lse, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["lse"]);
        let saved = with(&inputs, [("lse", lse["lse"].clone())]);
        check(&context.gpu, &*loss, &saved, Dtype::F32, &GRADIENTS[1..]);
    }
}

/// The vectors of a teacher's head are divided by their norms too.
fn unit_vectors_of_two_heads(context: &Context) {
    for layout in layouts() {
        let mut inputs = sample(111, 11, 37, 9, layout);
        let mut teacher = sample(112, 11, 37, 6, layout);
        for name in ["hidden", "weight"] {
            inputs.insert(format!("teacher_{name}"), teacher.remove(name).unwrap());
        }
        let hidden = fill(&inputs["teacher_hidden"], 4, 0.0);
        let inputs = with(&inputs, [("teacher_hidden", hidden)]);
        let turned = layout == WeightLayout::HiddenClasses;
        let word = if turned { "hidden_classes" } else { "classes_hidden" };
        let options = json!({
            "normalize": true, "temperature": 0.3, "alpha": 0.4, "weight_layout": word
        });
        let loss = parse("linear_distillation", &options);
        for dtype in FLOATS {
            let (_, status) = check(&context.gpu, &*loss, &inputs, dtype, &GRADIENTS);
            assert_eq!(status.zero_vectors, 1);
        }
    }
}

/// The weight with one number in every element of a class.
fn class_filled(
    inputs: &Arrays,
    class: usize,
    value: f64,
    layout: WeightLayout,
) -> surprisal::Array {
    let weight = &inputs["weight"];
    let columns = weight.shape[1] as usize;
    if layout == WeightLayout::ClassesHidden {
        return fill(weight, class, value);
    }
    let mut values = weight.to_f64();
    values.iter_mut().skip(class).step_by(columns).for_each(|v| *v = value);
    matrix(values.len() / columns, columns, values)
}

/// Zeros have cosine 0 with everything and gradient 0, and are counted; NaN spoils what it spoils without norms.
fn vectors_without_a_direction(context: &Context) {
    for layout in layouts() {
        let inputs = sample(102, 12, 10, 7, layout);
        let loss = loss(&merged(&cos_face(), &json!({"reduction": "none"})), layout);
        let zeros = with(
            &inputs,
            [
                ("hidden", fill(&fill(&inputs["hidden"], 3, 0.0), 4, -0.0)),
                ("weight", class_filled(&inputs, 6, 0.0, layout)),
            ],
        );
        let (outputs, status) = check(&context.gpu, &*loss, &zeros, Dtype::F32, &GRADIENTS);
        assert_eq!((status.zero_vectors, status.bad_rows), (3, 0));
        for at in [3, 4] {
            assert!(row(&outputs["grad.hidden"], at).iter().all(|&g| g == 0.0));
        }
        // Row 7 is ignored, row 8 is not.
        let unread = with(&inputs, [("hidden", fill(&inputs["hidden"], 7, f64::NAN))]);
        let (outputs, status) = check(&context.gpu, &*loss, &unread, Dtype::F32, &GRADIENTS);
        assert_eq!(status.bad_rows, 0);
        assert!(outputs["grad.weight"].to_f64().iter().all(|g| g.is_finite()));
        let read = with(&inputs, [("hidden", fill(&inputs["hidden"], 8, f64::INFINITY))]);
        let (_, status) = check(&context.gpu, &*loss, &read, Dtype::F32, &GRADIENTS);
        assert_eq!(status.bad_rows, 1);
        let nan = with(&inputs, [("weight", class_filled(&inputs, 2, f64::NAN, layout))]);
        let (_, status) = check(&context.gpu, &*loss, &nan, Dtype::F32, &GRADIENTS);
        assert_eq!(status.bad_rows, 10);
    }
}

/// The size of a vector is of no account, be its square or its inverse norm outside f32.
fn sizes_of_vectors(context: &Context) {
    for layout in layouts() {
        let inputs = sample(103, 9, 13, 37, layout);
        let loss = loss(&cos_face(), layout);
        let (expected, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["loss", "lse"]);
        for exponent in [100, -100, 125] {
            let sized = |name: &str| {
                let array = &inputs[name];
                let values = array.to_f64().iter().map(|v| v * 2f64.powi(exponent)).collect();
                matrix(array.shape[0] as usize, array.shape[1] as usize, values)
            };
            let large = with(&inputs, [("hidden", sized("hidden")), ("weight", sized("weight"))]);
            let wanted = ["loss", "lse", "grad.bias"];
            check(&context.gpu, &*loss, &large, Dtype::F32, &wanted);
            let (actual, _) = outcome(&context.gpu, &*loss, &large, Dtype::F32, &["loss"]);
            let [a, b] = [&actual, &expected].map(|outputs| outputs["loss"].to_f64()[0]);
            assert!((a - b).abs() < 1e-5, "2^{exponent}: {a} and {b}");
        }
        check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS);
    }
}

/// Neither the size nor the shape of the chunk changes a bit.
fn assert_same(context: &Context, gpu: &Gpu, chunks: &[Value], shape: [usize; 3], dtype: Dtype) {
    let [rows, classes, depth] = shape;
    for layout in layouts() {
        let inputs = sample(104, rows, classes, depth, layout);
        let options = merged(&cos_face(), &json!({"reduction": "none"}));
        let expected =
            only(outcome(&context.gpu, &*loss(&options, layout), &inputs, dtype, &GRADIENTS).0);
        for chunk in chunks {
            let options = merged(&options, &json!({"chunk_bytes": chunk}));
            let (actual, _) = check(gpu, &*loss(&options, layout), &inputs, dtype, &GRADIENTS);
            let what = format!("{chunk} {layout:?} {dtype}");
            assert_same_bits(&only(actual), &expected, &what);
        }
    }
}

fn chunks_of_unit_vectors(context: &Context) {
    let chunks = [json!(1216), json!(5 * 1216)];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        assert_same(context, &context.gpu, &chunks, [37, 301, 19], dtype);
    }
    // Blocks of classes; of the first rows, the gradient of the weight keeps the scores.
    let gpu = context.with(|profile| {
        tiled(profile);
        profile.segment = 256;
    });
    let context = Context { gpu, adapter: context.adapter.clone() };
    for dtype in [Dtype::F32, Dtype::F16] {
        assert_same(&context, &context.gpu, &[json!(2000), json!(20_000)], [45, 700, 24], dtype);
    }
}

fn windows_of_unit_vectors(context: &Context) {
    let bindings = context.with(|profile| {
        profile.binding_bytes = 8 << 10;
        profile.offset_alignment = 256;
    });
    let short = context.with(|profile| profile.dispatch_elements = 1000);
    for gpu in [bindings, short] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            assert_same(context, &gpu, &[json!(null)], [21, 139, 70], dtype);
        }
    }
}

fn unit_vectors_in_place(context: &Context) {
    let gpu = &context.gpu;
    for layout in layouts() {
        for (dtype, chunk) in FLOATS.into_iter().zip([1 << 20, 3000, 1000]) {
            let inputs = sample(105, 29, 45, 10, layout);
            let options = merged(&cos_face(), &json!({"chunk_bytes": chunk}));
            let loss = loss(&options, layout);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &GRADIENTS).0;
            let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
            let weight = Placed::output(gpu, Layout::dense(dtype, &inputs["weight"].shape));
            let outputs = Named::from([("grad.weight".to_owned(), weight.tensor())]);
            submit(gpu, &Request::new(&*loss, tensors(&placed), outputs).gradient_in_place());
            let hidden = placed.iter().find(|(name, _)| name == "hidden").unwrap();
            assert_eq!(bits(&hidden.1.array(gpu)), bits(&expected["grad.hidden"]), "{dtype}");
            assert_eq!(bits(&weight.array(gpu)), bits(&expected["grad.weight"]), "{dtype}");
            weight.assert_surroundings(gpu);
        }
    }
}

/// A gradient that is added to what is there is the sum of both.
fn unit_vectors_added_up(context: &Context) {
    let gpu = &context.gpu;
    for layout in layouts() {
        let inputs = sample(106, 17, 33, 9, layout);
        let names = ["hidden", "weight"];
        let begun = [gaussian(107, 17, 9), {
            let shape = &inputs["weight"].shape;
            gaussian(108, shape[0] as usize, shape[1] as usize)
        }];
        for chunk in [json!(null), json!(5 * 160)] {
            let options = merged(&cos_face(), &json!({"accumulate": "all", "chunk_bytes": chunk}));
            let plain = loss(&cos_face(), layout);
            let wanted = ["grad.hidden", "grad.weight"];
            let (alone, _) = outcome(gpu, &*plain, &inputs, Dtype::F32, &wanted);
            let added = loss(&options, layout);
            let placed = placed_inputs(gpu, &*added, &inputs, Dtype::F32);
            let outputs: Vec<_> = names
                .iter()
                .zip(&begun)
                .map(|(name, begun)| {
                    let place = Layout::dense(Dtype::F32, &inputs[*name].shape);
                    (format!("grad.{name}"), Placed::input(gpu, begun, place))
                })
                .collect();
            submit(gpu, &Request::new(&*added, tensors(&placed), tensors(&outputs)));
            for ((name, output), begun) in outputs.iter().zip(&begun) {
                let actual = output.array(gpu).to_f64();
                let sum = begun.to_f64().into_iter().zip(alone[name].to_f64());
                let sum: Vec<f64> = sum.map(|(a, b)| f64::from(a as f32 + b as f32)).collect();
                assert_eq!(actual, sum, "{name} {layout:?}");
            }
        }
    }
}

/// A margin needs one target a row; it is named with its value, on the CPU and on the GPU.
fn refusals(context: &Context) {
    let refused = |options: &Value, inputs: &Arrays| {
        let loss = parse("cross_entropy", options);
        let host = surprisal::cpu::run(&*loss, inputs, &["loss"]).unwrap_err();
        let device = context.gpu.run_arrays(&*loss, inputs, Dtype::F32, &["loss"]).unwrap_err();
        assert_eq!(host.to_string(), device.to_string());
        assert!(matches!(&host, Error::InvalidOption { .. }), "{host}");
        assert!(host.to_string().contains("`target_margin` = 0.5"), "{host}");
    };
    let inputs = crate::support::sample(109, 4, 5);
    refused(&json!({"target_margin": 0.5, "label_smoothing": 0.1}), &inputs);
    let several = with(&inputs, [("targets", surprisal::Array::int(&[4, 2], vec![1; 8]))]);
    refused(&json!({"target_margin": 0.5}), &several);
    refused(&json!({"target_margin": 0.5}), &crate::support::sample_probs(110, 4, 5));
    let parse = surprisal::operations::find("cross_entropy").unwrap().parse;
    assert!(parse(&json!({"target_margin": 1e39})).is_err());
}
