//! Linear cross-entropy: every option against the reference at awkward shapes; micro-batches; places in
//! memory.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Layout, LinearCrossEntropy, Named, Operation, Padding,
    Plan, Reduction, Request, Tile, WeightLayout, testing,
};

use crate::support::{
    BY_PRODUCTS, Context, FLOATS, Placed, assert_same_bits, bits, check, gaussian, indices, matrix,
    named, outcome, parse, placed_inputs, positive, row, set, submit, tensors, vector, with,
};

tests![
    awkward_shapes,
    many_classes,
    options,
    by_products,
    no_rows,
    edges,
    tiles_of_a_workgroup,
    accumulated_micro_batches,
    accumulated_sixteen_bit_gradients,
    wide_gradients_of_sixteen_bit_operands,
    places_in_memory,
    in_place,
    backward_from_a_saved_lse,
    equal_to_stored_logits,
    run_to_run,
];

pub const GRADIENTS: [&str; 4] = ["loss", "grad.hidden", "grad.weight", "grad.bias"];

pub fn layouts() -> [WeightLayout; 2] {
    [WeightLayout::ClassesHidden, WeightLayout::HiddenClasses]
}

fn word(layout: WeightLayout) -> &'static str {
    if layout == WeightLayout::HiddenClasses { "hidden_classes" } else { "classes_hidden" }
}

/// Logits of about ±3, targets (every fifth row is ignored), and a bias.
pub fn sample(
    seed: u64,
    rows: usize,
    classes: usize,
    depth: usize,
    layout: WeightLayout,
) -> Arrays {
    let scale = 1.5 / (depth as f64).sqrt();
    let turned = layout == WeightLayout::HiddenClasses;
    let (outer, inner) = if turned { (depth, classes) } else { (classes, depth) };
    let weight = gaussian(seed + 1, outer, inner).to_f64().iter().map(|w| w * scale).collect();
    let mut targets = testing::targets(seed + 2, rows, classes as u64);
    targets.iter_mut().skip(2).step_by(5).for_each(|target| *target = -100);
    named([
        ("hidden", gaussian(seed, rows, depth)),
        ("weight", matrix(outer, inner, weight)),
        ("bias", vector(&testing::gaussian(seed + 3, classes))),
        ("targets", indices(&targets)),
    ])
}

pub fn loss(options: &Value, layout: WeightLayout) -> Box<dyn Operation> {
    let mut options = options.clone();
    options["weight_layout"] = json!(word(layout));
    parse("linear_cross_entropy", &options)
}

pub fn awkward_shapes(context: &Context) {
    for layout in layouts() {
        for (rows, classes, depth) in [
            (1, 5, 1),
            (1, 129, 3),
            (7, 5, 20),
            (7, 129, 65),
            (7, 1000, 3),
            (33, 5, 65),
            (33, 129, 20),
            (33, 1000, 1),
            (33, 1000, 65),
            (8, 4, 4),
            (9, 31, 33),
            (3, 1, 2),
        ] {
            let inputs = sample(1, rows, classes, depth, layout);
            check(&context.gpu, &*loss(&json!({}), layout), &inputs, Dtype::F32, &GRADIENTS);
        }
    }
}

/// The gradient of the hidden states is a sum over the classes, here over more than the 65,535 iterations after which
/// some drivers end every loop.
pub fn many_classes(context: &Context) {
    for layout in layouts() {
        let inputs = sample(31, 2, 70_003, 1, layout);
        let inputs = with(&inputs, [("targets", indices(&[70_000, 3]))]);
        check(&context.gpu, &*loss(&json!({}), layout), &inputs, Dtype::F32, &GRADIENTS);
    }
}

pub fn options(context: &Context) {
    let (rows, classes, depth) = (19, 133, 21);
    for layout in layouts() {
        let inputs = with(
            &sample(2, rows, classes, depth, layout),
            [
                ("class_weight", vector(&positive(3, classes))),
                ("row_weight", vector(&positive(4, rows))),
                ("logit_bias", vector(&testing::gaussian(5, classes))),
                ("upstream", vector(&[-0.6])),
            ],
        );
        for options in [
            json!({}),
            json!({"reduction": "sum", "label_smoothing": 0.1, "denominator": "weights"}),
            json!({"reduction": {"over": 5.0}, "softcap": 6.0, "z_loss": 0.02}),
            json!({"temperature": 0.6, "focal_gamma": 1.5}),
            json!({"smoothing": "ordinal", "label_smoothing": 0.3, "ignore_index": [-100, 4]}),
            json!({"focal_gamma": 0.5, "label_smoothing": 0.2, "softcap": 9.0, "z_loss": 0.1}),
        ] {
            check(&context.gpu, &*loss(&options, layout), &inputs, Dtype::F32, &GRADIENTS);
        }
        let upstream = vector(&testing::gaussian(6, rows));
        let each = with(&inputs, [("upstream", upstream)]);
        let none = loss(&json!({"reduction": "none"}), layout);
        check(&context.gpu, &*none, &each, Dtype::F32, &GRADIENTS);
        let mut over = inputs.clone();
        over.insert("denominator".to_owned(), vector(&[11.0]));
        over.remove("bias");
        let mean = loss(&json!({}), layout);
        check(&context.gpu, &*mean, &over, Dtype::F32, &GRADIENTS[..3]);
        // A bias that is not given still has a gradient.
        check(&context.gpu, &*mean, &over, Dtype::F32, &["grad.bias"]);
        // Each gradient alone, and no gradient.
        for name in ["loss", "grad.hidden", "grad.weight", "grad.bias"] {
            check(&context.gpu, &*mean, &inputs, Dtype::F32, &[name]);
        }
    }
}

fn by_products(context: &Context) {
    for layout in layouts() {
        let inputs = sample(7, 40, 300, 17, layout);
        let reduced = ["loss", "sum", "denominator", "count", "correct_count", "perplexity"];
        let wanted = [&BY_PRODUCTS[..], &reduced].concat();
        for options in [json!({}), json!({"chunk_bytes": 10_000})] {
            check(&context.gpu, &*loss(&options, layout), &inputs, Dtype::F32, &wanted);
        }
    }
}

/// Rows, classes and depths in f32 and in one of the 16-bit types, which both meet either layout and either walk.
pub fn stored(context: &Context, shapes: &[(usize, usize, usize)]) {
    for (first, layout) in layouts().into_iter().enumerate() {
        for (second, &(rows, classes, depth)) in shapes.iter().enumerate() {
            let inputs = with(
                &sample(8, rows, classes, depth, layout),
                [("class_weight", vector(&positive(9, classes)))],
            );
            let options = [json!({}), json!({"chunk_bytes": 8 * classes * 4 + 64})];
            for (third, options) in options.iter().enumerate() {
                let narrow = [Dtype::F16, Dtype::Bf16][(first + second + third) % 2];
                for dtype in [Dtype::F32, narrow] {
                    check(&context.gpu, &*loss(options, layout), &inputs, dtype, &GRADIENTS);
                }
            }
        }
    }
}

pub fn no_rows(context: &Context) {
    for layout in layouts() {
        let inputs = sample(10, 0, 13, 5, layout);
        for options in [json!({}), json!({"empty": "zero"}), json!({"reduction": "sum"})] {
            let (outputs, _) =
                check(&context.gpu, &*loss(&options, layout), &inputs, Dtype::F32, &GRADIENTS);
            assert!(outputs["grad.weight"].to_f64().iter().all(|&g| g == 0.0));
        }
    }
}

/// The NaN hidden states of ignored rows and of rows of weight 0 change no sum; neither do bad targets. A NaN in a row
/// that is kept does.
pub fn edges(context: &Context) {
    for layout in layouts() {
        for chunk in [None, Some(3000_u64)] {
            let mut inputs = sample(11, 24, 70, 9, layout);
            let mut row_weight = positive(12, 24);
            row_weight[5] = 0.0;
            let mut hidden = inputs["hidden"].to_f64();
            for row in [2, 5, 7] {
                hidden[row * 9 + 4] = f64::NAN;
            }
            let mut targets = inputs["targets"].to_i64();
            targets[9] = 70;
            inputs = with(
                &inputs,
                [("hidden", matrix(24, 9, hidden)), ("row_weight", vector(&row_weight))],
            );
            let options = json!({"chunk_bytes": chunk, "reduction": "sum"});
            let loss = loss(&options, layout);
            // Rows 2 and 7 are ignored; row 5 has weight 0, and so the loss 0.
            let (outputs, status) =
                check(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS[1..]);
            assert_eq!((status.bad_rows, status.bad_targets), (0, 0));
            assert!(row(&outputs["grad.hidden"], 5).iter().all(|&g| g == 0.0));
            assert!(outputs["grad.weight"].to_f64().iter().all(|g| g.is_finite()));
            let bad = with(&inputs, [("targets", indices(&targets))]);
            let (outputs, status) = check(&context.gpu, &*loss, &bad, Dtype::F32, &GRADIENTS);
            assert_eq!((status.bad_targets, status.first_bad_target), (1, Some((9, 70))));
            assert!(outputs["grad.weight"].to_f64().iter().all(|g| g.is_finite()));
            // A NaN in a row that is kept makes everything NaN that it is part of.
            let row_weight = vector(&positive(12, 24));
            let kept = with(&inputs, [("row_weight", row_weight)]);
            let (outputs, _) = check(&context.gpu, &*loss, &kept, Dtype::F32, &GRADIENTS);
            assert!(outputs["grad.weight"].to_f64().iter().all(|g| g.is_nan()));
            // A NaN in the weight makes every row NaN, but the gradient of rows that count for nothing stays 0.
            let weight = set(&inputs["weight"], 3, f64::NAN);
            let spoilt = with(&inputs, [("weight", weight)]);
            let (outputs, _) = check(&context.gpu, &*loss, &spoilt, Dtype::F32, &GRADIENTS);
            for at in [2, 5, 7] {
                assert!(row(&outputs["grad.hidden"], at).iter().all(|&g| g == 0.0), "row {at}");
            }
        }
    }
    // If no row is kept, the mean is over nothing and every gradient is 0.
    let inputs = with(
        &sample(13, 3, 12, 4, WeightLayout::ClassesHidden),
        [("targets", indices(&[-100; 3])), ("hidden", matrix(3, 4, vec![f64::NAN; 12]))],
    );
    let zero = loss(&json!({"empty": "zero"}), WeightLayout::ClassesHidden);
    check(&context.gpu, &*zero, &inputs, Dtype::F32, &GRADIENTS);
}

/// The tile that every physical GPU gets, whatever the size of the product.
fn tiles_of_a_workgroup(context: &Context) {
    let gpu = context.with(|profile| {
        profile.large_products = 0;
        profile.tile = Tile::default();
    });
    let context = Context { gpu, adapter: context.adapter.clone() };
    // Few rows get small tiles nevertheless.
    stored(&context, &[(33, 1000, 20)]);
    edges(&context);
    accumulated_micro_batches(&context);
}

// --- accumulation ---

/// Runs parts of the rows one after another, which add to the same gradients of weight and bias.
fn accumulated(
    context: &Context,
    inputs: &Arrays,
    parts: &[(usize, usize)],
    dtype: Dtype,
    layout: WeightLayout,
) -> [Array; 2] {
    let gpu = &context.gpu;
    let depth = inputs["hidden"].shape[1] as usize;
    let place = |name: &str| {
        let layout = Layout::dense(dtype, &inputs[name].shape);
        Placed::input(gpu, &zeros(&inputs[name]), layout)
    };
    let (weight, bias) = (place("weight"), place("bias"));
    for &(from, to) in parts {
        let hidden = inputs["hidden"].to_f64()[from * depth..to * depth].to_vec();
        let targets = indices(&inputs["targets"].to_i64()[from..to]);
        let part =
            with(inputs, [("hidden", matrix(to - from, depth, hidden)), ("targets", targets)]);
        let loss = loss(&json!({"reduction": "sum", "accumulate": "shared"}), layout);
        let placed = placed_inputs(gpu, &*loss, &part, dtype);
        let outputs = surprisal::LinearCrossEntropyOutputs::default()
            .weight_gradient(weight.tensor())
            .bias_gradient(bias.tensor());
        submit(gpu, &Request::new(&*loss, tensors(&placed), outputs.into()));
    }
    weight.assert_surroundings(gpu);
    bias.assert_surroundings(gpu);
    [weight.array(gpu), bias.array(gpu)]
}

fn zeros(like: &Array) -> Array {
    Array::float(&like.shape, vec![0.0; like.len()])
}

fn accumulated_micro_batches(context: &Context) {
    for layout in layouts() {
        let inputs = sample(18, 24, 133, 18, layout);
        let whole = loss(&json!({"reduction": "sum"}), layout);
        let expected =
            outcome(&context.gpu, &*whole, &inputs, Dtype::F32, &["grad.weight", "grad.bias"]).0;
        for parts in [&[(0, 24)][..], &[(0, 16), (16, 24)], &[(0, 1), (1, 9), (9, 24)]] {
            let [weight, bias] = accumulated(context, &inputs, parts, Dtype::F32, layout);
            assert_eq!(bits(&weight), bits(&expected["grad.weight"]), "{layout:?} {parts:?}");
            assert_eq!(bits(&bias), bits(&expected["grad.bias"]), "{layout:?} {parts:?}");
        }
    }
}

fn accumulated_sixteen_bit_gradients(context: &Context) {
    for layout in layouts() {
        let inputs = sample(19, 24, 33, 18, layout);
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let whole = loss(&json!({"reduction": "sum"}), layout);
            let wanted = ["grad.weight", "grad.bias"];
            let (expected, _) = check(&context.gpu, &*whole, &inputs, dtype, &wanted);
            let [weight, bias] = accumulated(context, &inputs, &[(0, 24)], dtype, layout);
            assert_eq!(bits(&weight), bits(&expected["grad.weight"]));
            assert_eq!(bits(&bias), bits(&expected["grad.bias"]));
            // The sum is rounded twice instead of once.
            let [twice, _] = accumulated(context, &inputs, &[(0, 11), (11, 24)], dtype, layout);
            let largest = weight.to_f64().iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 4.0 * dtype.half_ulp() * largest;
            assert!(twice.to_f64().iter().zip(&weight.to_f64()).all(near));
        }
    }
}

/// The f32 gradients of 16-bit operands are what 16-bit gradients are rounded from.
fn wide_gradients_of_sixteen_bit_operands(context: &Context) {
    let gpu = &context.gpu;
    for layout in layouts() {
        let inputs = sample(68, 21, 301, 18, layout);
        for dtype in [Dtype::F16, Dtype::Bf16] {
            for chunk in [1 << 20, 7 * 1216] {
                let loss = loss(&json!({"chunk_bytes": chunk}), layout);
                let (narrow, _) = check(gpu, &*loss, &inputs, dtype, &GRADIENTS[1..]);
                let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
                let outputs: Vec<_> = GRADIENTS[1..]
                    .iter()
                    .map(|&name| {
                        let shape = &narrow[name].shape;
                        let output = Placed::output(gpu, Layout::dense(Dtype::F32, shape));
                        (name.to_owned(), output)
                    })
                    .collect();
                submit(gpu, &Request::new(&*loss, tensors(&placed), tensors(&outputs)));
                for (name, wide) in &outputs {
                    let wide = wide.array(gpu);
                    assert_eq!(bits(&wide.rounded(dtype)), bits(&narrow[name]), "{name} {dtype}");
                    assert_ne!(bits(&wide), bits(&narrow[name]), "{name} {dtype}");
                }
            }
        }
    }
}

// --- places, storage, memory ---

pub fn places_in_memory(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for layout in layouts() {
            let inputs = sample(20, 13, 67, 11, layout);
            let loss = loss(&json!({"reduction": "none", "chunk_bytes": 4000}), layout);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &GRADIENTS).0;
            for offset in 1..4 {
                let place = |name: &str, extra: u64| {
                    let shape = &inputs[name].shape;
                    let layout = Layout::dense(dtype, shape).offset(offset + extra);
                    let stride = shape.get(1).map_or(1, |columns| columns + offset + extra);
                    layout.row_stride(stride)
                };
                let [hidden, weight] = ["hidden", "weight"]
                    .map(|name| Placed::input(gpu, &inputs[name], place(name, 0)));
                let bias = Placed::input(gpu, &inputs["bias"], place("bias", 0));
                let targets = Layout::vector(Dtype::U32, 13).offset(offset);
                let targets = Placed::input(gpu, &fitting(&inputs["targets"]), targets);
                let outputs =
                    ["hidden", "weight", "bias"].map(|name| Placed::output(gpu, place(name, 2)));
                let losses = Placed::output(gpu, Layout::vector(Dtype::F32, 13).offset(offset));
                let ignoring = json!({
                    "reduction": "none", "chunk_bytes": 4000, "ignore_index": 4_294_967_196_u64
                });
                let loss = self::loss(&ignoring, layout);
                let request = Request::new(
                    &*loss,
                    surprisal::LinearCrossEntropyInputs::default()
                        .hidden(hidden.tensor())
                        .weight(weight.tensor())
                        .bias(bias.tensor())
                        .targets(targets.tensor())
                        .into(),
                    surprisal::LinearCrossEntropyOutputs::default()
                        .loss(losses.tensor())
                        .hidden_gradient(outputs[0].tensor())
                        .weight_gradient(outputs[1].tensor())
                        .bias_gradient(outputs[2].tensor())
                        .into(),
                );
                submit(gpu, &request);
                for (name, placed) in GRADIENTS.iter().zip([&losses].into_iter().chain(&outputs)) {
                    let actual = placed.array(gpu);
                    assert_eq!(
                        bits(&actual),
                        bits(&expected[*name]),
                        "{name} {dtype} {layout:?} {offset}"
                    );
                    placed.assert_surroundings(gpu);
                }
                for placed in [&hidden, &weight, &bias, &targets] {
                    placed.assert_surroundings(gpu);
                }
            }
        }
    }
}

/// -100 as a `u32`.
fn fitting(targets: &Array) -> Array {
    indices(&targets.to_i64().iter().map(|&y| i64::from(y as u32)).collect::<Vec<_>>())
}

/// The gradient of the hidden states is written over the hidden states, which the gradient of the weight needs too.
pub fn in_place(context: &Context) {
    let gpu = &context.gpu;
    for dtype in FLOATS {
        for chunk in [1 << 20, 3000] {
            let inputs = sample(26, 29, 45, 10, WeightLayout::ClassesHidden);
            let loss = loss(&json!({"chunk_bytes": chunk}), WeightLayout::ClassesHidden);
            let expected = outcome(gpu, &*loss, &inputs, dtype, &GRADIENTS).0;
            let placed = placed_inputs(gpu, &*loss, &inputs, dtype);
            let weight = Placed::output(gpu, Layout::dense(dtype, &inputs["weight"].shape));
            let outputs = Named::from([("grad.weight".to_owned(), weight.tensor())]);
            submit(gpu, &Request::new(&*loss, tensors(&placed), outputs).gradient_in_place());
            let hidden = placed.iter().find(|(name, _)| name == "hidden").unwrap();
            assert_eq!(bits(&hidden.1.array(gpu)), bits(&expected["grad.hidden"]), "{dtype}");
            assert_eq!(bits(&weight.array(gpu)), bits(&expected["grad.weight"]), "{dtype}");
        }
    }
}

pub fn backward_from_a_saved_lse(context: &Context) {
    for layout in layouts() {
        for options in [
            json!({}),
            json!({"chunk_bytes": 3000, "label_smoothing": 0.1, "z_loss": 0.1}),
            json!({"focal_gamma": 2.0, "softcap": 10.0, "reduction": "sum"}),
        ] {
            let inputs = with(
                &sample(21, 20, 133, 18, layout),
                [("class_weight", vector(&positive(22, 133)))],
            );
            let loss = loss(&options, layout);
            let lse = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &["lse"]).0;
            let saved = with(&inputs, [("lse", lse["lse"].clone())]);
            check(&context.gpu, &*loss, &saved, Dtype::F32, &GRADIENTS[1..]);
        }
    }
}

/// The linear loss equals the row loss on logits that were multiplied on the CPU.
fn equal_to_stored_logits(context: &Context) {
    let layout = WeightLayout::ClassesHidden;
    let mut inputs = sample(23, 9, 70, 1, layout);
    inputs.remove("bias");
    let logits: Vec<f64> = inputs["hidden"]
        .to_f64()
        .iter()
        .flat_map(|&h| {
            inputs["weight"].to_f64().into_iter().map(move |w| f64::from(h as f32 * w as f32))
        })
        .collect();
    let stored = named([("logits", matrix(9, 70, logits)), ("targets", inputs["targets"].clone())]);
    let cross_entropy = CrossEntropy::default().reduction(Reduction::None).padding(Padding::Keep);
    let linear = LinearCrossEntropy::new(cross_entropy.clone());
    let wanted = ["loss", "lse", "entropy"];
    let a = outcome(&context.gpu, &linear, &inputs, Dtype::F32, &wanted).0;
    let b = outcome(&context.gpu, &cross_entropy, &stored, Dtype::F32, &wanted).0;
    assert_same_bits(&a, &b, "depth 1");
}

/// The plan of loss and gradients of a small layer.
pub fn plan(context: &Context, loss: &dyn Operation, dtype: Dtype) -> Plan {
    let inputs = sample(1, 7, 9, 5, WeightLayout::ClassesHidden);
    let placed = placed_inputs(&context.gpu, loss, &inputs, dtype);
    let outputs = ["grad.hidden", "grad.weight"].map(|name| {
        let shape = &inputs[name.trim_start_matches("grad.")].shape;
        (name.to_owned(), Placed::output(&context.gpu, Layout::dense(dtype, shape)))
    });
    context.gpu.plan(&Request::new(loss, tensors(&placed), tensors(&outputs))).unwrap()
}

pub fn run_to_run(context: &Context) {
    let inputs = sample(25, 100, 500, 32, WeightLayout::ClassesHidden);
    let loss = loss(&json!({"chunk_bytes": 50_000}), WeightLayout::ClassesHidden);
    let run = || {
        let mut outputs = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &GRADIENTS).0;
        outputs.remove("status");
        outputs
    };
    let first = run();
    for _ in 0..3 {
        assert_same_bits(&run(), &first, "again");
    }
}
